"""Measure how long identification among many people takes once the recording is embedded.

    python benchmarks/people.py [--people 100000] [--recordings 2] [--threads 1] [--rounds 5] [--json FILE]

The gallery has random embeddings of the published size. A recording is looked up with a calibration of plain scores,
and with one that also uses measures of quality. The time includes reading and checking the gallery, because every
command does that. `enroll, then remove` is what `svkit enroll` and `svkit people remove` take in addition to the
embedding. The nearest person is checked by a plain product.
"""

import argparse
import tempfile
from pathlib import Path

import measuring
import numpy as np
import soundfile

from svkit.config.schema import HeadConfig
from svkit.scoring.backend import Backend, describe_backend
from svkit.scoring.identify import IdentifyRequest, answer
from svkit.scoring.listen import hear
from svkit.scoring.ratio import PAIR_FEATURES
from svkit.store.calibration import CalibrationRecord
from svkit.store.gallery import (
    Gallery,
    GalleryModel,
    NewRecording,
    add_recordings,
    read_gallery,
    remove_people,
    write_people,
)
from svkit.store.metrics import ListId

MODEL = GalleryModel(path="/model", sha256="0" * 64)
TARGET_SECONDS = 1.0


def make_gallery(directory: Path, people: int, recordings: int, dim: int) -> Gallery:
    """Write a gallery of random people, and return it."""
    rng = np.random.default_rng(0)
    first = NewRecording(embedding=np.ones(dim, dtype=np.float32), seconds=1.0, fingerprint=bytes(32))
    add_recordings(directory, MODEL, {"first": {Path("first.wav"): first}})
    sums = rng.normal(size=(people, dim)).astype(np.float32)
    owners = np.repeat(np.arange(people), recordings)
    made = Gallery(
        model=MODEL,
        names=tuple(f"person {number}" for number in range(people)),
        sums=sums,
        log_norms=rng.normal(size=people),
        seconds=rng.uniform(2, 60, size=people),
        enrolled=np.full(people, 1_800_000_000),
        fingerprints=rng.integers(0, 256, size=(len(owners), 32), dtype=np.uint8),
        owners=owners,
    )
    write_people(directory, made)
    return made


def calibration(features: tuple[str, ...]) -> tuple[Path, CalibrationRecord]:
    """Return a calibration of cosine scores with these features."""
    record = CalibrationRecord(
        features=features,
        weights=(30.0, 0.5, 0.5, 0.5, 0.5)[: len(features)],
        offset=-9.0,
        prior=0.05,
        backend=describe_backend(Backend()),
        checkpoint_sha256=MODEL.sha256,
        trials=ListId(name="random", sha256="0"),
        num_targets=1000,
        num_nontargets=1_000_000,
        bounds=(-7.0, 14.0),
        is_separable=False,
    )
    return Path("calibration.json"), record


def main() -> None:
    """Time identification, enrolment and removal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--recordings", type=int, default=2, help="number of recordings of each person")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    dim = HeadConfig().embedding_dim
    with tempfile.TemporaryDirectory() as home:
        directory, wav = Path(home) / "gallery", Path(home) / "a.wav"
        made = make_gallery(directory, options.people, options.recordings, dim)
        soundfile.write(wav, 0.1 * np.random.default_rng(1).normal(size=48_000), 16_000)
        heard = hear([wav], 0, allow_cut=False)
        probe = made.sums[options.people // 2] + 0.3
        request = IdentifyRequest(exp=Path(home), gallery=directory, files=(wav,))

        def identify(features: tuple[str, ...]) -> str:
            found = answer(request, read_gallery(directory), calibration(features), heard, {wav: probe})
            return found.candidates[0].name

        products = (made.sums / np.linalg.norm(made.sums, axis=1, keepdims=True)) @ probe
        assert identify(("score",)) == made.names[int(np.argmax(products))]
        new = NewRecording(embedding=probe, seconds=3.0, fingerprint=b"n" * 32)

        def come_and_go() -> None:
            add_recordings(directory, MODEL, {"new": {wav: new}})
            remove_people(directory, ["new"])

        calls = {
            "identify": lambda: identify(("score",)),
            "identify, measures of quality": lambda: identify(PAIR_FEATURES),
            "enroll, then remove": come_and_go,
        }
        times = measuring.take_turns(calls, options.rounds)
        size = (directory / "people.safetensors").stat().st_size / 2**20
    rows = [[name, taken.wall, taken.cpu] for name, taken in times.items()]
    print(f"{options.people:,} people, {options.recordings} recordings each, {dim} values, {size:.0f} MiB")
    print(measuring.table(["", "wall s", "CPU s"], rows))
    measuring.save(
        options.json,
        options.threads,
        people=options.people,
        recordings=options.recordings,
        dim=dim,
        mebibytes=size,
        target_seconds=TARGET_SECONDS,
        seconds={name: taken._asdict() for name, taken in times.items()},
    )


if __name__ == "__main__":
    main()
