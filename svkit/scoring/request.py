"""The request and the result of `svkit score`, and the options that contradict each other."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from svkit.errors import ConfigError, DataError
from svkit.eval.results import Application
from svkit.scoring.backend import Backend
from svkit.scoring.comparison import NUM_RESAMPLES
from svkit.store.metrics import Comparison, ConditionRates, ScoredList
from svkit.store.output import Output
from svkit.store.request import Request
from svkit.store.score_forms import FORMS, check_ids
from svkit.store.trials import Trials


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest(Request):
    """What to score, how, and where the result goes."""

    trials: Path
    embeddings: tuple[Path, ...] = ()
    """Empty: those in exp/embeddings that have the utterances (`svkit.scoring.systems`)."""
    scores: tuple[Path, ...] = ()
    """Score files of other toolkits for these trials; if given, `embeddings` has no default."""
    names: tuple[str, ...] = ()
    """Names of the systems that produced `scores`."""
    backend: Backend = field(default_factory=Backend)
    cohorts: tuple[Path, ...] = ()
    """Embeddings, or a manifest to embed: one for all systems, or one for each, in their order."""
    means: tuple[Path, ...] = ()
    """Embeddings or a manifest whose mean is subtracted: one for all systems, or one for each."""
    plda_training: tuple[Path, ...] = ()
    """Embeddings or a manifest of training speakers for PLDA: one for all systems, or one for each."""
    plda_adaptation: tuple[Path, ...] = ()
    """Embeddings or a manifest of recordings to adapt PLDA to: one for all systems, or one for each."""
    enroll: Path | None = None
    """Utterances of each enrollment; None: enrollments are utterances."""
    calibrate: bool = False
    """Learn a calibration (or a fusion) on these trials."""
    calibrate_folds: int = 0
    """Folds of speakers for the cross-validated log-likelihood ratios of these trials; 0: none."""
    calibrations: tuple[Path, ...] = ()
    """Calibrations learnt on other trials, to be applied: one file for all systems, or one for each."""
    quality: bool = False
    """Calibrations use norms, durations and cohort means as well as the score."""
    fuse: tuple[Path, ...] = ()
    """Scores directories of these trials to fuse, instead of embeddings to score."""
    applications: tuple[Application, ...] = ()
    """Priors and costs to judge by, in addition to the usual ones."""
    by: tuple[str, ...] = ()
    """Breakdowns: columns of the sidecar or the manifest, or `duration`."""
    sidecar: Path | None = None
    """Columns of the trials, one row per trial."""
    sides: Literal["test", "both"] = "test"
    """Sides of a trial that take embeddings under a condition; with `test`, enrollments are as recorded."""
    forms: tuple[str, ...] = ()
    """Formats of other toolkits to write as well."""
    allow: Collection[str] = ()
    """Guards that may be passed (`svkit.scoring.guards`)."""
    match_ids: bool = False
    """Match ids that differ in notation from the utterances' (`svkit.scoring.id_matching`)."""
    seed: int = 24

    @property
    def material(self) -> dict[str, tuple[Path, ...]]:
        """What the back-end uses besides the embeddings it scores, by option, in the order of `material.KINDS`."""
        found = self.cohorts, self.means, self.plda_training, self.plda_adaptation
        return dict(zip(("--cohort", "--mean", "--plda-train", "--plda-adapt"), found, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemScore:
    """One system's result."""

    directory: Path
    metrics: ScoredList
    """`Metrics`, if there are trials of both classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreResult:
    """The result of `svkit score`."""

    trials: str
    """Stem of the trial list."""
    systems: tuple[SystemScore, ...]
    comparisons: tuple[Comparison, ...] = ()
    """Every other system against `dense`, or else against the first one; without conditions."""
    conditions: tuple[ConditionRates, ...] = ()


def check_options(request: ScoreRequest, trials: Trials) -> None:
    """Raise ConfigError for options that contradict each other, and DataError for trials that lack needed labels."""
    if not trials.has_labels:
        needing = {
            "--calibrate": request.calibrate,
            "--calibrate-folds": request.calibrate_folds,
            "--fuse without --calibration": request.fuse and not request.calibrations,
            "--by": request.by,
            "--p-target": request.applications,
        }
        if wished := [name for name, value in needing.items() if value]:
            raise DataError(
                f"{request.trials}: has no labels, so it gives scores only; {', '.join(wished)}: "
                "expected trials such"
                " as `1 enroll test`"
            )
    for form in request.forms:
        if form not in FORMS:
            raise ConfigError(f"--format {form}: expected {' or '.join(FORMS)}")
        check_ids(form, trials)
    backend, cohorts, learns = request.backend, request.cohorts, request.calibrate or request.calibrate_folds
    not_for_fusion = {
        "--embeddings": request.embeddings, "--qmf": request.quality, **request.material,
        "a back-end": backend != Backend(),
    }  # fmt: skip
    given = [name for name, value in not_for_fusion.items() if value] if request.fuse else []
    without_ours = (
        {**not_for_fusion, "--embeddings": False} if not request.embeddings else {"--qmf": request.quality}
    )
    not_imported = [name for name, value in without_ours.items() if value] if request.scores else []
    compares_cohort = backend.norm != "none" or request.quality
    contradictions = {
        "--calibration applies a calibration, --calibrate and --calibrate-folds learn one; give one of "
        "them": (request.calibrations and learns),
        "--sidecar gives columns for --by; name one with --by COLUMN": request.sidecar and not request.by,
        f"--fuse uses scores as they are; leave out {', '.join(given)}": given,
        f"--scores are used as they are; leave out {', '.join(not_imported)}": not_imported,
        "--scores and --fuse cannot be combined: first import the scores, then fuse their directories": (
            request.scores and request.fuse
        ),
        "--cohort-speakers needs --cohort, and --norm or --qmf": (
            backend.cohort_speakers and not (cohorts and compares_cohort)
        ),
        "--cohort is used by --norm, --center and --qmf; give one of them": (
            cohorts and not compares_cohort and not backend.center
        ),
        "--center and --mean each subtract a mean; give one of them": backend.center and request.means,
        "--mean: PLDA centres on its training data, or on that of --plda-adapt (--adapt-weight 0: the mean only)": (
            request.means and backend.method == "plda"
        ),
        "--plda-adapt is only for --backend plda": request.plda_adaptation and backend.method != "plda",
        "--adapt-weight needs --plda-adapt": backend.adapt_weight is not None and not request.plda_adaptation,
        f"--norm {backend.norm} needs a cohort: give --cohort with embeddings or a manifest": (
            backend.norm != "none" and not cohorts
        ),
        "--backend plda and --plda-train (embeddings of training speakers) need each other; give both": (
            (backend.method == "plda") != bool(request.plda_training)
        ),
    }
    for message, is_found in contradictions.items():
        if is_found:
            raise ConfigError(message)


def score_output(
    request: ScoreRequest,
    system: str,
    inputs: Mapping[str, Path | None],
    changes: Mapping[str, Any] | None = None,
) -> Output:
    """Return the scores directory of a system on the request's trials; `inputs` without a path are left out."""
    shared = {"trials": request.trials, "enroll": request.enroll, "sidecar": request.sidecar}
    given = {name: path for name, path in {**shared, **inputs}.items() if path is not None}
    config = {
        **request.backend.changed(),
        "num_resamples": NUM_RESAMPLES,
        "seed": request.seed,
        "calibrate": request.calibrate,
        "calibrate_folds": request.calibrate_folds,
        "quality": request.quality,
        "by": list(request.by),
        "forms": list(request.forms),
        "allow": sorted(request.allow),
        # Only if in use: records of earlier versions lack these, and their scores stay current.
        **({"match_ids": True} if request.match_ids else {}),
        **({"applications": [asdict(one) for one in request.applications]} if request.applications else {}),
        **(changes or {}),
    }
    backend = request.backend.name(given)
    stem = request.trials.stem if backend == "cosine" else f"{request.trials.stem}-{backend}"
    stem += "-both-sides" if "sides" in config else ""
    return request.output(request.exp / "scores" / system / stem, "score", config, given)
