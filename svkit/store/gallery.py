"""Galleries: the voices of people by name, as embeddings of one model; no audio.

A directory of `gallery.json`, which names the model, and `people.safetensors`, which holds everything else: it alone
changes when somebody comes or goes, and as one file is replaced in one step. What is kept of a person does not grow
with the recordings but for a fingerprint of each:

- `names` uint8 [bytes]: the names, UTF-8, a line feed between them;
- `sums` float32 [N, D]: the sum of the length-normalised embeddings of a person's recordings;
- `log_norms` float64 [N]: the sum of the logarithms of their lengths before that;
- `seconds` float64 [N]: how long the files are together;
- `enrolled` int64 [N]: when the last one came, in seconds since 1970;
- `fingerprints` uint8 [R, 32], `owners` int64 [R]: SHA-256 of the samples of each recording, and whose it is.
"""

import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from svkit.config.ranges import Range
from svkit.errors import ArtifactError, ConfigError, DataError, first_five, printable
from svkit.store.arrays import Array, read_arrays, write_arrays
from svkit.store.atomic import one_line, remove_unfinished, write_json
from svkit.store.audio_file import Place
from svkit.store.locks import LOCK_NAME, lock_directory, release_directory
from svkit.store.strict_json import read_json

FORMAT, VERSION = "svkit-gallery", 1
_FACTS_NAME, _PEOPLE_NAME = "gallery.json", "people.safetensors"
_ARRAYS = {
    "names": ("uint8", 1),
    "sums": ("float32", 2),
    "log_norms": ("float64", 1),
    "seconds": ("float64", 1),
    "enrolled": ("int64", 1),
    "fingerprints": ("uint8", 2),
    "owners": ("int64", 1),
}
_OF_PEOPLE = ("sums", "log_norms", "seconds", "enrolled")
LONGEST_NAME = 200
WAIT_SECONDS = 60.0
"""How long a command waits for others that write to the same gallery; each takes a fraction of a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryModel:
    """The model that all embeddings of a gallery are of."""

    path: str
    """Where it was, absolute."""
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    model: GalleryModel
    dim: Annotated[int, Range(ge=1, le=1 << 16)]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class NewRecording:
    """What comes into a gallery of a recording."""

    embedding: npt.NDArray[np.float32]
    """[D], not length-normalised, finite, not zero."""
    seconds: float
    fingerprint: bytes
    """SHA-256 of its samples."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Gallery:
    """N people with R recordings; arrays as the module describes them."""

    model: GalleryModel
    names: tuple[str, ...]
    """In the order in which they came."""
    sums: Array
    log_norms: Array
    seconds: Array
    enrolled: Array
    fingerprints: Array
    owners: Array

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many recordings each person has, [N]."""
        return np.bincount(self.owners, minlength=len(self.names)).astype(np.int64)

    @property
    def owners_of_all(self) -> dict[bytes, str]:
        """Whose every recording is, by its fingerprint."""
        owners = zip(self.fingerprints, self.owners, strict=True)
        return {fingerprint.tobytes(): self.names[owner] for fingerprint, owner in owners}

    def owner_of(self, fingerprint: bytes) -> str | None:
        """Return whose recording this is."""
        same = (self.fingerprints == np.frombuffer(fingerprint, dtype=np.uint8)).all(axis=1)
        return self.names[self.owners[np.argmax(same)]] if same.any() else None

    def row_of(self, name: str, where: Path) -> int:
        """Return the row of a person (ConfigError: nobody of that name)."""
        try:
            return self.names.index(unicodedata.normalize("NFC", name))
        except ValueError:
            known = first_five(sorted(self.names)) or "nobody"
            raise ConfigError(
                f"{where}: expected the name of somebody enrolled ({known}), found {name!r}"
            ) from None


def check_name(name: str) -> str:
    """Return a name as it is stored, so that one that is typed in two ways is one.

    Raises:
        ConfigError: empty, longer than 200 characters, or not printable on one line.
    """
    name = unicodedata.normalize("NFC", name)
    if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            f"name: expected up to {LONGEST_NAME} printable characters without a space at an end,"
            f" found {printable(name)[:80]!r}"
        )
    return name


def read_gallery(directory: Path) -> Gallery:
    """Read and check a gallery (ArtifactError: missing, corrupt, of another version, or with sizes that disagree)."""
    path = directory / _PEOPLE_NAME
    if not (directory / _FACTS_NAME).exists():
        raise ArtifactError(f"{directory}: no gallery here; create one with `svkit enroll NAME FILE...`")
    facts = read_json(directory / _FACTS_NAME, FORMAT, VERSION, _Facts)
    arrays = read_arrays(path, _ARRAYS) if path.exists() else _nobody(facts.dim)
    try:
        text = arrays.pop("names").tobytes().decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: names: not UTF-8; restore the file from a copy") from error
    gallery = Gallery(
        model=facts.model,
        names=tuple(text.split("\n")) if text else (),
        **{name: arrays[name] for name in _ARRAYS if name in arrays},
    )
    _check(gallery, facts.dim, path)
    return gallery


def _nobody(dim: int) -> dict[str, Array]:
    shapes = {"sums": (0, dim), "fingerprints": (0, 32)}
    return {name: np.zeros(shapes.get(name, (0,)), dtype=kind) for name, (kind, _) in _ARRAYS.items()}


def _check(gallery: Gallery, dim: int, path: Path) -> None:
    size, recordings = len(gallery.names), len(gallery.owners)
    shapes = {
        "sums": (size, dim),
        **dict.fromkeys(("log_norms", "seconds", "enrolled"), (size,)),
        "fingerprints": (recordings, 32),
    }
    owners = gallery.owners
    if wrong := [name for name, shape in shapes.items() if getattr(gallery, name).shape != shape]:
        fault = f"{first_five(wrong)}: not of the size of {size} people with {recordings} recordings"
    elif len(set(gallery.names)) < size:
        fault = "names: somebody appears twice"
    elif recordings and not 0 <= owners.min() <= owners.max() < size:
        fault = "owners: recordings of nobody"
    elif size and not gallery.counts.all():
        fault = "owners: somebody without a recording"
    elif not all(np.isfinite(array).all() for array in (gallery.sums, gallery.log_norms, gallery.seconds)):
        fault = "expected finite numbers"
    else:
        return
    raise ArtifactError(f"{path}: {fault}; restore the file from a copy")


def add_recordings(
    directory: Path, model: GalleryModel, people: Mapping[str, Mapping[Place, NewRecording]]
) -> tuple[Gallery, list[Place]]:
    """Enroll recordings of people by name, all or none; other commands that write here are waited for.

    Returns:
        The gallery, and which of the recordings were new: one that the person has already is not counted twice.

    Raises:
        DataError: a recording is enrolled as somebody else.
        ArtifactError: the gallery is of another model, or the directory is none of ours or cannot be written.
    """
    dim = next(len(one.embedding) for recordings in people.values() for one in recordings.values())
    with _locked(directory):
        if not (directory / _FACTS_NAME).exists():
            if other := sorted(path.name for path in directory.iterdir() if path.name != LOCK_NAME):
                raise ArtifactError(
                    f"{directory}: holds files but no gallery ({first_five(other)}); choose an empty or a new directory"
                )
            _write_facts(directory, model, dim)
        gallery = read_gallery(directory)
        if not gallery.names and gallery.model != model:  # everybody was removed
            (directory / _PEOPLE_NAME).unlink(missing_ok=True)
            _write_facts(directory, model, dim)
            gallery = read_gallery(directory)
        refuse_other_model(directory, gallery, model)
        added: list[Place] = []
        for name, recordings in people.items():
            new: dict[bytes, Place] = {}
            for place, recording in recordings.items():
                owner = gallery.owner_of(recording.fingerprint)
                if owner is not None and owner != name:
                    raise somebody_elses(place, owner, name)
                if owner is None:
                    new.setdefault(recording.fingerprint, place)
            if new:
                gallery = _with(gallery, name, [recordings[place] for place in new.values()])
                added += new.values()
        if added:
            write_people(directory, gallery)
    return gallery, added


def somebody_elses(place: Place, owner: str, name: str) -> DataError:
    """Return what to raise where a recording that comes as one person's is enrolled as another's."""
    return DataError(
        f"{place}: is already enrolled as {owner}, expected a recording of {name}; `svkit people remove` removes"
        " somebody"
    )


def remove_recordings(
    directory: Path, model: GalleryModel, name: str, recordings: Iterable[tuple[Place, NewRecording]]
) -> Gallery:
    """Take single recordings of a person out, who goes with the last one; return who is left.

    Only sums over recordings are kept, so this takes the recordings themselves, as they were heard.

    Raises:
        ConfigError: nobody of that name.
        DataError: a recording is not enrolled as this person; then all stay.
        ArtifactError: the gallery is of another model, or cannot be written.
    """
    with _locked(directory):
        gallery = read_gallery(directory)
        refuse_other_model(directory, gallery, model)
        row = gallery.row_of(name, directory)
        gone: dict[bytes, NewRecording] = {}
        for place, recording in recordings:
            if (owner := gallery.owner_of(recording.fingerprint)) != gallery.names[row]:
                raise DataError(
                    f"{place}: expected a recording that is enrolled as {name}, found "
                    f"{owner or 'nobody'}'s; is it the same file, read with the same --channel?"
                )
            gone[recording.fingerprint] = recording
        stays = np.array([one.tobytes() not in gone for one in gallery.fingerprints])
        gallery = replace(gallery, fingerprints=gallery.fingerprints[stays], owners=gallery.owners[stays])
        if (gallery.owners == row).any():
            _add(gallery, row, list(gone.values()), -1)
        else:
            gallery = _without(gallery, [row])
        write_people(directory, gallery)
    return gallery


def remove_people(directory: Path, names: Sequence[str]) -> Gallery:
    """Remove people with all that is stored of them, and return who is left.

    Raises:
        ConfigError: somebody of them is not there; nobody is removed.
        ArtifactError: no gallery, or it cannot be written.
    """
    read_gallery(directory)  # before a lock is put into what is no gallery
    with _locked(directory):
        gallery = read_gallery(directory)
        gallery = _without(gallery, [gallery.row_of(name, directory) for name in names])
        write_people(directory, gallery)
    return gallery


def refuse_other_model(directory: Path, gallery: Gallery, model: GalleryModel) -> None:
    """Raise ArtifactError where a model is not that of the gallery: embeddings of two models cannot be compared."""
    if gallery.model.sha256 != model.sha256:
        raise ArtifactError(
            f"{directory}: expected its own model, {gallery.model.path} (sha256 {gallery.model.sha256[:12]}), found"
            f" {model.path} (sha256 {model.sha256[:12]}); name the former with --model, or enroll everybody again with"
            " this one into another --gallery"
        )


def _with(gallery: Gallery, name: str, recordings: Sequence[NewRecording]) -> Gallery:
    if name not in gallery.names:
        columns = {key: getattr(gallery, key) for key in _OF_PEOPLE}
        grown: dict[str, Any] = {
            key: np.pad(column, [(0, 1), (0, 0)][: column.ndim]) for key, column in columns.items()
        }
        gallery = replace(gallery, names=(*gallery.names, name), **grown)
    row = gallery.names.index(name)
    prints = np.stack([np.frombuffer(one.fingerprint, dtype=np.uint8) for one in recordings])
    gallery = replace(
        gallery,
        fingerprints=np.concatenate([gallery.fingerprints, prints]),
        owners=np.append(gallery.owners, np.full(len(recordings), row)),
    )
    gallery.enrolled[row] = int(time.time())
    _add(gallery, row, recordings, 1)
    return gallery


def _add(gallery: Gallery, row: int, recordings: Sequence[NewRecording], sign: int) -> None:
    """Add recordings to the sums of a person, or with a `sign` of -1 take them out."""
    embeddings = np.stack([one.embedding for one in recordings]).astype(np.float64)
    norms = np.linalg.norm(embeddings, axis=1)
    gallery.sums[row] += sign * (embeddings / norms[:, None]).sum(axis=0)
    gallery.log_norms[row] += sign * np.log(norms).sum()
    gallery.seconds[row] += sign * sum(one.seconds for one in recordings)


def _without(gallery: Gallery, rows: Sequence[int]) -> Gallery:
    keep = ~np.isin(np.arange(len(gallery.names)), rows)
    kept = keep[gallery.owners]
    return replace(
        gallery,
        names=tuple(name for name, stays in zip(gallery.names, keep, strict=True) if stays),
        **{key: getattr(gallery, key)[keep] for key in _OF_PEOPLE},
        fingerprints=gallery.fingerprints[kept],
        owners=(np.cumsum(keep) - 1)[gallery.owners[kept]],
    )


def _write_facts(directory: Path, model: GalleryModel, dim: int) -> None:
    facts = {"model": {"path": model.path, "sha256": model.sha256}, "dim": dim}
    write_json(directory / _FACTS_NAME, {"format": FORMAT, "format_version": VERSION, **facts})


def write_people(directory: Path, gallery: Gallery) -> None:
    """Replace everybody in a gallery; the caller holds its lock, or is alone."""
    arrays = {name: getattr(gallery, name) for name in _ARRAYS if name != "names"}
    names = np.frombuffer("\n".join(gallery.names).encode(), dtype=np.uint8)
    write_arrays(directory / _PEOPLE_NAME, {"names": names, **arrays})


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with one_line(directory):
        if not directory.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            # Voices are biometric data: a new gallery is for its owner's eyes until somebody decides otherwise.
            directory.mkdir(mode=0o700, exist_ok=True)
    lock = lock_directory(directory, WAIT_SECONDS)
    try:
        remove_unfinished([directory], are_own=True)
        yield
    finally:
        release_directory(lock)
