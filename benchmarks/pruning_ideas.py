"""Try two changes to the guidance of pruning and distillation, and measure them on validation speakers.

    python benchmarks/pruning_ideas.py --folds 2 [--ideas speaker layers] [--set precision=fp32]

- `speaker` adds the margin softmax of the training speakers to the distance to the teacher, with weight
  `--speaker-weight`. It is computed by the teacher's head and classifier, which are not trained.
- `layers` weighs the distance of each hidden state by its share in the teacher's head (`svkit info`). Otherwise all
  states count alike.

Each idea goes through pruning, distillation and fine-tuning with the teacher, the steps and the sparsity of `ours` in
`pruning_quality.py`, whose folds and directories are used; the results of `ours` are read from its evidence. Everything
is measured on validation speakers only, who were held out of training, so an idea may be chosen by this table. In the
table, all states count alike in the distance. Finished parts are kept, and the same command continues after an
interruption.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import measuring
import torch
from folds import add_fold_options, prepare_fold, train_dense
from pruning_quality import Model, Run, dense_architecture, run_ours
from torch import Tensor
from torch.nn import functional

from svkit.config.load import load_recipe
from svkit.models.info import state_weights
from svkit.models.load import load_model
from svkit.models.session import make_accelerator
from svkit.nn.margin import ArcFaceClassifier, arcface_logits
from svkit.pruning.counting import sparsity
from svkit.store import checkpoint
from svkit.store.provenance import sha256_file
from svkit.training import tasks
from svkit.training.validation import DistanceMeter, Validator

HEADINGS = ("fold", "idea", "stage", "sparsity", "L1", "cosine", "EER, validation, %")


@contextlib.contextmanager
def speaker_loss(run: Run, weight: float) -> Iterator[None]:
    """Add `weight` times the margin softmax of the student's hidden states to the losses of a step."""
    head, margin = load_model(run.teacher).head.eval().requires_grad_(False), run.recipe.dense.joint.margin
    classes = checkpoint.read_classifier(run.teacher)
    assert classes is not None
    classifier = ArcFaceClassifier(classes.weight.shape[1], len(classes.weight)).requires_grad_(False)
    classifier.weight.copy_(classes.weight)
    distances, seen = tasks.distillation_losses, {}

    def keep(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        seen["states"] = student
        return distances(student, teacher)

    def adding(forward: Callable[..., tasks.Losses]) -> Callable[..., tasks.Losses]:
        def added(task: tasks.Task, audio: Tensor, labels: Tensor, *rest: int) -> tasks.Losses:
            losses = forward(task, audio, labels, *rest)
            logits = arcface_logits(
                classifier(head(seen["states"], None)), labels, margin.scale, margin.margin
            )
            speaker = functional.cross_entropy(logits, labels)
            return losses | {"loss": losses["loss"] + weight * speaker, "speaker": speaker.detach()}

        return added

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(tasks, "distillation_losses", keep))
        for task in (tasks.DistillationTask, tasks.PruningTask):
            patches.enter_context(mock.patch.object(task, "forward", adding(task.forward)))
        yield


@contextlib.contextmanager
def weighted_layers(run: Run) -> Iterator[None]:
    """Weigh the distance of each hidden state by its share in the teacher's head."""
    shares = state_weights(run.teacher)

    def weighted(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        l1, cosine = torch.zeros(()), torch.zeros(())
        for state, share in shares.items():
            own, target = student[state].float(), teacher[state].float()
            l1 = l1 + share * functional.l1_loss(own, target)
            cosine = cosine + share * functional.cosine_similarity(own, target, dim=-1).mean()
        return l1, cosine

    with mock.patch.object(tasks, "distillation_losses", weighted):
        yield


def measure(run: Run, idea: str, models: Sequence[Model]) -> list[dict[str, Any]]:
    """Measure the models on the validation speakers."""
    data, accelerator = run.exp / "data", make_accelerator(run.recipe.precision)
    validator = Validator(data / "valid.tsv", data / "valid_trials.txt")
    meter = DistanceMeter(data / "valid.tsv", run.recipe.prune.data, run.recipe.seed)
    teacher, rows = load_model(run.teacher), []
    for model in models:
        network = load_model(model.checkpoint)
        task = tasks.DistillationTask(network.encoder, teacher.encoder, run.recipe.distill)
        rows.append(
            {
                "fold": run.fold,
                "idea": idea,
                "stage": model.stage,
                "sparsity": sparsity(network.architecture.encoder, dense_architecture(run.recipe)),
                **meter.measure(task, accelerator),
                "valid_eer": validator.measure(network, run.recipe.extract, accelerator)["eer"],
            }
        )
    return rows


def kept_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of `ours` from its evidence, which must be from the same teacher."""
    ours = run.known("ours")
    assert ours is not None and ours.made["teacher"] == sha256_file(run.teacher / checkpoint.MODEL_NAME), (
        f"fold {run.fold}: `ours` had another teacher; run pruning_quality.py --methods ours first"
    )
    fields = ("stage", "sparsity", "l1", "cosine", "valid_eer")
    rows = [row for row in ours.rows if row["stage"] != "gates"]
    return [{"fold": run.fold, "idea": "ours"} | {field: row[field] for field in fields} for row in rows]


def main() -> None:
    """Train, measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_fold_options(parser)
    parser.add_argument("--ideas", nargs="+", choices=("speaker", "layers"), default=("speaker", "layers"))
    parser.add_argument("--speaker-weight", type=float, default=0.1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = load_recipe("tiny", overrides=options.overrides)
    flags = ["--preset", "tiny", *(word for setting in options.overrides for word in ("--set", setting))]
    rows = []
    for fold in options.folds:
        exp = options.home / f"fold-{fold}"
        run = Run(
            exp=exp, fold=fold, recipe=recipe, options=["--exp", str(exp), *flags], target=0.8, rules={}, changed=[],
            out=Path("docs/results"),
        )  # fmt: skip
        prepare_fold(options.voices, options.home, fold)
        train_dense(run.exp, run.options)
        rows += kept_rows(run)
        for idea in options.ideas:
            with speaker_loss(run, options.speaker_weight) if idea == "speaker" else weighted_layers(run):
                models = run_ours(run, f"idea-{idea}")
            rows += measure(run, idea, models)
    cells = [
        [row["fold"], row["idea"], row["stage"], row["sparsity"], row["l1"], row["cosine"]] for row in rows
    ]
    print(measuring.table(HEADINGS, [[*c, 100 * r["valid_eer"]] for c, r in zip(cells, rows, strict=True)]))
    measuring.save(
        options.json, 1, date=date.today().isoformat(), speaker_weight=options.speaker_weight, rows=rows
    )


if __name__ == "__main__":
    main()
