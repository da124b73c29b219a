"""Collects the facts of an experiment for the report: what was measured, trained and made."""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svkit.errors import first_five
from svkit.eval.llr import reliability
from svkit.eval.metrics import det_corners, error_curve, thin_curve
from svkit.eval.results import Band
from svkit.models.final import MODEL_STAGES, UNTUNED, final_models, next_command
from svkit.progress import Progress
from svkit.scoring.comparison import compare_systems, det_band, find_resamples, read_systems
from svkit.scoring.lineage import corpus_of, has_changed, preparation_of, remade_sources, shown_path
from svkit.store.embeddings import read_facts
from svkit.store.metrics import IMPORTED, Comparison, LeftOut, Metrics
from svkit.store.places import Artifact
from svkit.store.provenance import PROVENANCE_NAME, Provenance, is_finished, read_provenance
from svkit.store.report import (
    Curve,
    DetCurve,
    Histogram,
    ListCounts,
    Origin,
    StageCurves,
    System,
    Tippett,
    find_finished,
    read_log,
)  # fmt: skip
from svkit.store.scores import Scores
from svkit.store.strict_json import typed

DET_POINTS = 300
HISTOGRAM_BINS = 60
CURVE_POINTS = 300
TIPPETT_POINTS = 200
RELIABILITY_BINS = 20
_CURVES = (
    "loss", "accuracy", "l1", "cosine", "sparsity", "target_sparsity", "counted_sparsity", "eer", "min_dcf", "lr",
)  # fmt: skip


def gather_systems(
    exp: Path,
    measured: Mapping[Path, Metrics],
    checkpoints: Mapping[str, str],
    seed: int,
    progress: Progress,
) -> tuple[list[System], list[Comparison]]:
    """Describe every system, and compare systems that share trials and back-end with the first of them.

    The first is the one named `dense`, if any. `measured` maps directories of scores to their metrics, `checkpoints`
    maps paths below `exp` to their sha256; `seed` is that of the bootstrap.
    """
    groups: dict[tuple[str, LeftOut | None, str], list[Path]] = defaultdict(list)
    for directory, metrics in measured.items():
        backend = metrics.backend.name  # imported scores are compared with plain cosine
        backend = "cosine" if backend == IMPORTED else backend
        groups[metrics.trials.sha256, metrics.trials.left_out, backend].append(directory)
    systems: list[System] = []
    comparisons: list[Comparison] = []
    with progress.task("compare systems", len(measured)) as task:
        for members in groups.values():
            members.sort(key=lambda member: _place(measured[member]))
            rated = []
            for directory, scored in zip(members, read_systems(members), strict=True):
                metrics = measured[directory]
                resamples = find_resamples(directory, metrics, seed, progress)
                band = None if resamples is None else det_band(resamples, metrics.num_nontargets)
                model_path = _model_path(exp, metrics, checkpoints)
                systems.append(_system(directory.relative_to(exp), metrics, scored, band, model_path))
                rated.append((metrics, resamples))
            comparisons += compare_systems(rated, progress)
            task.advance(len(members))
    return systems, comparisons


def _place(metrics: Metrics) -> tuple[bool, bool, str]:
    """Return the sort key of a system; the others are compared with the first."""
    return metrics.name != "dense", metrics.backend.name == IMPORTED, metrics.name


def _model_path(exp: Path, metrics: Metrics, checkpoints: Mapping[str, str]) -> str | None:
    """Find the checkpoint behind a system by content, and among equal contents by the recorded path."""
    recorded = metrics.checkpoint or Artifact(path="", sha256="")
    found = [path for path, sha256 in checkpoints.items() if sha256 == recorded["sha256"]]
    place = Path(recorded["path"]).resolve()
    found = [path for path in found if (exp / path).resolve() == place] or found
    return found[-1] if found else None


def _system(
    place: Path, metrics: Metrics, scored: Scores, band: Band | None, model_path: str | None
) -> System:
    is_target = scored.trials.labels.astype(bool)
    curve = error_curve(scored.scores, scored.trials.labels)
    # A DET axis has no zero: a rate without an error is drawn at half an error.
    floor = 0.5 / max(curve.num_targets, curve.num_nontargets)
    accept, miss = thin_curve(*det_corners(curve), DET_POINTS, floor)
    edges = np.linspace(scored.scores.min(), scored.scores.max() + 1e-9, HISTOGRAM_BINS + 1)
    targets, nontargets = (
        tuple(np.histogram(scored.scores[side], edges)[0].tolist()) for side in (is_target, ~is_target)
    )
    return System(
        **{field.name: getattr(metrics, field.name) for field in fields(metrics)},
        directory=place.as_posix(),
        det=DetCurve(false_accept_rate=tuple(accept), miss_rate=tuple(miss), band=band),
        histogram=Histogram(edges=tuple(edges.tolist()), targets=targets, nontargets=nontargets),
        tippett=None if scored.llrs is None else _tippett(scored.llrs, is_target),
        model_path=model_path,
        recordings=None if metrics.manifest is None else counts_of(metrics.manifest),
    )


def counts_of(entry: Artifact) -> ListCounts | None:
    """Return what the preparation of a list counted, nothing if the list has changed; None: svkit did not prepare it.

    Raises:
        ArtifactError: a recorded count has the wrong type.
    """
    corpus, record = corpus_of(entry), preparation_of(entry)
    if corpus is None or record is None:
        return ListCounts(corpus=None) if has_changed(entry) else None
    path, summary = Path(entry["path"]), record.get("summary")
    counts, asked = (found if isinstance(found, dict) else {} for found in (summary, record.get("config")))
    content = {
        "corpus": corpus,
        "num_speakers": counts.get(f"{path.stem}_speakers"),
        "num_utterances": counts.get(f"{path.stem}_utterances"),
        "hours": counts.get(f"{path.stem}_hours"),
        "root": asked.get("root"),
    }
    return typed(path.parent / PROVENANCE_NAME, content, ListCounts, "summary")


def _tippett(llrs: NDArray[np.float64], is_target: NDArray[np.bool_]) -> Tippett:
    grid = np.linspace(llrs.min(), llrs.max(), TIPPETT_POINTS)
    above = [
        1 - np.searchsorted(np.sort(values), grid) / len(values)
        for values in (llrs[is_target], llrs[~is_target])
    ]
    curves = (grid, *above, *reliability(llrs, is_target, RELIABILITY_BINS))
    return Tippett(
        **{field.name: tuple(curve.tolist()) for field, curve in zip(fields(Tippett), curves, strict=True)}
    )


def gather_training(exp: Path, checkpoints: Sequence[Path]) -> list[StageCurves]:
    """Read the curves of every stage that kept a log, thinned for drawing."""
    stages = []
    for directory in checkpoints:
        records = read_log(directory)
        train, valid = (_curves(records, kind) for kind in ("train", "valid"))
        if train or valid:
            stages.append(
                StageCurves(
                    stage=shown_path(directory, exp),
                    train=train,
                    valid=valid,
                    margin=_margin(directory),
                    valid_speakers=_valid_speakers(directory),
                    repeated_steps=_repeated_steps(directory),
                )
            )
    return stages


def _margin(checkpoint: Path) -> float | None:
    """Return the margin that a stage was trained with, if it is recorded."""
    found: object = read_provenance(checkpoint).get("config")
    for key in ("stage_config", "margin", "margin"):
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def _repeated_steps(checkpoint: Path) -> int | None:
    """Return how many steps of the stage before this one were trained on the crops with which this one begins.

    The order of the crops follows from the seed, the list and the settings of the data, not from the stage.
    """

    def of_crops(record: Provenance) -> tuple[object, ...] | None:
        config = record.get("config", {})
        settings = config.get("stage_config")
        lists = [entry["sha256"] for entry in record["inputs"] if entry["name"] == "train"]
        if record["command"] != "finetune" or not isinstance(settings, dict) or not lists:
            return None
        return config.get("seed"), settings.get("data"), lists

    record = read_provenance(checkpoint)
    crops = of_crops(record)
    before = [Path(entry["path"]) for entry in record["inputs"] if entry["name"] == "checkpoint"]
    if crops is None or not before or not is_finished(before[0]):
        return None
    loss = _curves(read_log(before[0]), "train").get("loss")
    return loss.step[-1] if loss is not None and of_crops(read_provenance(before[0])) == crops else None


def _valid_speakers(checkpoint: Path) -> int | None:
    """Return how many speakers a stage was validated on, if that is recorded."""
    lists = [entry for entry in read_provenance(checkpoint)["inputs"] if entry["name"] == "valid"]
    counted = [found for entry in lists if (found := counts_of(entry))]
    return counted[0].num_speakers if counted else None


def stale_cautions(exp: Path, checkpoints: Sequence[Path], hash_file: Callable[[Path], str]) -> list[str]:
    """Say which checkpoints come from others that have been remade or changed since."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in checkpoints:
        for source, made in remade_sources(path, hash_file):
            found[shown_path(source, exp), shown_path(made, exp)].append(shown_path(path, exp))
    return [
        f"{source} is no longer what {made} was made from: {' and '.join(later)}"
        f" {'come' if len(later) > 1 else 'comes'} from the earlier one; run the commands after it again"
        for (source, made), later in found.items()
    ]


def chain_cautions(exp: Path, systems: Sequence[System]) -> list[str]:
    """Say which scored models of the experiment's chain are not at its end: not fine-tuned yet, or no longer the last.

    Of a model that the user named, as with --model, nothing is said.
    """
    found: dict[str, None] = {}
    finals = {name: shown_path(path, exp) for name, path in final_models(exp).items()}
    again = "svkit extract and svkit score again, with --overwrite"
    for system in systems:
        kind, path = _extracted_as(exp / system.directory, system.name), system.model_path
        if kind not in finals or path not in MODEL_STAGES[kind]:
            continue
        if path != finals[kind]:
            found[
                f"{system.name} was scored with the model of {path}, but {finals[kind]} is finished now; run {again}"
            ] = None
        elif path in UNTUNED:
            found[
                f"{system.name} is the model of {path}, which is {UNTUNED[path]}, so the figures do not show what"
                f" pruning costs in the end; next: {next_command(exp, exp / path)}; once it is fine-tuned, run {again}"
            ] = None
    return list(found)


def _extracted_as(scores: Path, name: str) -> str:
    """Return the name of the model at the extraction of embeddings that were scored; `name`: without embeddings."""
    for entry in read_provenance(scores)["inputs"]:
        if entry["name"] == "embeddings" and Path(entry["path"]).is_dir():
            return str(read_facts(Path(entry["path"])).get("model"))
    return name


def note_lost_embeddings(scores: Sequence[Path], progress: Progress) -> None:
    """Note which scores are reported although their embeddings are gone.

    Where all are gone, as to save space, there is nothing to say. Imported and fused scores never had any.
    """
    made_from = [
        (directory, Path(entry["path"]))
        for directory in scores
        for entry in read_provenance(directory)["inputs"]
        if entry["name"] == "embeddings"
    ]
    lost = [directory.as_posix() for directory, embeddings in made_from if not embeddings.is_dir()]
    if 0 < len(lost) < len(made_from):
        progress.note(
            f"{first_five(lost)}: reported, though the embeddings that were scored are gone; delete a directory of"
            " scores to leave it out"
        )


def _curves(records: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Curve]:
    records = [record for record in records if record.get("kind") == kind]
    curves = {}
    for name in _CURVES:
        points = [
            (record["step"], record[name])
            for record in records
            if _is_finite(record.get("step")) and _is_finite(record.get(name))
        ]
        if points:
            kept = points[:: -(-len(points) // CURVE_POINTS)]
            kept += points[-1:] if kept[-1] != points[-1] else []
            steps, values = zip(*kept, strict=True)
            curves[name] = Curve(step=steps, value=values)
    return curves


def _is_finite(value: object) -> bool:
    # JSON allows whole numbers that are larger than any float.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def gather_provenance(exp: Path) -> list[Origin]:
    """List every finished output of the experiment, in the order of making, with what it was made from."""
    chain = []
    for directory in find_finished(exp):
        record = read_provenance(directory)
        chain.append(
            Origin(
                output=directory.relative_to(exp).as_posix(),
                command=record["command"],
                svkit=record.get("svkit"),
                git_commit=record.get("git_commit"),
                seed=record.get("seed"),
                device=record.get("device"),
                started=record.get("started"),
                finished=record.get("finished"),
                inputs=tuple(record["inputs"]),
            )
        )
    return sorted(chain, key=lambda origin: origin.finished or "")
