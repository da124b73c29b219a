"""`svkit prepare kaldi`: a Kaldi data directory (`wav.scp`, `utt2spk`, and `segments`, `spk2gender`, `trials` if any).

Povey et al. 2011; the formats are those of Kaldi's "Data preparation". The output of a command or a segment of a
recording is written as a file below `exp/data/kaldi`, because a manifest names files.
"""

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from svkit.corpora.conversion import FLAC_BYTES_PER_SAMPLE, check_room, in_parallel
from svkit.corpora.recognise import wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import BadFile, Candidate, ScanOptions
from svkit.corpora.skeleton import Found, prepare
from svkit.corpora.text_lists import read_map
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.audio_file import AudioError, Channel, channel_levels_db, probe, read_audio, write_flac

LAYOUT = (
    "expected wav.scp (`recording path`) and utt2spk (`utterance speaker`) in it, segments and trials if any"
)
_FORMS = {
    "wav.scp": "recording path",
    "utt2spk": "utterance speaker",
    "segments": "utterance recording start end",
    "spk2gender": "speaker gender",
}
_OVERSHOOT_SECONDS = 0.5
"""A segment may end this much after its recording, where it is cut off, as in Kaldi's extract-segments."""
_ARCHIVE = re.compile(r".*\.ark:\d+(\[.*\])?")


@dataclass(frozen=True, slots=True)
class _Segment:
    recording: str
    start: float
    """Seconds."""
    end: float
    """Seconds; negative: the end of the recording."""


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Writes audio below `exp/data/kaldi`, in parallel, each file once."""

    directory: Path
    scan: ScanOptions
    progress: Progress
    bad: list[BadFile] = field(default_factory=list)
    """Files that could not be made."""

    def target(self, source: str) -> Path:
        """Return the path of the file made from `source`, a text with everything that its samples depend on."""
        digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
        return self.directory / digest[:2] / f"{digest[2:18]}.flac"

    def make(
        self, description: str, targets: Mapping[str, Path], write: Callable[[str], None]
    ) -> dict[str, str]:
        """Call `write` for each name whose target is missing; return the paths of the targets that exist afterwards."""
        failed: set[str] = set()

        def attempt(name: str) -> None:
            try:
                write(name)
            except AudioError as error:
                failed.add(name)
                self.bad.append(BadFile(name, error.reason, error.detail, str(error.path)))

        missing = [name for name, target in targets.items() if not target.exists()]
        if missing:
            with self.progress.task(description, len(missing)) as task:
                in_parallel(attempt, missing, self.scan.num_workers, task)
        return {name: path.as_posix() for name, path in targets.items() if name not in failed}


def run(
    request: CorpusRequest, progress: Progress, *, allow_pipes: bool = False, audio_root: Path | None = None
) -> CorpusResult:
    """Prepare a Kaldi data directory.

    Evaluation uses the given trials, else the file `trials` in the directory unless evaluation speakers are asked for,
    else a list made here.

    `allow_pipes` runs the commands of `wav.scp` (lines that end in `|`) in a shell. Relative paths are below
    `audio_root`; None: below the current directory, as in Kaldi, or else below the root.

    Raises:
        ConfigError: there are commands, and they are not allowed.
        DataError: the lists do not fit each other; see also `prepare`.
    """
    root = request.root.resolve()
    for name in ("wav.scp", "utt2spk"):
        if not (root / name).is_file():
            raise wrong_tree(root, "kaldi", f"no {name}", LAYOUT)
    if not request.trials and request.eval_speakers is None and (root / "trials").is_file():
        request = replace(request, trials=(root / "trials",))
    inputs = {name: root / name for name in _FORMS if (root / name).is_file()}

    def find(data: Path) -> Found:
        recordings, speakers, segments, genders = _read_lists(root, inputs)
        _refuse(root, recordings, allow_pipes)
        maker = _Maker(directory=data / "kaldi", scan=request.scan, progress=progress)
        paths = _recordings(recordings, audio_root or _guess_base(recordings, root), maker)
        scan = request.scan
        if segments:
            paths = _cut(segments, paths, maker)
            scan = replace(scan, channel=0)  # the channel was chosen when the segments were cut
        sessions = {name: segment.recording for name, segment in segments.items()}
        files = [
            Candidate(name, speakers[name], sessions.get(name, ""), paths[name])
            for name in sorted(speakers)
            if name in paths
        ]

        # All or none: speakers without a gender would be paired with each other alone.
        has_genders = genders.keys() >= {file.speaker_id for file in files}
        return Found(
            groups=[files],
            bad=sorted(maker.bad, key=lambda file: file.utterance_id),
            genders={file.utterance_id: genders[file.speaker_id] for file in files if has_genders},
            scan=scan,
        )

    options = {"audio_root": audio_root and audio_root.resolve(), "allow_pipes": allow_pipes}
    return prepare(request, progress, "kaldi", find, options, inputs=inputs)


def _read_lists(
    root: Path, inputs: Mapping[str, Path]
) -> tuple[dict[str, str], dict[str, str], dict[str, _Segment], dict[str, str]]:
    """Return the recordings that are needed, the speakers, the segments and the genders."""
    recordings, speakers, lines, genders = (
        read_map(inputs[name], form, has_spaces=name in ("wav.scp", "segments")) if name in inputs else {}
        for name, form in _FORMS.items()
    )
    segments: dict[str, _Segment] = {}
    for name, text in lines.items():
        try:
            recording, start, end = text.split()[:3]
            segments[name] = _Segment(recording, float(start), float(end))
        except ValueError:
            form = _FORMS["segments"]
            raise DataError(
                f"{inputs['segments']}: expected `{form}` in seconds, found `{name} {text[:80]}`"
            ) from None
    known, source = (segments, "segments") if segments else (recordings, "wav.scp")
    homeless = {name for name, segment in segments.items() if segment.recording not in recordings}
    for what, names in (
        ("segments of recordings that wav.scp lacks", homeless),
        (f"utterances of utt2spk that {source} lacks", speakers.keys() - known.keys()),
        (f"utterances of {source} without a speaker in utt2spk", known.keys() - speakers.keys()),
    ):
        if names:
            raise DataError(f"{root}: {what}: {first_five(sorted(names))}")
    if segments:
        used = {segment.recording for segment in segments.values()}
        recordings = {name: text for name, text in recordings.items() if name in used}
    return recordings, speakers, segments, genders


def _refuse(root: Path, recordings: Mapping[str, str], allow_pipes: bool) -> None:
    """Refuse archives, which cannot be read here, and commands that are not allowed to run."""
    archives = sorted(name for name, text in recordings.items() if _ARCHIVE.fullmatch(text))
    if archives:
        raise DataError(
            f"{root}/wav.scp: audio inside Kaldi archives is not read: {first_five(archives)}; write it to"
            " files first, with wav-copy"
        )
    pipes = sorted(name for name, text in recordings.items() if text.endswith("|"))
    if pipes and not allow_pipes:
        raise ConfigError(
            f"{root}/wav.scp: {len(pipes)} of {len(recordings)} recordings are commands, such as {pipes[0]}:"
            f" {recordings[pipes[0]][:80]!r}; read them, and if they are safe, allow them with --allow-pipes"
        )


def _guess_base(recordings: Mapping[str, str], root: Path) -> Path:
    """Return the directory that paths are relative to: the current one, or the data directory."""
    first = next((text for text in recordings.values() if not text.endswith("|")), "")
    return root if first and not Path(first).exists() and (root / first).exists() else Path.cwd()


def _recordings(recordings: Mapping[str, str], base: Path, maker: _Maker) -> dict[str, str]:
    """Return the path of each recording; the output of commands is written first."""
    all_channels = maker.scan.channel != 0
    version = "\nall channels" if all_channels else ""
    targets = {
        name: maker.target(f"{base}\n{text}{version}")
        for name, text in sorted(recordings.items())
        if text.endswith("|")
    }
    made = maker.make(
        "running the commands of wav.scp",
        targets,
        lambda name: _run_pipe(recordings[name].removesuffix("|"), base, targets[name], all_channels),
    )
    files = {name: (base / text).as_posix() for name, text in recordings.items() if name not in targets}
    return {**files, **made}


def _run_pipe(command: str, base: Path, target: Path, all_channels: bool) -> None:
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False, cwd=base)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise AudioError(target, "command failed", f"exit {done.returncode}: {lines[-1]}")
    with tempfile.NamedTemporaryFile(suffix=".wav") as output:
        output.write(done.stdout)
        output.flush()
        path = Path(output.name)
        try:
            info = probe(path)
            channels = [read_audio(path, channel=k) for k in range(info.num_channels if all_channels else 1)]
        except AudioError as error:
            raise AudioError(target, "command failed", f"its output is not audio: {error.detail}") from error
    write_flac(target, np.stack(channels, axis=1) if all_channels else channels[0], info.sample_rate_hz)


def _cut(segments: Mapping[str, _Segment], paths: Mapping[str, str], maker: _Maker) -> dict[str, str]:
    """Return the path of each segment, cut from its recording."""
    segments = {name: segment for name, segment in sorted(segments.items()) if segment.recording in paths}
    targets = {
        name: _segment_target(paths[segment.recording], segment, maker) for name, segment in segments.items()
    }
    # The real rate is known only when the recordings are opened; speech corpora mostly have 16 kHz.
    missing = [segment for name, segment in segments.items() if not targets[name].exists()]
    samples = 16_000 * sum(max(0.0, segment.end - segment.start) for segment in missing)
    what = f"cutting {len(missing):,} segments"
    check_room(maker.directory, samples * FLAC_BYTES_PER_SAMPLE, what, maker.progress)

    def write(name: str) -> None:
        segment, path, scan = segments[name], Path(paths[segments[name].recording]), maker.scan
        chosen = scan.channel
        channel: Channel = int(np.argmax(channel_levels_db(path))) if chosen == "loudest" else chosen
        info = probe(path, channel, allow_cut=scan.allow_cut)
        rate, length = info.sample_rate_hz, info.num_samples
        start = round(segment.start * rate)
        end = length if segment.end < 0 else round(segment.end * rate)
        if not 0 <= start < min(end, length) or end > length + _OVERSHOOT_SECONDS * rate:
            detail = f"{segment.start:g} to {segment.end:g} s of a recording of {length / rate:.2f} s"
            raise AudioError(path, "no such segment", detail)
        samples = read_audio(path, start, min(end, length) - start, channel, rate, length)
        write_flac(targets[name], samples, rate)

    return maker.make("cutting segments", targets, write)


def _segment_target(path: str, segment: _Segment, maker: _Maker) -> Path:
    version = ""
    # A recording made here needs no stamp, as its name already depends on what it was made from.
    if not path.startswith(f"{maker.directory.as_posix()}/") and Path(path).exists():
        status = Path(path).stat()
        version = f"{status.st_size} {status.st_mtime_ns}"
    version += "" if maker.scan.channel == 0 else f" channel {maker.scan.channel}"
    return maker.target(f"{path}\n{version}\n{segment.start!r} {segment.end!r}")
