"""The tables of conditions: what systems lose on a telephone, through a codec or in a short recording."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby

from svkit.eval.results import PairedDifference
from svkit.reports.tables import LEVEL, MISSING, Table, percent, points
from svkit.reports.wording import SIGNIFICANT
from svkit.store.metrics import ConditionRates

TITLE = "Conditions"
NOTE = (
    "Lost: a system's EER under the condition minus its EER on the recordings as they are. Lost more: its loss minus"
    " that of the system it is compared with. Differences are in points of EER, and paired (the same trials and"
    " resampled speakers). About one in twenty 95 % intervals misses the true value by chance."
)
_PLAIN = "as recorded"
_SIDES = {"test": "the test side", "both": "both sides"}


def tables(rows: Sequence[ConditionRates], *, is_brief: bool = False) -> list[Table]:
    """Return a table per trial list and back-end, with a row per condition and the systems side by side.

    `is_brief` keeps what fits a terminal of 80 columns.
    """
    found = []
    for (trials, backend, sides), own in _lists(rows).items():
        reference = own[0].reference
        systems = list(dict.fromkeys(row.system for row in own))
        others = [name for name in systems if name != reference]
        headings = ["condition", *(f"{name}: EER, %{'' if is_brief else LEVEL}" for name in systems)]
        if not is_brief:
            headings += [f"{name} lost{LEVEL}" for name in systems]
            headings += [f"{name} minus {reference}{LEVEL}" for name in others]
        headings += [f"{name} lost more{LEVEL}" for name in others]
        cells = []
        for condition, group in groupby(own, key=lambda row: row.condition):
            known = {row.system: row for row in group}
            line = [condition or _PLAIN, *(_rate(known.get(name), is_brief) for name in systems)]
            if not is_brief:
                line += [_points(known, name, "lost") for name in systems]
                line += [_points(known, name, "gap") for name in others]
            cells.append(line + [_points(known, name, "lost_more") for name in others])
        with_backend = "" if backend == "cosine" else f" ({backend})"
        title = f"{TITLE} of {_SIDES[sides]} on {trials}{with_backend}"
        found.append(Table(title=title, headings=headings, rows=cells, notes=[NOTE]))
    return found


def findings(rows: Sequence[ConditionRates]) -> list[str]:
    """Say which systems lose significantly more or less than the one they are compared with, or that none does."""
    found = []
    for (trials, _, sides), own in _lists(rows).items():
        compared = [row for row in own if row.lost_more is not None]
        told = [row for row in compared if row.lost_more and row.lost_more.p_value < SIGNIFICANT]
        where = f"On {trials}, {_SIDES[sides]} under a condition"
        for row in told:
            assert row.lost_more is not None
            word = "more" if row.lost_more.difference > 0 else "less"
            difference = _points({row.system: row}, row.system, "lost_more")
            found.append(
                f"{where}: with {row.condition}, {row.system} loses {word} than {row.reference}: {difference} points of"
                f" EER (p = {row.lost_more.p_value:.3f})."
            )
        if compared and not told:
            found.append(
                f"{where}: in none of {len(compared)} comparisons does the loss differ"
                f" significantly from that of {own[0].reference}."
            )
    return found


def _lists(rows: Sequence[ConditionRates]) -> dict[tuple[str, str, str], list[ConditionRates]]:
    found: dict[tuple[str, str, str], list[ConditionRates]] = defaultdict(list)
    for row in rows:
        found[row.trials, row.backend, row.sides].append(row)
    return found


def _rate(row: ConditionRates | None, is_brief: bool) -> str:
    return MISSING if row is None else percent(row.eer, None if is_brief else row.eer_interval)


def _points(known: Mapping[str, ConditionRates], system: str, kind: str) -> str:
    """Write a difference in points, with its sign; `kind` is a field of `ConditionRates`."""
    found: PairedDifference | None = getattr(known[system], kind) if system in known else None
    return MISSING if found is None else points(found.difference, found.interval.low, found.interval.high)
