"""Start, kill and compare real svkit processes."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from svkit.store.provenance import sha256_file
from tests.processes import fork_server
from tests.soak import child
from tests.soak.child import Faults
from tests.training_experiment import make_teacher, prepare, set_options

EXIT_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130}
_RESULTS = {
    "model.safetensors", "classifier.safetensors", "adapter_model.safetensors", "config.json", "speakers.tsv",
    "embeddings.safetensors", "ids.tsv", "scores.tsv", "metrics.json",
}  # fmt: skip


def long(*cases: Any) -> list[Any]:
    """Cases of a test that only the long form of the tests runs."""
    return [pytest.param(case, marks=pytest.mark.soak) for case in cases]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A process that has ended."""

    code: int
    """Exit code, or minus the signal."""
    log: str
    seconds: float
    num_changes: int = 0
    """How often it changed the file system below its output (not known of one that was killed)."""
    states: dict[str, str] = field(default_factory=dict)
    """Hashes of its last resume state (not known of one that was killed)."""

    @property
    def errors(self) -> list[str]:
        """Lines that report an error."""
        return [line for line in self.log.splitlines() if line.startswith("error: ")]


class Running:
    """A process that runs a command."""

    def __init__(self, arguments: tuple[Any, ...], log: Path, out: Path, faults: Faults) -> None:
        self._log, self._seen, self._started = log, Path(f"{log}.json"), time.monotonic()
        log.unlink(missing_ok=True)
        self._seen.unlink(missing_ok=True)
        words = [str(argument) for argument in arguments]
        self._process = fork_server().Process(
            target=child.run_command, args=(words, str(log), str(out), faults)
        )
        self._process.start()
        while not log.exists() and self.is_alive():  # until it runs
            time.sleep(0.001)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    def wait_for(self, directory: Path, pattern: str) -> None:
        """Wait until a file is there (or the process has ended)."""
        while not any(directory.glob(pattern)) and self.is_alive():
            time.sleep(0.002)

    def kill(self, number: int) -> Ended:
        """Send a signal, which may come too late, and wait for the end."""
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # the fork server has buried it already
            os.kill(self._process.pid, number)
        return self.wait()

    def wait(self, seconds: float = 600.0) -> Ended:
        """Wait for the end."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            raise TimeoutError(f"hangs: {self._log.read_text()}")
        seen = json.loads(self._seen.read_text()) if self._seen.exists() else {}
        return Ended(
            code=int(self._process.exitcode or 0),
            log=self._log.read_text(),
            seconds=time.monotonic() - self._started,
            **seen,
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command and its output."""

    name: str
    arguments: tuple[Any, ...]
    out: Path
    log: Path

    @property
    def exp(self) -> Path:
        """The experiment."""
        return Path(self.arguments[self.arguments.index("--exp") + 1])

    def start(self, *extra: Any, **faults: Any) -> Running:
        """Start the command."""
        return Running((*self.arguments, *extra), self.log, self.out, Faults(**faults))

    def run(self, *extra: Any, **faults: Any) -> Ended:
        """Run the command to its end."""
        return self.start(*extra, **faults).wait()

    def remove_output(self) -> None:
        """Begin again."""
        shutil.rmtree(self.out, ignore_errors=True)

    def is_finished(self) -> bool:
        """Whether the output has its mark of completeness."""
        return (self.out / "provenance.json").exists()


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an uninterrupted run of a stage gives."""

    results: dict[str, str]
    """Hashes of the files that must not depend on how a run came to its end."""
    states: dict[str, str]
    """Hashes of the tensors of the last resume state."""
    seconds: float
    num_changes: int
    largest_file: int
    """Bytes of the largest file of the result."""


def result_hashes(out: Path) -> dict[str, str]:
    """Hashes of the files of a result, resume state apart."""
    files = [path for path in out.rglob("*") if path.name in _RESULTS and "resume" not in path.parts]
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in sorted(files)}


def measure(stage: Stage) -> Reference:
    """Run once without interruption."""
    stage.remove_output()
    ended = stage.run()
    assert ended.code == 0, f"{stage.name}: {ended.log}"
    results = result_hashes(stage.out)
    assert results and (ended.states or stage.name in ("extract", "score"))
    return Reference(
        results=results,
        states=ended.states,
        seconds=ended.seconds,
        num_changes=ended.num_changes,
        largest_file=max((stage.out / name).stat().st_size for name in results),
    )


@dataclass
class Tally:
    """How many faults of each kind were survived."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, number: int = 1) -> None:
        """Count."""
        self.counts[kind] = self.counts.get(kind, 0) + number


def finish_and_compare(stage: Stage, reference: Reference, what: str) -> None:
    """Go on with the same command to the end; results and last resume state must be those of the reference."""
    if not stage.is_finished():
        ended = stage.run()
        assert ended.code == 0, f"{stage.name}, {what}: exit {ended.code}: {ended.log}"
        assert ended.states == reference.states, f"{stage.name}, {what}: other resume tensors"
    assert result_hashes(stage.out) == reference.results, f"{stage.name}, {what}: other results"
    assert not list(stage.out.rglob(".svkit-tmp-*")), f"{stage.name}, {what}: temporary files stay"


def kill_at_random_moments(
    stage: Stage, reference: Reference, rng: random.Random, num_kills: int, tally: Tally
) -> None:
    """Kill one run again and again (SIGKILL, SIGTERM, SIGHUP, SIGINT), then let it end, and compare."""
    stage.remove_output()
    history: list[str] = []
    for _ in range(num_kills):
        number = rng.choice(list(EXIT_CODES))
        running = stage.start()
        time.sleep(rng.uniform(0.02, 0.8) * reference.seconds)
        if not running.is_alive():
            break
        ended = running.kill(number)
        history.append(f"{number.name} -> {ended.code}")
        what = f"{stage.name}: {history}: {ended.log}"
        assert "Traceback" not in ended.log, what
        if ended.code == 0:  # it came too late
            break
        assert ended.code == EXIT_CODES[number], what
        tally.add(number.name)
    finish_and_compare(stage, reference, f"random kills {history}")


def kill_at_a_change(stage: Stage, reference: Reference, number: int, tally: Tally) -> None:
    """SIGKILL right before the n-th change of the file system, go on with the same command, and compare."""
    stage.remove_output()
    ended = stage.run(kill_at=number)
    if ended.code != 0:  # the run may have fewer changes than the reference
        assert ended.code == -signal.SIGKILL, f"{stage.name}, change {number}: {ended.log}"
        tally.add("SIGKILL at a change of a file")
    finish_and_compare(stage, reference, f"killed before change {number}")


def kill_an_overwrite(stage: Stage, reference: Reference, number: int, tally: Tally) -> None:
    """The same where a finished output is replaced; it is there already."""
    assert stage.is_finished()
    ended = stage.run("--overwrite", kill_at=number)
    if ended.code != 0:
        assert ended.code == -signal.SIGKILL, f"{stage.name}, change {number}: {ended.log}"
        tally.add("SIGKILL at a change of a file, --overwrite")
        assert not stage.is_finished() or result_hashes(stage.out) == reference.results
        ended = stage.run("--overwrite")
    what = f"{stage.name}, killed before change {number} of --overwrite: {ended.log}"
    assert ended.code == 0 and ended.states == reference.states, what
    finish_and_compare(stage, reference, what)


def interrupt_with_a_state(stage: Stage) -> dict[str, str]:
    """Stop a run once it has saved something; return what it has saved (a scoring saves nothing on its way)."""
    if stage.name == "score":
        stage.remove_output()
        return {}
    for _ in range(10):
        stage.remove_output()
        running = stage.start()
        running.wait_for(stage.out, "resume/part-*" if stage.name == "extract" else "resume/*/state.json")
        running.kill(signal.SIGTERM)
        if not stage.is_finished():
            return saved_hashes(stage.out)
    raise AssertionError(f"{stage.name}: ends before it can be stopped")


def saved_hashes(out: Path) -> dict[str, str]:
    """Hashes of everything a run can go on from."""
    files = [path for path in sorted(out.glob("resume/**/*")) if path.is_file()]
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in files}


def refuse_to_write(stage: Stage, reference: Reference, tally: Tally) -> None:
    """The system refuses to write the largest file: exit 4 and one line; what was saved stays; then it goes on."""
    before = interrupt_with_a_state(stage)
    ended = stage.run(largest_file=reference.largest_file - 1)
    assert_full(stage, ended, "File too large", before)
    tally.add("file too large")
    finish_and_compare(stage, reference, "after a file that was too large")


def assert_full(stage: Stage, ended: Ended, reason: str, before: dict[str, str]) -> None:
    """Check the one line about a file that cannot be written, and that what was saved is still there."""
    assert ended.code == 4 and "Traceback" not in ended.log, f"{stage.name}: exit {ended.code}: {ended.log}"
    assert len(ended.errors) == 1 and reason in ended.errors[0] and str(stage.out) in ended.errors[0], (
        ended.log
    )
    after = saved_hashes(stage.out)
    # A newer state that still fitted has replaced the one before.
    assert before.items() <= after.items() or any(name.endswith("state.json") for name in after)
    assert not list(stage.out.rglob(".svkit-tmp-*")) and not stage.is_finished()


def fill_the_disk(stage: Stage, reference: Reference, rng: random.Random, tally: Tally) -> None:
    """A full tmpfs under the output: exit 4 and one line; what was saved stays; with room again it goes on."""
    before = interrupt_with_a_state(stage)
    filler = stage.out.parent / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            pass
        # Some room is left, less than the result needs: another file meets the end each time.
        room = rng.randrange(0, max(1, reference.largest_file // 4096)) * 4096
        file.truncate(max(0, file.tell() - room))
    ended = stage.run()
    assert_full(stage, ended, "No space left", before)
    filler.unlink()
    tally.add("disk full")
    finish_and_compare(stage, reference, "after a full disk")


def compete(stage: Stage, reference: Reference, tally: Tally) -> None:
    """Two processes, one output: one makes it, the other says so."""
    stage.remove_output()
    running = [replace(stage, log=Path(f"{stage.log}.{number}")).start() for number in range(2)]
    winner, loser = sorted((process.wait() for process in running), key=lambda ended: ended.code)
    assert winner.code == 0 and "Traceback" not in winner.log + loser.log, winner.log + loser.log
    assert len(loser.errors) == 1, loser.log
    if loser.code == 4:
        assert "another svkit command is writing here" in loser.errors[0]
    else:  # it came when the other had finished
        assert loser.code == 2 and "is finished; use --overwrite" in loser.errors[0]
    assert result_hashes(stage.out) == reference.results
    tally.add("two commands, one output")


def kill_a_loader(stage: Stage, reference: Reference, number: int, tally: Tally) -> None:
    """SIGKILL to a loader process: exit 5 and one line; the state before is kept, and the same command goes on."""
    stage.remove_output()
    with_loaders = replace(stage, arguments=(*stage.arguments, "--set", f"{stage.name}.data.num_workers=2"))
    ended = with_loaders.run(kill_loader_at=number)
    if ended.code != 0:  # not all batches were there already
        assert ended.code == 5 and "Traceback" not in ended.log, f"{stage.name}: {ended.log}"
        assert len(ended.errors) == 1 and "a loader process has died" in ended.errors[0], ended.log
        tally.add("SIGKILL to a loader process")
    finish_and_compare(with_loaders, reference, f"a loader killed before change {number}")


def edit_an_input(stage: Stage, reference: Reference, tally: Tally) -> None:
    """A list changed between two runs: exit 4 and its name; as it was before, the run goes on."""
    interrupt_with_a_state(stage)
    path = next(
        word for word in (*stage.arguments, stage.exp / "data" / "train.tsv") if Path(word).suffix == ".tsv"
    )
    before = path.read_bytes()
    path.write_bytes(before[: before.rstrip().rindex(b"\n") + 1])
    try:
        ended = stage.run()
    finally:
        path.write_bytes(before)
    assert ended.code == 4 and len(ended.errors) == 1, ended.log
    assert "unfinished, made with" in ended.errors[0] and "which has changed since" in ended.errors[0], (
        ended.log
    )
    tally.add("list edited, then as before")
    finish_and_compare(stage, reference, "after a list was edited and mended")


def set_the_clock_back(stage: Stage, reference: Reference, tally: Tally) -> None:
    """Everything on disk is of tomorrow, the newest state of today: it goes on from the newest state."""
    interrupt_with_a_state(stage)
    tomorrow = time.time() + 86_400
    paths = [*stage.out.rglob("*"), *(stage.exp / "data").rglob("*"), *(stage.exp / "audio").rglob("*")]
    for age, path in enumerate(sorted(paths)):
        os.utime(path, (tomorrow - age, tomorrow - age))
    tally.add("clock set back")
    finish_and_compare(stage, reference, "after the clock was set back")


def prepare_stages(root: Path) -> dict[str, Stage]:
    """Write a small experiment and describe every stage on it; each starts from random checkpoints."""
    exp = prepare(root / "exp")
    teacher, student = make_teacher(root / "teacher"), make_teacher(root / "student", seed=2)
    options = set_options(
        "save.every_steps=2",
        "save.extraction_seconds=0.001",
        "extract.batch_seconds=1",
        *(f"{stage}.validations=2" for stage in ("lora", "joint", "lmft")),
        *(f"{stage}.epochs=0.4" for stage in ("lora", "joint")),
        "lmft.epochs=1",
    )
    finetune = ("finetune", "--exp", exp, *options, "--stage")
    train, valid = exp / "data" / "train.tsv", exp / "data" / "valid.tsv"
    commands: dict[str, tuple[Any, ...]] = {
        "lora": (*finetune, "lora", "--encoder", "tiny"),
        "joint": (*finetune, "joint", "--from", teacher),
        "lmft": (*finetune, "lmft", "--from", teacher),
        "prune": ("prune", "--exp", exp, "--teacher", teacher, *options),
        "distill": ("distill", "--exp", exp, "--student", student, "--teacher", teacher, *options),
        "extract": ("extract", "--exp", exp, "--model", teacher, "--manifest", train, *options),
    }
    stages = {
        name: Stage(
            name=name,
            arguments=(*words, "--out", root / "out" / name),
            out=root / "out" / name,
            log=root / f"{name}.log",
        )
        for name, words in commands.items()
    }
    embeddings = replace(
        stages["extract"],
        arguments=("extract", "--exp", exp, "--model", teacher, "--manifest", valid, "--out", root / "valid"),
    )
    ended = embeddings.run()
    assert ended.code == 0, ended.log
    # Scores have their place in the experiment.
    stages["score"] = Stage(
        name="score",
        arguments=("score", exp / "data" / "valid_trials.txt", "--exp", exp, "--embeddings", root / "valid"),
        out=exp / "scores" / "valid" / "valid_trials",
        log=root / "score.log",
    )
    for stage in stages.values():
        stage.out.parent.mkdir(parents=True, exist_ok=True)
    return stages
