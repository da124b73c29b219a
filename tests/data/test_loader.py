import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

from svkit.config.schema import AugmentConfig, DataConfig
from svkit.data.dataset import CropDataset
from svkit.data.loader import build_loader
from svkit.data.sampler import EpochBatches
from svkit.errors import DataError
from svkit.store.manifest import Manifest

DATA = DataConfig(batch_size=3, crop_seconds=(0.2, 0.3))
AUGMENT = AugmentConfig(allow_simulated_rooms=True, allow_missing_noise=True)


def load(
    manifest: Manifest, num_workers: int, start: int = 0, num_steps: int = 14
) -> list[tuple[torch.Tensor, ...]]:
    dataset = CropDataset(manifest, DATA, AUGMENT, seed=1)
    batches = map(EpochBatches(len(dataset), DATA, seed=1).batch, range(start, start + num_steps))
    return list(build_loader(dataset, batches, num_workers=num_workers))


def test_batches_are_the_same_with_and_without_workers_and_from_any_step(speakers: Manifest) -> None:
    straight = load(speakers, 0)
    assert len(straight) == 14
    for waveforms, classes in straight:
        assert waveforms.dtype == torch.float32
        assert waveforms.shape[0] == 3
        assert 3200 <= waveforms.shape[1] <= 4800
        assert classes.dtype == torch.int64
        assert classes.shape == (3,)
    assert len({int(label) for _, classes in straight for label in classes}) > 12
    for batches in (load(speakers, 2, 5, 9), load(speakers, 0, 5, 9)):
        assert len(batches) == 9
        for found, expected in zip(batches, straight[5:], strict=True):
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])


def test_loading_leaves_the_models_random_numbers_alone(speakers: Manifest) -> None:
    before = torch.get_rng_state()
    load(speakers, 0, num_steps=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_readers_error_comes_out_as_it_is(speakers: Manifest, tmp_path: Path, num_workers: int) -> None:
    for path in tmp_path.glob("s?/1.wav"):
        path.write_bytes(b"RIFF")
    message = ""
    try:
        load(speakers, num_workers)
    except DataError as error:  # Not `raises`: the kept traceback would keep the worker.
        message = str(error)
    assert "\n" not in message
    assert "1.wav" in message


def test_dataset_can_be_sent_to_a_spawned_worker(speakers: Manifest) -> None:
    dataset = CropDataset(speakers, DATA, AUGMENT, seed=1)
    loader = build_loader(dataset, [EpochBatches(12, DATA, seed=1).batch(0)], num_workers=0)
    assert len(ForkingPickler.dumps((loader.dataset, loader.worker_init_fn))) < 200_000


LOST_PARENT = """
import os, socket, sys, time
from multiprocessing import resource_sharer
from svkit.data.loader import _start_worker

_start_worker(0)
handed_over = resource_sharer.DupFd(os.open(os.devnull, os.O_RDONLY))
for _ in range(3):  # a parent that is killed while it asks for a batch
    parent = socket.socket(socket.AF_UNIX)
    parent.connect(handed_over._id[0])
    parent.close()
os.close(handed_over.detach())  # the thread still answers
sys.stderr.write("told\\n")
sys.excepthook(ValueError, ValueError("its own fault"), None)
"""


def test_a_worker_says_nothing_about_a_lost_parent() -> None:
    """The training process has said why it ended; a traceback after its one line would only hide it."""
    ended = subprocess.run([sys.executable, "-c", LOST_PARENT], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "told\nValueError: its own fault\n"
