"""Joining short training utterances of one speaker and genre into longer ones, as the CN-Celeb recipes do."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svkit.corpora.conversion import FLAC_BYTES_PER_SAMPLE, check_room, in_parallel
from svkit.progress import Progress
from svkit.store.audio_file import AudioError, probe, read_audio, write_flac
from svkit.store.manifest import channel_of

Row = dict[str, Any]


def join_short(
    table: pd.DataFrame,
    groups: Sequence[str],
    min_seconds: float,
    directory: Path,
    num_workers: int | None,
    progress: Progress,
) -> pd.DataFrame:
    """Join utterances shorter than `min_seconds` with others of their group, in the order of their ids.

    A joined utterance ends as soon as it is long enough. What is left over at the end of a group goes to its last
    joined utterance. A short utterance that is alone in its group stays as it is. The name of a joined file follows
    from its parts, so that an interrupted run can be resumed and a later one reuses the files.

    Args:
        table: rows of a manifest with absolute paths.
        groups: the group of each row, such as `id00000/singing`; utterances of two speakers never share one.
        min_seconds: the wanted length.
        directory: where joined audio goes, directly below the manifest's own directory.
        num_workers: number of threads; None: one per core.
        progress: receives the room needed.

    Returns:
        The rows, with joined ones (16-bit flac, paths relative to the parent of `directory`) instead of their parts.

    Raises:
        DataError: a part cannot be read.
        ArtifactError: there is not enough room, or `directory` cannot be written.
    """
    table = table.reset_index(drop=True)
    bins = _choose(table, groups, min_seconds)
    if not bins:
        return table
    rows: Any = table.to_dict("records")
    parts: list[list[Row]] = [[rows[index] for index in chosen] for chosen in bins]
    joined = [_describe(parts[k], groups[chosen[0]], directory) for k, chosen in enumerate(bins)]
    is_part = table.index.isin(np.concatenate(bins))
    what = f"joining {is_part.sum():,} short utterances to {len(bins):,}"
    # An interrupted run has made some already, whose room is no longer free.
    samples = sum(row["num_samples"] for row in joined if not (directory.parent / row["path"]).exists())
    check_room(directory, samples * FLAC_BYTES_PER_SAMPLE, what, progress)

    with progress.task("joining short utterances", len(bins)) as task:
        in_parallel(
            lambda k: _write(parts[k], joined[k], directory.parent), range(len(bins)), num_workers, task
        )
    return pd.concat([table[~is_part], pd.DataFrame(joined, columns=table.columns)], ignore_index=True)


def _choose(table: pd.DataFrame, groups: Sequence[str], min_seconds: float) -> list[list[int]]:
    """Return the rows of each joined utterance, two or more each."""
    rates = table["sample_rate_hz"].astype("int64")
    seconds = table["num_samples"].astype("int64") / rates
    short = table.assign(group=groups, rate=rates, seconds=seconds)[seconds < min_seconds].sort_values(
        "utterance_id"
    )
    bins: list[list[int]] = []
    for _, members in short.groupby(["group", "rate"], sort=False):
        of_group: list[list[int]] = [[]]
        length = 0.0
        for row, num_seconds in zip(members.index, members["seconds"], strict=True):
            if length >= min_seconds:
                of_group.append([])
                length = 0.0
            of_group[-1].append(int(row))
            length += num_seconds
        if len(of_group) > 1 and length < min_seconds:
            left_over = of_group.pop()
            of_group[-1] += left_over
        bins += [chosen for chosen in of_group if len(chosen) > 1]
    return bins


def _describe(parts: Sequence[Row], group: str, directory: Path) -> Row:
    """Return the row of a joined utterance; its name holds a hash of its parts."""
    content = "\n".join(f"{part['path']} {part['num_samples']}" for part in parts)
    channels = [part.get("channel", "0") for part in parts]
    content += "" if set(channels) == {"0"} else f"\n{channels}"
    digest = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
    name = f"{group}-joined-{digest[:12]}.flac"
    sessions = {part["session_id"] for part in parts}
    row = {
        **parts[0],
        "utterance_id": name,
        "path": f"{directory.name}/{name}",
        "num_samples": sum(int(part["num_samples"]) for part in parts),
        "session_id": sessions.pop() if len(sessions) == 1 else group,
    }
    return {**row, "channel": "0"} if "channel" in row else row


def _write(parts: Sequence[Row], joined: Row, root: Path) -> None:
    path = root / str(joined["path"])
    try:
        if probe(path).num_samples == joined["num_samples"]:
            return
    except AudioError:
        pass  # not there yet
    rate = int(joined["sample_rate_hz"])
    signals = []
    for part in parts:
        length, channel = int(part["num_samples"]), channel_of(part.get("channel", ""))
        signals.append(read_audio(Path(part["path"]), 0, length, channel, rate, length))
    write_flac(path, np.concatenate(signals), rate)
