"""The output protocol of every command: what is kept, resumed, replaced or refused, who writes, and what is finished.

An output is finished once its record exists, which is written last: `provenance.json` in its directory, or for a single
list `NAME.provenance.json` beside it. While a command writes a directory, `run.json` there holds its configuration and
the hashes of its inputs. The same command resumes if its own are equal.
"""

import fnmatch
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from svkit.errors import ArtifactError, ConfigError, FinishedError, OutdatedError
from svkit.progress import Progress
from svkit.store import provenance
from svkit.store.atomic import remove_unfinished, write_json
from svkit.store.locks import lock_directory, release_directory
from svkit.store.places import read_placed, recorded_paths
from svkit.store.provenance import PROVENANCE_NAME, RUN_NAME, InputEntry, Provenance, plain, sha256_file

LIST_SUFFIXES = (".tsv", ".parquet")
RUN_FORMAT, RUN_VERSION = "svkit-run", 1
_WRITTEN_IN = "adapter best best/adapter last last/adapter resume resume/step-* figures kaldi wespeaker"
"""Subdirectories of outputs that commands write into."""
_MAKE_AGAIN, _OR_KEEP = "use --overwrite to make it again", ", or --keep-finished to keep it"
_CHANGED = ", which has changed since"
_KEPT = {"README.md", "checkpoints"}
"""Never removed: a model card is only rewritten if svkit wrote it, and earlier versions wrote `checkpoints`."""
_MADE = (
    "config.json model.safetensors classifier.safetensors speakers.tsv adapter best last"
    " embeddings.safetensors ids.tsv embeddings.json manifest.tsv"
    " scores.tsv resamples.safetensors metrics.json kaldi wespeaker"
    " report.json report.md report.html figures"
    " export.json decide.py model.onnx* model.fp16.onnx* model.int8.onnx* shard-??????.tar"
)
"""Patterns of the names that commands write into an output. A packed list also keeps the name of its input."""


class Run(TypedDict):
    """`run.json`."""

    command: str
    config: dict[str, Any]
    started: str
    inputs: list[InputEntry]


@dataclass
class Output(AbstractContextManager["Output"]):
    """What one command with one configuration makes from its inputs.

    Use it in this order. Ask `is_kept`. Read the inputs, so that bad input leaves nothing behind that would need
    `--overwrite`. Write inside `with output.open():`, and call `finish` as the last step in there.
    """

    path: Path
    """A directory, or the file of a list."""
    _: KW_ONLY
    command: str
    """The verb, such as `prune`."""
    config: Mapping[str, Any]
    """Two runs are the same if this and the content of their inputs are equal."""
    inputs: Mapping[str, Path]
    """Name -> file or artifact directory read by the command."""
    overwrite: bool = False
    """Replace finished output. Unfinished output of the same run is still resumed, so that an interrupted command can
    be repeated unchanged."""
    keep_finished: bool = False
    """Keep finished output of the same run as the result. With `overwrite`, only output of another run is replaced."""
    experiment: Path | None = None
    """Paths inside it are recorded relative to it, so that a copy refers to its own files; None: all are absolute."""
    kind: Literal["directory", "part", "list"] = "directory"
    """`part`: one or more files in a directory that other commands write to as well; the directory is never emptied.
    `list`: a single file, written without a lock on its directory."""
    is_resumed: bool = field(default=False, init=False)
    """An earlier run with equal configuration and inputs left its state here."""
    started: str = field(default_factory=provenance.utc_now, init=False)
    _described: list[InputEntry] | None = field(default=None, repr=False)
    _lock: int | None = field(default=None, init=False, repr=False)

    @property
    def record(self) -> Path:
        """The file that marks this as finished and says how it was made."""
        if self._is_file:
            return self.path.with_name(f"{self.path.stem}.{PROVENANCE_NAME}")
        return self.path / PROVENANCE_NAME

    @property
    def title(self) -> str:
        """Its name in messages."""
        return str(self.path)

    @property
    def _is_file(self) -> bool:
        return self.kind != "directory" and self.path.suffix in LIST_SUFFIXES

    def describe(self) -> list[InputEntry]:
        """Return `{name, path, sha256}` of every input, hashed once (DataError, ArtifactError: missing or changed)."""
        if self._described is None:
            self._described = [
                {"name": name, "path": path.as_posix(), "sha256": provenance.sha256_input(path)}
                for name, path in self.inputs.items()
            ]
        return self._described

    @property
    def hashes(self) -> dict[str, str]:
        """Sha256 of every input by name."""
        return {entry["name"]: entry["sha256"] for entry in self.describe()}

    def finished(self) -> Provenance | None:
        """Return the record of the finished output; None: it is not finished."""
        return provenance.read_record(self.record) if self.record.exists() else None

    def begun(self) -> Provenance | Run | None:
        """Return the record of the output, finished or not, with paths that can be opened; None: there is none."""
        path = self.path / RUN_NAME
        if self.record.exists() or not path.exists():
            return self.finished()
        return read_placed(path, RUN_FORMAT, RUN_VERSION, Run)

    @property
    def is_current(self) -> bool:
        """Whether the same command with equal configuration and inputs has finished this.

        False if an input is missing; the command itself reports that best.
        """
        earlier = self.finished()
        inputs_exist = all(path.exists() for path in self.inputs.values())
        return earlier is not None and inputs_exist and self._difference(earlier) is None

    def is_kept(self, progress: Progress) -> bool:
        """Say whether finished output stays as the result of this run; if so, note that.

        Raises:
            ConfigError: the output is finished, and may neither stay nor be replaced; FinishedError if it is current,
                OutdatedError if its inputs have changed.
        """
        if not self.record.exists() or not all(path.exists() for path in self.inputs.values()):
            return False
        if self.keep_finished and self.is_current:
            progress.note(f"{self.title} is finished, with equal inputs and configuration; kept")
            return True
        self._refuse_finished(_OR_KEEP)
        return False

    def refuse_changed(self, flags: str = "--overwrite") -> None:
        """Raise ConfigError if this is finished, but was made from other inputs, with other settings or otherwise.

        `flags` make it again.
        """
        earlier = self.finished()
        difference = None if earlier is None else self._difference(earlier)
        if difference is not None and difference.endswith(_CHANGED):
            raise OutdatedError(
                f"{self.title} is finished, and was {difference}; use {flags} to make it again"
            )
        if difference is not None:
            raise ConfigError(
                f"{self.title} is finished, and was {difference}; give what it was made with, or use {flags} to make it"
                " again"
            )

    def open(self) -> "Output":
        """Prepare for writing: hash the inputs, lock the directory, then empty or resume it.

        Returns:
            The output itself, a context manager that releases the lock. If it is left unfinished, it can be resumed.

        Raises:
            ConfigError: the output is finished and `overwrite` is off, an input is the output or lies in it, or the
                output would lie in another one or in an input.
            ArtifactError: another process holds the lock, the unfinished output is of another configuration or of other
                inputs, or the directory holds files that svkit did not write.
            DataError: an input list does not exist.
        """
        self._refuse_place()
        if self.kind == "list" and self.path.exists() and not self.overwrite:
            raise ConfigError(f"{self.path} already exists; use --overwrite to replace it")
        self.describe()  # reports a missing input before anything is created
        if self.kind == "list":
            return self
        home = self.path.parent if self._is_file else self.path
        self._lock = lock_directory(home)
        try:
            # Asked again under the lock, as another process may have finished it meanwhile.
            self._refuse_finished()
            if self.kind == "directory":
                self._begin()
            names = _WRITTEN_IN if self.kind == "directory" else "trials"
            places = (home, *(place for name in names.split() for place in home.glob(name)))
            remove_unfinished(places, are_own=self.kind == "directory")
        except BaseException:
            self.close()
            raise
        return self

    def recorded(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record as it is written here, with paths inside the experiment relative to it (`store.places`)."""
        return recorded_paths(self.path, record, self.experiment)

    def unmark(self) -> None:
        """Mark a part or a list as unfinished; call it before the first change."""
        self.record.unlink(missing_ok=True)

    def finish(self, extra: Mapping[str, Any] | None = None, files: Iterable[Path] | None = None) -> None:
        """Write the record with the hashes of the output, which marks it as complete; call it last.

        Args:
            extra: more keys for the record; `device` replaces the one detected here.
            files: what was written, for a part or a list; None: all that svkit writes into a directory.
        """
        if files is None:
            found = [*provenance.content_files(self.path), *self.path.glob("calibration.json")]
            files = [path for path in found if not self._is_foreign(path.relative_to(self.path).parts[0])]
        # torch is not imported for this: commands that did without it would take seconds longer.
        torch, config, home = sys.modules.get("torch"), plain(self.config), self.record.parent
        has_gpu = torch is not None and torch.cuda.is_available()
        outputs = []
        for path in sorted(files):
            status, name = path.stat(), path.relative_to(home).as_posix()
            # Size and time spare `check_outputs` the hash of gigabytes.
            facts = {"sha256": sha256_file(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
            outputs.append({"name": name, **facts})
        content = {
            "format": provenance.FORMAT,
            "format_version": provenance.VERSION,
            "command": self.command,
            **provenance.describe_code(),
            "argv": list(sys.argv),
            "config": config,
            "seed": config.get("seed"),
            "device": str(torch.cuda.get_device_name()) if torch and has_gpu else "cpu",
            "started": self.started,
            "finished": provenance.utc_now(),
            "inputs": self.describe(),
            "outputs": outputs,
        }
        write_json(self.record, recorded_paths(home, {**content, **plain(extra or {})}, self.experiment))

    def close(self) -> None:
        """Release the lock; unfinished output stays and can be resumed."""
        if self._lock is not None:
            release_directory(self._lock)
            self._lock = None

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.close()

    def _difference(self, earlier: Provenance | Run) -> str | None:
        """Say how an earlier record differs from this run; inputs are hashed only if everything else is equal."""
        command, config = self.command, plain(self.config)
        before = provenance.identity(earlier["command"], earlier.get("config", {}), earlier["inputs"])
        difference = _first_difference(before, provenance.identity(command, config, earlier["inputs"]))
        difference = difference or _first_difference(
            before, provenance.identity(command, config, self.describe())
        )
        if difference is None:
            return None
        key, old, new = difference
        # `prune.epochs` and, of the one stage that `finetune` makes here, `epochs`: names that `--set` takes.
        key = key.removeprefix("config.").removeprefix("stage_config.")
        if key.startswith("input."):
            name = key.removeprefix("input.")
            if old is None:
                return f"made without {name}, which exists now"
            places = [Path(entry["path"]) for entry in earlier["inputs"] if entry["name"] == name]
            if new is not None:
                now = self.inputs[name]
                if [provenance.real_path(place) for place in places] != [provenance.real_path(now)]:
                    return f"made with another {name}: {', '.join(map(str, places))} then, {now} now"
                return f"made with {name} ({now}){_CHANGED}"
            is_begun = any((place / provenance.RUN_NAME).exists() for place in places)
            return f"made with {name}, which is {'not finished' if is_begun else 'missing'} now"
        if old is None:
            return f"made without {key}, which is {_short(new)} now"
        if new is None:
            return f"made with {key} {_short(old)}, which is not set now"
        if key == "command":
            return f"made with another command: {old} then, {new} now"
        return f"made with another setting ({key}: {_short(old)} then, {_short(new)} now)"

    def _refuse_place(self) -> None:
        """Refuse a place where this would remove an input before it is read, or join the content of something else."""
        what, own = "file" if self.kind == "list" else "directory", provenance.real_path(self.path)
        inputs = {path: path.resolve() for path in self.inputs.values()} if self.kind != "part" else {}
        for path, place in inputs.items():
            if place.is_relative_to(own):
                raise ConfigError(
                    f"{path}: is an input of this command; write to another {what} than {self.path}"
                )
        around = None if self.kind == "list" else provenance.output_around(own)
        around = next((place for place in inputs.values() if own.is_relative_to(place)), around)
        if around is not None:
            raise ConfigError(
                f"{self.path}: lies in {around}, whose content it would change; choose another {what}"
            )

    def _refuse_finished(self, otherwise: str = "") -> None:
        if not self.overwrite and self.finished() is not None:
            self.refuse_changed()
            raise FinishedError(f"{self.title} is finished; {_MAKE_AGAIN}{otherwise}", str(self.path))

    def _begin(self) -> None:
        """Resume the unfinished run that is here, or write `run.json` into an empty or emptied directory."""
        entries = [entry for entry in self.path.iterdir() if not entry.name.startswith(".")]
        names = {entry.name for entry in entries}
        if entries and not names & {RUN_NAME, PROVENANCE_NAME}:
            raise ArtifactError(
                f"{self.path}: holds files that svkit did not write ({entries[0].name}); choose an empty directory"
            )
        if entries and PROVENANCE_NAME not in names:
            try:
                self._resume()
            except ArtifactError:
                if not self.overwrite:
                    raise
        if not self.is_resumed:
            run = {
                "format": RUN_FORMAT,
                "format_version": RUN_VERSION,
                "command": self.command,
                "config": plain(self.config),
                "inputs": self.describe(),
                "started": self.started,
                "argv": list(sys.argv),
            }
            run = self.recorded(run)
            self._empty(entries, run)
            write_json(self.path / RUN_NAME, run)

    def _resume(self) -> None:
        earlier = read_placed(self.path / RUN_NAME, RUN_FORMAT, RUN_VERSION, Run)
        difference = self._difference(earlier)
        if difference is not None and difference.endswith(_CHANGED):
            raise ArtifactError(
                f"{self.path}: unfinished, {difference}; restore it to continue, or use --overwrite"
            )
        if difference is not None:
            raise ArtifactError(
                f"{self.path}: unfinished, {difference}; run the earlier command again to continue it, or use"
                " --overwrite"
            )
        self.started, self.is_resumed = earlier["started"], True

    def _empty(self, entries: Sequence[Path], run: Mapping[str, Any]) -> None:
        """Remove all but `run.json`. If this is interrupted, the rest neither looks finished nor is resumed."""
        recorded = provenance.recorded_files(self.path)
        tops = {path.relative_to(self.path).parts[0] for path in recorded}
        foreign = [entry.name for entry in entries if entry.name not in tops and self._is_foreign(entry.name)]
        if recorded:
            others = [path for path in provenance.content_files(self.path) if path not in recorded]
            foreign += [str(path.relative_to(self.path)) for path in others]
        if foreign:
            raise ArtifactError(
                f"{self.path}: holds files that svkit did not write ({foreign[0]}); move them elsewhere, or choose"
                " another directory"
            )
        if entries:
            # No command has this name, so none resumes what is left if this is killed.
            write_json(self.path / RUN_NAME, {**run, "command": "--overwrite"})
        self.unmark()
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink() and entry.name not in _KEPT:
                shutil.rmtree(entry)
            elif entry.name not in {RUN_NAME, *_KEPT}:
                entry.unlink(missing_ok=True)

    def _is_foreign(self, name: str) -> bool:
        made = (*_MADE.split(), *provenance.NOT_CONTENT, *(path.name for path in self.inputs.values()))
        return not any(fnmatch.fnmatchcase(name, pattern) for pattern in made)


def continue_parts(outputs: Sequence[Output]) -> None:
    """Let a killed command with several outputs continue: keep those it has finished, unless it has finished all.

    Raises:
        ConfigError: an output is finished, but was made otherwise, or the one it is made from is not finished; this is
            found before any work is wasted.
        FinishedError: all are finished and current, and not asked to stay.
    """
    if outputs[0].overwrite:
        return
    flags = "--keep-finished --overwrite" if len(outputs) > 1 else "--overwrite"
    unmade: set[Path] = set()
    misses_input = False
    for output in outputs:
        source = next((path for path in output.inputs.values() if path in unmade), None)
        if not output.record.exists():
            unmade.add(output.path)
        elif source is not None:
            raise ConfigError(
                f"{output.title} is finished, but {source}, from which it is made here, is not; use {flags} to make "
                "it again"
            )
        elif all(path.exists() for path in output.inputs.values()):
            output.refuse_changed(flags)
        else:
            misses_input = True  # the command itself reports that best
    if unmade or misses_input:
        for output in outputs:
            output.keep_finished = True
    elif len(outputs) > 1 and not outputs[0].keep_finished:
        final = outputs[-1]
        raise FinishedError(
            f"everything that this command makes, up to {final.title}, is finished; {_MAKE_AGAIN}{_OR_KEEP}",
            str(final.path),
        )


def _first_difference(before: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            # A setting that an earlier version did not have counts as switched off.
            old = before.get(name, False if now.get(name) is False else None)
            found = _first_difference(old, now.get(name), f"{key}.{name}" if key else str(name))
            if found is not None:
                return found
        return None
    return None if before == now else (key, before, now)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
