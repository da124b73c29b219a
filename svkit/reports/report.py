"""`svkit report`: every score and checkpoint of an experiment on one page."""

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svkit.errors import ArtifactError, terminal_text
from svkit.progress import Progress
from svkit.reports import document, figures, results, timing
from svkit.reports import facts as gather
from svkit.reports.card import write_card
from svkit.reports.tables import Table
from svkit.scoring.comparison import NUM_RESAMPLES
from svkit.scoring.guards import Guards, check_scores
from svkit.scoring.lineage import mixed_recipes
from svkit.store import report as store
from svkit.store.atomic import write_bytes, write_text
from svkit.store.metrics import Metrics, read_metrics
from svkit.store.output import Output
from svkit.store.provenance import sha256_file


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRequest:
    """Which experiment to report on."""

    exp: Path
    seed: int = 24
    """Of the bootstrap."""
    allow: frozenset[str] = frozenset()
    """Guards that may be passed (`svkit.scoring.guards`)."""
    overwrite: bool = False
    keep_finished: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportResult:
    """Where the report is and what it says."""

    directory: Path
    page: Path
    report: dict[str, Any]
    """Content of `report.json`."""


def run(request: ReportRequest, progress: Progress) -> ReportResult:
    """Gather, time, draw and write the report of an experiment.

    Raises:
        ArtifactError: there is nothing to report, an artifact is corrupt, or scores are stale.
        ConfigError: finished already and not `overwrite`.
    """
    exp = request.exp
    scores, checkpoints = store.find_scores(exp), store.find_checkpoints(exp)
    if not scores:
        raise ArtifactError(f"{exp / 'scores'}: no finished scores; run `svkit score` first")
    guards = Guards(allowed=request.allow)
    measured, hash_once = [], functools.cache(sha256_file)  # models of several lists
    for directory in scores:
        metrics = read_metrics(directory)
        check_scores(guards, directory, metrics, hash_once)
        if not isinstance(metrics, Metrics):  # trials of one class: on record, nothing to draw
            guards.cautions.extend(f"{_below(exp, directory)}: {caution}" for caution in metrics.cautions)
        else:
            measured.append(directory)
    target = exp / "report"
    output = Output(
        target,
        command="report",
        config={
            "num_resamples": NUM_RESAMPLES,
            "rounds": timing.ROUNDS,
            "seed": request.seed,
            "allow": sorted(request.allow),
        },
        inputs={_below(exp, path): path for path in (*scores, *checkpoints)},
        overwrite=request.overwrite,
        keep_finished=request.keep_finished,
        experiment=exp,
    )
    if output.is_kept(progress):
        return _result(target)
    with output.open():
        systems, comparisons = gather.gather_systems(exp, measured, NUM_RESAMPLES, request.seed, progress)
        contents = {
            path: output.hashes[path] for path in (_below(exp, directory) for directory in checkpoints)
        }
        gather.link_models(exp, systems, contents)
        evaluated = {system["model_path"] for system in systems}
        models = _describe_models(exp, contents, evaluated, progress)
        mixed = [mixed_recipes(exp / path, exp) for path in sorted(filter(None, evaluated))]
        guards.cautions.extend(dict.fromkeys(caution for caution in mixed if caution is not None))
        report = {
            "machine": timing.describe_machine(),
            "models": models,
            "systems": [output.recorded(system) for system in systems],
            "comparisons": comparisons,
            "training": gather.gather_training(exp, checkpoints),
            "provenance": [output.recorded(entry) for entry in gather.gather_provenance(exp)],
            "cautions": guards.cautions,
        }
        store.write_report(output.path, output.recorded(report))
        _render(output.path, progress)
        output.finish()
    for path in contents:
        write_card(exp / path, [system for system in systems if system["model_path"] == path])
    return _result(target)


def _result(directory: Path) -> ReportResult:
    return ReportResult(
        directory=directory, page=directory / store.PAGE_NAME, report=store.read_report(directory)
    )


def _below(exp: Path, directory: Path) -> str:
    return directory.relative_to(exp).as_posix()


def _describe_models(
    exp: Path, contents: Mapping[str, str], evaluated: set[str | None], progress: Progress
) -> list[dict[str, Any]]:
    """Describe every checkpoint (path -> sha256) and time those that were evaluated."""
    from svkit.models.info import describe_checkpoint

    models = [
        {
            "path": path,
            "sha256": sha256,
            "is_evaluated": path in evaluated,
            **describe_checkpoint(exp / path),
            "timing": None,
        }
        for path, sha256 in contents.items()
    ]
    chosen = [model["path"] for model in models if model["is_evaluated"]]
    if chosen:
        import torch

        from svkit.models.load import load_model

        num_threads = torch.get_num_threads()
        torch.set_num_threads(timing.NUM_THREADS)
        try:
            timings = timing.time_models({path: load_model(exp / path).embed for path in chosen}, progress)
        finally:
            torch.set_num_threads(num_threads)
        for model in models:
            model["timing"] = timings.get(model["path"])
    return models


def _render(directory: Path, progress: Progress) -> None:
    """Write markdown, page and figures from `report.json` alone."""
    report = _printable(store.read_report(directory))
    panels, svgs = figures.panels(report), {}
    with progress.task("draw", len(panels)) as task:
        for panel in panels:
            png, svgs[panel.name] = figures.draw(panel)
            write_bytes(directory / store.FIGURES_NAME / f"{panel.name}.png", png)
            write_text(directory / store.FIGURES_NAME / f"{panel.name}.svg", svgs[panel.name])
            task.advance(1, figure=panel.name)
    write_text(directory / store.MARKDOWN_NAME, document.to_text(report, panels))
    write_text(directory / store.PAGE_NAME, document.to_page(report, panels, svgs))


def _printable(value: Any) -> Any:
    """Return the facts without control characters in any text: no page, drawing or terminal may get them."""
    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return terminal_text(value, sys.maxsize) if isinstance(value, str) else value


def brief_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return what fits a terminal of 80 columns: errors, models, and what they rest on."""
    tables = [results.brief_errors(report["systems"], "Errors")] if report["systems"] else []
    models = [model for model in report["models"] if model["is_evaluated"]]
    return tables + ([results.models(models, "Models")] if models else [])
