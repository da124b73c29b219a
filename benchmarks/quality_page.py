"""Renders the facts of `pruning_quality.py` as a page of markdown."""

import statistics
from typing import Any

from svkit.reports.tables import Table, to_markdown

ORDER = (
    ("dense", "joint (teacher)"),
    ("dense", "lmft"),
    *(
        (method, stage)
        for method in ("ours", "shares")
        for stage in ("gates", "cut", "distilled", "fine-tuned")
    ),
    *((method, stage) for method in ("magnitude", "peer") for stage in ("cut", "distilled", "fine-tuned")),
    ("scratch", "trained"),
    ("continued", "trained"),
)
RIVALS = ("magnitude", "peer", "scratch")
LEVEL = 0.05
MARGIN = 0.015
"""Target: the upper limit of pruned minus dense is at most this."""


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _pooled(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["method"]: one for one in facts["pooled"]}


def verdict(facts: dict[str, Any]) -> list[str]:
    """Say for each target whether it is met: ours ahead of each rival, and not far behind dense."""
    pooled, sentences = _pooled(facts), []
    for rival in RIVALS:
        if rival in pooled:
            found = pooled[rival]["pooled"]["ours_minus_it"]
            is_ahead = found["difference"] < 0 and found["p_value"] < LEVEL
            sentences.append(
                f"- Target: ours significantly better than {rival}: {'met' if is_ahead else 'missed'}"
                f" ({_points(found['difference'])} points, p = {found['p_value']:.3f})."
            )
    if "dense" in pooled:
        high = pooled["dense"]["pooled"]["ours_minus_it"]["high"]
        sentences.append(
            f"- Target: upper limit of ours minus dense at most {_points(MARGIN)} points:"
            f" {'met' if high <= MARGIN else 'missed'} ({_points(high)})."
        )
    return sentences


def comparison_cells(found: dict[str, Any]) -> list[str]:
    """Return the EER of a method and the difference of ours from it, both with intervals."""
    pair = found.get("ours_minus_it")
    return [
        f"{100 * found['eer']:.2f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})",
        f"{_points(pair['difference'])} ({_points(pair['low'])} to {_points(pair['high'])}), p = "
        f"{pair['p_value']:.3f}"
        if pair
        else "",
    ]


def _comparison(facts: dict[str, Any]) -> Table:
    rows = []
    for one in facts["pooled"]:
        cells = [one["method"], str(len(one["folds"])), str(one["num_speakers"])]
        for kind in ("pooled", "mean"):
            cells += comparison_cells(one[kind])
        rows.append(cells)
    headings = [
        "method",
        "folds",
        "speakers",
        "EER, pooled, %",
        "ours minus it, points",
        "mean of the folds' EERs, %",
        "ours minus it, points",
    ]
    return Table(headings=headings, rows=rows)


def _stages(facts: dict[str, Any]) -> Table:
    def cell(members: list[dict[str, Any]], key: str, scale: float, digits: int) -> str:
        values = [row[key] for row in members if row.get(key) is not None]
        if not values:
            return ""
        text = f"{scale * statistics.mean(values):.{digits}f}"
        return text if len(values) < 2 else f"{text} +- {scale * statistics.stdev(values):.{digits}f}"

    rows = []
    for method, stage in ORDER:
        members = [row for row in facts["rows"] if (row["method"], row["stage"]) == (method, stage)]
        if members:
            steps = sorted({row["steps"] for row in members})
            rows.append(
                [
                    method,
                    stage,
                    str(len(members)),
                    f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}",
                    cell(members, "sparsity", 1, 4),
                    cell(members, "l1", 1, 4),
                    cell(members, "cosine", 1, 4),
                    cell(members, "valid_eer", 100, 2),
                    cell(members, "eer", 100, 2),
                ]
            )
    headings = [
        "method",
        "stage",
        "folds",
        "steps",
        "sparsity",
        "L1",
        "cosine",
        "EER, validation, %",
        "EER, evaluation, %",
    ]
    return Table(headings=headings, rows=rows)


def _by_fold(facts: dict[str, Any]) -> Table:
    methods = [one["method"] for one in facts["pooled"]]
    finals = {(row["fold"], row["method"]): row for row in facts["rows"]}  # the last stage of each
    folds = sorted({fold for fold, _ in finals})
    rows = [
        [str(fold), *(f"{100 * finals[fold, m]['eer']:.2f}" if (fold, m) in finals else "" for m in methods)]
        for fold in folds
    ]
    return Table(headings=["fold", *methods], rows=rows)


def made_by_fold(facts: dict[str, Any]) -> str:
    """Say where and when each fold was trained, and which methods of a fold had different teachers."""
    sentences = []
    for one in facts["made"]:
        words = [", ".join(one[name]) for name in ("dates", "processors", "precisions")]
        teachers = len(set(one["teachers"]) - {"None"})
        words += [f"{teachers} teachers of equal settings"] if teachers > 1 else []
        sentences.append(f"Fold {one['fold']}: {'; '.join(words)}.")
    return " ".join(sentences)


def render(facts: dict[str, Any]) -> str:
    """The page."""
    settings = facts["settings"]
    complete = len(_pooled(facts).get("ours", {"folds": []})["folds"])
    lines = [
        "# Pruning quality",
        "",
        f"- Written by `{facts['command']}`. {made_by_fold(facts)}",
        f"- 62 real speakers in {facts['num_folds']} folds (`benchmarks/folds.py`), each evaluated by models that were "
        f"trained on the others. **{complete} of {facts['num_folds']} folds** are finished for ours; "
        "`make pruning-quality` continues with the rest.",
        f"- Preset `{settings['preset']}`, seed {settings['seed']}, target sparsity {settings['target']:g}. "
        f"`magnitude` uses the rule `{facts['magnitude_rule']}` (`benchmarks/magnitude.py`). `peer` is Torch-Pruning "
        f"with the rule `{facts['peer_rule']}`, which was chosen on the validation speakers (`benchmarks/peer.py`).",
        "- All methods but dense take the same number of steps after the teacher. `magnitude` and `peer` are cut at "
        "once, distilled for the steps of our pruning and distillation together, and fine-tuned like ours. `scratch` "
        "trains our widths from random weights by the dense recipe. `shares` is ours with the published shares of the "
        "steps. `continued` trains the teacher further.",
        "- The pooled EER has one threshold for the trials of all folds; in the mean of the folds' EERs, each fold has "
        "its own. 95 % intervals and p-values are from a paired bootstrap over all speakers, on the folds that both "
        "methods have.",
        "",
        *verdict(facts),
        "",
        to_markdown(_comparison(facts)),
        "",
        "EER of the final models on the evaluation trials of each fold, %:",
        "",
        to_markdown(_by_fold(facts)),
        "",
        "The last table shows the stages, as mean +- standard deviation over folds; `gates` is before the cut. L1 and "
        "cosine compare hidden states with the teacher's, on crops of five training speakers held out for validation. "
        "The EER of validation is on trials among them.",
        "",
        to_markdown(_stages(facts)),
    ]
    return "\n".join(lines) + "\n"
