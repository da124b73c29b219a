"""`svkit prepare kaldi`: a Kaldi data directory (`wav.scp`, `utt2spk`, and `segments`, `spk2gender`, `trials` if any).

Povey et al. 2011; formats as in Kaldi's "Data preparation". What is not a file of its own (the output of a command,
a segment of a recording) is written below `exp/data/kaldi`, because a manifest names files.
"""

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from svkit.corpora.conversion import FLAC_BYTES_PER_SAMPLE, check_room, in_parallel
from svkit.corpora.corpus import DataDirectory, identity, split_and_write
from svkit.corpora.recognise import wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import BadFile, Candidate, ScanOptions, make_bad, scan_files
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.audio_file import AudioError, Channel, channel_levels_db, probe, read_audio, write_flac
from svkit.store.manifest import CLIMBS
from svkit.store.tables import read_bytes

LAYOUT = (
    "expected wav.scp (`recording path`) and utt2spk (`utterance speaker`) in it, segments and trials if any"
)
_OVERSHOOT_SECONDS = 0.5
"""A segment may end this much behind its recording and is cut there, as Kaldi's extract-segments allows."""
_ARCHIVE = re.compile(r".*\.ark:\d+(\[.*\])?")


@dataclass(frozen=True, slots=True)
class _Segment:
    recording: str
    start: float
    """Seconds."""
    end: float
    """Seconds; negative: the end of the recording."""


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """What the directory says."""

    recordings: dict[str, str]
    """Recording -> path or command."""
    speakers: dict[str, str]
    """Utterance -> speaker."""
    segments: dict[str, _Segment] | None
    """Utterance -> its place; None: utterances are recordings."""
    genders: dict[str, str]
    """Speaker -> gender; empty where unknown."""


def run(
    request: CorpusRequest, progress: Progress, *, allow_pipes: bool = False, audio_root: Path | None = None
) -> CorpusResult:
    """Prepare a Kaldi data directory.

    Evaluation takes the given trials, else the file `trials` of the directory unless evaluation speakers are asked
    for, else a made list.

    Args:
        request: with `root`.
        progress: counts files.
        allow_pipes: run the commands of `wav.scp` (lines that end in `|`) by the shell.
        audio_root: directory that relative paths are below; None: the current one, as in Kaldi, else the root.

    Raises:
        ConfigError: there are commands and they are not allowed.
        DataError: lists that do not fit each other; see also the files of this package.
    """
    root = (request.root or Path("data")).resolve()
    for name in ("wav.scp", "utt2spk"):
        if not (root / name).is_file():
            raise wrong_tree(root, "kaldi", f"no {name}", LAYOUT)
    if not request.trials and request.eval_speakers is None and (root / "trials").is_file():
        request = replace(request, trials=(root / "trials",))
    names = [name for name in ("wav.scp", "utt2spk", "segments", "spk2gender") if (root / name).is_file()]
    config = {
        **identity(request),
        "audio_root": audio_root and audio_root.resolve(),
        "allow_pipes": allow_pipes,
    }
    with DataDirectory(
        request, progress, "kaldi", config, inputs={name: root / name for name in names}
    ) as data:
        if data.finished is not None:
            return data.finished
        lists = _read_lists(root)
        base = audio_root or _guess_base(lists.recordings, root)
        paths, bad = _recordings(lists, base, data.path / "kaldi", allow_pipes, request, progress)
        if lists.segments is None:
            places = paths
        else:
            places, broken = _cut(lists.segments, paths, data.path / "kaldi", request, progress)
            bad += broken
        candidates = [
            Candidate(
                utterance_id=name,
                speaker_id=lists.speakers[name],
                session_id=lists.segments[name].recording if lists.segments else "",
                path=places[name],
            )
            for name in sorted(lists.speakers)
            if name in places
        ]
        # Segments have the channel that was chosen when they were cut.
        scan = request.scan if lists.segments is None else replace(request.scan, channel=0)
        table, unusable = scan_files(candidates, scan, progress)
        bad += unusable
        data.accept(bad, len(lists.speakers))
        if set(table["speaker_id"]) <= set(lists.genders):
            table["gender"] = table["speaker_id"].map(lists.genders)
        return split_and_write(data, table, bad, request, "kaldi", progress)


def _read_lists(root: Path) -> _Lists:
    recordings = _read_map(root / "wav.scp", "recording path", None)
    speakers = _read_map(root / "utt2spk", "utterance speaker", 2)
    segments = _read_segments(root / "segments") if (root / "segments").is_file() else None
    lines = _read_map(root / "spk2gender", "speaker gender", 2) if (root / "spk2gender").is_file() else {}
    if segments is not None:
        unknown = [name for name, segment in segments.items() if segment.recording not in recordings]
        if unknown:
            raise DataError(f"{root / 'segments'}: recordings that wav.scp lacks: of {first_five(unknown)}")
    known, source = (recordings, "wav.scp") if segments is None else (segments, "segments")
    for what, names in (
        (f"utterances of utt2spk that {source} lacks", set(speakers) - set(known)),
        (f"utterances of {source} without a speaker in utt2spk", set(known) - set(speakers)),
    ):
        if names:
            raise DataError(f"{root}: {what}: {first_five(sorted(names))}")
    return _Lists(recordings=recordings, speakers=speakers, segments=segments, genders=lines)


def _read_map(path: Path, form: str, num_fields: int | None) -> dict[str, str]:
    """Read `key value` lines; the value is the rest of the line where `num_fields` is None."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_bytes(path).decode().split("\n"), start=1):
        fields = line.split(maxsplit=1) if num_fields is None else line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: expected `{form}`, found {line[:80]!r}")
        if re.search(CLIMBS, fields[0]):
            raise DataError(f"{path}:{number}: expected an id without the part `..`, found {fields[0]!r}")
        if fields[0] in found:
            raise DataError(f"{path}:{number}: {fields[0]} is there twice")
        found[fields[0]] = fields[1].strip()
    if not found:
        raise DataError(f"{path}: empty; expected lines `{form}`")
    return found


def _read_segments(path: Path) -> dict[str, _Segment]:
    segments: dict[str, _Segment] = {}
    for number, line in enumerate(read_bytes(path).decode().split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            name, recording, start, end = fields[0], fields[1], float(fields[2]), float(fields[3])
        except (IndexError, ValueError):
            raise DataError(
                f"{path}:{number}: expected `utterance recording start end` in seconds, found {line[:80]!r}"
            ) from None
        if name in segments:
            raise DataError(f"{path}:{number}: {name} is there twice")
        segments[name] = _Segment(recording, start, end)
    if not segments:
        raise DataError(f"{path}: empty; expected lines `utterance recording start end`")
    return segments


def _guess_base(recordings: Mapping[str, str], root: Path) -> Path:
    """Return the directory that relative paths are below: the current one, or the data directory."""
    first = next((text for text in recordings.values() if not text.endswith("|")), "")
    return root if first and not Path(first).exists() and (root / first).exists() else Path.cwd()


def _recordings(
    lists: _Lists, base: Path, made: Path, allow_pipes: bool, request: CorpusRequest, progress: Progress
) -> tuple[dict[str, str], list[BadFile]]:
    """Return the path of each recording that is needed; the output of commands is written below `made`."""
    needed = set(lists.recordings)
    if lists.segments is not None:
        needed = {segment.recording for segment in lists.segments.values()}
    pipes = sorted(name for name in needed if lists.recordings[name].endswith("|"))
    archives = sorted(name for name in needed if _ARCHIVE.fullmatch(lists.recordings[name]))
    if archives:
        raise DataError(
            f"{request.root}/wav.scp: audio inside Kaldi archives is not read: {first_five(archives)}; write it to"
            " files first (wav-copy)"
        )
    if pipes and not allow_pipes:
        command = lists.recordings[pipes[0]]
        raise ConfigError(
            f"{request.root}/wav.scp: {len(pipes)} of {len(needed)} recordings are commands, such as {pipes[0]}:"
            f" {command[:80]!r}; read them, then allow them to run with --allow-pipes"
        )
    paths = {name: (base / lists.recordings[name]).as_posix() for name in needed - set(pipes)}
    is_first = request.scan.channel == 0
    version = "" if is_first else "\nall channels"
    targets = {name: _made_path(made, f"{base}\n{lists.recordings[name]}{version}") for name in pipes}

    def write(name: str) -> BadFile | None:
        return _run_pipe(name, lists.recordings[name].removesuffix("|"), base, targets[name], is_first)

    bad = _make("running the commands of wav.scp", write, pipes, targets, request, progress)
    failed = {fault.utterance_id for fault in bad}
    paths.update({name: targets[name].as_posix() for name in pipes if name not in failed})
    return paths, bad


def _made_path(made: Path, source: str) -> Path:
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return made / digest[:2] / f"{digest[2:18]}.flac"


def _make(
    description: str,
    write: Callable[[str], BadFile | None],
    names: Sequence[str],
    targets: Mapping[str, Path],
    request: CorpusRequest,
    progress: Progress,
) -> list[BadFile]:
    """Write what is not there yet, in parallel."""
    missing = [name for name in names if not targets[name].exists()]
    if not missing:
        return []
    with progress.task(description, len(missing)) as task:
        outcomes = in_parallel(write, missing, request.scan.num_workers or os.cpu_count() or 1, task.advance)
        return [fault for fault in outcomes if fault is not None]


def _run_pipe(name: str, command: str, base: Path, target: Path, is_first: bool) -> BadFile | None:
    """Write what a command gives: its first channel, or all of them."""
    place = Candidate(utterance_id=name, speaker_id="", session_id="", path=target.as_posix())
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False, cwd=base)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        return make_bad(place, "command failed", f"exit {done.returncode}: {lines[-1]}")
    with tempfile.NamedTemporaryFile(suffix=".wav") as output:
        output.write(done.stdout)
        output.flush()
        try:
            info = probe(Path(output.name))
            channels = range(1 if is_first else info.num_channels)
            samples = [read_audio(Path(output.name), channel=channel) for channel in channels]
        except AudioError as error:
            return make_bad(place, "command failed", f"its output is no audio: {error.detail}")
    write_flac(target, samples[0] if is_first else np.stack(samples, axis=1), info.sample_rate_hz)
    return None


def _cut(
    segments: Mapping[str, _Segment],
    paths: Mapping[str, str],
    made: Path,
    request: CorpusRequest,
    progress: Progress,
) -> tuple[dict[str, str], list[BadFile]]:
    """Return the path of each segment, cut from its recording."""
    names = sorted(name for name, segment in segments.items() if segment.recording in paths)
    scan = request.scan
    targets = {
        name: _segment_path(made, paths[segments[name].recording], segments[name], scan) for name in names
    }
    seconds = sum(max(0.0, segments[name].end - segments[name].start) for name in names)
    # The rate is known when the recordings are open; 16 kHz is what speech corpora have.
    check_room(made, seconds * 16_000 * FLAC_BYTES_PER_SAMPLE, f"cutting {len(names):,} segments", progress)

    def write(name: str) -> BadFile | None:
        return _cut_one(name, segments[name], Path(paths[segments[name].recording]), targets[name], scan)

    bad = _make("cutting segments", write, names, targets, request, progress)
    failed = {fault.utterance_id for fault in bad}
    return {name: target.as_posix() for name, target in targets.items() if name not in failed}, bad


def _segment_path(made: Path, path: str, segment: _Segment, scan: ScanOptions) -> Path:
    try:
        status = Path(path).stat()
        version = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        version = ""
    # A recording made here is named by what it is made from, whenever it was made.
    version = "" if path.startswith(f"{made.as_posix()}/") else version
    version += "" if scan.channel == 0 else f" channel {scan.channel}"
    return _made_path(made, f"{path}\n{version}\n{segment.start!r} {segment.end!r}")


def _cut_one(name: str, segment: _Segment, path: Path, target: Path, scan: ScanOptions) -> BadFile | None:
    place = Candidate(utterance_id=name, speaker_id="", session_id="", path=path.as_posix())
    try:
        channel: Channel = (
            int(np.argmax(channel_levels_db(path))) if scan.channel == "loudest" else scan.channel
        )
        info = probe(path, channel, allow_cut=scan.allow_cut)
        rate, length = info.sample_rate_hz, info.num_samples
        start = round(segment.start * rate)
        end = length if segment.end < 0 else round(segment.end * rate)
        if not 0 <= start < min(end, length) or end > length + _OVERSHOOT_SECONDS * rate:
            detail = f"{segment.start:g} to {segment.end:g} s of a recording of {length / rate:.2f} s"
            return make_bad(place, "no such segment", detail)
        write_flac(target, read_audio(path, start, min(end, length) - start, channel, rate, length), rate)
    except AudioError as error:
        return make_bad(place, error.reason, error.detail)
    return None
