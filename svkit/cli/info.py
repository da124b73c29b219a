"""`svkit info`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svkit.cli import console, options
from svkit.errors import ArtifactError, terminal_text

if TYPE_CHECKING:
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
    """Show parameters, sparsity, MACs for 1 s, size and widths per layer of a checkpoint, or check hashes.

    Example: svkit info exp/finetune-pruned/lmft --json
    """
    if check:
        return _check(checkpoint or exp, json=json)
    if checkpoint is None:
        raise typer.BadParameter("expected CKPT, a checkpoint, or --check")
    from svkit.models.info import run

    size = run(options.on_disk(checkpoint, file) or checkpoint)
    return console.result(asdict(size), as_json=True) if json else _print(size)


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
