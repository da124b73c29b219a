"""The final models of an experiment, and the names of models."""

import shlex
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
UNTUNED = {"distill": "not fine-tuned yet", "prune": "neither distilled nor fine-tuned yet"}
"""Stages whose pruned model may be evaluated, but is not meant to be used; what it lacks."""


def final_models(exp: Path, progress: Progress | None = None) -> dict[str, Path]:
    """Return an experiment's last dense and last pruned checkpoint by name, as far as they exist: what to evaluate.

    Notes to `progress` say if a later stage has begun but is not finished, and if the pruned model is not fine-tuned.
    """
    models = {}
    for name, stages in MODEL_STAGES.items():
        found = next((exp / stage for stage in stages if is_finished(exp / stage)), None)
        if found is not None:
            models[name] = found
        if progress is None:
            continue
        if (begun := _unfinished(exp, name)) is not None:
            taken = f"{found} is used as the {name} model" if found else f"there is no {name} model yet"
            progress.note(f"{begun} is not finished: {taken}")
        if found is not None and (lacks := _lacks(exp, found)):
            progress.note(f"{found}, used as the {name} model, is {lacks}; next: {next_command(exp, found)}")
    return models


def final_model(exp: Path, progress: Progress) -> Path:
    """Return the model of an experiment to decide with: the fine-tuned pruned one, else the dense one.

    A pruned model that is not fine-tuned is taken only if there is no other; notes to `progress` say so.

    Raises:
        ArtifactError: there is no finished model.
    """
    models = final_models(exp)
    dense, pruned = models.get("dense"), models.get("pruned")
    if dense is not None and pruned is not None and (lacks := _lacks(exp, pruned)):
        begun = _unfinished(exp, "pruned")
        why = f"{pruned} is {lacks}" if begun is None else f"{begun} is not finished"
        progress.note(f"{why}: {dense} is used")
        return dense
    final_models(exp, progress)
    if found := pruned or dense:
        return found
    raise ArtifactError(
        f"{exp}: no finished model; name one (a checkpoint, or a name on the hub; --help shows how), or train"
        " one with `svkit finetune`"
    )


def next_command(exp: Path, untuned: Path) -> str:
    """Return the command that comes after a pruned model of the experiment that is not fine-tuned."""
    command = "svkit distill"
    if untuned.name == "distill":
        command = f"svkit finetune --from {shlex.quote(str(untuned))}"
    return command if exp == Path("exp") else f"{command} --exp {shlex.quote(str(exp))}"


def _unfinished(exp: Path, name: str) -> Path | None:
    """Return the last stage of a model that has begun, if it is not finished."""
    begun = next((exp / stage for stage in MODEL_STAGES[name] if (exp / stage / RUN_NAME).exists()), None)
    return None if begun is None or is_finished(begun) else begun


def _lacks(exp: Path, model: Path) -> str:
    """Say what a model of the experiment lacks; empty: nothing."""
    return UNTUNED.get(model.relative_to(exp).as_posix(), "")


def model_name(exp: Path, path: Path) -> str:
    """Return a model's name for `exp/embeddings` and tables: dense, pruned, its path below `exp`, or its directory."""
    for name, final in final_models(exp).items():
        if real_path(final) == real_path(path):
            return name
    try:
        return "-".join(real_path(path).relative_to(real_path(exp)).parts)
    except ValueError:
        return real_path(path).name
