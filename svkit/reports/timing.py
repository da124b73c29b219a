"""Real-time factors of several models, timed in turns, so that other load on the machine disturbs all alike."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.cores import available_cores
from svkit.errors import ArtifactError
from svkit.progress import Progress
from svkit.store.files import read_file
from svkit.store.report import Machine, Timing

LENGTHS_SECONDS = (2.0, 4.0, 8.0)
ROUNDS = 6
"""With six, the true median lies between the shortest and the longest time with probability 1 - 2 / 2**6 = 97 %."""
NUM_THREADS = 1
"""As for published real-time factors; also on a shared machine, one thread tells models apart."""

Embed = Callable[[list[NDArray[np.float32]]], object]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with `NUM_THREADS` inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def time_models(models: Mapping[str, Embed], progress: Progress, rounds: int = ROUNDS) -> dict[str, Timing]:
    """Time models one utterance at a time, taking turns round by round after a warm-up.

    `models` are functions by name, each embedding a list of recordings. For each model, the result holds the seconds
    that a second of audio takes, as the median over `rounds`: `wall` (the real-time factor), and `cpu`, which other
    load disturbs less, also round by round.
    """
    # Noise will do: the work of a model depends on lengths, not on what is said.
    rng = np.random.default_rng(0)
    audio = [rng.normal(scale=0.1, size=int(s * SAMPLE_RATE_HZ)).astype(np.float32) for s in LENGTHS_SECONDS]
    taken: dict[str, list[NDArray[np.float64]]] = {name: [] for name in models}
    with progress.task("time the models", len(models) * (rounds + 1)) as task:
        for _ in range(rounds + 1):
            for name, embed in models.items():
                start = _now()
                for waveform in audio:
                    embed([waveform])
                taken[name].append((_now() - start) / sum(LENGTHS_SECONDS))
                task.advance(1, model=name)
    # The first round only warms up caches and allocators.
    found = {}
    for name, (_, *counted) in taken.items():
        wall, cpu = np.median(counted, axis=0)
        cpu_rounds = tuple(float(seconds) for _, seconds in counted)
        found[name] = Timing(wall=float(wall), cpu=float(cpu), cpu_rounds=cpu_rounds)
    return found


def _now() -> NDArray[np.float64]:
    return np.array([time.perf_counter(), time.process_time()])


def describe_machine() -> Machine:
    """Describe where and how the timing ran, without names of people or hosts."""
    return Machine(
        processor=_processor(),
        architecture=platform.machine(),
        num_cores=available_cores(),
        num_threads=NUM_THREADS,
        system=platform.system(),
        utterance_seconds=LENGTHS_SECONDS,
        rounds=ROUNDS,
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in read_file(information, ArtifactError).decode(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
