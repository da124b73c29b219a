"""Galleries: people's voices by name, as embeddings of one model, without audio.

A gallery is a directory with two files. `gallery.json` names the model. `people.safetensors` holds everything else: it
alone changes when people are added or removed, and a single file can be replaced in one step. What is kept about a
person does not grow with the number of recordings, except for one fingerprint each:

- `names` uint8 [bytes]: the names in UTF-8, separated by line feeds;
- `sums` float32 [N, D]: the sum of the length-normalised embeddings of a person's recordings;
- `log_norms` float64 [N]: the sum of the logarithms of those embeddings' norms before normalisation;
- `seconds` float64 [N]: the total duration of the recordings;
- `enrolled` int64 [N]: when the latest recording was enrolled, in seconds since 1970;
- `fingerprints` uint8 [R, 32]: SHA-256 of the samples of each recording;
- `owners` int64 [R]: the row of the person whose recording it is;
- `checksum` uint8 [32]: SHA-256 of the others, which finds a flipped bit; galleries of an earlier svkit have none.
"""

import hashlib
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
from svkit.store.locks import lock_directory, release_directory
from svkit.store.provenance import output_around
from svkit.store.source import shown
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
_CHECKSUM = "checksum"
_OF_PEOPLE = ("sums", "log_norms", "seconds", "enrolled")
_YEAR_10000 = 253_402_300_800
"""In seconds since 1970; dates have four digits."""
LONGEST_NAME = 200
WAIT_SECONDS = 60.0
"""How long a command waits for others that write to the same gallery; each takes a fraction of a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryModel:
    """The model that all embeddings of a gallery come from."""

    path: str
    """Its absolute path when the gallery was made."""
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    model: GalleryModel
    dim: Annotated[int, Range(ge=1, le=1 << 16)]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class NewRecording:
    """What a gallery takes from one recording."""

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
    """In order of enrollment."""
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
        """The name of each recording's person, by fingerprint."""
        owners = zip(self.fingerprints, self.owners, strict=True)
        return {fingerprint.tobytes(): self.names[owner] for fingerprint, owner in owners}

    def has(self, name: str) -> bool:
        """Say whether somebody has that name."""
        return unicodedata.normalize("NFC", name) in self.names

    def row_of(self, name: str, where: Path) -> int:
        """Return the row of a person (ConfigError: nobody has that name)."""
        try:
            return self.names.index(unicodedata.normalize("NFC", name))
        except ValueError:
            known = first_five(sorted(self.names)) or "nobody"
            raise ConfigError(
                f"{where}: expected the name of somebody enrolled ({known}), found {name!r}"
            ) from None


def check_name(name: str) -> str:
    """Return a name as stored, in NFC (ConfigError: empty, over 200 characters, or not printable on one line)."""
    name = unicodedata.normalize("NFC", name)  # the same letters typed in two ways are one name
    if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            f"name: expected up to {LONGEST_NAME} printable characters, no space first or last,"
            f" found {printable(name)[:80]!r}"
        )
    return name


def read_gallery(directory: Path) -> Gallery:
    """Read and check a gallery (ArtifactError: missing, corrupt, of another version, or of inconsistent sizes)."""
    path = directory / _PEOPLE_NAME
    if not (directory / _FACTS_NAME).exists():
        raise ArtifactError(
            f"{directory}: no gallery here; create one with `svkit enroll NAME FILE...`, or name another"
            " with --gallery"
        )
    facts = read_json(directory / _FACTS_NAME, FORMAT, VERSION, _Facts)
    if not path.exists():
        raise ArtifactError(
            f"{path}: is missing, and with it everybody enrolled; restore it from a copy, or remove"
            f" {_FACTS_NAME} beside it and enroll them again"
        )
    arrays = read_arrays(path, _ARRAYS)
    is_whole = _CHECKSUM not in arrays or np.array_equal(arrays[_CHECKSUM], _checksum(arrays))
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
    if not is_whole:
        raise ArtifactError(
            f"{path}: has changed since it was written (checksum); restore the file from a copy"
        )
    return gallery


def _check(gallery: Gallery, dim: int, path: Path) -> None:
    size, recordings = len(gallery.names), len(gallery.owners)
    shapes = {
        "sums": (size, dim if size else gallery.sums.shape[1]),  # nobody's may be of the model before
        **dict.fromkeys(("log_norms", "seconds", "enrolled"), (size,)),
        "fingerprints": (recordings, 32),
    }
    owners = gallery.owners
    if wrong := [name for name, shape in shapes.items() if getattr(gallery, name).shape != shape]:
        fault = f"{first_five(wrong)}: sizes do not fit {size} people with {recordings} recordings"
    elif len(set(gallery.names)) < size:
        fault = "names: one name appears twice"
    elif recordings and not 0 <= owners.min() <= owners.max() < size:
        fault = "owners: recordings of nobody"
    elif size and not gallery.counts.all():
        fault = "owners: a person has no recording"
    elif "" in gallery.names:
        fault = "names: a person without a name"
    elif not all(np.isfinite(array).all() for array in (gallery.sums, gallery.log_norms, gallery.seconds)):
        fault = "expected finite numbers"
    elif not _are_sums(gallery):
        fault = "sums: expected sums of vectors of length 1, one for each recording"
    elif (gallery.seconds <= 0).any():
        fault = "seconds: expected durations above 0"
    elif not ((gallery.enrolled >= 0) & (gallery.enrolled < _YEAR_10000)).all():
        fault = "enrolled: expected seconds since 1970, up to the year 9999"
    else:
        return
    raise ArtifactError(f"{path}: {fault}; restore the file from a copy")


def _are_sums(gallery: Gallery) -> bool:
    """Say whether every sum has a direction and is no longer than its recordings allow, within rounding."""
    lengths = np.linalg.norm(gallery.sums.astype(np.float64), axis=1)
    return bool(((lengths > 0) & (lengths <= 1.1 * gallery.counts)).all())


def add_recordings(
    directory: Path, model: GalleryModel, people: Mapping[str, Mapping[Place, NewRecording]]
) -> tuple[Gallery, list[Place]]:
    """Enroll recordings of people by name, all or none, after waiting for other commands that write here.

    Returns:
        The gallery, and the places of the new recordings; one that is enrolled already counts only once.

    Raises:
        DataError: a recording is enrolled as somebody else.
        ArtifactError: the gallery is of another model, or the directory holds other files or cannot be written.
    """
    dim = next(len(one.embedding) for recordings in people.values() for one in recordings.values())
    with _locked(directory):
        refuse_other_files(directory)
        gallery = read_gallery(directory) if (directory / _FACTS_NAME).exists() else None
        if gallery is None or not gallery.names:
            _begin(directory, model, dim)
            gallery = read_gallery(directory)
        refuse_other_model(directory, gallery, model)
        owners, added = gallery.owners_of_all, list[Place]()
        for name, recordings in people.items():
            new: list[Place] = []
            for place, recording in recordings.items():
                if recording.fingerprint not in owners:
                    owners[recording.fingerprint] = name
                    new.append(place)
                elif (owner := owners[recording.fingerprint]) != name:
                    raise somebody_elses(place, owner, name)
            if new:
                gallery = _with(gallery, name, [recordings[place] for place in new])
                added += new
        if added:
            write_people(directory, gallery)
    return gallery, added


def refuse_other_files(directory: Path) -> None:
    """Raise ArtifactError for a new gallery in a finished output, or in a directory that holds other files."""
    if (directory / _FACTS_NAME).exists():
        return
    if (around := output_around(directory)) is not None:  # a checkpoint would become another model
        raise ArtifactError(
            f"{directory}: lies in {around}, whose content a gallery would change; choose another directory"
        )
    if not directory.is_dir():
        return
    # Hidden files: the lock, what an interrupted enrolment left, what a file manager writes.
    other = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    people = directory / _PEOPLE_NAME
    is_begun = other == [_PEOPLE_NAME] and not read_arrays(people, _ARRAYS)["names"].size
    if other and not is_begun:
        raise ArtifactError(
            f"{directory}: holds files but no gallery ({first_five(other)}); choose an empty or a new directory"
        )


def somebody_elses(place: Place, owner: str, name: str) -> DataError:
    """Return the error for a recording that is given as one person's but is enrolled as another's."""
    return DataError(
        f"{place}: is already enrolled as {owner}, expected a recording of {name}; if it is theirs, take it out first:"
        f" svkit people remove {owner} --recording {place}"
    )


def remove_recordings(
    directory: Path, model: GalleryModel, name: str, recordings: Iterable[tuple[Place, NewRecording]]
) -> Gallery:
    """Remove single recordings of a person, and the person with the last one; return the new gallery.

    The gallery keeps only sums over recordings, so the recordings must be given again, read as they were enrolled.

    Raises:
        ConfigError: nobody has that name.
        DataError: a recording is not enrolled as this person; nothing is removed.
        ArtifactError: the gallery is of another model, or cannot be written.
    """
    with _locked(directory):
        gallery = read_gallery(directory)
        refuse_other_model(directory, gallery, model)
        row = gallery.row_of(name, directory)
        gone: dict[bytes, NewRecording] = {}
        owners = gallery.owners_of_all
        for place, recording in recordings:
            if (owner := owners.get(recording.fingerprint)) != gallery.names[row]:
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
    """Remove people and everything stored about them; return the new gallery.

    Raises:
        ConfigError: nobody has one of the names; nobody is removed.
        ArtifactError: there is no gallery, or it cannot be written.
    """
    read_gallery(directory)  # fails before a lock file is put into another directory
    with _locked(directory):
        gallery = read_gallery(directory)
        gallery = _without(gallery, [gallery.row_of(name, directory) for name in names])
        write_people(directory, gallery)
    return gallery


def refuse_other_model(directory: Path, gallery: Gallery, model: GalleryModel) -> None:
    """Raise ArtifactError for a model other than the gallery's: embeddings of two models cannot be compared."""
    if gallery.model.sha256 != model.sha256:
        own = shown(gallery.model.path)
        raise ArtifactError(
            f"{directory}: expected its own model, {own} (sha256 {gallery.model.sha256[:12]}), found"
            f" {shown(model.path)} (sha256 {model.sha256[:12]}); give --model {own}, or enroll everybody again"
            " with the new model in another --gallery"
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
    """Add recordings to the sums of a person, or subtract them with `sign` -1."""
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


def _begin(directory: Path, model: GalleryModel, dim: int) -> None:
    """Write a gallery of nobody; its facts come last, because they make it one for commands that only read."""
    shapes = {"sums": (0, dim), "fingerprints": (0, 32)}
    nobody = {name: np.zeros(shapes.get(name, (0,)), dtype=kind) for name, (kind, _) in _ARRAYS.items()}
    _write_arrays(directory, nobody)
    facts = {"model": {"path": model.path, "sha256": model.sha256}, "dim": dim}
    write_json(directory / _FACTS_NAME, {"format": FORMAT, "format_version": VERSION, **facts})


def write_people(directory: Path, gallery: Gallery) -> None:
    """Replace all people of a gallery; the caller holds its lock or is its only writer."""
    arrays = {name: getattr(gallery, name) for name in _ARRAYS if name != "names"}
    names = np.frombuffer("\n".join(gallery.names).encode(), dtype=np.uint8)
    _write_arrays(directory, {"names": names, **arrays})


def _write_arrays(directory: Path, arrays: Mapping[str, Array]) -> None:
    write_arrays(directory / _PEOPLE_NAME, {**arrays, _CHECKSUM: _checksum(arrays)})


def _checksum(arrays: Mapping[str, Array]) -> Array:
    found = hashlib.sha256()
    for name in _ARRAYS:
        found.update(str(arrays[name].shape).encode())
        found.update(np.ascontiguousarray(arrays[name]).data)
    return np.frombuffer(found.digest(), dtype=np.uint8)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with one_line(directory):
        if not directory.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            # Voices are biometric data: only its owner can read a new gallery, unless they change its mode.
            directory.mkdir(mode=0o700, exist_ok=True)
    lock = lock_directory(directory, WAIT_SECONDS)
    try:
        remove_unfinished([directory], are_own=True)
        yield
    finally:
        release_directory(lock)
