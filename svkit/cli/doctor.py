"""`svkit doctor`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options
from svkit.config.ranges import Range


def doctor(
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="PRESET",
            help="Show how each stage of a recipe fits on a GPU instead of checking.",
        ),
    ] = None,
    gpu_memory: Annotated[
        float | None,
        options.number(
            "--gpu-memory",
            Range(gt=0, le=10_000),
            "GPU memory in GiB for --plan [default: that of this GPU].",
        ),
    ] = None,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Check the installation: versions, devices, disk, formats; what is missing and how to get it.

    The exit code is 0 if svkit can work here, and 2 if something has to be fixed.

    Example: svkit doctor --plan w2v-bert-2.0 --gpu-memory 24
    """
    if plan is not None:
        _show_plan(plan, gpu_memory, json)
        return
    if gpu_memory is not None:
        raise typer.BadParameter("is only for --plan; give that too", param_hint="--gpu-memory")
    from svkit.reports.tables import Table
    from svkit.store.provenance import describe_code
    from svkit.tools.doctor import ERROR, run

    checks = run(exp)
    num_errors = sum(check.status == ERROR for check in checks)
    if json:
        found = [asdict(check) for check in checks]
        answer = {"is_ready": not num_errors, "checks": found, "versions": describe_code()}
        console.result(answer, as_json=True)
    else:
        rows = [[check.name, check.status, check.found] for check in checks]
        remedies = [f"{check.name}: {check.remedy}" for check in checks if check.remedy]
        verdict = f"problems to fix: {num_errors}" if num_errors else "svkit can work here"
        title = f"svkit doctor: {verdict}"
        console.table(
            Table(title=title, headings=["", "", "found"], rows=rows, left=(0, 1, 2), notes=remedies)
        )
    if num_errors:
        raise typer.Exit(2)


def _show_plan(preset: str, memory: float | None, json: bool) -> None:
    import torch

    from svkit.config.load import load_recipe
    from svkit.errors import ConfigError
    from svkit.reports.tables import Table
    from svkit.training import planning

    if memory is None and not torch.cuda.is_available():
        raise ConfigError("no GPU found here; give the memory of yours in GiB: --gpu-memory 24")
    if memory is None:
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    with console.progress() as progress:
        stages = planning.plan(load_recipe(preset), memory, progress)
    if json:
        console.result({"gpu_memory": memory, "stages": [asdict(stage) for stage in stages]}, as_json=True)
        return
    rows = [
        [
            stage.stage,
            f"{stage.batch_size} x {stage.crop_seconds:g} s",
            f"{stage.fixed:.1f}",
            f"{stage.per_example:.2f}",
            str(stage.micro_batch or "whole"),
            "yes" if stage.is_checkpointed else "no",
            f"{stage.peak:.1f}",
        ]
        for stage in stages
    ]
    settings = [
        f"--set {stage.stage}.data.micro_batch={stage.micro_batch}" for stage in stages if stage.micro_batch
    ]
    if any(stage.is_checkpointed for stage in stages):
        settings.append("--set gradient_checkpointing=true (slower; needed only by the stages marked yes)")
    notes = [
        "Memory in GiB, estimated from shapes. Fixed: weights, gradients, optimizer moments and teacher. "
        f"{planning.RESERVE:.0%} of the memory is left free.",
        "To make it fit, add: " + " ".join(settings) if settings else "Every stage fits as it is.",
    ]
    headings = ["stage", "batch per GPU", "fixed", "per example", "micro-batch", "checkpointing", "peak"]
    console.table(
        Table(title=f"{preset} on GPUs of {memory:g} GiB", headings=headings, rows=rows, notes=notes)
    )
