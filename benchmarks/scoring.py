"""Speed and memory of scoring and metrics at the sizes of the targets: `python benchmarks/scoring.py`.

`python benchmarks/scoring.py --command 2 10` runs `svkit score` on lists of 2 and of 10 million trials instead, and
prints the memory that a further trial costs.

Targets on two cores: EER and minDCF of 10 M scores in 2 s, 4 M cosine trials a second, AS-norm of 4,874 x 100,000
(top 300) in 5 s and 1 GB, 1,000 speaker resamples of 2,918 trials in 2 s.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from svkit.eval import bootstrap, metrics, scoring
from svkit.store.embeddings import write_embeddings
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.store.provenance import sha256_file


def _memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


SPEAKERS, UTTERANCES = 1_251, 100_000


def _experiment(home: Path, millions: float) -> Path:
    """Write embeddings with a manifest, and a trial list; return the list."""
    rng = np.random.default_rng(0)
    ids = np.array(
        [f"id{number % SPEAKERS:05d}/{number:06d}.wav" for number in range(UTTERANCES)], dtype=object
    )
    table = pd.DataFrame(
        {"utterance_id": ids, "speaker_id": [name[:7] for name in ids], "path": ids,
         "sample_rate_hz": "16000", "num_samples": "64000", "session_id": ""}
    )[list(COLUMNS)]  # fmt: skip
    manifest, embeddings = home / "data" / "eval.tsv", home / "embeddings" / "dense"
    write_manifest(manifest, table)
    voices = rng.normal(size=(SPEAKERS, 256))[np.arange(UTTERANCES) % SPEAKERS]
    facts = {"manifest": {"path": manifest.as_posix(), "sha256": sha256_file(manifest)}}
    write_embeddings(
        embeddings, list(ids), (voices + 2 * rng.normal(size=voices.shape)).astype(np.float32), facts
    )
    mark = {"format": "svkit-provenance", "format_version": 1, "command": "extract", "inputs": []}
    (embeddings / "provenance.json").write_text(json.dumps(mark), encoding="utf-8")
    trials = home / "data" / "trials" / "many.txt"
    trials.parent.mkdir()
    with trials.open("w", encoding="utf-8") as file:
        for _ in range(round(millions * 10)):
            left, right = rng.integers(0, UTTERANCES, (2, 100_000))
            same = rng.random(100_000) < 0.1
            right = np.where(
                same, left % SPEAKERS + SPEAKERS * rng.integers(0, UTTERANCES // SPEAKERS, 100_000), right
            )
            labels = (left % SPEAKERS == right % SPEAKERS).astype(int)
            file.writelines(f"{y} {ids[a]} {ids[b]}\n" for y, a, b in zip(labels, left, right, strict=True))
    return trials


def measure_command(sizes: list[float]) -> None:
    """Run `svkit score` on lists of so many million trials; print time, peak memory and the slope."""
    peaks = []
    for millions in sizes:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            trials = _experiment(home, millions)
            start = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "svkit", "score", str(trials), "--exp", str(home), "--json"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            end = resource.getrusage(resource.RUSAGE_CHILDREN)
        peaks.append(end.ru_maxrss / 2**20)  # the largest child so far: sizes ascend
        cpu = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
        print(f"svkit score, {millions:g} M trials: {cpu:.0f} s CPU, peak {peaks[-1]:.2f} GB", flush=True)
    if len(sizes) > 1:
        slope = (peaks[-1] - peaks[0]) * 2**30 / (1e6 * (sizes[-1] - sizes[0]))
        print(
            f"{slope:.0f} bytes a trial, so {peaks[-1] + slope * (100 - sizes[-1]) * 1e6 / 2**30:.0f} GB for 100 M"
        )


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", type=float, nargs="+", metavar="MILLIONS", help="ascending")
    given = parser.parse_args()
    if given.command:
        measure_command(given.command)
        return
    rng = np.random.default_rng(0)
    enroll = rng.normal(size=(4_874, 256)).astype(np.float32)
    cohort = rng.normal(size=(100_000, 256)).astype(np.float32)
    start, cpu = time.perf_counter(), time.process_time()
    scoring.cohort_statistics(enroll, cohort, 300)
    wall, busy = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"AS-norm 4,874 x 100,000, top 300: {wall:.2f} s wall, {busy:.2f} s CPU, peak {_memory_gb():.2f} GB"
    )

    left, right = rng.integers(0, len(enroll), (2, 4_000_000))
    start = time.perf_counter()
    scoring.cosine_scores(enroll, enroll, left, right)
    print(f"cosine: {4 / (time.perf_counter() - start):.1f} M trials/s")

    for share in (0.02, 0.5):
        labels = rng.random(10_000_000) < share
        scores = rng.normal(size=len(labels)) + 4 * labels
        start = time.perf_counter()
        curve = metrics.error_curve(scores, labels)
        eer = metrics.equal_error_rate(curve)
        metrics.min_dcf(curve, 0.01)
        took = time.perf_counter() - start
        print(
            f"EER and minDCF of 10 M scores, {100 * share:g} % targets: {took:.2f} s (EER {100 * eer:.3f} %)"
        )

    for num_trials, num_speakers in ((2_918, 17), (580_000, 1_251)):
        a, b = rng.integers(0, num_speakers, (2, num_trials))
        b = np.where(rng.random(num_trials) < 0.3, a, b)
        labels = a == b
        speakers = bootstrap.TrialSpeakers(enroll=a, test=b, num_speakers=num_speakers)
        scores = rng.normal(size=num_trials) + 3 * labels
        drawn = bootstrap.draw_multiplicities(num_speakers, 1000, 0)
        start = time.perf_counter()
        bootstrap.resample(scores, labels, speakers, drawn, bootstrap.eer_statistic)
        print(f"1,000 resamples of {num_trials:,} trials: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
