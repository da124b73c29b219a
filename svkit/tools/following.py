"""The command that comes next in an experiment, with the settings that its output was made with before.

What is finished and was made from what is there now is passed over. What is out of date is made again by the command
that made it, which its record holds.
"""

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from svkit.errors import DataError, SvkitError
from svkit.models.final import MODEL_STAGES, final_models
from svkit.store.experiment import read_experiment
from svkit.store.output import RUN_FORMAT, RUN_VERSION
from svkit.store.places import read_placed
from svkit.store.provenance import (
    PROVENANCE_NAME,
    RUN_NAME,
    Provenance,
    is_finished,
    read_record,
    real_path,
    recorded_files,
    sha256_artifact,
    sha256_file,
)

UPDATE = "--keep-finished --overwrite"
LISTS, EMBEDDINGS, SCORES = "data", "embeddings", "scores"
"""What has been made, if it is no stage of training."""
_FIRST = ("finetune/lora", "finetune/head")
_STAGES = (
    *("finetune/joint", "finetune/lmft", "prune", "distill"),
    *("finetune-pruned/head", "finetune-pruned/joint", "finetune-pruned/lmft"),
)
_SYSTEMS = ("--embeddings", "--scores", "--fuse")
_SAID_ANEW = ("--overwrite", "--keep-finished", "--json")


def following(exp: Path, after: str | Path, made: Iterable[Path] = ()) -> str:
    """Return the command to run after a stage (its directory), `LISTS`, `EMBEDDINGS` or `SCORES`; `made` are these.

    If `after` is empty, it is the first of the chain that has something to do.
    """
    chain = _Chain(exp)
    if not after:
        return chain.first()
    if after == LISTS:
        begun = (stage for stage in (*_FIRST, *_STAGES[:2]) if chain.is_begun(exp / stage))
        stage = next(begun, None)
        # What the lists and the experiment's settings are now is compared by the command itself.
        return "svkit finetune" if stage is None else chain.again(exp / stage)
    if after in (EMBEDDINGS, SCORES):
        return chain.evaluation(str(after), made)
    place = Path(after).parts
    known = (
        number
        for number, stage in enumerate(_STAGES)
        if place[-len(Path(stage).parts) :] == Path(stage).parts
    )
    return chain.training(next(known, -1) + 1)


def overview(exp: Path) -> tuple[dict[Path, str], str | None]:
    """Return the outputs of the experiment's chain, in its order: finished, out of date, or not finished.

    With them comes the first command that has something to do; None: everything up to the report is finished.

    Raises:
        DataError: there is no output.
    """
    chain, report = _Chain(exp), exp / "report"
    parts = sorted(path for path in exp.glob(f"{EMBEDDINGS}/*") if path.is_dir())
    places = [exp / LISTS, *(exp / name for name in (*_FIRST, *_STAGES)), *parts, *chain.scores(), report]
    found: dict[Path, str] = {}
    old: set[Path] = set()
    for path in filter(chain.is_begun, places):
        if chain.is_outdated(path) or old.intersection(map(real_path, chain.inputs(path))):
            old.add(real_path(path))
        state = "out of date" if real_path(path) in old else "finished"
        found[path] = state if is_finished(path) else "not finished"
    if not found:
        raise DataError(
            f"{exp}: no experiment of svkit there; begin with `svkit prepare`, or name one with --exp"
        )
    is_whole = report in found and set(found.values()) == {"finished"}
    return found, None if is_whole else chain.first()


@dataclass
class _Chain:
    exp: Path

    def __post_init__(self) -> None:
        self.hash = cache(_content)

    def first(self) -> str:
        """Return the first command of the whole chain that has something to do."""
        firsts = [self.exp / name for name in _FIRST if self.is_begun(self.exp / name)]
        if firsts or any(self.is_begun(self.exp / name) for name in _STAGES):
            return next(
                (self.again(path) for path in firsts if self.is_outdated(path)), None
            ) or self.training(0)
        if made := [path for path in sorted(self.exp.glob(f"{EMBEDDINGS}/*")) if self.is_begun(path)]:
            return self.evaluation(EMBEDDINGS, made)  # of models from elsewhere
        has_training = (self.exp / LISTS / "train.tsv").exists()
        return "svkit finetune" if has_training else "svkit extract --model CKPT"

    def training(self, start: int) -> str:
        """Return the command for the first stage, from this one on, that is missing or out of date."""
        for number, stage in enumerate(_STAGES[start:], start):
            path = self.exp / stage
            if self.is_begun(path):
                if self.is_outdated(path):
                    return self.again(path)
            elif any(self.is_begun(self.exp / later) for later in _STAGES[number + 1 :]):
                continue  # left out on purpose
            elif stage == "prune" and (command := self._outdated_results()):
                return command  # of an experiment that is evaluated without pruning
            else:
                return self._first_time(stage)
        return self.evaluation("")

    def evaluation(self, after: str, made: Iterable[Path] = ()) -> str:
        """Return the command for the embeddings or scores that are missing or out of date, else for the report."""
        home, finals = self.exp / EMBEDDINGS, final_models(self.exp)
        if command := self._outdated_results(after):
            return command
        if not after and not (finals and all(self.is_begun(home / name) for name in finals)):
            other = next((home / name for name in finals if self.is_begun(home / name)), None)
            words = ["extract"] if other is None else _without(self._words(other), "--model")
            return _command(words, updates=other is not None)
        lists = sorted((self.exp / "data" / "trials").glob("*.txt"))
        scored = {real_path(path) for one in self.scores() for path in self.inputs(one)}
        new = [path for path in (*(home / name for name in finals), *made) if real_path(path) not in scored]
        if after != SCORES and lists and new:
            given = next(
                (one for one in self.scores() if real_path(lists[0]) in map(real_path, self.inputs(one))),
                None,
            )
            words = ["score", lists[0].as_posix()] if given is None else self._words(given)
            if _has(words, *_SYSTEMS):
                words = ["score", lists[0].as_posix()]
            return _command(words, updates=given is not None)
        report = self.exp / "report"
        return self.again(report) if self.is_begun(report) else "svkit report"

    def is_begun(self, path: Path) -> bool:
        """Say whether an output is finished, or a command has begun it."""
        return is_finished(path) or (path / RUN_NAME).exists()

    def again(self, path: Path) -> str:
        """Return the command that brings an output up to date, and changes no other that was made differently."""
        words, own = self._words(path), path.relative_to(self.exp).parts
        peers = [path.parent / name for name in MODEL_STAGES]
        if own[0].startswith("finetune"):
            peers = [entry for entry in path.parent.iterdir() if self.is_begun(entry)]
        elif own[0] == SCORES:
            peers = [entry / own[-1] for entry in path.parents[1].iterdir()]
        if all(self._words(peer) == words for peer in peers if self.is_begun(peer)):
            return _command(words, updates=True)
        inputs = {entry["name"]: entry["path"] for entry in self._record(path).get("inputs", [])}
        if own[0].startswith("finetune") and not _has(words, "--stage"):
            begins = []
            if own[-1] in ("joint", "lmft"):
                words = _without(words, "--from", "--file", "--encoder")
                begins = ["--from", inputs["checkpoint"]] if own[0] == "finetune-pruned" else []
            words[1:1] = ["--stage", own[-1], *begins]
        elif own[0] == EMBEDDINGS and own[-1] in MODEL_STAGES and not _has(words, "--model"):
            words += ["--model", str(final_models(self.exp)[own[-1]])]
        elif own[0] == SCORES and "embeddings" in inputs and not _has(words, *_SYSTEMS):
            words += ["--embeddings", inputs["embeddings"]]
        return _command(words, updates=True)

    def _first_time(self, stage: str) -> str:
        return _command(self._usual(self.exp / stage), updates=False)

    def _usual(self, path: Path) -> list[str]:
        """Return the command that makes an output with the experiment's settings."""
        home, *rest = path.relative_to(self.exp).parts
        words = {EMBEDDINGS: ["extract"], SCORES: ["score"]}.get(home, [home.removesuffix("-pruned")])
        if home == SCORES:
            words += [entry["path"] for entry in self._record(path)["inputs"] if entry["name"] == "trials"]
        elif home.startswith("finetune") and rest[-1] in ("joint", "lmft"):
            words += ["--stage", rest[-1]]
        if home == "finetune-pruned":
            before = {"head": "distill", "joint": f"{home}/head", "lmft": f"{home}/joint"}
            words += ["--from", str(self.exp / before[rest[-1]])]
        return words

    def _words(self, path: Path) -> list[str]:
        """Return the command that made an output, as it was typed, but for what is said anew each time."""
        record = self._record(path)
        words = _typed(record)
        if words is None:
            return self._usual(path)
        then = _value(words, "--exp") or "exp"
        words = _without(words, "--exp")
        if Path(then) != self.exp:  # moved or copied, or called from elsewhere
            words = [_below(word, Path(then), self.exp) for word in words]
        if _value(words, "--preset") not in (None, read_experiment(self.exp).preset):
            words = _without(words, "--preset")  # another has been chosen for the experiment since
        return words

    def _record(self, path: Path) -> Provenance:
        try:
            if is_finished(path):
                return read_record(path / PROVENANCE_NAME)
            return read_placed(path / RUN_NAME, RUN_FORMAT, RUN_VERSION, Provenance)
        except SvkitError:  # its own command reports that best
            return {"command": "", "inputs": []}

    def inputs(self, path: Path) -> list[Path]:
        return [Path(entry["path"]) for entry in self._record(path)["inputs"]]

    def scores(self) -> list[Path]:
        """Return the scores, those that are made from other scores last."""
        found = [path for path in sorted(self.exp.glob(f"{SCORES}/*/*")) if self.is_begun(path)]
        home = real_path(self.exp / SCORES)
        return sorted(
            found, key=lambda one: any(real_path(path).is_relative_to(home) for path in self.inputs(one))
        )

    def _outdated_results(self, after: str = "") -> str | None:
        """Return the command for the first embeddings of models, or of scores, or scores that are out of date."""
        home, finals, scores = self.exp / EMBEDDINGS, final_models(self.exp), self.scores()
        used = [path for one in scores for path in self.inputs(one) if path.parent.name == EMBEDDINGS]
        inside = [home / path.name for path in used if real_path(path.parent) == real_path(home)]
        embeddings = [
            path for path in dict.fromkeys([home / name for name in finals] + inside) if self.is_begun(path)
        ]
        # What the command that has just ended did not bring up to date, it never will.
        ended = _typed({"argv": sys.argv, "command": sys.argv[1] if len(sys.argv) > 1 else "", "inputs": []})
        for path in (*(embeddings if after != SCORES else ()), *scores):
            final = finals.get(path.name) if path.parent == home else None
            is_other = final is not None and real_path(final) not in map(real_path, self.inputs(path))
            if (is_other or self.is_outdated(path)) and _typed(self._record(path)) != (ended or "unknown"):
                return self.again(path)
        return None

    def is_outdated(self, path: Path) -> bool:
        """Say whether an output is not finished, or was made from something else than is there now."""
        inputs = [(Path(entry["path"]), entry["sha256"]) for entry in self._record(path)["inputs"]]
        try:
            changed = any(source.exists() and self.hash(source) != then for source, then in inputs)
        except SvkitError:  # a broken input, which its own command reports best
            changed = True
        return changed or not is_finished(path)


def _content(path: Path) -> str:
    """Return the hash of an input; of finished output as it is recorded, because models are large."""
    recorded = recorded_files(path) if path.is_dir() else {}

    def hash_file(file: Path) -> str:
        return recorded[file]["sha256"] if file in recorded else sha256_file(file)

    return sha256_artifact(path, hash_file)


def _typed(record: Provenance) -> list[str] | None:
    """Return the words of a recorded command line without `svkit`; None: svkit was called from Python."""
    words = list(record.get("argv", []))[1:]
    if not words or words[0] != record["command"]:
        return None
    return [word for word in words if word not in _SAID_ANEW]


def _command(words: Sequence[str], *, updates: bool) -> str:
    return shlex.join(["svkit", *words]) + (f" {UPDATE}" if updates else "")


def _has(words: Sequence[str], *flags: str) -> bool:
    return any(word.partition("=")[0] in flags for word in words)


def _value(words: Sequence[str], flag: str) -> str | None:
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == flag or word.startswith(f"{flag}="):
            return after if word == flag else word.partition("=")[2]
    return None


def _without(words: Sequence[str], *flags: str) -> list[str]:
    """Return the words without these options and their values."""
    kept, is_value = [], False
    for word in words:
        if not is_value and word.partition("=")[0] not in flags:
            kept.append(word)
        is_value = not is_value and word in flags
    return kept


def _below(word: str, then: Path, now: Path) -> str:
    """Return a word of a command in which a path in the experiment starts where the experiment is now."""
    flag, mark, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    return (
        flag + mark + str(now / Path(value).relative_to(then)) if Path(value).is_relative_to(then) else word
    )
