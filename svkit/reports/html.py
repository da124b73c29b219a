"""Renders `report.html` from the facts of `report.json`: one page without any link to the network."""

import base64
import re
from collections.abc import Sequence
from html import escape

from svkit.reports import markdown, wording
from svkit.reports.figures import GROUPS, Drawing
from svkit.reports.wording import Report

WIDEST_ON_A_PHONE = 4
"""Columns."""
_TEXT_COLUMNS = ("trials", "calibrated by")

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
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin: .4rem 0; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid #e2e2e2; white-space: nowrap; }
th { border-bottom: 2px solid #999; font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; }
table.wide td.text { white-space: normal; }
.note { color: #555; font-size: .86rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem 2rem;
  margin: 1rem 0; }
figure { margin: 0; }
figure.tall { grid-row: span 2; }
figure img { display: block; width: 100%; height: auto; }
figcaption { color: #555; font-size: .86rem; text-align: center; }
summary { cursor: pointer; color: #0072B2; }
code { font-size: .82rem; }
@media (max-width: 40rem) {
  body { padding: .8rem; }
  th, td { white-space: normal; padding: .3rem; }
  th:first-child { width: 34%; }
  table.wide, table.wide tbody, table.wide tr, table.wide td { display: block; width: 100%; text-align: left; }
  table.wide thead { display: none; }
  table.wide tr { border: 1px solid #d0d0d0; border-radius: 4px; padding: .3rem .5rem; margin: .5rem 0; }
  table.wide td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; }
  table.wide td + td::before { content: attr(data-label); color: #555; }
  table.wide td + td { text-align: right; }
  table.wide td:first-child { font-weight: 600; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, .card, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; break-inside: avoid; }
  details .scroll { break-inside: auto; }
  .figures { display: block; columns: 2; }
  figure { break-inside: avoid; margin-bottom: .8rem; }
  table { font-size: 6.8pt; } th, td { padding: .15rem .3rem; white-space: normal; }
  details::details-content { content-visibility: visible; }
  summary { display: none; }
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
        parts += ["<h2>Results</h2>", _table(*wording.table(report))]
        parts += [f'<p class="note">{escape(note)}</p>' for note in notes if note]
    tables = {"errors": _errors, "calibration": _calibration}
    for group, title in GROUPS.items():
        members = [_figure(drawing) for drawing in drawings if drawing.group == group]
        table = tables[group](report) if group in tables else []
        if members or table:
            parts += [
                f"<h2>{title}</h2>",
                f'<div class="figures">{"".join(members)}</div>' if members else "",
                *table,
            ]
        if group == "calibration" and report["systems"]:
            parts += _thresholds(report)
    if report["models"]:
        parts += ["<h2>Checkpoints</h2>", _table(*wording.checkpoint_table(report))]
    if report["provenance"]:
        parts += ["<h2>Provenance</h2>", _provenance(report)]
    return "\n".join([*parts, "</body></html>", ""])


def _cards(report: Report) -> str:
    cards = []
    for system in report["systems"]:
        model = wording.model_of(report, system)
        kind = "card pruned" if model is not None and model["sparsity"] > 0 else "card"
        interval = system["eer_interval"]
        spread = f"95 %: {wording.interval_text(interval)} %" if interval else ""
        facts = [spread]
        if model is not None:
            facts.append(f"{model['size_bytes'] / wording.MEGA:.3g} MB")
            if model["timing"]:
                facts.append(f"{1000 * model['timing']['cpu']:.2g} ms for 1 s of audio")
        name = escape(wording.system_title(system))
        cards.append(
            f'<div class="{kind}"><span>{name}</span>'
            f"<b>{wording.eer_text(system)} EER</b><span>{escape('; '.join(filter(None, facts)))}</span></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _errors(report: Report) -> list[str]:
    if not report["systems"]:
        return []
    parts = [_table(*wording.error_table(report))]
    for title, headings, rows in wording.breakdowns(report):
        parts += [f"<h3>{escape(title)}</h3>", _table(headings, rows)]
    return parts


def _calibration(report: Report) -> list[str]:
    headings, rows = wording.calibration_table(report)
    return [_table(headings, rows)] if rows else []


def _thresholds(report: Report) -> list[str]:
    parts = ["<h2>Thresholds</h2>"]
    for system in report["systems"]:
        parts += [
            f"<h3>{escape(wording.system_title(system))}</h3>",
            _table(*wording.threshold_table(system)),
        ]
    return [*parts, f'<p class="note">{escape(wording.THRESHOLD_NOTE)}</p>']


def _figure(drawing: Drawing) -> str:
    data = base64.b64encode(drawing.svg.encode()).decode()
    caption = escape(drawing.caption)
    kind = ' class="tall"' if drawing.is_tall else ""
    return (
        f'<figure{kind}><img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table; on a phone the rows of a wide one become blocks of labelled lines."""
    is_text = [
        number == 0 or headings[number] in _TEXT_COLUMNS or headings == markdown.PROVENANCE_HEADINGS
        for number in range(len(headings))
    ]

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if text else "" for text in is_text]
        labels = [f' data-label="{escape(name)}"' if tag == "td" else "" for name in headings]
        return "".join(
            f"<{tag}{kind}{label}>{_unbroken(escape(cell))}</{tag}>"
            for cell, kind, label in zip(cells, kinds, labels, strict=True)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    head = f"<thead><tr>{row(headings, 'th')}</tr></thead>"
    kind = ' class="wide"' if len(headings) > WIDEST_ON_A_PHONE else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>{body}</tbody></table></div>'


def _unbroken(cell: str) -> str:
    """Keep an interval in its brackets, and a threshold with its scale, on one line."""
    return re.sub(r"\([^()]*\)|^(score|LLR) \S+$", lambda part: part[0].replace(" ", "\u00a0"), cell)


def _provenance(report: Report) -> str:
    headings, rows = markdown.provenance_table(report)
    return (
        f"<details><summary>{len(rows)} outputs, from the lists of audio to this report</summary>"
        f"{_table(headings, rows)}</details>"
    )
