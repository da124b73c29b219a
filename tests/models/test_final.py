"""Which of an experiment's models a command takes without --model, and what it says about that."""

from pathlib import Path

import pytest

from svkit.errors import ArtifactError
from svkit.models.final import final_model, final_models
from svkit.progress import SilentProgress

PRUNED = "finetune-pruned/lmft"


class Notes(SilentProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def note(self, message: str) -> None:
        self.found.append(message)


def make(exp: Path, *finished: str, begun: str | None = None) -> Path:
    """An experiment with these stages, by their marks alone."""
    marks = [(stage, "provenance.json") for stage in finished] + ([(begun, "run.json")] if begun else [])
    for stage, mark in marks:
        (exp / stage).mkdir(parents=True)
        (exp / stage / mark).write_text("{}")
    return exp


@pytest.mark.parametrize(
    ("finished", "begun", "taken", "words"),
    [
        (("finetune/lmft",), None, "finetune/lmft", []),
        (("finetune/lmft", "prune"), None, "finetune/lmft",
         ["{}/prune is neither distilled nor fine-tuned yet: {}/finetune/lmft is used"]),
        (("finetune/lmft", "prune", "distill"), None, "finetune/lmft",
         ["{}/distill is not fine-tuned yet: {}/finetune/lmft is used"]),
        (("finetune/lmft", "prune", "distill"), "finetune-pruned/head", "finetune/lmft",
         ["{}/finetune-pruned/head is not finished: {}/finetune/lmft is used"]),
        (("finetune/lmft", "prune", "distill", PRUNED), None, PRUNED, []),
        (("finetune/joint", "finetune-pruned/head"), PRUNED, "finetune-pruned/head",
         ["{}/finetune-pruned/lmft is not finished: {}/finetune-pruned/head is used as the pruned model"]),
        (("prune", "distill"), None, "distill",
         ["{}/distill, used as the pruned model, is not fine-tuned yet; next: svkit finetune --from {}/distill"]),
        (("prune",), "distill", "prune",
         ["{}/distill is not finished: {}/prune is used as the pruned model",
          "{}/prune, used as the pruned model, is neither distilled nor fine-tuned yet; next: svkit distill"]),
    ],
)  # fmt: skip
def test_the_model_to_decide_with_is_fine_tuned(tmp_path, monkeypatch, finished, begun, taken, words):
    monkeypatch.chdir(tmp_path)
    exp, notes = make(Path("exp"), *finished, begun=begun), Notes()
    assert final_model(exp, notes) == exp / taken
    assert notes.found == [text.replace("{}", "exp") for text in words]


def test_without_any_model_there_is_an_error(tmp_path):
    exp, notes = make(tmp_path / "exp", begun="finetune/joint"), Notes()
    with pytest.raises(ArtifactError, match="no finished model"):
        final_model(exp, notes)
    assert notes.found == [f"{exp}/finetune/joint is not finished: there is no dense model yet"]


def test_what_is_pruned_only_may_be_evaluated_and_what_comes_next_is_said(tmp_path):
    exp, notes = make(tmp_path / "my exp", "finetune/lmft", "prune", "distill"), Notes()
    assert final_models(exp, notes) == {"dense": exp / "finetune/lmft", "pruned": exp / "distill"}
    command = f"svkit finetune --from '{exp}/distill' --exp '{exp}'"
    assert notes.found == [f"{exp}/distill, used as the pruned model, is not fine-tuned yet; next: {command}"]
    make(exp, PRUNED)
    assert final_models(exp, notes)["pruned"] == exp / PRUNED and len(notes.found) == 1
