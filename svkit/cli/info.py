"""`svkit info`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svkit.cli import console, options
from svkit.cli.verify import learnt_on, training_list
from svkit.errors import ArtifactError, terminal_text

if TYPE_CHECKING:
    from svkit.scoring.verify import CalibrationFacts
    from svkit.store.places import Artifact
    from svkit.store.report import ModelSize

Checkpoint = Annotated[
    Path | None,
    typer.Argument(
        metavar="CKPT",
        help="Checkpoint, name on the hub, or published encoder configuration (json); with --check any output or"
        " experiment.",
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Check every finished output in CKPT (default: --exp), and its inputs, against the recorded hashes.",
    ),
]


def info(
    checkpoint: Checkpoint = None,
    check: Check = False,
    file: options.HubFile = None,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Describe a checkpoint: parameters, sparsity, MACs for 1 s, size, widths per layer, origin.

    Without CKPT, say how far the experiment is, and what comes next. With --check, compare hashes.

    Example: svkit info exp/finetune-pruned/lmft --json
    """
    if check:
        return _check(checkpoint or exp, json=json)
    if checkpoint is None:
        return _overview(options.OutputOptions(exp=exp, json=json))
    from svkit.models.info import run

    path = options.on_disk(checkpoint, file) or checkpoint
    size, training, calibration = run(path), *_origin(path)
    if json:
        facts = {"trained_on": training, "calibration": calibration}
        return console.result(asdict(size) | facts, as_json=True)
    _print(size)
    if path.is_file():  # an architecture without weights
        return None
    from svkit.reports.tables import Table

    lists = [training_list(entry) for entry in training] or ["not recorded"]
    learnt = "none" if calibration is None else f"{calibration['path']}, {learnt_on(calibration)}"
    rows = [["trained on", ", ".join(lists)], ["calibration", learnt]]
    return console.table(Table(title="origin", headings=["", ""], rows=rows, left=(0, 1)))


def _overview(common: options.OutputOptions) -> None:
    """Show the state of each output of an experiment, and the command that comes next."""
    from svkit.reports.tables import Table
    from svkit.tools.following import overview

    states, command = overview(common.exp)
    found = {path.relative_to(common.exp).as_posix(): state for path, state in states.items()}
    if common.json:
        return console.result({"outputs": found, "next": command and common.to_type(command)}, as_json=True)
    words = {"not finished": "not finished, to be resumed"}
    rows = [[name, words.get(state, state)] for name, state in found.items()]
    console.table(
        Table(title=f"Experiment {common.exp}", headings=["output", "state"], rows=rows, left=(0, 1))
    )
    return console.note("everything is up to date") if command is None else common.show_next(command)


def _origin(path: Path) -> "tuple[list[Artifact], CalibrationFacts | None]":
    """Return the lists that a checkpoint was trained on, and the calibration beside it."""
    from svkit.scoring.lineage import training_lists
    from svkit.scoring.verify import describe_calibration
    from svkit.store.calibration import calibration_beside, read_calibration

    place = calibration_beside(path)
    return training_lists(path), describe_calibration(place, read_calibration(place)) if place else None


def _check(root: Path, *, json: bool) -> None:
    """Print a line for each output; exit with 4 if one has changed."""
    from svkit.tools.integrity import run

    with console.progress() as progress:
        found = run(root, progress)
    if json:
        console.result([asdict(one) for one in found], as_json=True)
    for one in found if not json else ():
        state = "FAILED" if one.faults else "ok" if one.is_finished else "open"
        counts = f"{_count(one.num_files, 'file')}, {_count(one.num_inputs, 'input')}"
        said = [*(one.faults or [counts]), *one.notes] if one.is_finished else ["not finished"]
        console.result(terminal_text(f"{state:6} {one.output}: {'; '.join(said)}"))
    if bad := [one for one in found if one.faults]:
        raise ArtifactError(
            f"{root}: {len(bad)} of {len(found)} finished outputs have changed, or their inputs have "
            f"({bad[0].output}: {bad[0].faults[0]}); restore the changed files from a copy, or make "
            "these outputs again with --overwrite"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print(size: "ModelSize") -> None:
    """Print the counts, then the widths per layer; for a cut model, with the dense width beside each."""
    from svkit.reports.results import model_size
    from svkit.reports.tables import Table

    console.table(model_size(size, size.name))

    def width(kept: int, dense: int) -> str:
        whole = str(kept) if size.teacher_parameters is None else f"{kept} of {dense}"
        return whole if kept else "absent"

    if size.state_weights is not None:
        states = [[str(state), f"{100 * share:.1f} %"] for state, share in size.state_weights.items()]
        console.table(Table(title="weight of each hidden state", headings=["state", "share"], rows=states))

    kinds = {
        "num_heads": "attention heads",
        "ffn1_dim": "FFN 1",
        "ffn2_dim": "FFN 2",
        "conv_dim": "convolution",
    }
    columns = [list(map(width, size.widths[kind], size.dense_widths[kind])) for kind in kinds]
    layers = [[str(index), *cells] for index, cells in enumerate(zip(*columns, strict=True), start=1)]
    console.table(Table(title="widths per layer", headings=["layer", *kinds.values()], rows=layers))
