"""A cohort, or training data of PLDA, given as a manifest: the scored system's checkpoint embeds it first."""

from dataclasses import replace
from pathlib import Path

from svkit.config.load import load_recipe
from svkit.config.schema import ExtractConfig
from svkit.errors import ArtifactError
from svkit.progress import Progress
from svkit.store.embeddings import read_facts
from svkit.store.experiment import read_experiment
from svkit.store.provenance import sha256_artifact


def material_directory(path: Path, scored: Path, exp: Path, progress: Progress) -> Path:
    """Return embeddings of the material for one system: `path` itself, or `exp/cohorts/SYSTEM-STEM` of a manifest.

    The system's embeddings, `scored`, say which checkpoint to use, and how. A finished extraction is kept while
    checkpoint and manifest are the same.

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
    made_by = facts.get("checkpoint") or {}
    checkpoint = Path(str(made_by.get("path", "")))
    is_there = bool(made_by.get("path")) and checkpoint.is_dir()
    # Embeddings that lie elsewhere than their experiment: content decides.
    candidates = [checkpoint] if is_there else find_checkpoints(exp)
    wanted = next((one for one in candidates if sha256_artifact(one) == made_by.get("sha256")), None)
    if wanted is None and is_there:
        raise ArtifactError(
            f"{checkpoint}: has changed since {scored} was extracted; run `svkit extract` again"
        )
    if wanted is None:
        raise ArtifactError(
            f"{path}: a manifest needs the checkpoint of {scored}, found none at {made_by.get('path')} and in {exp};"
            " extract it with `svkit extract --model CKPT --manifest ... --out DIR` and give that directory"
        )
    recipe = load_recipe(read_experiment(exp).preset)
    limit = ExtractConfig(max_seconds=facts.get("max_seconds", recipe.extract.max_seconds))
    request = ExtractRequest(
        exp=exp,
        recipe=replace(recipe, extract=limit),
        models=(wanted,),
        manifest=path,
        out=exp / "cohorts" / f"{scored.name}-{path.stem}",
        dtype=facts.get("dtype", "auto"),
        overwrite=True,
        keep_finished=True,
    )
    return run(request, progress)[0]
