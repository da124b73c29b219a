"""Functions that benchmarks share: timing in turns, peaks of memory, the rate of the machine, tables, and records."""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from svkit.models.session import give_back_freed_memory, keep_freed_memory
from svkit.nn import inference


class Timing(NamedTuple):
    """Medians over the rounds, in seconds."""

    wall: float
    cpu: float


def start(threads: int) -> None:
    """Set the number of threads of this process, and keep freed memory as svkit's stages do."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # numpy's products
    keep_freed_memory()


def timed(call: Callable[[], object]) -> Timing:
    """Time one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time several calls in turns, after one round of warm-up, so that a busy machine disturbs all of them alike."""
    times: dict[str, list[Timing]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            taken = timed(call)
            if turn:
                times[name].append(taken)
    return {
        name: Timing(*(statistics.median(column) for column in zip(*values, strict=True)))
        for name, values in times.items()
    }


def peak_gb_above(call: Callable[[], object]) -> float:
    """Return by how much resident memory grows at most while `call` runs, in GB (Linux, glibc)."""

    def resident(field: str) -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])

    gc.collect()
    give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    before = resident("VmRSS")
    call()
    return (resident("VmHWM") - before) / 2**20


class Run(NamedTuple):
    """A process that has ended."""

    taken: Timing
    peak_gb: float
    """Its largest resident size."""
    printed: str


def run_alone(*command: object) -> Run:
    """Run Python with these arguments in a process of its own; its stderr is ours.

    A small process starts it, because the memory that a process has when it forks counts as its child's.
    """
    code = (
        "import json, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print()\n"
        "print(json.dumps([time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss]))\n"
    )
    words = [sys.executable, "-c", code, *map(str, command)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    printed, _, figures = done.stdout.rstrip().rpartition("\n")
    wall, cpu, kilobytes = json.loads(figures)
    return Run(Timing(wall, cpu), kilobytes / 2**20, printed)


def matmul_peak(dtype: torch.dtype, size: int = 2048, rounds: int = 7) -> float:
    """Return the best rate of this machine in a square product, torch's or packed: multiply-adds per CPU second."""
    values, linear = torch.randn(size, size).to(dtype), torch.nn.Linear(size, size)
    calls = [lambda: values @ values]
    if inference.can_pack(values.device, dtype):
        packed = inference.PackedLinear(linear, dtype)
        calls.append(lambda: packed(values))
    with torch.inference_mode():
        return size**3 / min(timed(call).cpu for call in calls for _ in range(rounds))


def machine(threads: int) -> dict[str, Any]:
    """Return the facts about machine and libraries that a record of measurements needs."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    facts = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    flags = set(facts.get("flags", "").split())
    return {
        "date": date.today().isoformat(),
        "cpu": facts.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "bf16_instructions": [name for name in ("amx_bf16", "avx512_bf16") if name in flags],
        "threads": threads,
        "torch": torch.__version__,
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a plain table, with the first column aligned to the left and the others to the right."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if index else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def save(path: Path | None, threads: int, **facts: Any) -> None:
    """Write the figures with machine and date, if there is a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"machine": machine(threads), **facts}, indent=1)
        path.write_text(content + "\n", encoding="utf-8")
