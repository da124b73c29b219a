"""Measure work on ten million utterances: lists, training's memory for them, scanning, and extraction.

    python benchmarks/manifests.py --rows 10000000 [--json docs/results/manifests.json] [--parts read train ...]

Each measurement runs in its own process, so that peaks of memory do not mix. CPU time is compared with the targets;
wall time is only for orientation, because other work may share the machine. Parts in the JSON that --parts does not
name are kept, each with its date; --parts without a name measures nothing and compares the kept parts with the targets.
Needs about 4 GB of disk in --work and 8 GB of memory.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

LIST_SECONDS = {"read": 60.0, "read-tsv": 60.0, "stats": 90.0, "split": 180.0, "merge": 180.0}
LIST_GB = 8.0
"""Limit of memory for an operation on a list of ten million rows; `LIST_SECONDS` has the limits of CPU seconds."""
LINEAR = 1.25
"""Limit of the cost of 8 x the work, relative to 8 x the cost of the work."""
FLAT = 1.10
"""Limit of the memory for 8 x the corpus, relative to that for the corpus."""
WORKER_MB = 100.0
"""Limit of the memory by which a loader process may grow."""
UTTERANCES_PER_SPEAKER = 50
LISTS = ("read", "read-tsv", "stats", "split", "merge", "train")
"""Parts that work on a list of `--rows` rows."""
PARTS = (*LISTS, "scan", "extract")


def peak_gb() -> float:
    """Return the largest resident size of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run an action; return its result, and CPU and wall seconds and the peak memory of the process so far."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = round(peak_gb(), 2)
    return result, {"cpu_seconds": round(cpu, 2), "wall_seconds": round(wall, 1), "peak_gb": peak}


def write_rows(path: Path, num_rows: int, corpus: str = "voxblink2") -> None:
    """Write a list with ids and paths as long as those of VoxBlink2; the ids are the same for every corpus."""
    writer = None
    for start in range(0, num_rows, 250_000):
        rows = np.arange(start, min(num_rows, start + 250_000))
        speakers = [f"id{row // UTTERANCES_PER_SPEAKER:07d}" for row in rows]
        sessions = [
            f"{name}/{(int(row) // 5 * 2_654_435_761) % 2**44:011x}"
            for name, row in zip(speakers, rows, strict=True)
        ]
        ids = [f"{name}/{row % 5:05d}.flac" for name, row in zip(sessions, rows, strict=True)]
        table = pa.table(
            {
                "utterance_id": ids,
                "speaker_id": speakers,
                "path": [f"/data/corpora/{corpus}/audio/{name}" for name in ids],
                "sample_rate_hz": np.full(len(rows), 16_000),
                "num_samples": 48_000 + rows * 7_919 % 200_000,
                "session_id": sessions,
            }
        )
        writer = writer or pa_parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def measure_read(path: Path) -> dict[str, Any]:
    """Read and check the list."""
    from svkit.store.manifest import read_manifest

    manifest, cost = timed(lambda: read_manifest(path))
    return {"rows": len(manifest), "file_mb": round(path.stat().st_size / 1e6), **cost}


def measure_tsv(path: Path) -> dict[str, Any]:
    """Write the list as TSV in a process of its own and read it in this one."""
    from svkit.store.manifest import read_manifest, write_manifest

    if (child := os.fork()) == 0:
        write_manifest(path.with_suffix(".tsv"), read_manifest(path).table, is_sorted=False)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the list could not be written as TSV")
    return measure_read(path.with_suffix(".tsv"))


def measure_stats(path: Path) -> dict[str, Any]:
    """Count the speakers, utterances and hours of the list."""
    from svkit.lists import stats

    found, cost = timed(lambda: stats.run(path))
    return {"rows": found.utterances, **cost}


def measure_split(path: Path) -> dict[str, Any]:
    """Split the list in three."""
    from svkit.lists.split import SplitRequest, run
    from svkit.progress import SilentProgress

    request = SplitRequest(
        list=path, out=path.with_suffix(".parts"), parts=("valid=40", "test=5%"), overwrite=True
    )
    done, cost = timed(lambda: run(request, SilentProgress()))
    return {"rows": sum(part.utterances for part in done.parts.values()), **cost}


def measure_merge(path: Path) -> dict[str, Any]:
    """Merge two lists of half the rows each, whose ids are the same, so that every row gets the name of its list."""
    from svkit.lists.merge import MergeRequest, run
    from svkit.progress import SilentProgress

    halves = [path.with_name(f"{name}.parquet") for name in ("a", "b")]
    request = MergeRequest(
        lists=tuple(map(str, halves)), out=path.with_name("merged.parquet"), overwrite=True
    )
    done, cost = timed(lambda: run(request, SilentProgress()))
    return {"rows": done.utterances, "renamed_utterances": done.renamed_utterances, **cost}


def measure_train(path: Path) -> dict[str, Any]:
    """Build the training set, draw the order of an epoch, and measure the memory of two loader processes."""
    import torch

    from svkit.config.schema import DataConfig
    from svkit.data import audio_source
    from svkit.data.dataset import CropDataset
    from svkit.data.loader import build_loader
    from svkit.data.sampler import EpochBatches
    from svkit.store.manifest import read_manifest

    torch.set_num_threads(1)
    before = peak_gb()
    manifest = read_manifest(path)
    data = DataConfig(batch_size=64, crop_seconds=(0.1, 0.1), speeds=(1.0,))
    dataset, built = timed(lambda: CropDataset(manifest, data, None, seed=1))
    batches = EpochBatches(len(dataset), data, seed=1)
    _, order = timed(lambda: batches.batch(0))

    # There is no audio, because only the list is measured. One crop of each batch carries the memory of its process.
    crops = count()

    def no_audio(place: Path, start: int, num_samples: int, **_: object) -> np.ndarray:
        assert start >= 0 and place.is_absolute()
        return np.full(num_samples, 0.0 if next(crops) % data.batch_size else _own_mb(), np.float32)

    audio_source.read_audio = no_audio  # type: ignore[assignment]
    loader = build_loader(dataset, map(batches.batch, range(200)), num_workers=2)
    own = [float(waveforms.max()) for waveforms, _ in loader]
    return {
        "rows": len(manifest),
        "peak_gb": round(peak_gb(), 2),
        "before_gb": round(before, 2),
        "index_cpu_seconds": built["cpu_seconds"],
        "epoch_order_cpu_seconds": order["cpu_seconds"],
        "worker_own_mb_first": round(own[0], 1),
        "worker_own_mb_after_200_batches": round(max(own[-2:]), 1),
        "worker_growth_mb": round(max(own[-2:]) - own[0], 1),
    }


def _own_mb() -> float:
    """Return the memory that this process does not share, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def measure_scan(work: Path, num_files: int) -> dict[str, Any]:
    """Scan the headers of many files (links to a few), then scan again from the journal."""
    from svkit.corpora.scan import Candidate, CandidateTable, ScanOptions, scan_files
    from svkit.corpora.walk import find_audio
    from svkit.progress import SilentProgress

    root = work / "tree"
    _link_tree(root, num_files)
    options = ScanOptions(reads_samples=False, journal=work / f"journal-{num_files}")

    def scan() -> Any:
        listed = CandidateTable(
            Candidate(
                utterance_id=name,
                speaker_id=name.partition("/")[0],
                session_id=name.rpartition("/")[0],
                path=f"{root}/{name}",
            )
            for name in find_audio(root)
        )
        return scan_files(listed, options, SilentProgress())

    before = peak_gb()
    (first, bad), cost = timed(scan)
    (second, _), again = timed(scan)
    assert len(first) == num_files and not bad and first.equals(second)
    return {
        "files": num_files,
        **cost,
        "grown_mb": round(1024 * (cost["peak_gb"] - before), 1),
        "files_per_cpu_second": round(num_files / cost["cpu_seconds"]),
        "again_cpu_seconds": again["cpu_seconds"],
    }


def _link_tree(root: Path, num_files: int) -> None:
    import soundfile

    root.mkdir(parents=True, exist_ok=True)
    sources = []
    for number in range(1 + num_files // 30_000):  # a file system allows some 65,000 names for a file
        sources.append(root.parent / f"source-{number}.wav")
        soundfile.write(sources[-1], np.random.default_rng(number).uniform(-0.5, 0.5, 16_000), 16_000)
    for number in range(num_files):
        session = f"{number // 5 * 2_654_435_761 % 2**44:011x}"
        path = root / f"id{number // 50:05d}" / session / f"{number:05d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.hardlink_to(sources[number // 30_000])


def measure_extract(work: Path, factor: int) -> dict[str, Any]:
    """Extract `factor` times the corpus with a model of the size of `smoke`."""
    import pandas as pd
    import soundfile
    import torch

    from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
    from svkit.config.load import load_recipe
    from svkit.config.schema import HeadConfig
    from svkit.models.extract import ExtractRequest, run
    from svkit.nn.speaker import SpeakerNetwork
    from svkit.progress import SilentProgress
    from svkit.store import checkpoint as store
    from svkit.store.embeddings import read_facts
    from svkit.store.manifest import COLUMNS, write_manifest
    from svkit.store.output import Output

    torch.set_num_threads(1)
    torch.manual_seed(0)
    architecture = ModelArchitecture(
        encoder=EncoderArchitecture.uniform(num_layers=2, hidden_size=32, num_heads=4, ffn_dim=64),
        head=HeadConfig(adapter_dim=16, attention_dim=16, embedding_dim=32),
    )
    model = work / "model"
    store.write_model(model, architecture, SpeakerNetwork(architecture).state_dict())
    Output(model, command="benchmark", config={}, inputs={}).finish(files=())
    rows = []
    rng = np.random.default_rng(0)
    for number in range(50):
        path = work / "audio" / f"{number}.wav"
        length = 16_000 * (2 + number % 7)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, length), 16_000)
        rows += [(f"{number}/{k}", f"s{number}", str(path), 16_000, length, "") for k in range(4 * factor)]
    write_manifest(work / "list.tsv", pd.DataFrame(rows, columns=list(COLUMNS)))
    recipe = load_recipe("smoke", overrides=["precision=fp32", "extract.batch_seconds=40"])
    out = work / f"embeddings-{factor}"
    request = ExtractRequest(exp=work, recipe=recipe, models=(model,), manifest=work / "list.tsv", out=out)
    _, cost = timed(lambda: run(request, SilentProgress()))
    facts = read_facts(out)
    return {
        "factor": factor,
        "utterances": len(rows),
        "audio_seconds": facts["audio_seconds"],
        "loop_cpu_seconds": round(facts["cpu_seconds"], 3),
        "peak_gb": cost["peak_gb"],
        "peak_mb": round(1024 * peak_gb(), 1),
    }


def in_process(options: argparse.Namespace, part: str, *arguments: object) -> dict[str, Any]:
    """Run one measurement in a fresh process."""
    command = [sys.executable, __file__, "--work", str(options.work), "--inside", part, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(part, *arguments, found, file=sys.stderr, flush=True)
    return found


def inside(work: Path, part: str, arguments: list[str]) -> dict[str, Any]:
    """Run one part in a fresh process."""
    if part == "write":
        num_rows = int(arguments[0])
        write_rows(work / "list.parquet", num_rows)
        for name in ("a", "b"):
            write_rows(work / f"{name}.parquet", num_rows // 2, name)
        return {}
    if part in LISTS:
        measures = (measure_read, measure_tsv, measure_stats, measure_split, measure_merge, measure_train)
        return measures[LISTS.index(part)](work / "list.parquet")
    with tempfile.TemporaryDirectory(dir=work) as directory:
        return {"scan": measure_scan, "extract": measure_extract}[part](Path(directory), int(arguments[0]))


def verdicts(results: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return (what, found, target, whether it is met) for every measurement."""
    rows: list[tuple[str, str, str, bool]] = []
    for part, seconds in LIST_SECONDS.items():
        if part in results:
            found = results[part]
            cost = f"{found['cpu_seconds']:.1f} s CPU, {found['wall_seconds']:.0f} s wall, {found['peak_gb']:.1f} GB"
            is_met = found["cpu_seconds"] < seconds and found["peak_gb"] < LIST_GB
            target = f"< {seconds:g} s CPU, < {LIST_GB:g} GB"
            rows.append((f"{part}, {found['rows']:,} rows", cost, target, is_met))
    if "train" in results:
        found = results["train"]
        rows.append(
            (
                f"training set and sampler, {found['rows']:,} rows, memory of the whole process",
                f"{found['peak_gb']:.1f} GB",
                f"< {LIST_GB:g} GB",
                found["peak_gb"] < LIST_GB,
            )
        )
        growth = found["worker_growth_mb"]
        rows.append(
            (
                "memory growth of a loader process in 200 batches",
                f"{growth:.0f} MB",
                f"< {WORKER_MB:g} MB",
                growth < WORKER_MB,
            )
        )
    if "scan" in results:
        first, last = results["scan"][0], results["scan"][-1]
        ratio = last["cpu_seconds"] / first["cpu_seconds"] / (last["files"] / first["files"])
        rows.append(
            (
                f"scan, CPU time per file: {last['files']:,} files relative to {first['files']:,}",
                f"{ratio:.2f}",
                f"<= {LINEAR}",
                ratio <= LINEAR,
            )
        )
        slope = (last["grown_mb"] - first["grown_mb"]) * 2**20 / (last["files"] - first["files"])
        rows.append(
            (
                "scan, memory per file; for 10 million files",
                f"{slope:.0f} bytes; {slope / 100:.1f} GB",
                f"< {LIST_GB:g} GB",
                slope / 100 < LIST_GB,
            )
        )
        share = last["again_cpu_seconds"] / last["cpu_seconds"]
        rows.append(
            ("scan again with remembered findings, share of the CPU time", f"{share:.2f}", "< 1", share < 1)
        )
    if "extract" in results:
        first, last = results["extract"][0], results["extract"][-1]
        times = last["factor"] / first["factor"]
        ratio = last["loop_cpu_seconds"] / first["loop_cpu_seconds"] / times
        rows.append(
            (
                f"extract, CPU time per utterance: {times:g} x the corpus relative to 1 x",
                f"{ratio:.2f}",
                f"<= {LINEAR}",
                ratio <= LINEAR,
            )
        )
        memory = last["peak_mb"] / first["peak_mb"]
        rows.append(
            (
                f"extract, peak memory: {times:g} x the corpus relative to 1 x",
                f"{memory:.3f}",
                f"<= {FLAT}",
                memory <= FLAT,
            )
        )
    return rows


def main() -> None:
    """Measure, write the JSON, print PASS or FAIL against the targets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--scan-files", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(inside(options.work, options.inside[0], options.inside[1:])))
        return
    import measuring  # imports torch, which must not count in the measured processes

    machine = measuring.machine(threads=1)
    is_given = options.work is not None
    options.work = options.work or Path(tempfile.mkdtemp(prefix="svkit-manifests-"))
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    if options.json and options.json.exists():
        known = json.loads(options.json.read_text(encoding="utf-8"))["parts"]
        results = {part: known[part] for part in PARTS if part in known and part not in options.parts}
    try:
        if set(LISTS) & set(options.parts):
            in_process(options, "write", options.rows)
        for part in options.parts:
            sizes = {"scan": options.scan_files, "extract": options.factors}.get(part)
            if sizes is None:
                measured: Any = in_process(options, part)
            else:
                measured = [in_process(options, part, size) for size in sizes]
            results[part] = {"machine": machine, "measured": measured}
    finally:
        if options.json:
            save(options.json, results)
        if not is_given:
            shutil.rmtree(options.work, ignore_errors=True)
    rows = verdicts({part: results[part]["measured"] for part in results})
    for what, found, target, is_met in rows:
        print(f"{'PASS' if is_met else 'FAIL'}  {what:<58} {found:<40} {target}")
    if not all(is_met for *_, is_met in rows):
        raise SystemExit(1)


def save(path: Path, results: dict[str, Any]) -> None:
    """Write the measurements and the verdicts."""
    rows = verdicts({part: results[part]["measured"] for part in results})
    judged = [dict(zip(("what", "found", "target", "met"), row, strict=True)) for row in rows]
    record = {"verdicts": judged, "parts": {part: results[part] for part in PARTS if part in results}}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
