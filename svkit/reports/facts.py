"""Collects the facts of an experiment into the one structure that `report.json` holds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svkit.eval.llr import reliability
from svkit.eval.metrics import det_corners, error_curve, thin_curve
from svkit.progress import Progress
from svkit.scoring.comparison import compare_systems, det_band, find_resamples, read_systems
from svkit.store.metrics import LeftOut, Metrics, plain_record, read_metrics
from svkit.store.provenance import read_provenance
from svkit.store.report import find_finished, read_log
from svkit.store.scores import Scores

DET_POINTS = 300
HISTOGRAM_BINS = 60
CURVE_POINTS = 300
TIPPETT_POINTS = 200
RELIABILITY_BINS = 20
_CURVES = (
    "loss",
    "accuracy",
    "l1",
    "cosine",
    "sparsity",
    "target_sparsity",
    "eer",
    "min_dcf",
    "lr",
)


def gather_systems(
    exp: Path, directories: Sequence[Path], num_resamples: int, seed: int, progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read every scores directory and compare the systems that share trials and back-end.

    Args:
        exp: the experiment.
        directories: scores directories.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: one task.

    Returns:
        Systems (metrics, DET curve with band, histogram) and comparisons with the reference system.
    """
    groups: dict[tuple[str, LeftOut | None, str], list[tuple[Path, Metrics]]] = defaultdict(list)
    for directory in directories:
        metrics = read_metrics(directory)
        if isinstance(metrics, Metrics):
            trials = metrics.trials
            groups[trials.sha256, trials.left_out, metrics.backend.name].append((directory, metrics))
    systems, comparisons = [], []
    with progress.task("compare systems", len(directories)) as task:
        for members in groups.values():
            found, differences = _gather_group(exp, members, num_resamples, seed, progress)
            systems += found
            comparisons += differences
            task.advance(len(members))
    return systems, comparisons


def _gather_group(
    exp: Path, members: list[tuple[Path, Metrics]], num_resamples: int, seed: int, progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    members = sorted(members, key=lambda member: (member[1].name != "dense", member[1].name))
    scores = read_systems([directory for directory, _ in members])
    systems = [
        {
            **plain_record(metrics),
            "directory": directory.relative_to(exp).as_posix(),
            "det": _det(system),
            "histogram": _histogram(system),
            "tippett": None if system.llrs is None else _tippett(system.llrs, system.trials.labels),
        }
        for (directory, metrics), system in zip(members, scores, strict=True)
    ]
    rated = [
        (metrics, find_resamples(directory, metrics, num_resamples, seed, progress))
        for directory, metrics in members
    ]
    for facts, (metrics, resamples) in zip(systems, rated, strict=True):
        if resamples is not None:
            facts["det"]["band"] = det_band(resamples, metrics.num_nontargets)
    comparisons = [plain_record(one) for one in compare_systems(rated, progress)]
    return systems, comparisons


def _det(system: Scores) -> dict[str, Any]:
    curve = error_curve(system.scores, system.trials.labels)
    floor = 0.5 / max(curve.num_targets, curve.num_nontargets)
    accept, miss = thin_curve(*det_corners(curve), DET_POINTS, floor)
    return {"false_accept_rate": list(accept), "miss_rate": list(miss)}


def _histogram(system: Scores) -> dict[str, Any]:
    is_target = system.trials.labels.astype(bool)
    edges = np.linspace(system.scores.min(), system.scores.max() + 1e-9, HISTOGRAM_BINS + 1)
    return {
        "edges": edges.tolist(),
        "targets": np.histogram(system.scores[is_target], edges)[0].tolist(),
        "nontargets": np.histogram(system.scores[~is_target], edges)[0].tolist(),
    }


def _tippett(llrs: NDArray[np.float64], labels: NDArray[np.int8]) -> dict[str, list[float]]:
    """Return the share of each class above each ratio, and the observed ratios in bins."""
    is_target = labels.astype(bool)
    grid = np.linspace(llrs.min(), llrs.max(), TIPPETT_POINTS)
    above = [
        1 - np.searchsorted(np.sort(values), grid) / len(values)
        for values in (llrs[is_target], llrs[~is_target])
    ]
    stated, observed = reliability(llrs, is_target, RELIABILITY_BINS)
    return {
        "llr": grid.tolist(),
        "targets_above": above[0].tolist(),
        "nontargets_above": above[1].tolist(),
        "stated": stated.tolist(),
        "observed": observed.tolist(),
    }


def gather_training(exp: Path, checkpoints: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the curves of every stage that kept a log, thinned for drawing."""
    stages = []
    for directory in checkpoints:
        records = read_log(directory)
        curves = {
            kind: _curves([record for record in records if record.get("kind") == kind])
            for kind in ("train", "valid")
        }
        if any(curves.values()):
            stages.append({"stage": directory.relative_to(exp).as_posix(), **curves})
    return stages


def _curves(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    curves = {}
    for name in _CURVES:
        points = [
            (record["step"], record[name])
            for record in records
            if isinstance(record.get(name), int | float) and np.isfinite(record[name])
        ]
        if points:
            step = max(1, -(-len(points) // CURVE_POINTS))
            kept = points[::step] if points[-1] in points[::step] else [*points[::step], points[-1]]
            curves[name] = {"step": [point[0] for point in kept], "value": [point[1] for point in kept]}
    return curves


def gather_provenance(exp: Path) -> list[dict[str, Any]]:
    """List every finished output of the experiment with what it was made from."""
    chain = []
    for directory in find_finished(exp):
        record = read_provenance(directory)
        chain.append(
            {
                "output": directory.relative_to(exp).as_posix(),
                **{
                    key: record.get(key)
                    for key in ("command", "svkit", "git_commit", "seed", "device", "started", "finished")
                },
                "inputs": record.get("inputs", []),
            }
        )
    return chain


def link_models(exp: Path, systems: list[dict[str, Any]], hashes: Mapping[str, str]) -> None:
    """Name in every system the checkpoint that made it; None where the experiment lacks it.

    Args:
        exp: the experiment.
        systems: get the key `model_path`.
        hashes: sha256 of each checkpoint by its path below `exp`. Content decides; among checkpoints of equal
            content the recorded path does.
    """
    for system in systems:
        made_by = system.get("checkpoint") or {}
        candidates = [path for path, sha256 in hashes.items() if sha256 == made_by.get("sha256")]
        recorded = Path(str(made_by.get("path", ""))).resolve()
        named = [path for path in candidates if (exp / path).resolve() == recorded]
        found = named or candidates
        system["model_path"] = found[-1] if found else None
