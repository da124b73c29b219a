"""The tables of results that `svkit score` prints and the report shows."""

from collections.abc import Mapping, Sequence

from svkit.eval.results import Application, DetectionCost, Group, Interval, OperatingPoint
from svkit.eval.summary import APPLICATIONS
from svkit.pruning.outcome import MAX_MOVED, vanished_sentence
from svkit.reports.tables import LEVEL, MISSING, Table, number, percent
from svkit.reports.wording import calibration_text, label, model_of, trial_names
from svkit.store.metrics import Breakdown, Metrics, ScoredList
from svkit.store.report import Distance, Model, ModelSize, Origin, Pruning, Report, StageCurves, Timing
from svkit.store.source import shown

MEGA, GIGA = 1e6, 1e9
EER = f"EER, %{LEVEL}"
BRIEF = APPLICATIONS[:2]
_THRESHOLD_NOTE = (
    "EER: the threshold where both error rates are equal. FAR: a given false-accept rate; to show a rate of 1 in N, it"
    " takes N nontarget trials. minDCF{}: lowest cost at that prior of a target; a miss costs as much as a false "
    "accept unless costs are given (miss : false accept). The 95 % intervals say how these rates would vary with other"
    " speakers if the threshold stayed; for the interval of the EER, it moves with them. A rate without a single error"
    " has a cautious limit, which follows from the number of speakers alone. Once there are errors, it is known how "
    "they spread over people, so an interval may end below that limit. All thresholds{} are read off these very "
    "trials, so other recordings give other rates. To decide about people of your own, do not take a threshold from "
    "here: learn one from other recordings like yours with svkit calibrate."
)

ONE_CLASS_NOTE = f"{MISSING}: the group lacks target or nontarget trials, so it has no EER."


def eer_cell(facts: Metrics | Group) -> str:
    """Write the EER of a system or group, in percent."""
    return percent(facts.eer, facts.eer_interval)


def cost_cells(
    costs: Sequence[DetectionCost] | None, applications: Sequence[Application], *, interval: bool = False
) -> list[str]:
    """Write the detection costs of some applications."""
    found = {cost.application: cost for cost in costs or ()}
    return [
        number(found[one].value, found[one].interval if interval else None, 3) if one in found else MISSING
        for one in applications
    ]


def applications_of(systems: Sequence[Metrics]) -> list[Application]:
    """Return the applications that the systems were judged for."""
    return list(dict.fromkeys(cost.application for system in systems for cost in system.min_dcf))


def _rate_cell(rate: float, interval: Interval | None, num_trials: int) -> str:
    """Write an error rate in percent; one without errors has its upper limit or the number of trials."""
    if round(rate * num_trials):
        return percent(rate, interval)
    return f"0 (at most {100 * interval.high:.2g})" if interval else f"0 (none of {num_trials:,})"


def rated(scored: Sequence[ScoredList]) -> list[Metrics]:
    """Return the scored lists with their error rates; nothing if any has trials of one class only."""
    found = [metrics for metrics in scored if isinstance(metrics, Metrics)]
    return found if len(found) == len(scored) else []


def tables(scored: Sequence[ScoredList]) -> dict[str, Table]:
    """Return every full-width table of systems on one trial list, by name."""
    systems = rated(scored)
    if not systems:
        return {"trials": counts(scored)}
    found = {"errors": errors(systems), "calibration": calibration(systems)}
    found |= {f"thresholds {label(one)}": thresholds(one) for one in systems}
    return found | {table.title: table for table in breakdowns(systems)}


def counts(scored: Sequence[ScoredList], title: str = "", notes: Sequence[str] = ()) -> Table:
    """Trial counts of systems without error rates."""
    if scored[0].num_unlabelled is not None:
        rows = [[label(one), f"{one.num_unlabelled:,}"] for one in scored]
        return Table(title=title, headings=["system", "trials without labels"], rows=rows, notes=notes)
    rows = [[label(one), f"{one.num_targets:,}", f"{one.num_nontargets:,}"] for one in scored]
    return Table(title=title, headings=["system", "targets", "nontargets"], rows=rows, notes=notes)


def errors(systems: Sequence[Metrics]) -> Table:
    """The error measures that need no threshold, with every interval."""
    applications = applications_of(systems)
    return Table(
        headings=[
            *("system", "trials", EER, "convex hull EER, %"),
            *(f"minDCF {one.name}{LEVEL}" for one in applications),
            "minCllr, bits",
        ],
        rows=[
            [
                label(system),
                system.trials.name,
                eer_cell(system),
                percent(system.eer_convex_hull),
                *cost_cells(system.min_dcf, applications, interval=True),
                number(system.min_cllr, digits=3),
            ]
            for system in systems
        ],
        left=(0, 1),
    )


def brief_errors(systems: Sequence[Metrics], title: str, notes: Sequence[str] = ()) -> Table:
    """`errors`, cut down to 80 columns. A back-end that all systems share is named in the title only."""
    backends = {one.backend.name for one in systems}
    title = f"{title} ({backends.pop()})" if len(backends) == 1 else title
    rows = [
        [name, eer_cell(one), *cost_cells(one.min_dcf, BRIEF), number(one.min_cllr, digits=3)]
        for name, one in zip(_brief_names(systems), systems, strict=True)
    ]
    headings = ["system", EER, "minDCF 0.01", "minDCF 0.05", "minCllr, bits"]
    return Table(title=title, headings=headings, rows=rows, notes=notes)


def _brief_names(systems: Sequence[Metrics]) -> list[str]:
    """Name systems, with back-ends and trial lists only where these differ."""
    is_one_backend = len({one.backend.name for one in systems}) == 1
    names = [one.name if is_one_backend else label(one) for one in systems]
    if len(trial_names(systems)) == 1:
        return names
    return [f"{name} on {one.trials.name}" for name, one in zip(names, systems, strict=True)]


def asked_costs(systems: Sequence[Metrics]) -> list[Table]:
    """Detection costs of the requested applications, with intervals; no table if none were requested."""
    asked = [one for one in applications_of(systems) if one not in APPLICATIONS]
    rows = [
        [
            name,
            one.name,
            *cost_cells(system.min_dcf, [one], interval=True),
            *cost_cells(system.act_dcf, [one], interval=True),
        ]
        for one in asked
        for name, system in zip(_brief_names(systems), systems, strict=True)
    ]
    headings = ["system", "prior of a target", f"minDCF{LEVEL}", f"actDCF{LEVEL}"]
    return [Table(title="Detection costs", headings=headings, rows=rows)] if asked else []


def calibration(systems: Sequence[Metrics]) -> Table:
    """The quality of log-likelihood ratios, each measure beside the best that a calibration could reach."""
    headings = ["system", "trials", "calibrated by", f"Cllr, bits{LEVEL}", "minCllr, bits"]
    applications = applications_of(systems)
    for one in applications:
        headings += [f"actDCF {one.name}{LEVEL}", f"minDCF {one.name}"]
    rows = []
    for system in systems:
        if system.cllr is not None:
            actual = cost_cells(system.act_dcf, applications, interval=True)
            best = cost_cells(system.min_dcf_llr, applications)
            costs = [number(system.cllr, system.cllr_interval, 3), number(system.min_cllr_llr, digits=3)]
            costs += [cell for pair in zip(actual, best, strict=True) for cell in pair]
            rows.append([label(system), system.trials.name, calibration_text(system.calibration), *costs])
    return Table(headings=headings, rows=rows, left=(0, 1, 2))


def brief_calibration(systems: Sequence[Metrics]) -> Table:
    """`calibration`, cut down to 80 columns, for the systems of one command: one trial list, distinct names."""
    headings = ["system", "Cllr, bits (at best)", "actDCF 0.01 (at best)", "actDCF 0.05 (at best)"]
    rows = []
    for system in systems:
        actual = [number(system.cllr, digits=3), *cost_cells(system.act_dcf, BRIEF)]
        best = [number(system.min_cllr_llr, digits=3), *cost_cells(system.min_dcf_llr, BRIEF)]
        cells = [f"{cost} ({least})" for cost, least in zip(actual, best, strict=True)]
        rows.append([system.name, *cells])
    note = f"Log-likelihood ratios: {calibration_text(systems[0].calibration)}."
    return Table(title="Calibration", headings=headings, rows=rows, notes=[note])


def _accepts_nothing(point: OperatingPoint) -> bool:
    return point.miss_rate == 1 and point.false_accept_rate == 0


def _digits(thresholds: Sequence[float]) -> int:
    """Return how many digits tell the thresholds apart: scores of a good model lie close together."""
    distinct = len(set(thresholds))
    return next(
        (digits for digits in range(4, 9) if len({f"{one:.{digits}f}" for one in thresholds}) == distinct), 9
    )


def far_points(system: Metrics) -> list[tuple[float, OperatingPoint]]:
    """Return the points at fixed false-accept rates, each with its rate."""
    points = system.thresholds.items()
    return [(float(name.removeprefix("far_")), point) for name, point in points if name.startswith("far_")]


def thresholds(system: Metrics, title: str = "", notes: Sequence[str] = ()) -> Table:
    """The operating points of one system: from which score to accept, and what that costs."""
    chosen = [*system.thresholds.values(), *system.min_dcf]
    digits = _digits([point.threshold for point in chosen if not _accepts_nothing(point)])

    def row(name: str, point: OperatingPoint, scale: str = "score") -> list[str]:
        rates = [
            _rate_cell(point.miss_rate, point.miss_rate_interval, system.num_targets),
            _rate_cell(point.false_accept_rate, point.false_accept_rate_interval, system.num_nontargets),
        ]
        # The threshold lies just above the highest score, and would print like it.
        if scale == "score" and _accepts_nothing(point):
            return [name, "no score: reject all", *rates]
        return [name, f"{scale} {number(point.threshold, digits=digits if scale == 'score' else 3)}", *rates]

    rows = [row("EER", system.thresholds["eer"])]
    for rate, point in far_points(system):
        name = f"FAR {100 * rate:g} %"
        unknown = [name, MISSING, MISSING, f"needs {round(1 / rate):,} trials"]
        rows.append(row(name, point) if point.is_resolved else unknown)
    rows += [row(f"minDCF {point.application.name}", point) for point in system.min_dcf]
    for name, point in (system.bayes_thresholds or {}).items():
        rows.append(row(f"Bayes {name.removeprefix('p_target_')}", point, "LLR"))
    headings = ["decide by", "accept from", "misses, %", "false accepts, %"]
    return Table(title=title, headings=headings, rows=rows, notes=notes)


def threshold_note(systems: Sequence[Metrics]) -> str:
    """Explain the tables of thresholds; Bayes thresholds are mentioned only if some system has them."""
    has_bayes = any(system.bayes_thresholds for system in systems)
    return _THRESHOLD_NOTE.format(*(" and Bayes", " except Bayes ones") if has_bayes else ("", ""))


def breakdowns(systems: Sequence[Metrics]) -> list[Table]:
    """Every breakdown, with a row per group; systems with equal groups share a table."""
    found: dict[tuple[str, ...], list[tuple[str, Breakdown]]] = {}
    for system in systems:
        for facts in system.breakdown:
            groups = tuple(group.value for group in facts.groups)
            key = (system.trials.name, facts.column, *groups)
            found.setdefault(key, []).append((label(system), facts))
    tables = []
    for (trials, column, *_), members in found.items():
        rows = []
        for group in zip(*(facts.groups for _, facts in members), strict=True):
            rates = [eer_cell(one) for one in group]
            counts = [f"{group[0].num_targets:,}", f"{group[0].num_nontargets:,}"]
            rows.append([group[0].value, *counts, *rates])
        headings = [column, "targets", "nontargets", *(f"{name}: {EER}" for name, _ in members)]
        is_one_sided = any(not (one.num_targets and one.num_nontargets) for one in members[0][1].groups)
        notes = [ONE_CLASS_NOTE] if is_one_sided else []
        tables.append(Table(title=f"EER by {column} on {trials}", headings=headings, rows=rows, notes=notes))
    return tables


def model_size(size: ModelSize, title: str = "") -> Table:
    """Parameters, work and size of one model, counted exactly."""
    rows = [["encoder parameters", f"{size.encoder_parameters:,}"]]
    if size.teacher_parameters is not None:
        rows.append(["  before the cut", f"{size.teacher_parameters:,}"])
        rows.append(["  sparsity", f"{percent(size.sparsity)} %"])
    rows.append(["speaker head parameters", f"{size.head_parameters:,}"])
    work = size.macs_per_second
    counts = [work.total, work.encoder, work.head, work.positional]
    names = [
        "MACs for 1 s",
        "  of the encoder",
        "  of the speaker head",
        "  relative positions, not in the sum",
    ]
    unit, sign = (GIGA, "G") if work.total >= GIGA / 10 else (MEGA, "M")
    rows += [[name, f"{count / unit:,.3f} {sign}"] for name, count in zip(names, counts, strict=True)]
    if size.size_bytes is not None:
        rows.append(["size of the weights", f"{size.size_bytes / MEGA:,.1f} MB"])
    notes = ["The sum leaves out the products with relative positions, as the published figures do."]
    notes += [f"Vanished: {vanished_sentence(size.vanished)}."] if size.vanished else []
    return Table(title=title, headings=["", "count"], rows=rows, notes=notes)


def pruning(prunings: Mapping[str, Pruning], title: str = "") -> Table:
    """What the gates reached and what the cut changed, a column per pruning; rows that none recorded are left out."""
    found = prunings.values()
    before, after = [facts.before_cut for facts in found], [facts.after_cut for facts in found]

    def distances(pair: Sequence[Distance | None], measure: str) -> list[str]:
        return [number(None if one is None else getattr(one, measure), digits=4) for one in pair]

    rows = [
        ["target sparsity, %", *(percent(facts.target) for facts in found)],
        ["expected by the gates, %", *(percent(facts.expected) for facts in found)],
        ["counted after the cut, %", *(percent(facts.counted) for facts in found)],
        ["L1 to the teacher before the cut", *distances(before, "l1")],
        ["L1 after it", *distances(after, "l1")],
        [
            f"moved by the cut, % of L1 (caution above {100 * MAX_MOVED:g})",
            *(percent(facts.moved) for facts in found),
        ],
        ["cosine with the teacher before the cut", *distances(before, "cosine")],
        ["cosine after it", *distances(after, "cosine")],
    ]
    rows = [row for row in rows if any(cell != MISSING for cell in row[1:])]
    return Table(title=title, headings=["", *prunings], rows=rows)


_MODEL_HEADINGS = (
    "model", "encoder, M", "speaker head, M", "sparsity, %", "GMACs, 1 s", "size, MB", "RTF wall", "RTF CPU",
)  # fmt: skip
_BRIEF_MODEL_HEADINGS = ("model", "encoder, M", "sparsity, %", "GMACs, 1 s", "RTF CPU")


def _model_cells(name: str, model: Model | None) -> list[str]:
    if model is None:  # the experiment lacks it
        return [name, *[MISSING] * (len(_MODEL_HEADINGS) - 1)]
    timing = model.timing
    return [
        name,
        f"{model.encoder_parameters / MEGA:.3g}",
        f"{model.head_parameters / MEGA:.3g}",
        percent(model.sparsity),
        f"{model.macs_per_second.total / GIGA:.3g}",
        f"{model.size_bytes / MEGA:.3g}",
        MISSING if timing is None else f"{timing.wall:.3g}",
        MISSING if timing is None else cpu_cell(timing),
    ]


def cpu_cell(timing: Timing, scale: float = 1) -> str:
    """Write the computing time for a second of audio, with the range over the rounds."""
    spread = [scale * seconds for seconds in timing.cpu_rounds]
    return f"{scale * timing.cpu:.3g}" + (f" ({min(spread):.3g} to {max(spread):.3g})" if spread else "")


def models(described: Sequence[Model]) -> Table:
    """Size, work and time of checkpoints."""
    return Table(headings=_MODEL_HEADINGS, rows=[_model_cells(model.path, model) for model in described])


def brief_models(described: Sequence[Model], title: str, systems: Mapping[str, str]) -> Table:
    """`models`, cut down to 80 columns, because numbers broken over two lines are misread.

    A model in `systems` (names by path) is named as in the tables of errors, too.
    """
    kept = [_MODEL_HEADINGS.index(name) for name in _BRIEF_MODEL_HEADINGS]
    rows = []
    for model in described:
        name = f"{systems[model.path]}: {model.path}" if model.path in systems else model.path
        cells = _model_cells(name, model)
        rows.append([cells[column].partition(" (")[0] for column in kept])
    return Table(title=title, headings=_BRIEF_MODEL_HEADINGS, rows=rows)


def overview(report: Report) -> Table:
    """The main table of the report: a row per system, trial lists side by side."""
    systems, headings, rows = report.systems, list(_MODEL_HEADINGS), []
    names = trial_names(systems)
    for name in names:
        headings += [f"{name}: {EER}", "minDCF 0.01", "minDCF 0.05"]
    for key in dict.fromkeys(map(label, systems)):
        members = {system.trials.name: system for system in systems if label(system) == key}
        row = _model_cells(key, model_of(report, next(iter(members.values()))))
        for name in names:
            one = members.get(name)
            row += [eer_cell(one), *cost_cells(one.min_dcf, BRIEF)] if one else [MISSING] * 3
        rows.append(row)
    return Table(headings=headings, rows=rows)


def training(stages: Sequence[StageCurves]) -> Table:
    """First and last values of each stage, whether or not its curves are drawn."""
    rows = []
    for stage in stages:
        loss, eer, distance = stage.train.get("loss"), stage.valid.get("eer"), stage.valid.get("l1")
        steps = [curve.step[-1] for curve in (*stage.train.values(), *stage.valid.values())]
        ends = [MISSING] * 2 if loss is None else [number(loss.value[end], digits=3) for end in (0, -1)]
        if loss is not None and len(loss.value) == 1:
            ends[0] = MISSING  # one mean, over all steps, would look as if nothing had been learnt
        people = "" if stage.valid_speakers is None else f" on {stage.valid_speakers:,} speakers"
        valid = [f"EER {percent(eer.value[-1])} %{people}"] if eer else []
        valid += [f"L1 {number(distance.value[-1], digits=4)}"] if distance else []
        cells = [f"{max(steps):,}", MISSING if stage.margin is None else f"{stage.margin:g}"]
        rows.append([shown(stage.stage), *cells, *ends, ", ".join(valid) or MISSING])
    headings = ["stage", "steps", "margin", "first loss", "last loss", "last validation"]
    return Table(headings=headings, rows=rows, left=(0, 5))


def provenance(chain: Sequence[Origin]) -> Table:
    """The chain of outputs, from the audio lists to the scores."""
    rows = []
    for made in chain:
        inputs = ", ".join(f"{source['name']} {source['sha256'][:12]}" for source in made.inputs)
        commit = (made.git_commit or "")[:12]
        cells = (shown(made.output), made.command, made.finished, made.svkit, commit, inputs)
        rows.append([cell or MISSING for cell in cells])
    headings = ["output", "command", "finished", "svkit", "commit", "inputs (sha256)"]
    versions = {(made.svkit, made.git_commit) for made in chain if made.svkit}
    notes = [
        f"Made by {len(versions)} states of svkit's code (version and commit): when svkit was updated, finished outputs"
        " stayed as they were."
    ]
    return Table(headings=headings, rows=rows, left=range(6), notes=notes * (len(versions) > 1))
