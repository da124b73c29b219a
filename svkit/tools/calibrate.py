"""`svkit calibrate`: learns a calibration from recordings of people, and measures the decisions it leads to."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from svkit.config.load import load_recipe
from svkit.config.schema import ExtractConfig
from svkit.corpora.layouts.folder import list_name, list_recordings
from svkit.corpora.scan import ScanOptions
from svkit.corpora.splits import TRIALS_PER_UTTERANCE, make_trials
from svkit.corpora.walk import is_audio_name
from svkit.errors import ArtifactError, DataError, first_five
from svkit.eval.bootstrap import MIN_SPEAKERS, TrialSpeakers
from svkit.eval.decision import judge
from svkit.eval.llr import bayes_threshold, cllr
from svkit.eval.logistic import CrossValidated, cross_validate
from svkit.eval.metrics import equal_error_rate, error_curve, far_point
from svkit.models import extract
from svkit.models.extract import ExtractRequest
from svkit.models.final import final_model, model_name
from svkit.progress import Progress
from svkit.scoring.backend import Backend, describe_backend
from svkit.scoring.calibrate import Features, learn, quality_features
from svkit.scoring.comparison import NUM_RESAMPLES
from svkit.scoring.guards import Guards, check_training
from svkit.scoring.lineage import training_speakers
from svkit.scoring.ratio import lowest_shown, map_of, people_needed, score_at, slope_caution
from svkit.scoring.subject import Subject, TrialSet
from svkit.scoring.trial_scores import look_up, score_trials
from svkit.scoring.trial_speakers import find_speakers
from svkit.store.calibration import FILE_NAME, CalibrationRecord, Decision, check_place, write_calibration
from svkit.store.embeddings import read_embeddings
from svkit.store.exported import FACTS_NAME
from svkit.store.gallery import read_gallery
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.provenance import sha256_file
from svkit.store.source import shown
from svkit.store.trials import Trials, write_trials

MAX_FOLDS = 10
TARGETS = (0.001, 0.01, 0.02, 0.05, 0.1)
"""False-accept rates whose decisions are judged for comparison, besides the one asked for."""
_NUM_TRIALS, _MAX_PER_UTTERANCE = 300_000, 1_000
"""About this many nontarget trials are drawn; with fewer than about 800 recordings, all pairs are trials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateRequest:
    """Which recordings to learn from, and how to decide."""

    source: Path
    """A folder with a directory for each person, or a manifest."""
    exp: Path = Path("exp")
    model: Path | None = None
    """Checkpoint; None: the experiment's fine-tuned pruned model, else its final dense one."""
    out: Path | None = None
    """None: `calibration.json` beside the model."""
    false_accepts: float | None = None
    """Highest rate of other people accepted; None: decide by prior and costs."""
    p_target: float = 0.5
    c_miss: float = 1.0
    c_fa: float = 1.0
    quality: bool = False
    """Learn from durations and norms as well as from the score."""
    speaker_regex: str | None = None
    scan: ScanOptions = field(default_factory=ScanOptions)
    skip_trained: bool = False
    """Leave out people on whom the model was trained."""
    allow: tuple[str, ...] = ()
    """Guards that may be passed (`svkit.scoring.guards`)."""
    overwrite: bool = False
    seed: int = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """What is missing to show the requested rate."""

    people_needed: int
    """In all, with two or more recordings each."""
    people: int
    recordings: int
    """At least this many have to be added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateResult:
    """What was learnt, judged on people other than those it was learnt on."""

    calibration: str
    """The file written."""
    model: str
    people: int
    people_once: int
    """People without two recordings to compare (of different sessions, if sessions are known)."""
    recordings: int
    targets: int
    nontargets: int
    folds: int
    eer: float
    cllr: float
    """Bits."""
    decision: Decision
    targets_compared: tuple[Decision, ...]
    """What these people show of other false-accept rates, and of the one asked for, from the strictest on."""
    score: float | None
    """Cosine to accept from; None: it depends on the recordings' quality."""
    lowest_shown: float
    """Lowest false-accept rate that this many people can show."""
    missing: Missing | None
    """None: there are enough people to show the requested rate."""
    bounds: tuple[float, float]
    """Of the log-likelihood ratios."""
    cautions: tuple[str, ...]
    found_nothing: tuple[str, ...]
    """Guards that compared what they guard, and found nothing."""
    trials: str
    """The list that the trials were written to."""


def run(request: CalibrateRequest, progress: Progress) -> CalibrateResult:
    """Embed, compare within and across people, learn, judge by folds of people, and write.

    The list, its trials and the embeddings stay in `exp/calibrate`, so that another rate needs no new embeddings.

    Raises:
        ConfigError: the calibration exists already, or the prior or costs make no sense.
        DataError: recordings cannot be used, there are too few people, or the model was trained on them.
        ArtifactError: there is no model, it does not tell people apart, or a file cannot be written.
    """
    guards = Guards(allowed=frozenset(request.allow))
    if not request.source.exists():
        raise DataError(f"{request.source}: does not exist; expected a folder or a manifest")
    if request.source.is_file() and is_audio_name(request.source.name):
        raise DataError(
            f"{request.source}: is a recording; expected a folder with a directory of recordings for each person, or a"
            " manifest"
        )
    bayes_threshold(request.p_target, request.c_miss, request.c_fa)  # checks them before anything slow
    checkpoint = request.model or final_model(request.exp, progress)
    out = request.out or checkpoint / FILE_NAME
    check_place(out, checkpoint, overwrite=request.overwrite)
    home = request.exp / "calibrate" / f"{model_name(request.exp, checkpoint)}-{list_name([request.source])}"
    manifest, table = _recordings(request, home, progress)
    if request.skip_trained:
        manifest, table = _without_trained(checkpoint, manifest, table, home, progress)
    _tell_enrolled(request.exp / "gallery", set(table["speaker_id"]), progress)
    trials, once = _trials(table, request.seed)
    trial_path = home / f"{list_name([request.source])}.txt"
    write_trials(trial_path, trials)
    used = {"path": manifest.as_posix(), "sha256": sha256_file(manifest)}
    facts = {"checkpoint": {"path": checkpoint}, "manifest": used}
    # Before the embedding, which takes long.
    check_training(guards, request.source, facts, trials, None, "--skip-trained leaves them out")
    directory = _embed(request, checkpoint, manifest, home, progress)
    embeddings = read_embeddings(directory)
    subject = Subject(
        name=directory.name,
        trial_set=TrialSet(path=trial_path, trials=trials, enrollment=None, sidecar=None),
        guards=guards,
        backend=describe_backend(Backend()),
        manifest=embeddings.meta["manifest"],
        checkpoint=embeddings.meta["checkpoint"],
    )
    lookup = look_up(trials, embeddings, str(directory))
    scores, _ = score_trials(lookup, Backend(), None)
    features = Features(names=("score",), values=scores[:, None])
    if request.quality:
        features = quality_features(scores, None, lookup, subject)
    speakers, _ = find_speakers(trials, subject.manifest)
    num_folds = min(MAX_FOLDS, speakers.num_speakers)
    rates = sorted({*TARGETS, *filter(None, (request.false_accepts,))})
    with progress.task("judge by folds of people", num_folds * (num_folds + 1) // 2) as task:
        folds = cross_validate(
            features.values, trials.labels, speakers, num_folds, request.seed,
            false_accept_rates=rates, on_map=lambda: task.advance(1),
        )  # fmt: skip
    record = learn(subject, features)
    eer = equal_error_rate(error_curve(scores, trials.labels))
    if record.weights[0] <= 0:
        raise ArtifactError(
            f"{checkpoint}: cannot distinguish these people: expected higher scores within a person "
            f"than between two, found the opposite (EER {100 * eer:.1f} %); is it a trained speaker "
            "model?"
        )
    guards.caution(slope_caution(record))
    compared = _compare(rates, record, features, folds, trials, speakers, request.seed)
    asked = (one for one in compared if one.false_accepts == request.false_accepts)
    decision = next(asked, None) or _cheapest(request, folds, trials, speakers)
    write_calibration(out, replace(record, decision=decision))
    exported = request.exp / "onnx" / model_name(request.exp, checkpoint)
    if request.out is None and (exported / FACTS_NAME).exists():
        progress.note(
            f"{exported}: decides as before, by the calibration that it was exported with; for this one:"
            f" svkit export {shown(checkpoint)} --overwrite"
        )
    people, needed = table["speaker_id"].nunique(), people_needed(decision)
    lacking = max(0, needed - people)
    missing = Missing(people_needed=needed, people=lacking, recordings=2 * lacking + once)
    return CalibrateResult(
        calibration=out.as_posix(),
        model=checkpoint.as_posix(),
        people=people,
        people_once=once,
        recordings=len(table),
        targets=record.num_targets,
        nontargets=record.num_nontargets,
        folds=num_folds,
        eer=eer,
        cllr=cllr(folds.llrs, trials.labels),
        decision=decision,
        targets_compared=compared,
        score=score_at(record, decision.point.threshold),
        lowest_shown=lowest_shown(people),
        missing=missing if lacking else None,
        bounds=map_of(record).bounds,
        cautions=(*guards.cautions, *(f"not checked: {words}" for words in guards.unchecked)),
        found_nothing=tuple(guards.found_nothing),
        trials=trial_path.as_posix(),
    )


def _recordings(request: CalibrateRequest, home: Path, progress: Progress) -> tuple[Path, pd.DataFrame]:
    """Return the manifest to embed and its rows; for a folder, write the manifest first."""
    if not request.source.is_dir():
        return request.source, read_manifest(request.source).table
    scan = replace(request.scan, journal=home / ".scan")
    table, _ = list_recordings([request.source], scan, progress, speaker_regex=request.speaker_regex)
    manifest = home / f"{list_name([request.source])}.tsv"
    write_manifest(manifest, table)
    return manifest, table


def _tell_enrolled(gallery: Path, people: set[str], progress: Progress) -> None:
    """Note who of these people is enrolled in a gallery, if it can be read."""
    try:
        enrolled = sorted(people & set(read_gallery(gallery).names))
    except ArtifactError:
        return
    if enrolled:
        progress.note(
            f"enrolled in {gallery}: {first_five(enrolled)}; the rates measured here hold for other people than these,"
            " so learn on people who will not be enrolled"
        )


def _without_trained(
    checkpoint: Path, manifest: Path, table: pd.DataFrame, home: Path, progress: Progress
) -> tuple[Path, pd.DataFrame]:
    """Return the people on whom the model was not trained, as far as that is known, with their manifest."""
    rest = table[~table["speaker_id"].isin(training_speakers(checkpoint) or ())]
    if len(rest) == len(table):
        return manifest, table
    left, people = rest["speaker_id"].nunique(), table["speaker_id"].nunique()
    progress.note(f"{people - left} of {people} people are left out, because the model was trained on them")
    manifest = home / f"{manifest.stem}-untrained.tsv"
    write_manifest(manifest, rest)
    return manifest, rest


def _trials(table: pd.DataFrame, seed: int) -> tuple[Trials, int]:
    """Return trials within and across people (DataError: too few for an interval), and how many have none within."""
    session = table["session_id"].where(table["session_id"] != "", table["utterance_id"])
    sessions = session.groupby(table["speaker_id"]).nunique()
    several = int((sessions > 1).sum())
    if several < MIN_SPEAKERS:
        raise DataError(
            f"calibrate: expected at least {MIN_SPEAKERS} people with two or more recordings (of different sessions,"
            f" if these are known), found {several} of {len(sessions)}; add people, because fewer say nothing about"
            " others"
        )
    per_utterance = min(_MAX_PER_UTTERANCE, max(TRIALS_PER_UTTERANCE, _NUM_TRIALS // len(table)))
    rows = table.drop(columns="gender", errors="ignore")
    return make_trials(rows, seed, "calibrate", per_utterance), len(sessions) - several


def _embed(
    request: CalibrateRequest, checkpoint: Path, manifest: Path, home: Path, progress: Progress
) -> Path:
    """Embed as `svkit verify` does, in float32; finished embeddings of the same model and list are kept."""
    recipe = replace(load_recipe("tiny"), extract=ExtractConfig())
    asked = ExtractRequest(
        exp=request.exp, recipe=recipe, models=(checkpoint,), dtype="float32", manifest=manifest,
        out=home / "embeddings", overwrite=True, keep_finished=True,
    )  # fmt: skip
    return extract.run(asked, progress)[0]


def _compare(
    rates: Sequence[float],
    record: CalibrationRecord,
    features: Features,
    folds: CrossValidated,
    trials: Trials,
    speakers: TrialSpeakers,
    seed: int,
) -> tuple[Decision, ...]:
    """Choose each rate's threshold on all trials; judge it by thresholds and maps learnt on trials of other people."""
    curve, found = error_curve(map_of(record).apply(features.values), trials.labels), []
    for rate, limits in zip(rates, folds.thresholds, strict=True):
        point = judge(folds.unbounded - limits, trials.labels, speakers, NUM_RESAMPLES, seed)
        point = replace(point, threshold=far_point(curve, rate).threshold)
        found.append(Decision(point=point, false_accepts=rate))
    return tuple(found)


def _cheapest(
    request: CalibrateRequest, folds: CrossValidated, trials: Trials, speakers: TrialSpeakers
) -> Decision:
    """Judge the Bayes decision by maps learnt on the trials of other people."""
    limit = bayes_threshold(request.p_target, request.c_miss, request.c_fa)
    point = judge(folds.llrs - limit, trials.labels, speakers, NUM_RESAMPLES, request.seed)
    return Decision(
        point=replace(point, threshold=limit),
        p_target=request.p_target,
        c_miss=request.c_miss,
        c_fa=request.c_fa,
    )
