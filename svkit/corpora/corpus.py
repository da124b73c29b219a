"""Writing `exp/data`: the lists of a corpus, its validation speakers, and what later preparations must know."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.corpora import membership, splits
from svkit.corpora.derived import hours, movable_table
from svkit.corpora.request import (
    EVERYBODY,
    LIST_ENDINGS,
    CorpusRequest,
    CorpusResult,
    EvaluationList,
)
from svkit.corpora.scan import BadFile, ScanOptions, refuse_bad
from svkit.errors import DataError, first_five, printable
from svkit.progress import Progress
from svkit.store.atomic import write_bytes
from svkit.store.experiment import encoder_to_note, read_noted, update_experiment
from svkit.store.files import check_file, read_file
from svkit.store.manifest import write_manifest
from svkit.store.output import Output
from svkit.store.provenance import plain
from svkit.store.scan_journal import remove_journal
from svkit.store.strict_json import typed
from svkit.store.tables import read_table, write_table
from svkit.store.trials import Trials, write_trials

BAD_FILES_NAME, JOURNAL_NAME = "bad_files.tsv", ".scan"
_OWN_FILES = ("train.tsv", "valid.tsv", "eval.tsv", "valid_trials.txt")


class DataDirectory(Output):
    """`exp/data` as the output of one corpus; the noise and RIR lists are there too."""

    def __init__(
        self,
        request: CorpusRequest,
        progress: Progress,
        corpus: str,
        config: Mapping[str, Any],
        default_preset: str,
        inputs: Mapping[str, Path] | None = None,
    ) -> None:
        """Plan the output of the corpus named `corpus` (DataError: a given list does not exist).

        `config` identifies the request. The default preset is noted in `exp/config.toml` unless the request or the
        experiment has one. `inputs`: see `svkit.corpora.skeleton.prepare`.
        """
        given = {f"trials {path.stem}": path for path in request.trials}
        if request.speakers_file is not None:
            given["eval speakers"] = request.speakers_file
        for path in given.values():  # before a scan that may take hours
            check_file(path, DataError)
        super().__init__(
            request.exp / "data",
            command=f"prepare {corpus}",
            config=plain({"corpus": corpus, "seed": request.seed, **config}),
            inputs={**(inputs or {}), **given},
            overwrite=request.overwrite,
            keep_finished=request.keep_finished and not request.redraw,
            experiment=request.exp,
            kind="part",
        )
        self._request, self._progress = request, progress
        self._corpus, self._default_preset = corpus, default_preset

    def is_kept(self, progress: Progress) -> bool:
        """Decide as `Output` does; if the corpus is prepared again, note each setting that has changed."""
        if super().is_kept(progress):
            return True
        before = (self.finished() or {}).get("config")
        if isinstance(before, dict) and before.get("corpus") == self._corpus:
            # Some settings are on record only if they were given, so one of them may be missing now.
            for key in dict.fromkeys((*self.config, *before)):
                now = self.config.get(key)
                was = before.get(key, now)
                if was != now and now in (None, []):
                    progress.note(
                        f"{self.path}: --{key.replace('_', '-')} was {was} and is not given now; repeat it to keep it"
                    )
                elif was != now:
                    was = "not given" if was in (None, []) else was
                    progress.note(f"{self.path}: {key} was {was} and is {now} now")
        return False

    def kept_result(self) -> CorpusResult:
        """Return the result of the earlier equal request (ArtifactError: it is not on record)."""
        self._note_recipe()
        summary = (self.finished() or {}).get("summary")
        if isinstance(summary, dict):
            summary = {**summary, "data": str(self.path), "bad_files": ()}
        path, columns = self.path / BAD_FILES_NAME, [item.name for item in fields(BadFile)]
        rows = read_table(path, columns)[columns].to_dict("records") if path.exists() else []
        bad = tuple(BadFile(**{str(key): str(text) for key, text in row.items()}) for row in rows)
        return replace(typed(self.record, summary, CorpusResult, "summary"), bad_files=bad)

    def accept(self, bad: Sequence[BadFile], num_files: int) -> None:
        """Write the list of bad files; BadFilesError unless `skip_bad` leaves them out, DataError without any audio."""
        if not num_files:
            raise DataError(f"{self._request.root}: no audio files below it")
        path = self.path / BAD_FILES_NAME
        path.unlink(missing_ok=True)
        if bad:
            rows = [{key: printable(text) for key, text in asdict(file).items()} for file in bad]
            write_table(path, pd.DataFrame(rows))
        refuse_bad(bad, self._request.scan, num_files, f"; all are listed in {path}")

    def write(
        self,
        train: pd.DataFrame,
        evaluation: pd.DataFrame,
        lists: Sequence[EvaluationList],
        bad: Sequence[BadFile],
        eval_speakers: Sequence[str] = (),
        num_unlisted: int = 0,
    ) -> CorpusResult:
        """Write all lists, note the preset, and finish.

        Some of the speakers in `train` are held out for validation here. `evaluation` has the rows of the utterances
        named in `lists`. `eval_speakers` evaluate even if no list names them; `num_unlisted` counts utterances of
        evaluation speakers that no list names.

        Raises:
            DataError: a training speaker also evaluates, or there are too few training speakers.
        """
        shared = sorted(set(train["speaker_id"]) & set(evaluation["speaker_id"]))
        if shared:
            raise DataError(f"speakers both in training and in evaluation: {first_five(shared)}")
        num_speakers = train["speaker_id"].nunique()
        if num_speakers < 2 and self._request.eval_speakers != EVERYBODY:
            raise DataError(
                f"expected at least 2 training speakers besides those of the evaluation, found {num_speakers}"
            )
        held_out, valid_trials = _hold_out(train, self._request, self._progress)
        is_valid = train["speaker_id"].isin(held_out)
        valid, train = train[is_valid], train[~is_valid]
        before = membership.read_splits(self.path)
        now: dict[str, str] = dict.fromkeys(train["speaker_id"].unique(), membership.TRAINING)
        now |= dict.fromkeys(held_out, membership.VALIDATION)
        now |= dict.fromkeys([*eval_speakers, *evaluation["speaker_id"].unique()], membership.EVALUATION)
        matched = {entry.name: entry.matched for entry in lists if entry.matched is not None}
        is_redrawn = self._request.redraw
        for words in (*membership.differences(before, now, is_redrawn=is_redrawn), *matched.values()):
            self._progress.note(words)
        # Read now, before anything is removed: a given list may be one of the files that are replaced.
        given = {entry.name: read_file(entry.source, DataError) for entry in lists if entry.source}
        # Before the lists are removed, so that nobody changes sides if this is interrupted. Speakers who are missing
        # this time keep their part, in case they come back.
        membership.write_splits(self.path, now if is_redrawn else {**before, **now})
        self._clear()
        written = [self.path / name for name in (*_OWN_FILES, membership.SPLITS_NAME)]
        for path, table in zip(written, (train, valid, evaluation), strict=False):
            if len(table):
                write_manifest(path, movable_table(table, self.path))
        if valid_trials is not None:
            write_trials(self.path / "valid_trials.txt", valid_trials)
        for entry in lists:
            path, enroll = (self.path / "trials" / f"{entry.name}{ending}" for ending in LIST_ENDINGS)
            written += [path, enroll]
            if entry.source is None:
                write_trials(path, entry.trials)
            else:
                write_bytes(path, given[entry.name])
            if entry.enrollment is not None:
                write_table(enroll, entry.enrollment)
        counts: dict[str, Any] = {"unlisted_utterances": num_unlisted}
        for part, table in {"train": train, "valid": valid, "eval": evaluation}.items():
            counts[f"{part}_speakers"] = table["speaker_id"].nunique()
            counts[f"{part}_utterances"] = len(table)
            counts[f"{part}_hours"] = hours(table)
        trials = {
            entry.name: {
                "targets": int((entry.trials.labels == 1).sum()),
                "nontargets": int((entry.trials.labels == 0).sum()),
            }
            for entry in lists
        }
        result = CorpusResult(
            data=str(self.path), corpus=self._corpus, trials=trials, bad_files=tuple(bad), **counts
        )
        self._note_recipe()
        summary = {**asdict(result), "data": self.path.name, "bad_files": len(bad)}
        extra = {"summary": summary, "matched_ids": matched}
        self.finish(extra, [path for path in written if path.exists()])
        remove_journal(self.path / JOURNAL_NAME)
        return result

    def _clear(self) -> None:
        """Remove the lists of an earlier corpus, after the mark of completeness.

        The user's own lists beside them stay. So does audio, as a directory `demo`, `cnceleb` or `kaldi` may be the
        user's corpus.
        """
        summary = (self.finished() or {}).get("summary")
        trials = summary.get("trials") if isinstance(summary, dict) else None
        names = [Path(name).name for name in trials] if isinstance(trials, dict) else []
        self.unmark()
        for name in (*_OWN_FILES, *(f"trials/{name}{ending}" for name in names for ending in LIST_ENDINGS)):
            (self.path / name).unlink(missing_ok=True)

    def _note_recipe(self) -> None:
        """Note the preset and encoder that were asked for; otherwise the experiment keeps its own."""
        exp, preset, encoder = self._request.exp, self._request.preset, self._request.encoder
        if preset is None and "preset" not in read_noted(exp):
            preset = self._default_preset
        noted = {"preset": preset, "encoder": None if encoder is None else encoder_to_note(exp, encoder)}
        for change in update_experiment(exp, **{key: value for key, value in noted.items() if value}):
            self._progress.note(change)


def _hold_out(
    train: pd.DataFrame, request: CorpusRequest, progress: Progress
) -> tuple[list[str], Trials | None]:
    """Return the speakers held out for validation, and trials among them; neither if the corpus is too small."""
    if not len(train):
        return [], None
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
    progress.note(
        "no speakers are held out for validation: the corpus is too small, or --valid-speakers is 0"
    )
    return [], None


def corpus_settings(request: CorpusRequest) -> dict[str, object]:
    """Return the part of the configuration that all corpora have in common."""
    return {
        "root": request.root.resolve(),
        "eval_speakers": request.eval_speakers,
        "trials": request.trials,
        **({"match_ids": True} if request.match_ids else {}),
        "valid_speakers": request.valid_speakers,
        **scan_settings(request.scan),
    }


def scan_settings(scan: ScanOptions) -> dict[str, object]:
    """Return what decides which files are bad. Options that earlier records lack are included only if in use."""
    return {
        "min_seconds": scan.min_seconds,
        "skip_bad": scan.skip_bad,
        "reads_samples": scan.reads_samples,
        **({"channel": scan.channel} if scan.channel != 0 else {}),
        **({"allow_cut": True} if scan.allow_cut else {}),
    }
