"""The final models of an experiment, and the names of models."""

from pathlib import Path

from svkit.errors import ArtifactError
from svkit.progress import Progress
from svkit.store.provenance import RUN_NAME, is_finished, real_path

MODEL_STAGES = {
    "dense": ("finetune/lmft", "finetune/joint", "finetune/lora", "finetune/head"),
    "pruned": (
        *("finetune-pruned/lmft", "finetune-pruned/joint", "finetune-pruned/head"),
        *("distill", "prune"),
    ),
}
"""Directories of the stages that make an experiment's models, the last stage first."""


def final_models(exp: Path, progress: Progress | None = None) -> dict[str, Path]:
    """Return an experiment's final dense and final pruned checkpoint by name, as far as they exist.

    If a later stage has begun but is not finished, a note to `progress` says which checkpoint is used instead.
    """
    models = {}
    for name, stages in MODEL_STAGES.items():
        begun = [exp / stage for stage in stages if (exp / stage / RUN_NAME).exists()]
        found = next((exp / stage for stage in stages if is_finished(exp / stage)), None)
        if found is not None:
            models[name] = found
        if progress is not None and begun and not is_finished(begun[0]):
            taken = f"{found} is used as the {name} model" if found else f"there is no {name} model yet"
            progress.note(f"{begun[0]} is not finished: {taken}")
    return models


def final_model(exp: Path, progress: Progress) -> Path:
    """Return the final pruned model of an experiment, else the final dense one (ArtifactError: there is neither)."""
    models = final_models(exp, progress)
    if not models:
        raise ArtifactError(
            f"{exp}: no finished model; name one (a checkpoint, or a name on the hub; --help shows how), or train"
            " one with `svkit finetune`"
        )
    return models.get("pruned") or models["dense"]


def model_name(exp: Path, path: Path) -> str:
    """Return a model's name for `exp/embeddings` and tables: dense, pruned, its path below `exp`, or its directory."""
    for name, final in final_models(exp).items():
        if real_path(final) == real_path(path):
            return name
    try:
        return "-".join(real_path(path).relative_to(real_path(exp)).parts)
    except ValueError:
        return real_path(path).name
