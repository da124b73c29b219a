"""`svkit report`: every score and checkpoint of an experiment on one page."""

import functools
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from svkit.errors import ArtifactError, terminal_text
from svkit.models.info import describe_checkpoint
from svkit.progress import Progress
from svkit.reports import answer, conditions, document, facts, figures, results, timing, wording
from svkit.reports.card import write_card
from svkit.reports.tables import Table
from svkit.scoring.comparison import NUM_RESAMPLES
from svkit.scoring.conditions import compare_conditions
from svkit.scoring.guards import Guards, check_scores
from svkit.scoring.lineage import (
    chain_faults,
    encoder_of,
    made_with,
    pruned_by,
    recipe_changes,
    shown_path,
    training_lists,
)  # fmt: skip
from svkit.store.atomic import write_bytes, write_text
from svkit.store.metrics import Metrics, read_metrics
from svkit.store.provenance import sha256_file
from svkit.store.report import (
    FIGURES_NAME,
    MARKDOWN_NAME,
    PAGE_NAME,
    Model,
    Report,
    find_checkpoints,
    find_scores,
    read_pruning,
    read_report,
    write_report,
)  # fmt: skip
from svkit.store.request import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRequest(Request):
    """Which experiment to report on."""

    seed: int = 24
    """Of the bootstrap."""
    allow: frozenset[str] = frozenset()
    """Guards that may be passed (`svkit.scoring.guards`)."""


def run(request: ReportRequest, progress: Progress) -> Path:
    """Gather, time, draw and write the report of an experiment; return its directory.

    Raises:
        ArtifactError: there is nothing to report, an artifact is corrupt, or scores are stale.
        ConfigError: the report is finished and may not be replaced.
    """
    exp = request.exp
    scores, checkpoints = find_scores(exp), find_checkpoints(exp)
    if not scores:
        below = f", or give --exp {exp / 'exp'}" if (exp / "exp" / "scores").is_dir() else ""
        raise ArtifactError(f"{exp / 'scores'}: no finished scores; run `svkit score` first{below}")
    guards = Guards(allowed=request.allow)
    measured: dict[Path, Metrics] = {}
    hash_once = functools.cache(sha256_file)  # the same model is behind scores of several lists
    for directory in scores:
        metrics = read_metrics(directory)
        check_scores(guards, directory, metrics, hash_once)
        if isinstance(metrics, Metrics):
            measured[directory] = metrics
        else:  # trials of one class have no rates to draw; their cautions are reported
            if metrics.num_unlabelled is not None:
                progress.note(f"{directory}: left out, because its trials have no labels")
                continue
            guards.cautions.extend(f"{_below(exp, directory)}: {caution}" for caution in metrics.cautions)
    if not measured and not guards.cautions:
        raise ArtifactError(f"{exp / 'scores'}: no scores of trials with labels; a report needs some")
    plain = {path: metrics for path, metrics in measured.items() if metrics.condition is None}
    if measured and not plain:
        raise ArtifactError(
            f"{exp / 'scores'}: scores under conditions only; also score embeddings of the recordings as they are"
        )
    output = request.output(
        exp / "report",
        "report",
        {
            "num_resamples": NUM_RESAMPLES,
            "rounds": timing.ROUNDS,
            "seed": request.seed,
            "allow": sorted(request.allow),
        },
        {_below(exp, path): path for path in (*scores, *checkpoints)},
    )
    if output.is_kept(progress):
        return output.path
    facts.note_lost_embeddings(scores, progress)
    with output.open():
        paths = [_below(exp, directory) for directory in checkpoints]
        contents = {path: output.hashes[path] for path in paths}
        systems, comparisons = facts.gather_systems(exp, plain, contents, request.seed, progress)
        evaluated = {system.model_path for system in systems if system.model_path}
        chains = (caution for path in sorted(evaluated) for caution in chain_faults(exp / path, exp))
        guards.cautions.extend(dict.fromkeys(chains))
        guards.cautions.extend(facts.stale_cautions(exp, checkpoints, hash_once))
        guards.cautions.extend(facts.chain_cautions(exp, systems))
        sources = {path: source for path in paths if (source := pruned_by(exp / path, hash_once)) is not None}
        cuts = {shown_path(source, exp): source for source in sources.values()}
        prunings = {name: read_pruning(source) for name, source in cuts.items()}
        # A pruning may lie outside the experiment; its training curves are shown all the same.
        elsewhere = [source for name, source in cuts.items() if name not in paths]
        models = [
            replace(
                model,
                pruned_by=shown_path(sources[model.path], exp) if model.path in sources else None,
                changes=tuple(recipe_changes(exp / model.path, hash_once)),
            )
            for model in _describe_models(exp, contents, evaluated, progress)
        ]
        guards.cautions.extend(wording.pruning_cautions(models, prunings))
        guards.cautions.extend(
            wording.shortened([change for model in models if model.is_evaluated for change in model.changes])
        )
        report = Report(
            machine=timing.describe_machine(),
            models=tuple(models),
            systems=tuple(systems),
            comparisons=tuple(comparisons),
            conditions=compare_conditions([*measured.items()], request.seed, progress),
            training=tuple(facts.gather_training(exp, [*checkpoints, *elsewhere])),
            provenance=tuple(facts.gather_provenance(exp)),
            prunings=prunings,
            cautions=tuple(guards.cautions),
        )
        write_report(output, replace(report, recommendations=tuple(answer.recommendations(report))))
        _render(output.path, progress)
        output.finish()
    # Cards are no part of the report, so they are written once it is finished.
    for path in contents:
        try:
            write_card(exp / path, [system for system in systems if system.model_path == path], hash_once)
        except ArtifactError as error:
            progress.note(f"{error}; the report is complete, and the model card there stays as it was")
    return output.path


def _below(exp: Path, directory: Path) -> str:
    return directory.relative_to(exp).as_posix()


def _describe_models(
    exp: Path, contents: Mapping[str, str], evaluated: Set[str], progress: Progress
) -> list[Model]:
    """Describe every checkpoint (path -> sha256) and time those that were evaluated."""
    timings = {}
    if evaluated:
        from svkit.models.load import load_model

        with timing.one_thread():
            models = {path: load_model(exp / path).embed for path in contents if path in evaluated}
            timings = timing.time_models(models, progress)
    described = {path: describe_checkpoint(exp / path) for path in contents}
    return [
        Model(
            **{field.name: getattr(size, field.name) for field in fields(size)},
            path=path,
            sha256=contents[path],
            is_evaluated=path in evaluated,
            timing=timings.get(path),
            recipe=recipe,
            seed=seed,
            encoder=encoder_of(exp / path),
            trained_on=tuple(filter(None, map(facts.counts_of, training_lists(exp / path)))),
        )
        for path, size in described.items()
        for recipe, seed in [made_with(exp / path)]
    ]


def _render(directory: Path, progress: Progress) -> None:
    """Write the markdown, the page and the figures from `report.json` alone."""
    report = _printable(read_report(directory))
    panels, svgs = figures.panels(report), {}
    with progress.task("draw", len(panels)) as task:
        for panel in panels:
            png, svgs[panel.name] = figures.draw(panel)
            write_bytes(directory / FIGURES_NAME / f"{panel.name}.png", png)
            write_text(directory / FIGURES_NAME / f"{panel.name}.svg", svgs[panel.name])
            task.advance(1, figure=panel.name)
    write_text(directory / MARKDOWN_NAME, document.to_text(report, panels))
    write_text(directory / PAGE_NAME, document.to_page(report, panels, svgs))


def _printable(value: Any) -> Any:
    """Return the facts without control characters in any text: no page, figure or terminal may receive them."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: _printable(getattr(value, field.name)) for field in fields(value)}
        )
    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_printable, value))
    return terminal_text(value, sys.maxsize) if isinstance(value, str) else value


def brief_tables(report: Report) -> list[Table]:
    """Return the tables of errors and models, cut down to a terminal of 80 columns."""
    tables = [results.brief_errors(report.systems, "Errors")] if report.systems else []
    tables += results.asked_costs(report.systems)
    tables += conditions.tables(report.conditions, is_brief=True)
    evaluated = [model for model in report.models if model.is_evaluated]
    # Reversed, because of several systems of one model the first counts.
    systems = {one.model_path: one.name for one in reversed(report.systems) if one.model_path is not None}
    return tables + ([results.brief_models(evaluated, "Models", systems)] if evaluated else [])
