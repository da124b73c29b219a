"""What a back-end uses besides the embeddings it scores: a cohort, a mean, or data to train or adapt PLDA.

If it is given as a manifest, the scored system's checkpoint embeds it first.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.config.conditions import plain_name
from svkit.config.load import load_recipe
from svkit.config.schema import ExtractConfig
from svkit.errors import ArtifactError, DataError, first_five
from svkit.eval.plda import Plda, adapt_plda, adapt_plda_to_speakers, train_plda
from svkit.eval.scoring import center, group_means
from svkit.progress import Progress
from svkit.scoring.backend import Backend
from svkit.scoring.trial_speakers import recorded_manifest
from svkit.store.embeddings import Embeddings, read_embeddings, read_facts
from svkit.store.experiment import read_experiment
from svkit.store.places import Artifact, sha256_of
from svkit.store.provenance import sha256_artifact

KINDS = {
    "cohort": "the cohort",
    "mean": "the recordings whose mean is subtracted",
    "plda_training": "the training data of PLDA",
    "plda_adaptation": "the recordings that PLDA is adapted to",
}
"""What each kind is called in messages, by the name of the input."""
UNLABELLED_WEIGHT = 0.8
"""Weight of unlabelled recordings in adapting PLDA: the default of ASV-Subtools for both covariances."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Material:
    """The material given for one system."""

    places: Mapping[str, Path]
    """Directories, by the name of the input."""
    embeddings: Mapping[str, Embeddings]

    @classmethod
    def read(cls, inputs: Mapping[str, Path], scored: Embeddings) -> "Material":
        """Read the material among the inputs, and check that the checkpoint of the scored embeddings made it.

        Raises:
            ArtifactError: another checkpoint made it, or its embeddings have another size.
        """
        places = {name: inputs[name] for name in KINDS if name in inputs}
        found = {name: read_embeddings(path) for name, path in places.items()}
        for name, one in found.items():
            expected = (
                f"{places[name]}: expected {KINDS[name]} made with the checkpoint of {inputs['embeddings']}"
            )
            made_by = [sha256_of(facts.meta.get("checkpoint")) for facts in (one, scored)]
            if None not in made_by and made_by[0] != made_by[1]:
                raise ArtifactError(
                    f"{expected}, found one made with another; extract it with the same --model"
                )
            sizes = [facts.matrix.shape[1] for facts in (one, scored)]
            if sizes[0] != sizes[1]:
                raise ArtifactError(f"{expected}, of {sizes[1]} values each, found {sizes[0]}")
        return cls(places=places, embeddings=found)

    @property
    def hashes(self) -> dict[str, str]:
        """Sha256 of the numbers alone, because nothing else of the material enters the scores."""
        return {
            name: hashlib.sha256(np.ascontiguousarray(one.matrix).data).hexdigest()
            for name, one in self.embeddings.items()
        }

    def mean(self, backend: Backend, tests: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """Return the mean [D] to subtract first, if any: that of `--mean`, else of the cohort, else of the tests."""
        if "mean" not in self.embeddings and not backend.center:
            return None
        given = self.embeddings.get("mean") or self.embeddings.get("cohort")
        return np.asarray((tests if given is None else given.matrix).mean(axis=0, dtype=np.float64))

    def cohort(self, backend: Backend, mean: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
        """Return the members of the cohort [C, D], if there is one; raises the errors of `speaker_groups`."""
        if "cohort" not in self.embeddings:
            return None
        own = self.embeddings["cohort"]
        matrix = own.matrix if mean is None else center(own.matrix, mean)
        if not backend.cohort_speakers:
            return matrix
        return group_means(matrix, *speaker_groups(own), length_norm=backend.length_norm)

    def plda(self, backend: Backend, progress: Progress) -> Plda | None:
        """Train PLDA, if there is data for it, and adapt it; raises the errors of `svkit.eval.plda`.

        `backend` is the one that `weighed` returned.
        """
        if "plda_training" not in self.embeddings:
            return None
        training, weight = self.embeddings["plda_training"], backend.adapt_weight
        plda = train_plda(training.matrix, *speaker_groups(training), length_norm=backend.length_norm)
        if weight is None:
            return plda
        own, place, labels = (
            self.embeddings["plda_adaptation"],
            self.places["plda_adaptation"],
            self._labels(),
        )
        found = f"PLDA adapted to {place}: {len(own.ids):,} recordings"
        if labels is None:
            progress.note(f"{found} without labels (CORAL+), weight {weight:.3g}")
            return adapt_plda(plda, own.matrix, weight)
        progress.note(f"{found} of {labels[1]:,} speakers, weight {weight:.3g}")
        try:
            return adapt_plda_to_speakers(plda, own.matrix, *labels, weight)
        except DataError as error:
            remedy = (
                "with few recordings give an --adapt-weight below 1; to ignore the labels, give each recording a"
                " speaker_id of its own"
            )
            raise DataError(f"{place}: {error}; {remedy}") from error

    def weighed(self, backend: Backend) -> Backend:
        """Return the back-end with its weight of adaptation; if none was given, the adaptation data decides it.

        With S speakers it is S / (S + D): the training data counts as D speakers, one per dimension, which is the least
        that a covariance needs.
        """
        if "plda_adaptation" not in self.embeddings or backend.adapt_weight is not None:
            return backend
        labels, dim = self._labels(), self.embeddings["plda_adaptation"].matrix.shape[1]
        weight = UNLABELLED_WEIGHT if labels is None else labels[1] / (labels[1] + dim)
        return replace(backend, adapt_weight=weight)

    def _labels(self) -> tuple[NDArray[np.int64], int] | None:
        """Return `speaker_groups` of the adaptation data; None unless its manifest has somebody speak twice."""
        own = self.embeddings["plda_adaptation"]
        labels = speaker_groups(own) if own.meta.get("manifest") else None
        return None if labels is None or labels[1] == len(own.ids) else labels


def speaker_groups(material: Embeddings) -> tuple[NDArray[np.int64], int]:
    """Return the speaker [N] of each embedding by its manifest, 0 to S - 1, and S.

    Raises:
        DataError: the manifest is gone, has changed or lacks an utterance.
    """
    table = recorded_manifest(material.meta.get("manifest"))
    speaker = pd.Series(material.ids).map(table.known_speakers)
    if speaker.isna().any():
        missing = first_five(material.ids[speaker.isna()].tolist())
        raise DataError(f"{table.source}: no speaker for utterances {missing}")
    codes, speakers = pd.factorize(speaker)
    return codes.astype(np.int64), len(speakers)


def material_directory(path: Path, scored: Path, exp: Path, progress: Progress) -> Path:
    """Return embeddings of the material for one system: `path` itself, or `exp/cohorts/SYSTEM-STEM` for a manifest.

    Material is embedded as it is, even if the system is under a condition. The system's embeddings, `scored`, say which
    checkpoint to use, and how. A finished extraction is kept as long as checkpoint and manifest are the same.

    Raises:
        ArtifactError: the checkpoint is gone or has changed.
        DataError: the manifest or its audio is bad.
    """
    if not path.is_file():
        return path
    # Both import torch, which scoring does not need.
    from svkit.models.extract import ExtractRequest, run
    from svkit.store.report import find_checkpoints

    facts = read_facts(scored)
    made_by = facts.get("checkpoint") or Artifact(path="", sha256="")
    checkpoint = Path(made_by["path"])
    is_there = bool(made_by["path"]) and checkpoint.is_dir()
    # If the recorded path is gone (the experiment has moved), the checkpoint is found by its content.
    candidates = [checkpoint] if is_there else find_checkpoints(exp)
    wanted = next((one for one in candidates if sha256_artifact(one) == made_by["sha256"]), None)
    if wanted is None and is_there:
        raise ArtifactError(
            f"{checkpoint}: has changed since {scored} was extracted; run `svkit extract` again"
        )
    if wanted is None:
        raise ArtifactError(
            f"{path}: a manifest needs the checkpoint of {scored}, found none at {made_by['path'] or None} and in"
            f" {exp}; extract it with `svkit extract --model CKPT --manifest ... --out DIR` and give that directory"
        )
    recipe = load_recipe(read_experiment(exp).preset)
    limit = ExtractConfig(max_seconds=facts.get("max_seconds", recipe.extract.max_seconds))
    request = ExtractRequest(
        exp=exp,
        recipe=replace(recipe, extract=limit),
        models=(wanted,),
        manifest=path,
        out=exp / "cohorts" / f"{plain_name(scored.name)}-{path.stem}",
        dtype=facts.get("dtype", "auto"),
        overwrite=True,
        keep_finished=True,
    )
    return run(request, progress)[0]
