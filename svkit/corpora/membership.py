"""Which speakers train, validate and evaluate: nobody changes sides between two preparations of an experiment.

`exp/data/splits.tsv` has every speaker that was ever there, including those that have gone since. Earlier versions of
svkit did not write it; then the finished lists are read. New speakers train unless they are named.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from svkit.errors import DataError, first_five
from svkit.store.manifest import read_manifest
from svkit.store.provenance import is_finished
from svkit.store.tables import read_table, write_table

SPLITS_NAME = "splits.tsv"
EVALUATION, VALIDATION, TRAINING = "evaluation", "validation", "training"
_LISTS = {TRAINING: "train.tsv", VALIDATION: "valid.tsv", EVALUATION: "eval.tsv"}


def read_splits(data: Path) -> dict[str, str]:
    """Return the part of each speaker in `exp/data`, empty before a first preparation (DataError: a bad table)."""
    path = data / SPLITS_NAME
    if path.exists():
        table = read_table(path, ["speaker_id", "split"])
        unknown = sorted(set(table["split"]) - set(_LISTS))
        if unknown:
            raise DataError(f"{path}: split: expected {', '.join(_LISTS)}, found {first_five(unknown)}")
        return dict(zip(table["speaker_id"], table["split"], strict=True))
    known: dict[str, str] = {}
    for part, name in _LISTS.items() if is_finished(data) else ():
        if (data / name).exists():
            known |= dict.fromkeys(map(str, set(read_manifest(data / name).speaker_ids)), part)
    return known


def write_splits(data: Path, splits: Mapping[str, str]) -> None:
    """Write `splits.tsv`: speaker -> part."""
    write_table(data / SPLITS_NAME, pd.DataFrame(sorted(splits.items()), columns=["speaker_id", "split"]))


def differences(before: Mapping[str, str], now: Mapping[str, str], *, is_redrawn: bool = False) -> list[str]:
    """Count the speakers of each part the first time; later, those who are new, gone or in another part than before.

    Those who are gone are forgotten if all parts are drawn anew (`is_redrawn`).
    """
    new = Counter(part for speaker, part in now.items() if speaker not in before)
    moved = Counter((before[one], part) for one, part in now.items() if before.get(one, part) != part)
    gone, notes = len(before.keys() - now.keys()), []
    if new:
        places = ", ".join(f"{count:,} in {part}" for part, count in sorted(new.items()))
        one, several = ("speaker is new", "speakers are new") if before else ("speaker", "speakers")
        notes.append(f"{_counted(new.total(), one, several)}: {places}")
    if moved:
        ways = ", ".join(f"{count} from {old} to {part}" for (old, part), count in sorted(moved.items()))
        who = _counted(moved.total(), "speaker changes its part", "speakers change their part")
        notes.append(f"{who}: {ways}; earlier models may have been trained on them")
    if gone:
        kept = (
            f"their names stay in {SPLITS_NAME}, so that they keep their part if they come back; to forget them, delete"
            " their lines there"
        )
        who = _counted(gone, "earlier speaker is missing", "earlier speakers are missing")
        notes.append(f"{who}; {'they are forgotten' if is_redrawn else kept}")
    return notes


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
