"""Measure speed and memory of scoring and metrics at the sizes of the targets, and compare with what others do.

    python benchmarks/scoring.py [--threads 1] [--rounds 3] [--json FILE]
    python benchmarks/scoring.py --parts command --sizes 1 4    only `svkit score`, on lists of 1 and 4 million trials

If FILE exists, only the measured parts are replaced in it; it says when each part was measured.

The baselines are written below: a Python loop over trials, a sorted matrix of all scores against the cohort, a loop
over the sorted scores, and a trial list that is copied for every resample. Each runs on a part of the data, because the
whole would take minutes or tens of gigabytes. Its results are checked to be equal to ours before anything is timed; `x`
is the ratio of CPU times for the same amount of work. The targets of time were set for two cores, but the CPU time of
one thread is compared with them, because a busy machine disturbs it least. The memory of `svkit score` is the largest
resident size of the process. Two sizes at which it grows with the list show what each further trial costs.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import measuring
import numpy as np
import pandas as pd
from measuring import Timing

from svkit.eval import bootstrap, metrics, scoring
from svkit.eval.crossings import resample_crossings
from svkit.store.embeddings import write_embeddings
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.store.provenance import sha256_file

SPEAKERS, UTTERANCES, DIM = 1_251, 100_000, 256
TESTS, TOP_N = 4_874, 300
PARTS = ("start", "cosine", "asnorm", "metrics", "resamples", "command")
LARGEST_LIST = 100.0
"""Millions of trials that must be scored within `LARGEST_LIST_GB`."""
LARGEST_LIST_GB = 16.0


class Row(NamedTuple):
    """One line of the table; None is an empty cell."""

    measure: str
    wall: float | None
    cpu: float | None
    times_faster: float | None
    """CPU time of the baseline divided by ours, for the same work."""
    found: str
    target: str | None
    met: bool | None


def rate_cosine(rng: np.random.Generator, rounds: int) -> Row:
    """Measure cosine scores of 4 M trials; the baseline is a Python loop over 20,000 of them."""
    matrix = rng.normal(size=(TESTS, DIM)).astype(np.float32)
    left, right = rng.integers(0, len(matrix), (2, 4_000_000))
    part = slice(0, 20_000)
    by_name = {f"u{number}": row for number, row in enumerate(matrix)}
    pairs = [(f"u{a}", f"u{b}") for a, b in zip(left[part], right[part], strict=True)]

    def loop() -> list[float]:
        found = []
        for enroll, test in pairs:
            a, b = by_name[enroll], by_name[test]
            found.append(float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))))
        return found

    own = scoring.cosine_scores(matrix, matrix, left[part], right[part])
    np.testing.assert_allclose(own, loop(), atol=1e-6)
    calls = {"loop": loop, "svkit": lambda: scoring.cosine_scores(matrix, matrix, left, right)}
    taken, ratio = _compare(calls, len(left) / len(pairs), rounds)
    rate = len(left) / taken.cpu / 1e6
    return Row("cosine, 4 M trials", *taken, ratio, f"{rate:.1f} M trials/s", "4 M trials/s", rate >= 4)


def rate_asnorm(rng: np.random.Generator, rounds: int) -> Row:
    """Measure AS-norm of 4,874 utterances, top 300 of 100,000; the baseline sorts the full matrix for 128 of them."""
    rows = rng.normal(size=(TESTS, DIM)).astype(np.float32)
    cohort = rng.normal(size=(UTTERANCES, DIM)).astype(np.float32)
    part = rows[:128]

    def sorted_matrix() -> tuple[np.ndarray, np.ndarray]:
        scores = scoring.length_normalize(part) @ scoring.length_normalize(cohort).T
        top = np.sort(scores, axis=1)[:, -TOP_N:].astype(np.float64)
        return top.mean(axis=1), top.std(axis=1)

    def statistics(embeddings: np.ndarray) -> scoring.CohortStatistics:
        unit, members = scoring.length_normalize(embeddings), scoring.length_normalize(cohort)
        return scoring.product_statistics(unit, members, TOP_N)

    own = statistics(part)
    for ours, theirs in zip((own.mean, own.std), sorted_matrix(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)

    def svkit() -> object:
        return statistics(rows)

    peak = measuring.peak_gb_above(svkit)
    taken, ratio = _compare({"sorted": sorted_matrix, "svkit": svkit}, len(rows) / len(part), rounds)
    return Row(
        "AS-norm, 4,874 x 100,000, top 300", *taken, ratio, f"{taken.cpu:.1f} s, {peak:.2f} GB", "5 s, 1 GB",
        taken.cpu <= 5 and peak <= 1,
    )  # fmt: skip


def rate_metrics(rng: np.random.Generator, rounds: int, share: float) -> Row:
    """Measure EER and minDCF of 10 M scores; the baseline is a loop over the sorted scores of 100,000 of them."""
    labels = rng.random(10_000_000) < share
    scores = rng.normal(size=len(labels)) + 4 * labels
    part = slice(0, 100_000)

    def svkit(rows: slice = slice(None)) -> tuple[float, float]:
        curve = metrics.error_curve(scores[rows], labels[rows])
        return metrics.equal_error_rate(curve), metrics.min_dcf(curve, 0.01)[0]

    np.testing.assert_allclose(svkit(part), errors_by_loop(scores[part], labels[part]), atol=1e-9)
    calls = {"loop": lambda: errors_by_loop(scores[part], labels[part]), "svkit": svkit}
    taken, ratio = _compare(calls, len(scores) / len(scores[part]), rounds)
    name = f"EER and minDCF of 10 M scores, {100 * share:g} % targets"
    return Row(name, *taken, ratio, f"{taken.cpu:.2f} s", "2 s", taken.cpu <= 2)


def errors_by_loop(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Compute EER and minDCF (p = 0.01) by a loop over the sorted scores, which must all be different."""
    num_targets = int(labels.sum())
    num_nontargets = len(labels) - num_targets
    misses, accepts = 0, num_nontargets
    before, eer, cost = (0.0, 1.0), None, 1.0
    for _, is_target in sorted(zip(scores.tolist(), labels.tolist(), strict=True)):
        misses, accepts = misses + is_target, accepts - (not is_target)
        miss, accept = misses / num_targets, accepts / num_nontargets
        cost = min(cost, miss + 99 * accept)
        if eer is None and miss >= accept:
            share = (before[1] - before[0]) / (before[1] - before[0] + miss - accept)
            eer = before[0] + share * (miss - before[0])
        before = (miss, accept)
    assert eer is not None
    return eer, cost


def rate_resamples(rng: np.random.Generator, rounds: int, num_trials: int, num_speakers: int) -> Row:
    """Measure the EERs of 1,000 resamples; the baseline copies every trial as often as drawn, for two of them."""
    left, right = rng.integers(0, num_speakers, (2, num_trials))
    right = np.where(rng.random(num_trials) < 0.3, left, right)
    labels = left == right
    speakers = bootstrap.TrialSpeakers(enroll=left, test=right, num_speakers=num_speakers)
    scores = rng.normal(size=num_trials) + 3 * labels
    drawn = bootstrap.draw_multiplicities(num_speakers, 1000, 0)

    def copied() -> list[float]:
        counts = [np.where(labels, row[left], row[left] * row[right]) for row in drawn[:2]]
        lists = [np.repeat(np.arange(num_trials), count) for count in counts]
        return [metrics.equal_error_rate(metrics.error_curve(scores[rows], labels[rows])) for rows in lists]

    def svkit(rows: slice = slice(None)) -> np.ndarray:
        return resample_crossings(scores, labels, speakers, drawn[rows])[0]

    np.testing.assert_allclose(svkit(slice(0, 2)), copied(), atol=1e-9)
    taken, ratio = _compare({"copied": copied, "svkit": svkit}, len(drawn) / 2, rounds)
    target, met = ("2 s", taken.cpu <= 2) if num_trials < 10_000 else (None, None)
    return Row(f"1,000 resamples of {num_trials:,} trials", *taken, ratio, f"{taken.cpu:.2f} s", target, met)


def _compare(calls: dict[str, Callable[[], object]], times_more: float, rounds: int) -> tuple[Timing, float]:
    """Time a baseline, and ours on a multiple of its work; return ours and the ratio of CPU times for equal work."""
    base, own = measuring.take_turns(calls, rounds).values()
    return own, base.cpu * times_more / own.cpu


def rate_help(rounds: int) -> Row:
    """Measure `svkit --help` as a process; the first run only fills the cache of the disk."""
    runs = [measuring.run_alone("-m", "svkit", "--help").taken for _ in range(rounds + 3)][1:]
    taken = Timing(*(statistics.median(column) for column in zip(*runs, strict=True)))
    return Row("svkit --help", *taken, None, f"{taken.cpu:.2f} s", "0.3 s", taken.cpu <= 0.3)


def make_experiment(home: Path, millions: float) -> Path:
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
    voices = rng.normal(size=(SPEAKERS, DIM))[np.arange(UTTERANCES) % SPEAKERS]
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


def rate_command(sizes: list[float]) -> tuple[list[Row], float | None]:
    """Measure `svkit score` with 1,000 resamples on millions of trials; also return the bytes per further trial."""
    rows, peaks = [], []
    for millions in sizes:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            trials = make_experiment(home, millions)
            command = ["-m", "svkit", "score", trials, "--exp", home, "--json"]
            # Pairs are drawn with replacement.
            command += ["--allow", "self-trials", "--allow", "duplicate-trials"]
            taken, peak, _ = measuring.run_alone(*command)
        peaks.append(peak)
        figure = f"{taken.cpu / millions:.1f} s CPU/M, {peak:.2f} GB"
        rows.append(Row(f"svkit score, {millions:g} M trials", *taken, None, figure, None, None))
        print(table(rows[-1:]), flush=True)
    if len(sizes) == 1:
        return rows, None
    slope = (peaks[-1] - peaks[0]) * 2**30 / (1e6 * (sizes[-1] - sizes[0]))
    whole = peaks[-1] + slope * (LARGEST_LIST - sizes[-1]) * 1e6 / 2**30
    figure = f"{slope:.0f} bytes a trial, {whole:.1f} GB"
    target = f"{LARGEST_LIST_GB:g} GB"
    name = f"memory of {LARGEST_LIST:g} M trials, by the slope"
    return [*rows, Row(name, None, None, None, figure, target, whole <= LARGEST_LIST_GB)], slope


def table(rows: list[Row]) -> str:
    """Lay out the rows."""
    verdicts = {True: "met", False: "not met", None: ""}
    cells = [["" if value is None else value for value in row[:-1]] + [verdicts[row.met]] for row in rows]
    return measuring.table(("measure", "wall s", "cpu s", "x, cpu", "found", "target", ""), cells)


def record(path: Path | None, threads: int, rows: dict[str, list[Row]], bytes_a_trial: float | None) -> None:
    """Write the rows of each part; other rows of an earlier record stay as they are."""
    if path is None:
        return
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    new = {row.measure: row._asdict() for part in rows.values() for row in part}
    kept = [new.pop(row["measure"], row) for row in earlier["rows"]]
    days = dict.fromkeys(PARTS, earlier["machine"]["date"]) if earlier["rows"] else {}
    days |= earlier.get("measured_on", {}) | dict.fromkeys(rows, measuring.machine(threads)["date"])
    measuring.save(
        path,
        threads,
        measured_on=days,
        bytes_a_trial=bytes_a_trial or earlier.get("bytes_a_trial"),
        rows=[*kept, *new.values()],
    )


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument(
        "--sizes",
        type=float,
        nargs="+",
        default=[10.0, 20.0],
        help="millions of trials for `command`, in ascending order",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    rng = np.random.default_rng(0)
    measures: dict[str, list[Callable[[], Row]]] = {
        "start": [lambda: rate_help(options.rounds)],
        "cosine": [lambda: rate_cosine(rng, options.rounds)],
        "asnorm": [lambda: rate_asnorm(rng, options.rounds)],
        "metrics": [lambda share=share: rate_metrics(rng, options.rounds, share) for share in (0.02, 0.5)],
        "resamples": [
            lambda: rate_resamples(rng, options.rounds, 2_918, 17),
            lambda: rate_resamples(rng, 1, 580_000, SPEAKERS),
        ],
    }
    rows: dict[str, list[Row]] = {}
    bytes_a_trial = None
    for part in options.parts:
        if part == "command":
            rows[part], bytes_a_trial = rate_command(options.sizes)
        for measure in measures.get(part, []):
            rows.setdefault(part, []).append(measure())
            print(table(rows[part][-1:]), flush=True)
    print(table([row for part in rows.values() for row in part]))
    record(options.json, options.threads, rows, bytes_a_trial)
    sys.exit(any(row.met is False for part in rows.values() for row in part))


if __name__ == "__main__":
    main()
