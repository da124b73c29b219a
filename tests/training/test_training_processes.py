"""What a stage settles about its processes: the batch of each, and which ways of distribution it takes."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from svkit.config.schema import DataConfig
from svkit.data.dataset import CropKey
from svkit.data.evaluation import length_sorted_batches
from svkit.data.sampler import EpochBatches
from svkit.errors import ConfigError
from svkit.models import session
from svkit.models.extract import ExtractRequest
from svkit.models.extract import run as run_extract
from svkit.models.session import make_accelerator
from svkit.nn.encoder import Encoder
from svkit.progress import SilentProgress
from svkit.store import checkpoint as store
from svkit.store.embeddings import read_embeddings
from svkit.store.manifest import read_manifest
from svkit.store.output import Output
from svkit.training.finetune import FinetuneRequest, run
from svkit.training.stage import batch_of_process, loader_workers
from tests.training_experiment import (
    Notes,
    contents,
    interrupt,
    log,
    make_teacher,
    prepare,
    recipe,
)

pytestmark = pytest.mark.usefixtures("fresh_process")


def opened(directory: Path, *, is_resumed: bool = True) -> Output:
    output = Output(directory, command="finetune", config={}, inputs={})
    output.is_resumed = is_resumed
    return output


def begin(directory: Path, batch_size: int) -> None:
    """Leave the state of a run with so many examples a step."""
    state = store.ResumeState(num_done=7, batch_size=batch_size, task={}, optimizer={}, facts={})
    store.write_resume(directory, state)


def test_a_resumed_run_keeps_its_batch_over_all_processes(tmp_path: Path) -> None:
    data = DataConfig(batch_size=64)
    assert batch_of_process(opened(tmp_path), data, 4) == data  # killed before its first state
    begin(tmp_path, 512)
    assert [batch_of_process(opened(tmp_path), data, n).batch_size for n in (1, 4, 8, 16)] == [
        512,
        128,
        64,
        32,
    ]
    assert batch_of_process(opened(tmp_path, is_resumed=False), data, 4) == data  # begun anew
    with pytest.raises(
        ConfigError, match="took 512 examples a step, which cannot be divided among 6 processes"
    ):
        batch_of_process(opened(tmp_path), data, 6)


@given(
    num_rows=st.integers(1, 60),
    batch_size=st.integers(1, 5),
    processes=st.lists(st.sampled_from([1, 2, 3, 6]), min_size=2, max_size=4),
    stops=st.lists(st.integers(0, 40), min_size=3, max_size=3),
)
def test_whatever_the_processes_every_step_has_the_crops_it_had(
    num_rows: int, batch_size: int, processes: list[int], stops: list[int]
) -> None:
    """Interrupted anywhere and gone on with other numbers of processes: an epoch visits what it visits in one run."""
    total = 6 * batch_size
    data = DataConfig(batch_size=total, speeds=(1.0, 0.9))
    whole = EpochBatches(num_rows, data, 3)
    num_steps = 2 * whole.steps_per_epoch
    cuts = sorted({0, *(stop % num_steps for stop in stops[: len(processes) - 1]), num_steps})
    visited: list[list[CropKey]] = []
    for count, (start, end) in zip(processes, zip(cuts, cuts[1:], strict=False), strict=False):
        share = replace(data, batch_size=total // count)
        ranks = [EpochBatches(num_rows, share, 3, rank=rank, num_processes=count) for rank in range(count)]
        assert ranks[0].steps_per_epoch == whole.steps_per_epoch
        visited += [[key for rank in ranks for key in rank.batch(step)] for step in range(start, end)]
    assert visited == [whole.batch(step) for step in range(len(visited))]
    crops = 2 * num_rows
    if len(visited) == num_steps and crops % total == 0:
        counts = Counter(key for batch in visited for key in batch)
        assert len(counts) == 2 * crops and set(counts.values()) == {1}


def test_an_interrupted_run_goes_on_with_its_batch_whatever_the_recipe_gives_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of 4 are one of 8: told by the state, the run is the one of 8, bit for bit."""
    exp = prepare(tmp_path / "exp", valid=False)

    def finetune(out: Path, size: int, **options: Any) -> None:
        using = recipe(f"dense.head.data.batch_size={size}", "dense.head.epochs=1")
        request = FinetuneRequest(exp=exp, recipe=using, out=out, stage="head", encoder="tiny", augment=False)
        run(request, options.get("progress", SilentProgress()))

    finetune(tmp_path / "whole", 8)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(SystemExit):
            finetune(tmp_path / "parts", 8)
    # What two processes of 4 would have left: the same state under the recipe of 4.
    (tmp_path / "parts" / "run.json").write_text(
        (tmp_path / "parts" / "run.json").read_text().replace('"batch_size": 8', '"batch_size": 4')
    )
    notes = Notes()
    finetune(tmp_path / "parts", 4, progress=notes)
    assert "resuming after step 3" in notes
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert log(tmp_path / "parts")[-1]["step"] == log(tmp_path / "whole")[-1]["step"] == 7


def test_an_extraction_goes_on_from_the_parts_of_any_processes(tmp_path: Path) -> None:
    """Batches that a process of another job has done are taken as they are, the others are done once."""
    exp = prepare(tmp_path / "exp")
    model = make_teacher(tmp_path / "model")

    def extract(out: Path) -> None:
        request = ExtractRequest(
            exp=exp, recipe=recipe("extract.batch_seconds=1.0"), models=(model,), out=out, dtype="float32",
            manifest=exp / "data" / "train.tsv",
        )  # fmt: skip
        run_extract(request, SilentProgress())

    extract(tmp_path / "whole")
    whole = read_embeddings(tmp_path / "whole")
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(tmp_path / "whole" / "run.json", out)  # begun as the whole one was
    batches = list(length_sorted_batches(read_manifest(exp / "data" / "train.tsv"), batch_seconds=1.0))
    assert len(batches) >= 4
    marks = {}
    for rank, rows in enumerate((batches[0], batches[2], batches[3])):
        marked = torch.full((len(rows), 8), float(rank + 1))
        part = out / store.RESUME_NAME / f"part-000000-{rank:04d}.safetensors"
        store.write_tensors(part, {"rows": torch.from_numpy(rows), "embeddings": marked})
        marks |= dict.fromkeys(rows.tolist(), rank + 1)
    extract(out)
    found = read_embeddings(out)
    assert list(found.ids) == list(whole.ids) and len(found.ids) == 20
    for row in range(20):
        if row in marks:
            assert (found.matrix[row] == marks[row]).all()
        else:
            assert abs(found.matrix[row] - whole.matrix[row]).max() < 1e-5


def test_parts_that_have_changed_are_embedded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp, model = prepare(tmp_path / "exp"), make_teacher(tmp_path / "model")
    request = ExtractRequest(
        exp=exp, recipe=recipe("extract.batch_seconds=1.0", "save.extraction_seconds=1e-6"), models=(model,),
        out=tmp_path / "out", dtype="float32", manifest=exp / "data" / "train.tsv",
    )  # fmt: skip

    def killed(*_: object) -> None:
        raise MemoryError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("svkit.models.extract.write_embeddings", killed)
        with pytest.raises(MemoryError):
            run_extract(request, SilentProgress())
    parts = sorted((tmp_path / "out" / "resume").glob("part-*.safetensors"))
    assert len(parts) >= 5
    content = parts[0].read_bytes()
    parts[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # a number, whichever tensor is the last
    matrix = store.read_tensors(parts[1])
    matrix["embeddings"][0] += 1
    store.write_tensors(parts[1], matrix)
    parts[2].write_bytes(b"half")
    rows = store.read_tensors(parts[3])["rows"] + 1000
    store.write_tensors(
        parts[3], {"rows": rows, "embeddings": torch.ones(len(rows), 8)}
    )  # as earlier versions
    before = {path: path.read_bytes() for path in parts[4:]}
    notes = Notes()
    run_extract(request, notes)
    assert [sum(str(path) in note for note in notes.messages) for path in parts] == [1] * 4 + [0] * len(
        before
    )
    assert sum("embedded again" in note for note in notes.messages) == 4
    run_extract(replace(request, out=tmp_path / "whole"), SilentProgress())
    for name in ("embeddings.safetensors", "ids.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_sharded_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_accelerator("fp32").num_processes == 1
    sharded = SimpleNamespace(distributed_type=DistributedType.FSDP)
    monkeypatch.setattr(session, "Accelerator", lambda **_: sharded)
    with pytest.raises(ConfigError, match="FSDP: not supported.*torchrun.*gradient_checkpointing"):
        make_accelerator("fp32")


def test_gradient_checkpointing_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it part of what an output is made from: it may be switched on to go on with fewer GPUs."""
    exp = prepare(tmp_path / "exp", valid=False)
    used: list[bool] = []
    original = torch.utils.checkpoint.checkpoint

    def watched(*arguments: Any, **options: Any) -> Any:
        used.append(True)
        return original(*arguments, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", watched)

    def finetune(out: str, stage: str, *overrides: str) -> None:
        request = FinetuneRequest(
            exp=exp, recipe=recipe(*overrides), out=tmp_path / out, stage=stage, encoder="tiny", augment=False
        )
        run(request, SilentProgress())

    for stage in ("lora", "joint"):
        finetune(f"plain-{stage}", stage)
        assert not used
        with monkeypatch.context() as patch:
            interrupt(patch, 3)
            with pytest.raises(SystemExit):
                finetune(f"again-{stage}", stage)
        finetune(f"again-{stage}", stage, "gradient_checkpointing=true")
        assert used
        used.clear()
        assert contents(tmp_path / f"again-{stage}") == contents(tmp_path / f"plain-{stage}")


AFTER_WHICH_A_MEAN_IS_TAKEN = ("attention_in", "attention_out", "batch_norm")


@pytest.mark.slow
def test_compiled_layers_change_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for rounding, on some processors; nor the names in a checkpoint. The compiler here changes nothing."""
    exp, used = prepare(tmp_path / "exp"), []
    original = Encoder.compile_layers
    monkeypatch.setattr(Encoder, "compile_layers", lambda encoder: used.append(original(encoder, "eager")))
    for flag in ("false", "true"):
        request = FinetuneRequest(
            exp=exp, recipe=recipe(f"compile_layers={flag}", "lora.epochs=0.3"), out=tmp_path / flag, stage="lora",
            encoder="tiny", augment=False,
        )  # fmt: skip
        run(request, SilentProgress())
        assert len(used) == (flag == "true")
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        compiled, plain = (load_file(tmp_path / flag / name) for flag in ("true", "false"))
        assert compiled.keys() == plain.keys()
        # The gradient of these is zero but for rounding, which AdamW makes as large as any other.
        for key in compiled.keys() - {f"head.pooling.{name}.bias" for name in AFTER_WHICH_A_MEAN_IS_TAKEN}:
            torch.testing.assert_close(compiled[key], plain[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cores", "processes", "wanted", "expected"),
    [(8, 1, 8, 8), (8, 4, 8, 2), (2, 8, 8, 1), (64, 8, 4, 4), (2, 1, 0, 0)],
)
def test_loader_processes_share_the_cores(monkeypatch, cores, processes, wanted, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader_workers(wanted) == expected
