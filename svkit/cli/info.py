"""`svkit info`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from svkit.cli import console, options

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CKPT", help="Checkpoint, or a published encoder configuration (json).")
]


def info(checkpoint: Checkpoint, json: options.Json = False) -> None:
    """Show parameters, sparsity, MACs for 1 s, size and widths per layer of a checkpoint.

    Example: svkit info exp/finetune-pruned/lmft --json
    """
    from svkit.stages.info import run

    facts = run(checkpoint)
    if json:
        console.result(facts, as_json=True)
    else:
        _print_tables(facts)


def _print_tables(facts: dict[str, Any]) -> None:
    """Print the counts, then the widths per layer; a cut model shows what is left of what."""
    from svkit.cli.tables import percent, print_table

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
    print_table(str(facts["name"]), ["", "count"], rows)
    widths, dense = facts["widths"], facts["dense_widths"]
    layers = [
        [
            str(index),
            *(_width(widths[kind][index], dense[kind][index], teacher is not None) for kind in widths),
        ]
        for index in range(len(widths["num_heads"]))
    ]
    print_table("widths per layer", ["layer", "heads", "FFN 1", "FFN 2", "convolution"], layers)


def _width(kept: int, dense: int, is_pruned: bool) -> str:
    if kept == 0:
        return "absent"
    return f"{kept} of {dense}" if is_pruned else str(kept)
