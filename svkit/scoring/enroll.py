"""`svkit enroll`: recordings of a person into a gallery, as embeddings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svkit.errors import ConfigError
from svkit.models.load import load_model
from svkit.progress import Progress
from svkit.scoring.listen import choose_model, embed_heard, fingerprint, hear, notes_on, warnings_on
from svkit.store.audio_file import Channel
from svkit.store.gallery import (
    GalleryModel,
    NewRecording,
    add_recordings,
    check_name,
    read_gallery,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrollRequest:
    """Whose recordings go where."""

    exp: Path
    gallery: Path
    name: str
    files: tuple[Path, ...]
    model: Path | None = None
    """Checkpoint; None: that of the gallery, in a new one the experiment's final model."""
    channel: Channel | Literal["loudest"] = 0
    allow_cut: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolled:
    """What the gallery has of the person now."""

    gallery: Path
    name: str
    added: tuple[Path, ...]
    """Recordings that were new."""
    recordings: int
    """Of this person, in all."""
    seconds: float
    people: int
    """In the gallery."""
    model: GalleryModel
    warnings: tuple[str, ...]
    """What may make a recording a bad example of the voice."""
    notes: tuple[str, ...]


def run(request: EnrollRequest, progress: Progress) -> Enrolled:
    """Embed recordings and add them to the gallery: all of them, or none.

    Raises:
        ConfigError: a name that cannot be one, or no file.
        DataError: audio as `svkit verify` refuses it; a recording that is enrolled as somebody else.
        ArtifactError: no model, or a gallery of another one.
    """
    if Path(request.name).is_file():
        raise ConfigError(f"{request.name}: is a file, expected a name: svkit enroll NAME FILE...")
    name = check_name(request.name)
    heard = hear(request.files, request.channel, allow_cut=request.allow_cut)
    gallery = read_gallery(request.gallery) if (request.gallery / "gallery.json").exists() else None
    checkpoint, model = choose_model(request.model, request.exp, request.gallery, gallery, progress)
    embedded = embed_heard(load_model(checkpoint), heard, progress, f"enroll {name} with {checkpoint}")
    recordings = {
        path: NewRecording(
            embedding=embedded[path],
            seconds=recording.file_seconds,
            fingerprint=fingerprint(waveform),
        )
        for path, (recording, waveform) in heard.items()
    }
    gallery, added = add_recordings(request.gallery, model, name, recordings)
    row = gallery.row_of(name, request.gallery)
    known = [f"{path}: this recording of {name} is there already" for path in heard if path not in added]
    return Enrolled(
        gallery=request.gallery,
        name=name,
        added=tuple(added),
        recordings=int(gallery.counts[row]),
        seconds=float(gallery.seconds[row]),
        people=len(gallery.names),
        model=gallery.model,
        warnings=tuple(warnings_on(heard)),
        notes=(*notes_on(heard), *known),
    )
