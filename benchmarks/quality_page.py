"""Renders the facts of `pruning_quality.py` as a page of markdown."""

import statistics
from collections.abc import Sequence
from typing import Any

ROWS = (
    ("dense", "joint (teacher)"),
    ("dense", "lmft"),
    ("ours", "gates"),
    ("ours", "cut"),
    ("ours", "distilled"),
    ("ours", "fine-tuned"),
    ("magnitude", "cut"),
    ("magnitude", "distilled"),
    ("magnitude", "fine-tuned"),
    ("scratch", "trained"),
)
FINAL = {"ours": "fine-tuned", "magnitude": "fine-tuned", "scratch": "trained"}


def _mean(values: Sequence[float | None], scale: float, digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = f"{scale * statistics.mean(known):.{digits}f}"
    return text if len(known) < 2 else f"{text} +- {scale * statistics.stdev(known):.{digits}f}"


def _members(facts: dict[str, Any], method: str, stage: str) -> list[dict[str, Any]]:
    return [row for row in facts["rows"] if (row["method"], row["stage"]) == (method, stage)]


def verdict(facts: dict[str, Any]) -> str:
    """Say whether ours beats each baseline, by the mean EER over the seeds on both trial lists."""
    sentences = []
    for other in ("magnitude", "scratch"):
        for key, where in (("valid_eer", "held-out training speakers"), ("eer", "evaluation trials")):
            mine, theirs = (
                statistics.mean(row[key] for row in _members(facts, method, FINAL[method]))
                for method in ("ours", other)
            )
            word = "beats" if mine < theirs else "does not beat"
            sentences.append(f"{word} {other} on the {where} ({100 * mine:.2f} against {100 * theirs:.2f} %)")
    return "Ours " + "; ".join(sentences) + "."


def _row(facts: dict[str, Any], method: str, stage: str) -> str:
    members = _members(facts, method, stage)

    def cell(key: str, scale: float = 1.0, digits: int = 4) -> str:
        return _mean([row.get(key) for row in members], scale, digits)

    return (
        f"| {method} | {stage} | {members[0]['steps']:,} | {cell('sparsity')} | {cell('l1')} | {cell('cosine')} | "
        f"{cell('valid_eer', 100, 2)} | {cell('eer', 100, 2)} |"
    )


def render(facts: dict[str, Any]) -> str:
    """The page."""
    seeds = ", ".join(str(seed) for seed in facts["seeds"])
    lines = [
        "# Pruning quality",
        "",
        f"- Written by `{facts['command']}` on {facts['date']}; {facts['machine']['processor']}, "
        f"{facts['machine']['num_cores']} cores.",
        f"- Preset `{facts['preset']}`; one teacher (seed {facts['teacher_seed']}), seeds after it: {seeds}. Target "
        f"sparsity {facts['target_sparsity']:g}; magnitude baseline: shares `{facts['magnitude_rule']}`.",
        "- Same steps for all: magnitude is distilled for our pruning and distillation together, then fine-tuned like "
        "ours; scratch trains our widths from random weights by the dense recipe for all of our steps.",
        "- L1 and cosine: distance to the teacher's hidden states on crops of held-out speakers (`gates`: before the "
        "cut, deterministic mask of the gates' own expectation; `cut`: after it, on the structure that meets the "
        f"target). Validation: trials among held-out training speakers. Evaluation: `{facts['trials']}`, once a row."
        + (" Mean +- standard deviation over seeds." if len(facts["seeds"]) > 1 else ""),
        "",
        verdict(facts),
        "",
        "| method | stage | steps | sparsity, counted | L1 | cosine | EER, validation, % | EER, evaluation, % |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(facts, method, stage) for method, stage in ROWS),
        "",
        "Evaluation EER of the final models, 95 % intervals (bootstrap over speakers), and ours minus the other, "
        "paired:",
        "",
        "| seed | ours, % | against | other, % | ours - other, points | 95 % | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in facts["differences"]:
        stage = FINAL.get(pair["second"], "lmft")
        cells = []
        for method, last in (("ours", "fine-tuned"), (pair["second"], stage)):
            row = next(row for row in _members(facts, method, last) if row["seed"] == pair["seed"])
            interval = row["eer_interval"]
            spread = f" ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})" if interval else ""
            cells.append(f"{100 * row['eer']:.2f}{spread}")
        lines.append(
            f"| {pair['seed']} | {cells[0]} | {pair['second']} | {cells[1]} | {100 * pair['eer_difference']:+.2f} | "
            f"{100 * pair['low']:+.2f} to {100 * pair['high']:+.2f} | {pair['p_value']:.3f} |"
        )
    return "\n".join(lines) + "\n"
