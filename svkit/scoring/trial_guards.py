"""Guards on the trial list itself: self-trials, repeated trials, labels that contradict each other or the speakers.

Both orders of a pair are two trials, though a symmetric score makes them one comparison: the published VoxCeleb1-O has
338 pairs in both orders (and no trial twice, and no self-trial).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import DataError, first_five
from svkit.scoring.guards import CONTRADICTING_LABELS, DUPLICATE_TRIALS, SELF_TRIALS, Guards
from svkit.scoring.trial_speakers import manifest_speakers, speakers_of_manifest
from svkit.store.coded import row_blocks
from svkit.store.enrollment import first_utterances
from svkit.store.lists import published_title
from svkit.store.trials import Trials, find_lines

Rows = NDArray[np.int64]


def check_list(guards: Guards, path: Path, trials: Trials, enrollment: pd.DataFrame | None) -> None:
    """Stop at self-trials, at trials that are there twice, and at pairs with both labels.

    A repeated self-trial is a self-trial only. Where repeated trials are allowed, each is scored and counted as often
    as it is listed. A published list is what it is: what is found in it is recorded and stops nothing.

    Args:
        guards: what is allowed.
        path: of the list, for the lines.
        trials: all N trials of it; some 20 bytes a trial are needed beside them, 40 where there are repeated ones.
        enrollment: utterances of each enrollment, where enrollments are not utterances; a self-trial is then one whose
            test is among them.

    Raises:
        DataError: likewise.
    """
    keys, is_self = _keys(trials, enrollment)
    whole = f"of {len(trials):,} trials"
    if is_self.any():
        what = f"{np.count_nonzero(is_self):,} {whole} compare an utterance with itself, which flatters"
        _stop(guards, SELF_TRIALS, path, trials, what, np.flatnonzero(is_self)[:5])
    others = np.flatnonzero(~is_self) if is_self.any() else None
    if others is not None:
        keys = keys[others]
    ordered = np.sort(keys)
    steps = ordered[1:] ^ ordered[:-1]
    num_repeats, num_contradictions = np.count_nonzero(steps == 0), np.count_nonzero((steps | 1) == 3)
    if not num_repeats + num_contradictions:
        return
    del ordered
    order = np.argsort(keys, kind="stable")
    places = order if others is None else others[order]
    for name, count, is_found, what in (
        (DUPLICATE_TRIALS, num_repeats, steps == 0, "are there already, and count again"),
        (
            CONTRADICTING_LABELS, num_contradictions, (steps | 1) == 3,
            "have the other label than the same two utterances before",
        ),
    ):  # fmt: skip
        if count:
            found = np.flatnonzero(is_found)
            rows = np.sort(np.maximum(places[found], places[found + 1]))[:5]
            _stop(guards, name, path, trials, f"{count:,} {whole} {what}", rows)


def check_labels(
    guards: Guards,
    path: Path,
    trials: Trials,
    manifest: Mapping[str, Any] | None,
    enrollment: pd.DataFrame | None,
) -> None:
    """Stop where labels contradict the manifest behind the embeddings; where it is not known there is nothing to check.

    Args:
        guards: what is allowed.
        path: of the list.
        trials: of it.
        manifest: `{path, sha256}` as recorded with the embeddings.
        enrollment: utterances of each enrollment, where enrollments are not utterances.

    Raises:
        DataError: a target trial has two speakers or a nontarget trial one, or an enrollment has several.
    """
    if enrollment is not None:
        _check_enrollments(guards, path, trials, manifest, enrollment)
    first = None if enrollment is None else first_utterances(enrollment)
    known = manifest_speakers(trials, manifest, first)
    if known is None:
        return
    left, right = trials.enroll.look_up(known[0]), trials.test.look_up(known[1])
    wrong = np.flatnonzero(((left == right) != trials.labels.astype(bool)) & (left >= 0) & (right >= 0))
    if len(wrong):
        what = f"{len(wrong):,} of {len(trials):,} trials have a label that contradicts the speakers of the manifest"
        _stop(guards, CONTRADICTING_LABELS, path, trials, what, wrong[:5])


def _check_enrollments(
    guards: Guards, path: Path, trials: Trials, manifest: Mapping[str, Any] | None, enrollment: pd.DataFrame
) -> None:
    known = speakers_of_manifest(manifest)
    if known is None:
        return
    num_speakers = enrollment["utterance_id"].map(known).groupby(enrollment["enroll_id"]).nunique()
    mixed = num_speakers.index[num_speakers > 1]
    rows = np.flatnonzero(trials.enroll.look_up(np.isin(trials.enroll.values, mixed)))
    if len(rows):
        what = (
            f"{len(rows):,} of {len(trials):,} trials have enrollments with several speakers of the manifest"
        )
        _stop(guards, CONTRADICTING_LABELS, path, trials, f"{what} ({first_five(list(mixed))})", rows[:5])


def _keys(trials: Trials, enrollment: pd.DataFrame | None) -> tuple[Rows, NDArray[np.bool_]]:
    """Return a number for each trial, [N], and whether it is a self-trial.

    The number holds the pair in either order, then the label, then the order: equal trials differ by 0, trials of one
    pair with two labels by an exclusive or of 2 or 3.
    """
    enroll_ids, test_ids = trials.enroll.values, trials.test.values
    if enrollment is None:
        places, values = pd.factorize(np.concatenate([enroll_ids, test_ids]))
        left, right = np.split(places, [len(enroll_ids)])
        base, members = len(values), None
    else:
        left, right = np.arange(len(enroll_ids)), np.arange(len(test_ids))
        base = max(len(left), len(right))
        sides = (
            pd.Index(ids).get_indexer(pd.Index(enrollment[name]))
            for ids, name in ((enroll_ids, "enroll_id"), (test_ids, "utterance_id"))
        )
        of_enroll, of_test = sides
        members = (of_enroll * base + of_test)[(of_enroll >= 0) & (of_test >= 0)]
    keys, is_self = np.empty(len(trials), np.int64), np.empty(len(trials), bool)
    for rows in row_blocks(len(trials)):
        one, other = left[trials.enroll.codes[rows]], right[trials.test.codes[rows]]
        if members is None:
            is_self[rows] = one == other
            low, high = np.minimum(one, other), np.maximum(one, other)
        else:
            low, high = one, other
            is_self[rows] = pd.Index(one * base + other).isin(members)
        keys[rows] = ((low * base + high) * 2 + trials.labels[rows]) * 2 + (low != one)
    return keys, is_self


def _stop(guards: Guards, name: str, path: Path, trials: Trials, what: str, rows: Rows) -> None:
    lines = ", ".join(f"{path}:{line}" for line in find_lines(path, rows))
    error = DataError(f"{path}: {what}: {lines}")
    title = published_title(path, len(trials), int(np.count_nonzero(trials.labels)))
    if title is None:
        guards.stop(name, error)
    else:
        guards.caution(f"{error} ({title} as published)")
