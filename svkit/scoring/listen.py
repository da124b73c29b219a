"""Read, judge and embed single recordings, for `svkit verify`, `enroll` and `identify`."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from svkit.audio import quality
from svkit.audio.crop import kept_samples
from svkit.audio.features import refuse_short
from svkit.audio.resample import SAMPLE_RATE_HZ, resample
from svkit.config.schema import ExtractConfig
from svkit.errors import ArtifactError, DataError
from svkit.eval.scoring import group_means
from svkit.models.final import final_model, final_models
from svkit.models.load import SpeakerModel, is_usable, refuse_broken
from svkit.progress import Progress
from svkit.store.audio_file import Channel, Place, channel_levels_db, examine, probe, read_audio
from svkit.store.gallery import Gallery, GalleryModel, read_gallery, refuse_other_model
from svkit.store.provenance import sha256_input

HIGHEST_RATE_HZ = 768_000


@dataclass(frozen=True, kw_only=True, slots=True)
class HearingRequest:
    """What `svkit verify`, `enroll` and `identify` have in common."""

    exp: Path
    gallery: Path | None = None
    model: Path | None = None
    """Checkpoint; None: that of `gallery`, else the experiment's final pruned model, else its final dense one, else
    that of the experiment's own gallery."""
    channel: Channel | Literal["loudest"] = 0
    """Channel to use of recordings with several."""
    allow_cut: bool = False
    """Use the part that is there of files that are shorter than their header says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One file, and the findings about its audio."""

    path: Place
    sample_rate_hz: int
    seconds: float
    """Length of the part that was used."""
    file_seconds: float
    is_cut: bool
    """Whether the file is longer than that part."""
    sound_seconds: float
    channel: Channel
    """Channel that was used."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


Heard = dict[Place, tuple[Recording, NDArray[np.float32]]]
"""Each recording with its samples at 16 kHz."""
Embedded = dict[Place, NDArray[np.float32]]
"""The embedding [D] of each, not length-normalised."""


def hear(paths: Iterable[Place], channel: Channel | Literal["loudest"], *, allow_cut: bool) -> Heard:
    """Read recordings, each once (DataError: one is missing, unreadable, empty, not finite, or below 35 ms)."""
    return {path: _hear_one(path, channel, allow_cut=allow_cut) for path in dict.fromkeys(paths)}


def embed_heard(
    model: SpeakerModel, checkpoint: Path, heard: Heard, progress: Progress, title: str
) -> Embedded:
    """Embed recordings with the model of `checkpoint`, on a GPU if there is one.

    Raises:
        DataError: an embedding is not finite, or zero.
        ArtifactError: so are those of any recording.
    """
    if torch.cuda.is_available():
        model.to("cuda")
    embedded: Embedded = {}
    with progress.task(title, len(heard)) as task:
        for path, (_, waveform) in heard.items():
            embedding = model.embed([waveform])[0]
            if not is_usable(embedding):
                refuse_broken(model, checkpoint)
                raise DataError(f"{path}: the model gives no usable embedding; check the audio")
            embedded[path] = embedding
            task.advance(1)
    return embedded


def warnings_on(heard: Heard) -> list[str]:
    """Return a warning for everything that may make a recording a bad example of the voice."""
    return [f"{path}: {text}" for path, (recording, _) in heard.items() for text in recording.warnings]


def enrolled_among(heard: Heard, gallery: Gallery) -> list[str]:
    """Return a warning for each recording that is itself enrolled, since comparing it with itself proves nothing."""
    owners = gallery.owners_of_all
    return [
        f"{path}: this very recording is enrolled, as {owner}"
        for path, (_, waveform) in heard.items()
        if (owner := owners.get(fingerprint(waveform))) is not None
    ]


def search(gallery: Gallery, mean: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each person [N] with a speaker, given by the `mean_embedding` [1, D]."""
    lengths = np.sqrt(np.einsum("nd,nd->n", gallery.sums, gallery.sums))
    return (gallery.sums @ mean[0]).astype(np.float64) / (lengths * np.linalg.norm(mean))


def mean_embedding(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean [1, D] of the length-normalised embeddings [n, D] of one speaker."""
    return group_means(embeddings, np.zeros(len(embeddings), dtype=np.int64), 1)


def notes_on(heard: Heard) -> list[str]:
    """Return the notes on recordings: what to know about them, although they can be used."""
    found = [
        f"{path}: the first {one.seconds:.0f} s were used" for path, (one, _) in heard.items() if one.is_cut
    ]
    return found + [f"{path}: {note}" for path, (one, _) in heard.items() for note in one.notes]


def _hear_one(
    path: Place, channel: Channel | Literal["loudest"], *, allow_cut: bool
) -> tuple[Recording, NDArray[np.float32]]:
    """Read a recording as extraction does: one channel, cut at 60 s, at 16 kHz."""
    first = 0 if channel == "loudest" else channel
    # Only decoding shows how much of a cut FLAC is left.
    info = examine(path, channel=first, allow_cut=True)[0] if allow_cut else probe(path, first)
    rate = info.sample_rate_hz
    if not 1 <= rate <= HIGHEST_RATE_HZ:
        raise DataError(f"{path}: expected a sample rate up to {HIGHEST_RATE_HZ} Hz, found {rate} Hz")
    kept = kept_samples(info.num_samples, rate, ExtractConfig().max_seconds)
    refuse_short(str(path), kept, rate)
    levels = channel_levels_db(path, kept)
    if channel == "loudest":
        channel = int(np.argmax(levels))
    notes = []
    if channel != "mix" and (louder := quality.louder_channel(levels, channel)):
        notes.append(f"{louder}; channel {channel} was used; choose with --channel N|mix|loudest")
    if info.missing:
        notes.append(f"{info.missing}; the part that is there was used")
    # With the length that was found, as a truncated file is refused without one.
    signal = read_audio(path, 0, kept, channel, length=info.num_samples)
    measured = quality.measure(signal, rate)
    warnings = measured.warnings()
    if rate < SAMPLE_RATE_HZ:
        warnings.append(
            f"narrow: sampled at {rate:,} Hz, so its content ends at {rate // 2:,} Hz; the model was "
            "trained for"
            f" {SAMPLE_RATE_HZ:,} Hz, content up to {SAMPLE_RATE_HZ // 2:,} Hz"
        )
    recording = Recording(
        path=path,
        sample_rate_hz=rate,
        seconds=measured.seconds,
        file_seconds=info.num_samples / rate,
        is_cut=kept < info.num_samples,
        sound_seconds=measured.sound_seconds,
        channel=channel,
        warnings=tuple(warnings),
        notes=tuple(notes),
    )
    return recording, resample(signal, rate)


def fingerprint(waveform: NDArray[np.float32]) -> bytes:
    """Return a hash that identifies a recording's samples; the voice cannot be recovered from it."""
    return hashlib.sha256(waveform.tobytes()).digest()


def choose_model(
    request: HearingRequest, gallery: Gallery | None, progress: Progress
) -> tuple[Path, GalleryModel]:
    """Return the checkpoint to embed with, and its record in a gallery; `gallery` is what the request's holds.

    Raises:
        ArtifactError: there is none, or it is not the gallery's.
    """
    checkpoint, home, people = request.model, request.gallery, gallery
    if checkpoint is None and gallery is None and not final_models(request.exp):
        home = request.exp / "gallery"
        people = read_gallery(home) if home.is_dir() else None
    if checkpoint is None and people is not None and people.names:
        checkpoint = Path(people.model.path)
        if not checkpoint.exists():
            raise ArtifactError(
                f"{home}: its model, {checkpoint} (sha256 {people.model.sha256[:12]}), no longer "
                "exists; name its new place with --model"
            )
    checkpoint = checkpoint or final_model(request.exp, progress)
    model = GalleryModel(path=checkpoint.resolve().as_posix(), sha256=sha256_input(checkpoint))
    if request.gallery is not None and gallery is not None and gallery.names:
        refuse_other_model(request.gallery, gallery, model)
    return checkpoint, model
