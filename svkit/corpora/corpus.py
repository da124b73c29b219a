"""What all corpora share: the request, the split of a table into lists, and the files below `exp/data`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.corpora import splits
from svkit.corpora.derived import movable_table
from svkit.corpora.membership import (
    EVALUATION,
    SPLITS_NAME,
    TRAINING,
    VALIDATION,
    differences,
    read_splits,
    write_splits,
)
from svkit.corpora.request import (
    JOURNAL_NAME,
    LIST_ENDINGS,
    CorpusRequest,
    CorpusResult,
    EvaluationList,
)
from svkit.corpora.scan import BadFile, BadFilesError, ScanOptions, refuse_bad
from svkit.errors import ArtifactError, DataError, first_five, printable
from svkit.progress import Progress
from svkit.store.atomic import write_bytes
from svkit.store.experiment import encoder_to_note, read_noted, update_experiment
from svkit.store.files import check_file, read_file
from svkit.store.manifest import write_manifest
from svkit.store.output import Output
from svkit.store.provenance import is_finished, plain, read_provenance
from svkit.store.scan_journal import remove_journal
from svkit.store.tables import read_table, write_table
from svkit.store.trials import Trials, write_trials

BAD_FILES_NAME = "bad_files.tsv"
_OWN_FILES = ("train.tsv", "valid.tsv", "eval.tsv", "valid_trials.txt")


class DataDirectory:
    """`exp/data` while one corpus is written; a context manager that holds its lock.

    It is shared with the noise and RIR lists, so it is never emptied: a corpus replaces its own files only.
    """

    def __init__(
        self,
        request: CorpusRequest,
        progress: Progress,
        corpus: str,
        config: Mapping[str, Any],
        default_preset: str = "w2v-bert-2.0",
        inputs: Mapping[str, Path] | None = None,
    ) -> None:
        """Take the directory.

        Args:
            request: the request.
            progress: is told what changes.
            corpus: its name.
            config: what identifies the request, for provenance and `keep_finished`.
            default_preset: noted in `exp/config.toml` unless the request or the experiment has one.
            inputs: name -> lists that the corpus consists of, beside those that the request names.

        Raises:
            ConfigError: finished already and neither `overwrite` nor the same request with `keep_finished`.
            ArtifactError: another command is writing here, or it cannot be written.
            DataError: a given list does not exist.
        """
        self.path = request.exp / "data"
        self._request = request
        self._progress = progress
        self._corpus = corpus
        self._default_preset = default_preset
        self._output = Output(
            self.path,
            command=f"prepare {corpus}",
            config=plain({"corpus": corpus, "seed": request.seed, **config}),
            inputs={**(inputs or {}), **_given_files(request)},
            overwrite=request.overwrite,
            keep_finished=request.keep_finished and not request.redraw,
            experiment=request.exp,
            kind="part",
        )
        self.finished = self._finished_result() if self._output.is_kept(progress) else None
        if self.finished is None:
            self._say_changes()
            self._output.open()

    def _finished_result(self) -> CorpusResult:
        """Return the result of the earlier equal request."""
        self._note_recipe()
        try:
            summary = read_provenance(self.path)["summary"]
            return CorpusResult(**{**summary, "data": str(self.path), "bad_files": self._read_bad_files()})
        except (KeyError, TypeError) as error:
            path = self._output.record
            raise ArtifactError(f"{path}: summary: cannot be read; use --overwrite") from error

    def _say_changes(self) -> None:
        """Note each setting that was another one when this corpus was prepared before."""
        before = (self._output.finished() or {}).get("config")
        if isinstance(before, dict) and before.get("corpus") == self._corpus:
            for key, value in self._output.config.items():
                if before.get(key, value) != value:
                    was, now = ("not given" if item is None else item for item in (before[key], value))
                    self._progress.note(f"{self.path}: {key} was {was}, is {now} now")

    def _read_bad_files(self) -> tuple[BadFile, ...]:
        path = self.path / BAD_FILES_NAME
        columns = [item.name for item in fields(BadFile)]
        rows = read_table(path, columns)[columns].to_dict("records") if path.exists() else []
        return tuple(BadFile(**{str(key): str(text) for key, text in row.items()}) for row in rows)

    def __enter__(self) -> "DataDirectory":
        """Return the directory itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release the lock."""
        self._output.close()

    def clear(self) -> None:
        """Remove the lists of an earlier corpus; the mark of completeness goes first.

        Lists of the user's own beside them stay, and so does audio: a directory `demo`, `cnceleb` or `kaldi` may be
        the user's corpus.
        """
        summary = read_provenance(self.path).get("summary") if is_finished(self.path) else None
        trials = summary.get("trials") if isinstance(summary, dict) else None
        names = [Path(name).name for name in trials] if isinstance(trials, dict) else []
        made = [f"trials/{name}{suffix}" for name in names for suffix in LIST_ENDINGS]
        self._output.unmark()
        for name in (*_OWN_FILES, *made):
            (self.path / name).unlink(missing_ok=True)

    def accept(self, bad: Sequence[BadFile], num_files: int) -> None:
        """Write the list of bad files, and raise unless they are to be left out.

        Raises:
            BadFilesError: there are some and `skip_bad` is not set.
            DataError: there is no audio at all.
        """
        if not num_files:
            raise DataError(f"{self._request.root}: no audio files below it")
        (self.path / BAD_FILES_NAME).unlink(missing_ok=True)
        if bad:
            rows = [{key: printable(text) for key, text in asdict(file).items()} for file in bad]
            write_table(self.path / BAD_FILES_NAME, pd.DataFrame(rows))
        try:
            refuse_bad(bad, self._request.scan, num_files)
        except BadFilesError as error:
            raise BadFilesError(f"{error}; all are listed in {self.path / BAD_FILES_NAME}", bad) from None

    def write(
        self,
        train: pd.DataFrame,
        evaluation: pd.DataFrame,
        lists: Sequence[EvaluationList],
        bad: Sequence[BadFile],
        progress: Progress,
        eval_speakers: Sequence[str] = (),
    ) -> CorpusResult:
        """Write all lists, note the preset, and finish.

        Args:
            train: rows of all training speakers; some are held out for validation here.
            evaluation: rows of the utterances named in `lists`.
            lists: evaluation lists.
            bad: files that were left out.
            progress: notes.
            eval_speakers: those for evaluation, also where no list names them.

        Raises:
            DataError: a training speaker also evaluates, or there are too few training speakers.
        """
        shared = sorted(set(train["speaker_id"]) & set(evaluation["speaker_id"]))
        if shared:
            raise DataError(f"speakers both in training and in evaluation: {first_five(shared)}")
        num_speakers = train["speaker_id"].nunique()
        if num_speakers < 2:
            raise DataError(
                f"{num_speakers} training speakers are left; expected at least 2 besides the evaluation's"
            )
        held_out, valid_trials = _hold_out(train, self._request, progress)
        valid = train[train["speaker_id"].isin(held_out)]
        train = train[~train["speaker_id"].isin(held_out)]
        before = read_splits(self.path)
        now: dict[str, str] = dict.fromkeys(train["speaker_id"].unique(), TRAINING)
        now |= dict.fromkeys(held_out, VALIDATION)
        now |= dict.fromkeys([*eval_speakers, *evaluation["speaker_id"].unique()], EVALUATION)
        for note in differences(before, now):
            progress.note(note)
        given = {
            entry.name: read_file(entry.source, DataError) for entry in lists if entry.source is not None
        }
        matched = {entry.name: entry.matched for entry in lists if entry.matched is not None}
        for words in matched.values():
            progress.note(words)
        write_splits(self.path, now if self._request.redraw else {**before, **now})
        self.clear()  # a given list may lie where lists are written
        for name, table in (("train.tsv", train), ("eval.tsv", evaluation), ("valid.tsv", valid)):
            if len(table):
                write_manifest(self.path / name, movable_table(table, self.path))
        if valid_trials is not None:
            write_trials(self.path / "valid_trials.txt", valid_trials)
        written: list[Path] = []
        for entry in lists:
            path, enroll = (self.path / "trials" / f"{entry.name}{suffix}" for suffix in LIST_ENDINGS)
            written += [path, enroll]
            if entry.source is None:
                write_trials(path, entry.trials)
            else:
                write_bytes(path, given[entry.name])
            if entry.enrollment is not None:
                write_table(enroll, entry.enrollment)
        result = self._summarise(train, valid, evaluation, lists, bad)
        self._note_recipe()
        own = (*(self.path / name for name in (*_OWN_FILES, SPLITS_NAME)), *written)
        summary = {**asdict(result), "data": self.path.name, "bad_files": len(bad)}
        self._output.finish(
            {"summary": summary, "matched_ids": matched}, [path for path in own if path.exists()]
        )
        remove_journal(self.path / JOURNAL_NAME)
        return result

    def _note_recipe(self) -> None:
        """Note preset and encoder that were asked for; what an experiment was made with stays otherwise."""
        exp, encoder = self._request.exp, self._request.encoder
        noted = None if encoder is None else encoder_to_note(exp, encoder)
        changes = {
            key: value for key, value in (("preset", self._request.preset), ("encoder", noted)) if value
        }
        if "preset" not in read_noted(exp):
            changes = {"preset": self._default_preset, **changes}
        for change in update_experiment(exp, **changes):
            self._progress.note(change)

    def _summarise(
        self,
        train: pd.DataFrame,
        valid: pd.DataFrame,
        evaluation: pd.DataFrame,
        lists: Sequence[EvaluationList],
        bad: Sequence[BadFile],
    ) -> CorpusResult:
        seconds = train["num_samples"].astype("int64") / train["sample_rate_hz"].astype("int64")
        counts = {
            entry.name: {
                "targets": int((entry.trials.labels == 1).sum()),
                "nontargets": int((entry.trials.labels == 0).sum()),
            }
            for entry in lists
        }
        return CorpusResult(
            data=str(self.path),
            corpus=self._corpus,
            train_speakers=train["speaker_id"].nunique(),
            train_utterances=len(train),
            train_hours=round(float(seconds.sum()) / 3600, 4),
            valid_speakers=valid["speaker_id"].nunique(),
            valid_utterances=len(valid),
            eval_speakers=evaluation["speaker_id"].nunique(),
            eval_utterances=len(evaluation),
            trials=counts,
            bad_files=tuple(bad),
        )


def _given_files(request: CorpusRequest) -> dict[str, Path]:
    files = {f"trials {path.stem}": path for path in request.trials}
    spec = request.eval_speakers
    if spec is not None and (Path(spec).exists() or not spec.isdecimal()):
        files["eval speakers"] = Path(spec)
    for path in files.values():  # before a scan that may take hours
        check_file(path, DataError)
    return files


def _hold_out(
    train: pd.DataFrame, request: CorpusRequest, progress: Progress
) -> tuple[list[str], Trials | None]:
    speakers = splits.choose_valid_speakers(
        request.valid_speakers, train, request.seed, request.known_splits()
    )
    if speakers:
        try:
            rows = train[train["speaker_id"].isin(speakers)].drop(columns="gender", errors="ignore")
            return speakers, splits.make_trials(rows, request.seed, "validation")
        except DataError:
            if request.valid_speakers is not None:
                raise
    progress.note("no speakers are held out for validation: the corpus is too small or was told not to")
    return [], None


def identity(request: CorpusRequest) -> dict[str, Any]:
    """Return the part of a command's configuration that every corpus has."""
    return {
        "root": request.root.resolve() if request.root is not None else None,
        "eval_speakers": request.eval_speakers,
        "trials": request.trials,
        **({"match_ids": True} if request.match_ids else {}),
        "valid_speakers": request.valid_speakers,
        "min_seconds": request.scan.min_seconds,
        "skip_bad": request.scan.skip_bad,
        "reads_samples": request.scan.reads_samples,
        **unusual(request.scan),
    }


def unusual(scan: ScanOptions) -> dict[str, Any]:
    """Return the options that earlier records do not have, where they are not as they were then."""
    channel = {"channel": scan.channel} if scan.channel != 0 else {}
    return {**channel, **({"allow_cut": True} if scan.allow_cut else {})}
