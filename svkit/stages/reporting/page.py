"""Renders `report.html` from the facts of `report.json`: one page without any link to the network."""

import base64
from collections.abc import Sequence
from html import escape

from svkit.stages.reporting import markdown, wording
from svkit.stages.reporting.figures import Drawing
from svkit.stages.reporting.wording import Report

_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 78rem; color: #1a1a1a; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 2px solid #0072B2; }
p { margin: .5rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1rem
0; } .card { border: 1px solid #d0d0d0; border-left: 5px solid #0072B2; border-radius: 4px; padding: .6rem
.8rem; } .card.pruned { border-left-color: #D55E00; }
.card b { display: block; font-size: 1.45rem; line-height: 1.25; }
.card span { color: #555; font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin: .4rem 0; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid #e2e2e2; white-space: nowrap; }
th { border-bottom: 2px solid #999; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; }
.note { color: #555; font-size: .86rem; }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: #555; font-size: .86rem; text-align: center; }
summary { cursor: pointer; color: #0072B2; }
code { font-size: .82rem; }
@media (max-width: 40rem) {
  body { padding: .8rem; }
  figure img.wide { max-width: none; width: 38rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, .card, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 6.5pt; } th, td { padding: .15rem .3rem; }
}
"""


def render(report: Report, drawings: Sequence[Drawing]) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        report: content of `report.json`.
        drawings: embedded as SVG images, in order.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Speaker verification report</title><style>{_CSS}</style></head><body>",
        "<h1>Speaker verification report</h1>",
        _cards(report),
        *(f"<p>{escape(sentence)}</p>" for sentence in wording.headline(report)),
    ]
    if report["systems"]:
        notes = [wording.trials_note(report), wording.interval_note(report), wording.timing_note(report)]
        parts += ["<h2>Results</h2>", _table(*wording.table(report), text_columns=1)]
        parts += [f'<p class="note">{escape(note)}</p>' for note in notes if note]
        for title, headings, rows in wording.breakdowns(report):
            parts += [f"<h3>{escape(title)}</h3>", _table(headings, rows, text_columns=1)]
    groups = (
        ("Errors", ("det", "scores", "calibration")),
        ("Accuracy against cost", ("tradeoff",)),
        ("Structure", ("structure",)),
        ("Training", ("training",)),
    )
    for title, prefixes in groups:
        members = [drawing for drawing in drawings if drawing.name.split("-")[0] in prefixes]
        if members:
            parts += [f"<h2>{title}</h2>", *(_figure(drawing) for drawing in members)]
        if title == "Errors" and report["systems"]:
            calibrated = markdown.calibration_table(report)
            if calibrated[1]:
                parts += ["<h3>Calibration</h3>", _table(*calibrated, text_columns=3)]
            parts += ["<h3>Thresholds</h3>", _table(*markdown.threshold_table(report), text_columns=3)]
    if report["models"]:
        parts += ["<h2>Checkpoints</h2>", _table(*wording.checkpoint_table(report), text_columns=1)]
    if report["provenance"]:
        parts += ["<h2>Provenance</h2>", _provenance(report)]
    return "\n".join([*parts, "</body></html>", ""])


def _cards(report: Report) -> str:
    cards = []
    for system in report["systems"]:
        model = wording.model_of(report, system)
        kind = "card pruned" if model is not None and model["sparsity"] > 0 else "card"
        interval = system["eer_interval"]
        spread = (
            f"95 %: {wording.percent(interval['low'], 1)} to {wording.percent(interval['high'], 1)} %; "
            if interval
            else ""
        )
        size = f"{model['size_bytes'] / wording.MEGA:.3g} MB" if model is not None else ""
        name = escape(f"{wording.label(system)}, {system['trials']['name']}")
        cards.append(
            f'<div class="{kind}"><span>{name}</span>'
            f"<b>{wording.percent(system['eer'])} % EER</b><span>{spread}{size}</span></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _figure(drawing: Drawing) -> str:
    data = base64.b64encode(drawing.svg.encode()).decode()
    caption = escape(drawing.caption)
    kind = ' class="wide"' if drawing.width_inches > 7 else ""
    return (
        f'<figure><div class="scroll"><img{kind} alt="{caption}" src="data:image/svg+xml;base64,{data}">'
        f"</div><figcaption>{caption}</figcaption></figure>"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if number < text_columns else "" for number in range(len(cells))]
        return "".join(
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    head = f"<thead><tr>{row(headings, 'th')}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _provenance(report: Report) -> str:
    headings, rows = markdown.provenance_table(report)
    return (
        f"<details><summary>{len(rows)} outputs, from the lists of audio to this report</summary>"
        f"{_table(headings, rows, text_columns=len(headings))}</details>"
    )
