"""Real processes killed at random moments and between any two files: the run goes on and ends as if nothing had been.

A few examples of each fault; those marked `soak`, and the same for minutes at every change of a file: `make soak`.
"""

import contextlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.commands import (
    Reference,
    Stage,
    Tally,
    edit_an_input,
    finish_and_compare,
    kill_a_loader,
    kill_an_overwrite,
    kill_at_a_change,
    kill_at_random_moments,
    long,
    measure,
    set_the_clock_back,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Find = Callable[[str], Reference]


@pytest.mark.parametrize("name", ["joint", "extract", "score", *long("lora", "prune", "distill")])
def test_a_killed_run_goes_on_bit_for_bit(stages: dict[str, Stage], reference: Find, name: str) -> None:
    """Weights, optimiser, gates, multipliers, embeddings, scores: the bytes of an uninterrupted run."""
    stage, rng, tally = stages[name], random.Random(name), Tally()
    kill_at_random_moments(stage, reference(name), rng, 2, tally)
    kill_at_a_change(stage, reference(name), rng.randrange(2, reference(name).num_changes), tally)
    assert tally.counts["SIGKILL at a change of a file"] == 1


@pytest.mark.parametrize("share", [0.05, *long(0.2)])
def test_a_killed_overwrite_leaves_the_old_result_or_none(
    stages: dict[str, Stage], reference: Find, share: float
) -> None:
    """Early changes: those that empty the directory."""
    stage, tally = stages["extract"], Tally()
    if not stage.is_finished():
        stage.run()
    kill_an_overwrite(
        stage, reference("extract"), max(1, round(share * reference("extract").num_changes)), tally
    )
    assert tally.counts["SIGKILL at a change of a file, --overwrite"] == 1


def test_the_workers_of_a_killed_run_do_not_hold_its_output(
    stages: dict[str, Stage], reference: Find
) -> None:
    """They notice within seconds that their parent is gone; the same command goes on at once."""
    stage, workers = stages["joint"], ("--set", "joint.data.num_workers=1")
    kill_at = reference("joint").num_changes // 2
    stage.remove_output()
    assert stage.run(*workers, kill_at=kill_at).code == -signal.SIGKILL
    ended = stage.run(*workers)
    assert ended.code == 0 and "resuming after step" in ended.log, ended.log
    stage.remove_output()
    end = time.monotonic() + 60
    while orphans := _processes_writing(f"{stage.log} (deleted)"):  # the log of the killed run
        assert time.monotonic() < end, orphans
        time.sleep(0.05)


def _processes_writing(log: str) -> list[str]:
    """Processes with this standard output; those that end meanwhile are not among them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "fd" / "1").readlink()) == log:
                found.append(process.name)
    return found


def test_a_killed_loader_process_costs_no_more_than_the_steps_since_the_last_state(
    stages: dict[str, Stage], reference: Find
) -> None:
    tally = Tally()
    kill_a_loader(stages["joint"], reference("joint"), 1, tally)  # before the first batch is used
    assert tally.counts["SIGKILL to a loader process"] == 1


def test_a_list_edited_between_two_runs_is_named(stages: dict[str, Stage], reference: Find) -> None:
    edit_an_input(stages["extract"], reference("extract"), Tally())


def test_a_run_goes_on_after_the_clock_was_set_back(stages: dict[str, Stage], reference: Find) -> None:
    set_the_clock_back(stages["joint"], reference("joint"), Tally())


def test_a_killed_chain_goes_on_with_the_part_that_was_not_finished(stages: dict[str, Stage]) -> None:
    """Extraction with two models: the first was finished when the second was killed."""
    first = stages["extract"]
    exp = first.exp
    words = ("extract", "--exp", exp, "--manifest", exp / "data" / "valid.tsv")
    models = ("--model", exp.parent / "teacher", "--model", exp.parent / "student")
    out = exp / "embeddings" / "student-valid"
    both = Stage(name="extract", arguments=(*words, *models), out=out, log=exp.parent / "both.log")
    reference = measure(both)
    kill_at = reference.num_changes // 2
    both.remove_output()
    (out.parent / "teacher-valid" / "provenance.json").unlink()
    assert both.run(kill_at=kill_at).code == -signal.SIGKILL
    assert (out.parent / "teacher-valid" / "provenance.json").exists()
    finish_and_compare(both, reference, "killed in the second model")
    again = both.run()
    assert again.code == 2 and "is finished; use --overwrite" in again.log
