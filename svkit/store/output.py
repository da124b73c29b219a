"""The output protocol: one command at a time writes a directory, which is finished or can be resumed.

A directory is open (`run.json`) while a command writes it and finished once `provenance.json` is there, which is
written last. A second run of the same command finds equal configuration and input hashes in `run.json` and resumes.
"""

import fnmatch
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from svkit.errors import ArtifactError, ConfigError
from svkit.store.atomic import remove_unfinished, write_json
from svkit.store.locks import lock_directory, release_directory
from svkit.store.places import recorded_paths
from svkit.store.provenance import (
    INPUT,
    NOT_CONTENT,
    PROVENANCE_NAME,
    RUN_NAME,
    content_files,
    describe_inputs,
    identity,
    is_finished,
    plain,
    read_provenance,
    recorded_files,
    utc_now,
    write_provenance,
)
from svkit.store.strict_json import check_fields, read_json

RUN_FORMAT, RUN_VERSION = "svkit-run", 1
_WRITTEN_IN = (
    "adapter",
    "best",
    "best/adapter",
    "last",
    "last/adapter",
    "resume",
    "resume/step-*",
    "figures",
    "kaldi",
    "wespeaker",
)
"""Where commands write files below their output."""

_KEPT = {"README.md", "checkpoints"}
"""Never removed: a card is written again where it is svkit's, the other is of no svkit that is left."""
_MADE = (
    *(
        "config.json",
        "model.safetensors",
        "classifier.safetensors",
        "speakers.tsv",
        "adapter",
        "best",
        "last",
    ),
    *("embeddings.safetensors", "ids.tsv", "embeddings.json"),
    *("scores.tsv", "metrics.json", "kaldi", "wespeaker"),
    *("report.json", "report.md", "report.html", "figures"),
    *("export.json", "model.onnx*", "model.fp16.onnx*", "model.int8.onnx*", "shard-??????.tar"),
)
"""Names of the content that commands write into an output; a packed list has the name of its input."""


@dataclass(kw_only=True)
class Output:
    """An output directory held by this process; use it as a context manager."""

    path: Path
    is_resumed: bool
    """An earlier run with equal configuration and inputs left its state here."""
    command: str
    config: dict[str, Any]
    inputs: list[dict[str, str]]
    """`{name, path, sha256}` of every input."""
    started: str
    experiment: Path | None
    _lock: int = field(repr=False)

    def __enter__(self) -> "Output":
        """Return the output itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock."""
        self.close()

    def recorded(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record as it is written here: paths inside the experiment relative to it (`store.places`)."""
        return recorded_paths(self.path, record, self.experiment)

    def finish(self, extra: Mapping[str, Any] | None = None) -> None:
        """Write `provenance.json`, the mark of completeness, with the hashes of all that lies there; call it last."""
        files = [*content_files(self.path), *self.path.glob("calibration.json")]
        own = [path for path in files if not _is_foreign(path.relative_to(self.path).parts[0], self.inputs)]
        write_provenance(
            self.path / PROVENANCE_NAME,
            own,
            command=self.command,
            config=self.config,
            inputs=self.inputs,
            started=self.started,
            experiment=self.experiment,
            extra=extra,
        )

    def close(self) -> None:
        """Release the lock; an unfinished output stays and can be resumed."""
        if self._lock >= 0:
            release_directory(self._lock)
            self._lock = -1


def open_output(
    directory: Path,
    *,
    command: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    overwrite: bool,
    experiment: Path | None = None,
) -> Output:
    """Take an output directory for writing.

    Args:
        directory: made if missing.
        command: the verb, such as `prune`.
        config: the resolved configuration; decides, with the inputs' hashes, whether a run is resumed.
        inputs: name -> file or artifact directory read by the command.
        overwrite: empty the directory first if svkit wrote it. Unfinished output of the same run is resumed all the
            same, so that the command of an interrupted run can be given again as it was.
        experiment: paths inside it are recorded relative to it, so that a copy finds its own; None: all are absolute.

    Returns:
        The output, locked against other svkit processes until it is closed.

    Raises:
        ConfigError: finished already and not `overwrite`; or an input is the directory, or lies in it.
        ArtifactError: held by another process; unfinished with another configuration or other inputs; or it
            holds files that svkit did not write.
        DataError: an input list does not exist.
    """
    for path in inputs.values():  # emptying the directory would take it along
        if path.resolve().is_relative_to(directory.resolve()):
            raise ConfigError(f"{path}: is read by this command; write to another directory than {directory}")
    described = describe_inputs(inputs)
    lock = lock_directory(directory)
    try:
        run = {
            "format": RUN_FORMAT,
            "format_version": RUN_VERSION,
            "command": command,
            "config": plain(config),
            "inputs": described,
            "started": utc_now(),
        }
        run = recorded_paths(directory, run, experiment)
        earlier = _earlier_run(directory, run, overwrite)
        if earlier is not None:
            run["started"] = earlier.get("started", run["started"])
        else:
            write_json(directory / RUN_NAME, run)
        remove_unfinished((directory, *(place for name in _WRITTEN_IN for place in directory.glob(name))))
    except BaseException:
        release_directory(lock)
        raise
    return Output(
        path=directory,
        is_resumed=earlier is not None,
        command=command,
        config=run["config"],
        inputs=described,
        started=run["started"],
        experiment=experiment,
        _lock=lock,
    )


def _earlier_run(directory: Path, run: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return the unfinished run to resume; None when the directory is empty, or has been emptied."""
    entries = [entry for entry in directory.iterdir() if not entry.name.startswith(".")]
    is_ours = any(entry.name in (RUN_NAME, PROVENANCE_NAME) for entry in entries)
    if entries and not is_ours:
        raise ArtifactError(
            f"{directory}: holds files that svkit did not write ({entries[0].name});"
            " choose an empty directory"
        )
    if not entries:
        return None
    if not is_finished(directory):
        try:
            earlier = read_json(directory / RUN_NAME, RUN_FORMAT, RUN_VERSION, dict[str, Any])
            _refuse_other_run(directory, earlier, run)
            return earlier
        except ArtifactError:
            if not overwrite:
                raise
    elif not overwrite:
        otherwise = made_otherwise(identity(read_provenance(directory)), identity(run))
        raise ConfigError(f"{directory} is finished{otherwise}; use --overwrite to make it again")
    _empty(directory, entries, run)
    return None


def made_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in what a finished output differs from the one that is asked for, by their identities; empty: in nothing."""
    difference = _first_difference(before, now)
    if difference is None:
        return ""
    key, before, now = difference
    if key.startswith("input.") and before is not None and now is not None:
        return f", and was made with another {key.removeprefix('input.')} than there is now"
    return f", and was made with another {key}: {_short(before)} then, {_short(now)} now"


def _is_foreign(name: str, inputs: list[dict[str, str]]) -> bool:
    """Say whether svkit writes nothing of that name into an output."""
    made = (*_MADE, *NOT_CONTENT, *(Path(entry["path"]).name for entry in inputs))
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in made)


def _refuse_foreign(directory: Path, entries: list[Path], inputs: list[dict[str, str]]) -> None:
    """Refuse to empty a directory where something lies that svkit did not write."""
    recorded = recorded_files(directory)
    tops = {path.relative_to(directory).parts[0] for path in recorded}
    foreign = [entry.name for entry in entries if entry.name not in tops and _is_foreign(entry.name, inputs)]
    if recorded:
        foreign += [
            str(path.relative_to(directory)) for path in content_files(directory) if path not in recorded
        ]
    if foreign:
        raise ArtifactError(
            f"{directory}: holds files that svkit did not write ({foreign[0]}); move them elsewhere, or choose another"
            " directory"
        )


def _empty(directory: Path, entries: list[Path], run: Mapping[str, Any]) -> None:
    """Remove all but `run.json`; when this is interrupted, the rest neither looks finished nor is resumed."""
    _refuse_foreign(directory, entries, run["inputs"])
    write_json(directory / RUN_NAME, {**run, "command": "--overwrite"})
    (directory / PROVENANCE_NAME).unlink(missing_ok=True)
    for entry in entries:
        if entry.name in _KEPT:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != RUN_NAME:
            entry.unlink(missing_ok=True)


def _refuse_other_run(directory: Path, earlier: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    check_fields(
        directory / RUN_NAME, earlier, {"command": str, "config": dict, "started": str, "inputs": [INPUT]}
    )
    difference = _first_difference(identity(earlier), identity(run))
    if difference is not None:
        key, before, now = difference
        raise ArtifactError(
            f"{directory}: unfinished, made with another {key}: {_short(before)} then, {_short(now)} now;"
            " run the earlier command again to go on, or use --overwrite"
        )


def _first_difference(before: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            found = _first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
            if found is not None:
                return found
        return None
    return None if before == now else (key, before, now)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
