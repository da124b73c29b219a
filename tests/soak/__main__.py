"""`make soak`: kill, starve and race every stage for some minutes, and count what was survived."""

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from svkit.store.atomic import write_text
from svkit.store.provenance import describe_code
from tests.soak import commands
from tests.soak.commands import Reference, Stage, Tally

Fault = Callable[[], None]


def faults(
    stage: Stage, reference: Reference, rng: random.Random, tally: Tally, has_tmpfs: bool
) -> Iterator[Fault]:
    """Faults without end, every kind in turn; changes of files in an order that meets all of them."""
    changes: list[int] = []
    while True:
        yield lambda: commands.kill_at_random_moments(stage, reference, rng, rng.randint(1, 6), tally)
        for _ in range(3):
            changes = changes or rng.sample(range(1, reference.num_changes + 1), reference.num_changes)
            number = changes.pop()
            yield lambda number=number: commands.kill_at_a_change(stage, reference, number, tally)  # type: ignore[misc]
        number = rng.randint(1, reference.num_changes)
        yield lambda number=number: commands.kill_an_overwrite(stage, reference, number, tally)  # type: ignore[misc]
        yield lambda: commands.compete(stage, reference, tally)
        yield lambda: commands.refuse_to_write(stage, reference, tally)
        if stage.name not in ("extract", "score"):
            number = rng.randint(1, reference.num_changes)
            yield lambda number=number: commands.kill_a_loader(stage, reference, number, tally)  # type: ignore[misc]
        if stage.name != "score":  # it saves nothing on its way
            yield lambda: commands.edit_an_input(stage, reference, tally)
            yield lambda: commands.set_the_clock_back(stage, reference, tally)
        if has_tmpfs:
            yield lambda: _on_a_small_disk(stage, reference, rng, tally)


def _on_a_small_disk(stage: Stage, reference: Reference, rng: random.Random, tally: Tally) -> None:
    directory = stage.out.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory], check=True)
    try:
        commands.fill_the_disk(stage, reference, rng, tally)
    finally:
        subprocess.run(["umount", directory], check=True)


def _can_mount(root: Path) -> bool:
    if os.geteuid() != 0 or not shutil.which("mount"):
        return False
    command = ["mount", "-t", "tmpfs", "tmpfs", root]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0 and (
        subprocess.run(["umount", root], check=False).returncode == 0
    )


def soak(minutes: float, seed: int) -> dict[str, Any]:
    """Run faults for a time, every stage in turn; an assertion that fails ends it.

    Returns:
        Counts by stage and kind of fault, with the versions.
    """
    root = Path(tempfile.mkdtemp(prefix="svkit-soak-"))
    try:
        has_tmpfs = _can_mount(root)
        started, rng = time.monotonic(), random.Random(seed)
        stages = commands.prepare_stages(root)
        tallies = {name: Tally() for name in stages}
        sources = {
            name: faults(stage, commands.measure(stage), rng, tallies[name], has_tmpfs)
            for name, stage in stages.items()
        }
        while time.monotonic() - started < 60 * minutes:
            for source in sources.values():
                next(source)()
    finally:
        shutil.rmtree(root)
    code = describe_code()
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "seed": seed,
        "git_commit": code["git_commit"],
        "libraries": code["libraries"],
        "full_disk": "tmpfs" if has_tmpfs else "not tested: a tmpfs cannot be mounted",
        "survived": {name: tally.counts for name, tally in tallies.items()},
    }


def render(facts: dict[str, Any]) -> str:
    """Return the counts as a page of markdown."""
    survived = facts["survived"]
    kinds = sorted({kind for counts in survived.values() for kind in counts})
    lines = [
        "# Faults survived",
        "",
        f"Made by `make soak` on {facts['date']}, in {facts['minutes']} minutes, with seed {facts['seed']}, commit"
        f" `{(facts['git_commit'] or 'unknown')[:12]}`, torch {facts['libraries']['torch']}.",
        "",
        "After each fault the same command was given again until it ended. Weights, classifier, embeddings, scores",
        "and the tensors of the last resume state were compared with those of an uninterrupted run by sha256: all were",
        "equal.",
        f"File system of the fault `disk full`: {facts['full_disk']}.",
        "",
        f"| fault | {' | '.join(survived)} | all |",
        f"|---|{'---|' * (len(survived) + 1)}",
    ]
    for kind in kinds:
        counts = [tally.get(kind, 0) for tally in survived.values()]
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} | {sum(counts)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, run, write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    facts = soak(options.minutes, options.seed)
    write_text(options.out / "soak.json", json.dumps(facts, indent=1) + "\n")
    write_text(options.out / "soak.md", render(facts))


if __name__ == "__main__":
    main()
