"""`svkit enroll`: add recordings of people to a gallery, as embeddings, and take single recordings out again."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from svkit.errors import ArtifactError, first_five
from svkit.models.load import SpeakerModel, load_model
from svkit.progress import Progress, SilentProgress
from svkit.scoring import listen
from svkit.scoring.ratio import score_at
from svkit.scoring.verify import find_calibration
from svkit.store.audio_file import Channel, Place
from svkit.store.calibration import CalibrationRecord
from svkit.store.files import MODEL_NAME, check_file
from svkit.store.gallery import (
    Gallery,
    GalleryModel,
    NewRecording,
    add_recordings,
    check_name,
    read_gallery,
    remove_recordings,
    somebody_elses,
)
from svkit.store.source import shown

KNOWN = "is already enrolled"
"""End of the note on a recording that was enrolled before."""
AT_ONCE = 100
"""People enrolled in one step. An interruption loses at most these; the same command then enrols the rest."""

_KEPT_SAMPLES = 64_000_000
"""Samples that stay in memory from the judging to the embedding: 256 MB, an hour. Other recordings are read again."""


_Waiting = dict[str, tuple[listen.Heard, dict[Place, NewRecording]]]
"""Each person's recordings, and the new ones among them, before they are added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrollRequest(listen.HearingRequest):
    """Which recordings of whom to enrol, and in which gallery."""

    gallery: Path
    people: Mapping[str, tuple[Place, ...]]
    """Recordings by name."""
    channels: Mapping[Place, Channel] = field(default_factory=dict)
    """Channels of single recordings, instead of `channel`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolled:
    """What the gallery now holds of a person."""

    gallery: Path
    name: str
    added: tuple[str, ...]
    """Recordings that were new."""
    recordings: int
    """Recordings of this person in all."""
    seconds: float
    people: int
    """People in the gallery."""
    model: GalleryModel
    warnings: tuple[str, ...]
    """What may make a recording a bad example of the voice."""
    notes: tuple[str, ...]

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against the recordings."""
        return not self.warnings


def run(request: EnrollRequest, progress: Progress) -> tuple[Enrolled, ...]:
    """Embed recordings and add them to the gallery, `AT_ONCE` people in a step, which is added whole or not at all.

    Raises:
        ConfigError: a name that is not allowed.
        DataError: audio that `svkit verify` would refuse, or a recording that is enrolled as somebody else.
        ArtifactError: there is no model, it changes meanwhile, or the gallery is of another one.
    """
    people = {check_name(name): places for name, places in request.people.items()}
    gallery = read_gallery(request.gallery) if (request.gallery / "gallery.json").exists() else None
    checkpoint, named = listen.choose_model(request, gallery, progress)
    whom = next(iter(people)) if len(people) == 1 else f"{len(people):,} people"
    judged, new = _judge(request, people, gallery, progress, whom)
    model: SpeakerModel | None = None
    loaded, calibration = _weights_state(checkpoint), _calibration(checkpoint, named.sha256)
    limits = None if calibration is None else _limits(calibration)
    learnt_on = set[str]() if calibration is None else {*(calibration.speakers or ())}
    waiting: _Waiting = {}
    done: list[Enrolled] = []
    with progress.task(f"enroll {whom} with {shown(checkpoint)}", sum(map(len, new.values()))) as task:
        for number, (name, places) in enumerate(new.items(), start=1):
            model = model or load_model(checkpoint)
            known = judged[name]
            heard = {
                place: known[place] if known[place][1].size else _hear(request, (place,))[place]
                for place in places
            }
            waiting[name] = known, _new_recordings(model, checkpoint, heard)
            task.advance(len(places))
            if len(waiting) == AT_ONCE or number == len(people):
                if _weights_state(checkpoint) != loaded:  # its pages are read from the file until the end
                    raise ArtifactError(
                        f"{checkpoint}: has changed while it was used, not enrolled:"
                        f" {first_five(list(waiting))}; restore it if it is no longer the gallery's model, then run"
                        " the same command again"
                    )
                odd = {} if limits is None else _odd_ones(gallery, waiting, limits.likelier_from)
                gallery, found = _commit(request, named, gallery, waiting, odd, learnt_on)
                done += found if limits is None else _with_alike(found, gallery, limits.accepted_from)
                waiting = {}
    return tuple(done)


def _weights_state(checkpoint: Path) -> tuple[int, int, int]:
    check_file(checkpoint / MODEL_NAME, ArtifactError)
    status = (checkpoint / MODEL_NAME).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _judge(
    request: EnrollRequest,
    people: Mapping[str, tuple[Place, ...]],
    gallery: Gallery | None,
    progress: Progress,
    whom: str,
) -> tuple[dict[str, listen.Heard], dict[str, tuple[Place, ...]]]:
    """Read and judge every recording before the embedding, which takes longer; return the findings and the new ones.

    Samples come along with the first of the new recordings, `_KEPT_SAMPLES` in all.

    Raises:
        DataError: a recording cannot be used, or belongs to somebody else who is enrolled already or now.
    """
    known = {} if gallery is None else gallery.owners_of_all
    now: dict[bytes, str] = {}
    judged: dict[str, listen.Heard] = {}
    room, nothing = _KEPT_SAMPLES, np.empty(0, np.float32)
    new: dict[str, tuple[Place, ...]] = {}
    with progress.task(f"read {whom}", sum(map(len, people.values()))) as task:
        for name, places in people.items():
            judged[name], new[name] = {}, ()
            for place, (one, waveform) in _hear(request, places).items():
                own = listen.fingerprint(waveform)
                owner = known.get(own) or now.setdefault(own, name)
                if owner != name:
                    raise somebody_elses(place, owner, name)
                if own in known or len(waveform) > room:
                    waveform = nothing
                room -= len(waveform)
                judged[name][place] = one, waveform
                new[name] += () if own in known else (place,)
            task.advance(len(places))
    return judged, new


def take_out(request: EnrollRequest, progress: Progress) -> Gallery:
    """Take recordings of one person out of the gallery again; return the gallery that is left.

    Raises:
        ConfigError: nobody of that name is enrolled.
        DataError: a recording cannot be read, or is not enrolled as this person.
        ArtifactError: there is no gallery, or it is of another model.
    """
    ((name, places),) = request.people.items()
    gallery = read_gallery(request.gallery)
    gallery.row_of(name, request.gallery)
    heard = _hear(request, places)
    checkpoint, named = listen.choose_model(request, gallery, progress)
    recordings = _new_recordings(load_model(checkpoint), checkpoint, heard)
    return remove_recordings(request.gallery, named, name, recordings.items())


def _hear(request: EnrollRequest, places: tuple[Place, ...]) -> listen.Heard:
    heard: listen.Heard = {}
    for place in places:
        heard |= listen.hear(
            [place], request.channels.get(place, request.channel), allow_cut=request.allow_cut
        )
    return heard


def _new_recordings(model: SpeakerModel, checkpoint: Path, heard: listen.Heard) -> dict[Place, NewRecording]:
    embedded = listen.embed_heard(model, checkpoint, heard, SilentProgress(), "")
    return {
        place: NewRecording(
            embedding=embedded[place],
            seconds=recording.file_seconds,
            fingerprint=listen.fingerprint(waveform),
        )
        for place, (recording, waveform) in heard.items()
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Limits:
    """What scores mean by the model's calibration."""

    accepted_from: float
    """The score from which `svkit verify` accepts."""
    likelier_from: float
    """The score from which one speaker is likelier than two."""


def _calibration(checkpoint: Path, sha256: str) -> CalibrationRecord | None:
    try:
        found = find_calibration(None, checkpoint, sha256)
    except ArtifactError:  # verify says what is wrong with it
        return None
    return None if found is None else found[1]


def _limits(record: CalibrationRecord) -> _Limits | None:
    """Return what scores mean by a calibration; None: it does not go by the score alone."""
    accepted = score_at(record, 0.0 if record.decision is None else record.decision.point.threshold)
    likelier = score_at(record, 0.0)
    if accepted is None or likelier is None:
        return None
    return _Limits(accepted_from=accepted, likelier_from=likelier)


def _odd_ones(gallery: Gallery | None, waiting: _Waiting, likelier_from: float) -> dict[str, list[str]]:
    """Warn of each new recording that is likelier somebody else's than the person's, by the person's other ones."""
    rows = {} if gallery is None else {name: row for row, name in enumerate(gallery.names)}
    found: dict[str, list[str]] = {}
    for name, (_, recordings) in waiting.items():
        units = {place: one.embedding / np.linalg.norm(one.embedding) for place, one in recordings.items()}
        known = np.float32(0) if gallery is None or name not in rows else gallery.sums[rows[name]]
        total = known + sum(units.values())
        for place, unit in units.items():
            others = total - unit
            length = np.linalg.norm(others)
            if length > 1e-3 and (score := float(others @ unit / length)) < likelier_from:
                found.setdefault(name, []).append(
                    f"{place}: unlike the other recordings of {name} (score {score:.4f}; below {likelier_from:.4f} two"
                    f" speakers are likelier); if it is somebody else: svkit people remove {name} --recording FILE"
                )
    return found


def _with_alike(enrolled: Sequence[Enrolled], gallery: Gallery, limit: float) -> list[Enrolled]:
    """Note of each person who the nearest other one is, if the model would accept the one as the other."""
    means = gallery.sums / np.linalg.norm(gallery.sums, axis=1, keepdims=True)
    row_of = {name: row for row, name in enumerate(gallery.names)}
    rows = [row_of[one.name] for one in enrolled]
    scores = means[rows] @ means.T
    scores[np.arange(len(rows)), rows] = -np.inf
    nearest, said, noted = scores.argmax(axis=1), set[frozenset[str]](), list[Enrolled]()
    for one, column, values in zip(enrolled, nearest, scores, strict=True):
        pair = frozenset((one.name, other := gallery.names[column]))
        if values[column] >= limit and pair not in said:
            said.add(pair)
            text = (
                f"{one.name} and {other} sound alike to this model: score {values[column]:.4f}, and verify accepts from"
                f" {limit:.4f} on; expect it to take one for the other"
            )
            one = replace(one, notes=(text, *one.notes))
        noted.append(one)
    return noted


def _commit(
    request: EnrollRequest,
    model: GalleryModel,
    gallery: Gallery | None,
    waiting: _Waiting,
    odd: Mapping[str, list[str]],
    learnt_on: Collection[str],
) -> tuple[Gallery, list[Enrolled]]:
    people = {name: recordings for name, (_, recordings) in waiting.items() if recordings}
    added: list[Place] = []
    if people or gallery is None:
        gallery, added = add_recordings(request.gallery, model, people)
    counts, new = gallery.counts, set(added)
    found = []
    for name, (heard, _) in waiting.items():
        row = gallery.row_of(name, request.gallery)
        known = [f"{place}: this recording of {name} {KNOWN}" for place in heard if place not in new]
        if name in learnt_on:
            known.insert(
                0,
                f"{name}: the model's calibration was learnt on this person, so the rates measured for it do not hold"
                " for them; learn it on others",
            )
        found.append(
            Enrolled(
                gallery=request.gallery,
                name=name,
                added=tuple(str(place) for place in heard if place in new),
                recordings=int(counts[row]),
                seconds=float(gallery.seconds[row]),
                people=len(gallery.names),
                model=gallery.model,
                warnings=(*odd.get(name, ()), *listen.warnings_on(heard)),
                notes=(*listen.notes_on(heard), *known),
            )
        )
    return gallery, found
