"""`svkit identify`: which person of a gallery is speaking, or none of them?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svkit.errors import ArtifactError, first_five
from svkit.eval.llr import bayes_threshold, open_set_posteriors
from svkit.models.load import load_model
from svkit.progress import Progress
from svkit.scoring import listen, ratio
from svkit.scoring.verify import CalibrationFacts, describe_calibration, find_calibration
from svkit.store.calibration import CalibrationRecord
from svkit.store.gallery import Gallery, read_gallery
from svkit.store.source import shown


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentifyRequest(listen.HearingRequest):
    """Which recordings to look for, where, and how to decide."""

    gallery: Path
    files: tuple[Path, ...]
    is_one_speaker: bool = False
    """All recordings are of one speaker; otherwise each is judged separately."""

    calibration: Path | None = None
    """None: `calibration.json` beside the model, if there is one."""
    prior: float | None = None
    """Prior probability that the speaker is in the gallery, shared equally among its people. None: decide by the false
    accepts that the calibration was made for, else by a prior of 0.5."""
    threshold: float | None = None
    """Accept the best if its cosine score is at least this. None: if its ratio outweighs the prior, or reaches the
    calibration's threshold, and it is likelier than all others together."""
    margin: float = 0.0
    """Leave it undecided unless the best is this far ahead of the second: in log-likelihood ratio, else in score."""
    top: int = 5
    """Number of people to list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A person of the gallery, and the evidence for this person."""

    name: str
    score: float
    """Cosine with the mean of the person's length-normalised embeddings."""
    llr: float | None
    """Natural-log ratio of "this person" over "somebody else", within bounds; None: not calibrated."""
    posterior: float | None
    """Probability that it is this person, given all others and the case that it is none of them."""
    recordings: int
    """Number of recordings that the person is enrolled with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Who the speaker of one or more recordings is."""

    files: tuple[listen.Recording, ...]
    is_accepted: bool | None
    """True: it is `name`; False: none of them; None: undecided."""
    name: str | None
    """The best person, if accepted."""
    candidates: tuple[Candidate, ...]
    """Best first."""
    rival: str | None
    """Another person who cannot be ruled out, if the best is accepted."""
    doubts: tuple[str, ...]
    """Who else it may be: the rival or nobody enrolled, if the best is accepted; if nobody is, those who may be it."""
    posterior_of_none: float | None
    margin_score: float | None
    """Best minus second; None: only one person is enrolled."""
    margin_llr: float | None
    warnings: tuple[str, ...]
    """Why the answer should not be trusted."""
    notes: tuple[str, ...]

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against the answer."""
        return not self.warnings


@dataclass(frozen=True, kw_only=True, slots=True)
class Identified:
    """All answers, and what they are based on."""

    answers: tuple[Answer, ...]
    gallery: Path
    people: int
    prior: float
    """Probability that the speaker is in the gallery."""
    prior_per_person: float
    threshold: float | None
    """The best is rejected below it; None: no decision."""
    threshold_of: str | None
    """`llr` or `score`."""
    threshold_score: float | None
    """The threshold as a score; None: no decision, or it depends on the recordings' quality."""
    threshold_from: str | None
    """As in `svkit verify`: `bayes`, `given`, or `false accepts`."""
    model: dict[str, str]
    calibration: CalibrationFacts | None
    notes: tuple[str, ...]
    """What holds for every answer."""


_SURE = 0.9
"""Probability among those enrolled, or that it is one of them, from which the best is named without a doubt."""
_Calibration = tuple[Path, CalibrationRecord] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Limit:
    """The threshold from which the best is accepted; its fields are named as in the result."""

    prior: float
    threshold: float | None
    threshold_of: str | None
    threshold_score: float | None
    threshold_from: str | None


def run(request: IdentifyRequest, progress: Progress) -> Identified:
    """Look for the speakers of recordings among the people of a gallery.

    Raises:
        ConfigError: a prior outside (0, 1).
        DataError: audio that `svkit verify` would refuse.
        ArtifactError: the gallery is missing, empty or of another model, or the calibration does not fit.
    """
    bayes_threshold(0.5 if request.prior is None else request.prior)  # checks it before anything slow
    gallery = read_gallery(request.gallery)
    if not gallery.names:
        raise ArtifactError(f"{request.gallery}: nobody is enrolled; run `svkit enroll NAME FILE...` first")
    heard = listen.hear(request.files, request.channel, allow_cut=request.allow_cut)
    checkpoint, model = listen.choose_model(request, gallery, progress)
    calibration = find_calibration(request.calibration, checkpoint, model.sha256)
    embedded = listen.embed_heard(
        load_model(checkpoint), checkpoint, heard, progress, f"identify with {shown(checkpoint)}"
    )
    limit = _limit(request, calibration, len(gallery.names))
    groups = [tuple(heard)] if request.is_one_speaker else [(path,) for path in heard]
    return Identified(
        answers=tuple(
            answer(request, gallery, calibration, {path: heard[path] for path in group}, embedded)
            for group in groups
        ),
        gallery=request.gallery,
        people=len(gallery.names),
        **asdict(limit),
        prior_per_person=limit.prior / len(gallery.names),
        model={"path": checkpoint.as_posix(), "sha256": model.sha256},
        calibration=None if calibration is None else describe_calibration(*calibration),
        notes=tuple(_notes(limit, calibration, gallery, max(map(len, groups)))),
    )


def _limit(request: IdentifyRequest, calibration: _Calibration, people: int) -> _Limit:
    """Return what to decide by; a given prior or threshold takes precedence over the decision in the calibration."""
    prior = 0.5 if request.prior is None else request.prior
    decision = None if calibration is None or request.prior is not None else calibration[1].decision
    found: tuple[float | None, str | None, str | None] = (None, None, None)
    if request.threshold is not None:
        found = (request.threshold, "score", "given")
    elif decision is not None and decision.false_accepts is not None:
        found = (decision.point.threshold, "llr", "false accepts")
    elif calibration is not None:
        # The people share the prior, so each of N needs N times the odds of a single one.
        found = (bayes_threshold(prior) + float(np.log(people)), "llr", "bayes")
    threshold, of, source = found
    score = threshold
    if calibration is not None and threshold is not None and of == "llr":
        score = ratio.score_at(calibration[1], threshold)
    return _Limit(
        prior=prior, threshold=threshold, threshold_of=of, threshold_score=score, threshold_from=source
    )


def answer(
    request: IdentifyRequest,
    gallery: Gallery,
    calibration: _Calibration,
    heard: listen.Heard,
    embedded: listen.Embedded,
) -> Answer:
    """Say which person of the gallery the one speaker of these recordings is, by their embeddings [D]."""
    limit = _limit(request, calibration, len(gallery.names))
    ranked = scores = listen.search(
        gallery, listen.mean_embedding(np.stack([embedded[path] for path in heard]))
    )
    llrs, posteriors, of_none = None, None, None
    if calibration is not None:
        record = calibration[1]
        learnt = ratio.map_of(record)
        ranked = learnt.apply(_features(gallery, scores, heard, embedded)[:, : len(record.features)])
        llrs = np.clip(ranked, *learnt.bounds)
        posteriors, of_none = open_set_posteriors(llrs, limit.prior)
    # Two at least, since margin and rival need the second.
    ranking = np.argsort(-ranked, kind="stable")
    order = ranking[: max(request.top, 2)]
    counts = gallery.counts
    found = tuple(
        Candidate(
            name=gallery.names[row],
            score=float(scores[row]),
            llr=None if llrs is None else float(llrs[row]),
            posterior=None if posteriors is None else float(posteriors[row]),
            recordings=int(counts[row]),
        )
        for row in order
    )
    margins = _margins(found)
    reached, clear = found[0].llr, found[0].posterior
    among = None if llrs is None else float(1 / np.exp(llrs - llrs.max()).sum())
    if llrs is not None and limit.threshold_from == "false accepts":
        # Ratios beyond the bounds count, as in verify. The false-accept target, not a prior, decides whether it is
        # somebody of the gallery, so `clear` compares only the people in it.
        reached, clear = float(ranked[order[0]]), among
    is_accepted, why = _decide(request, limit, found, margins, reached, clear)
    rival = found[1].name if is_accepted and among is not None and among < _SURE else None
    if rival is not None:
        why.append(
            f"{rival} is not ruled out: among those enrolled, {found[0].name} has a probability of {among:.2f}; how"
            " often the model confuses people of this gallery has not been measured"
        )
    doubts = [] if rival is None else [rival]
    if is_accepted and (of_none or 0.0) > 1 - _SURE:
        doubts.append("nobody enrolled")
    if is_accepted is False and posteriors is not None:
        doubts += [gallery.names[row] for row in ranking[:10] if posteriors[row] > 1 - _SURE]
    bound = found[0].llr
    if bound is not None and margins[1] == 0 and bound in learnt.bounds:
        why.append(
            f"{found[0].name} and {found[1].name} have the same ratio only because the calibration's trials support"
            f" none beyond {bound:+.2f}; their scores differ by {margins[0]:.4f}"
        )
    return Answer(
        files=tuple(recording for recording, _ in heard.values()),
        is_accepted=is_accepted,
        name=found[0].name if is_accepted else None,
        rival=rival,
        doubts=tuple(doubts),
        candidates=found[: request.top],
        posterior_of_none=of_none,
        margin_score=margins[0],
        margin_llr=margins[1],
        warnings=(
            *listen.warnings_on(heard),
            *listen.enrolled_among(heard, gallery),
            *(() if calibration is None else ratio.distrust(calibration[1])),
        ),
        notes=(*listen.notes_on(heard), *why),
    )


def _features(
    gallery: Gallery,
    scores: NDArray[np.float64],
    heard: listen.Heard,
    embedded: listen.Embedded,
) -> NDArray[np.float64]:
    """Return the `PAIR_FEATURES` [N, 5] of every person with the recordings, measured as in scoring a list."""
    log_norm = float(np.mean([np.log(np.linalg.norm(embedded[path].astype(np.float64))) for path in heard]))
    seconds = sum(recording.file_seconds for recording, _ in heard.values())
    return ratio.pair_features(
        scores, (gallery.log_norms / gallery.counts, log_norm), (gallery.seconds, seconds)
    )


def _margins(found: Sequence[Candidate]) -> tuple[float | None, float | None]:
    if len(found) < 2:
        return None, None
    first, second = found[:2]
    llr = None if first.llr is None or second.llr is None else first.llr - second.llr
    return first.score - second.score, llr


def _decide(
    request: IdentifyRequest,
    limit: _Limit,
    found: Sequence[Candidate],
    margins: tuple[float | None, float | None],
    reached: float | None,
    clear: float | None,
) -> tuple[bool | None, list[str]]:
    """Decide about the best by its ratio `reached` and its probability `clear`; if nothing is decided, say why."""
    best = found[0]
    value = best.score if limit.threshold_of == "score" else reached
    if limit.threshold is None or value is None:
        return None, []
    passes = value >= limit.threshold
    margin = margins[0] if margins[1] is None else margins[1]
    if passes and request.threshold is None and clear is not None and clear < 0.5:
        share = f"{best.name}, the best, has a probability of only {clear:.2f}"
        if limit.threshold_from == "false accepts":
            share += " among those enrolled"
        return None, [f"probably somebody enrolled, but it is not clear who: {share}"]
    if passes and margin is not None and margin < request.margin:
        return None, [
            f"{best.name} or {found[1].name}: the margin is {margin:.3g}, asked for {request.margin:g}"
        ]
    return bool(passes), []


def _notes(limit: _Limit, calibration: _Calibration, gallery: Gallery, recordings: int) -> list[str]:
    """Return what holds for every answer: what the calibration, or the lack of one, does not allow.

    `recordings` is how many an answer has at most.
    """
    if calibration is None:
        return [
            "This model is not calibrated: scores are cosines, which say who is nearest, but not "
            "whether it is that person."
            + ("" if limit.threshold is not None else " Give --threshold, or calibrate the model, to decide.")
        ]
    path, record = calibration
    names, found = gallery.names, list[str]()
    if max(recordings, *gallery.counts) > 1:
        found.append(ratio.SEVERAL_RECORDINGS)
    if limit.threshold_from == "false accepts":
        found += [*ratio.limits_of_target(record), *filter(None, (ratio.weak_rejection(record),))]
    known = sorted({*(record.speakers or ())} & {*names})
    if known:
        found.append(
            f"the calibration was learnt on people of this gallery ({first_five(known)}), so the rates measured for it"
            " do not hold for them; learn it on others"
        )
    low, high, people = *ratio.map_of(record).bounds, len(names)
    needed = limit.threshold if limit.threshold_from == "bayes" else None
    if needed is not None and needed > high:
        found.append(
            f"nobody is ever accepted: with {people:,} people enrolled, this prior needs a ratio of {needed:+.2f}, and"
            f" the calibration's {record.num_nontargets:,} nontarget trials support none beyond {high:+.2f}; learn it"
            " on more trials, or give --prior or --threshold"
        )
    elif needed is not None and needed < low:
        found.append(f"somebody is always accepted: at this prior a ratio of {needed:+.2f} is enough")
    elif limit.threshold_from == "false accepts" and limit.threshold is not None and limit.threshold > high:
        found.append(
            f"the ratios shown end at {high:+.2f}, beyond which the calibration's {record.num_nontargets:,} nontarget"
            " trials support none; to decide, they are taken without this bound"
        )
    gap = ratio.bounds_gap(path, record)
    return found if gap is None else [*found, f"not known: {gap}"]
