"""`svkit info`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from svkit.cli import console, options
from svkit.errors import ArtifactError, terminal_text

Checkpoint = Annotated[
    Path | None,
    typer.Argument(
        metavar="CKPT",
        help="Checkpoint, or a published encoder configuration (json); with --check any output or experiment.",
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Compare every finished output there, --exp by default, and its inputs with the recorded hashes.",
    ),
]


def info(
    checkpoint: Checkpoint = None,
    check: Check = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Show parameters, sparsity, MACs for 1 s, size and widths per layer of a checkpoint, or check hashes.

    Example: svkit info exp/finetune-pruned/lmft --json
    """
    if check:
        _check(checkpoint or exp, json=json)
        return
    if checkpoint is None:
        raise typer.BadParameter("expected CKPT, a checkpoint, or --check")
    from svkit.models.info import run

    facts = run(checkpoint)
    if json:
        console.result(facts, as_json=True)
    else:
        _print_tables(facts)


def _check(root: Path, *, json: bool) -> None:
    """Print a line an output; exit 4 where one is not what it was."""
    from svkit.tools.integrity import run

    with console.progress() as progress:
        found = run(root, progress)
    bad = [one for one in found if one.faults]
    if json:
        console.result([asdict(one) for one in found], as_json=True)
    else:
        for one in found:
            counts = f"{_count(one.num_files, 'file')}, {_count(one.num_inputs, 'input')}"
            said = [*one.faults, *one.notes] if one.faults else [counts, *one.notes]
            state = "FAILED" if one.faults else "ok" if one.is_finished else "open"
            words = "; ".join(said) if one.is_finished else "not finished"
            console.result(terminal_text(f"{state:6} {one.output}: {words}"))
    if bad:
        raise ArtifactError(
            f"{root}: {len(bad)} of {len(found)} finished outputs are not what they were, or what they were made from"
            f" is not ({bad[0].output}: {bad[0].faults[0]}); take what has changed from a copy, or make these outputs"
            " again with --overwrite"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_tables(facts: dict[str, Any]) -> None:
    """Print the counts, then the widths per layer; a cut model shows what is left of what."""
    from svkit.reports.tables import Table, percent

    macs, teacher, size = facts["macs_per_second"], facts["teacher_parameters"], facts["size_bytes"]
    rows = [["encoder parameters", f"{facts['encoder_parameters']:,}"]]
    if teacher is not None:
        rows += [["  before the cut", f"{teacher:,}"], ["  sparsity", f"{percent(facts['sparsity'])} %"]]
    rows += [
        ["head parameters", f"{facts['head_parameters']:,}"],
        ["MACs for 1 s", f"{macs['total'] / 1e9:,.3f} G"],
        ["  of the encoder", f"{macs['encoder'] / 1e9:,.3f} G"],
        ["  of the head", f"{macs['head'] / 1e9:,.3f} G"],
        ["  positional, not in the sum", f"{macs['positional'] / 1e9:,.3f} G"],
    ]
    if size is not None:
        rows.append(["size of the weights", f"{size / 1e6:,.1f} MB"])
    console.table(Table(title=str(facts["name"]), headings=["", "count"], rows=rows))
    widths, dense = facts["widths"], facts["dense_widths"]
    layers = [
        [
            str(index),
            *(_width(widths[kind][index], dense[kind][index], teacher is not None) for kind in widths),
        ]
        for index in range(len(widths["num_heads"]))
    ]
    headings = ["layer", "heads", "FFN 1", "FFN 2", "convolution"]
    console.table(Table(title="widths per layer", headings=headings, rows=layers))


def _width(kept: int, dense: int, is_pruned: bool) -> str:
    if kept == 0:
        return "absent"
    return f"{kept} of {dense}" if is_pruned else str(kept)
