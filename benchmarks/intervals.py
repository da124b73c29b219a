"""Check whether the intervals contain the truth as often as they say, and whether the p-values are right.

    python benchmarks/intervals.py [--populations NAME ...] [--speakers N ...] [--draws 400] [--out FILE]

Speakers are drawn from populations whose true rates and costs are known, and the intervals of `svkit score` are
compared with the truth. A 95 % interval should contain it in 95 % of the draws. For two systems with the same true EER,
which share a part of every score, the p-value should be below 5 % in 5 % of the draws. The method was chosen on the
first half of the populations, among those of `interval_candidates.py`; the second half tests it. Every row is written
to `docs/results/intervals.json` as soon as it is finished, and replaces an older one.
"""

import argparse
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from interval_candidates import CANDIDATES
from numpy.typing import NDArray

from svkit.eval import bootstrap, metrics
from svkit.eval.crossings import resample_crossings
from svkit.eval.results import Interval
from svkit.eval.summary import BAND_RATES, Draws, resample_errors, summarize

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SPEAKERS = (8, 17, 40, 100)
NUM_RESAMPLES = 200
MARGINAL = 1_000_000
"""Number of speakers from which the true values are measured."""
BAND_PLACE = 20
"""Index of the rate at which a DET band is checked: 0.87 %."""
RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "intervals.json"


@dataclass(frozen=True, kw_only=True)
class Population:
    """A target score is the speaker's level plus noise, a nontarget score the sum of a level of each side plus noise.

    Levels and noises are given by their standard deviations. Two systems share half the variance of a speaker's level,
    and all of `shared`.
    """

    is_test: bool
    """It tests the method, which was not chosen on it."""
    eer: float
    level: float = 0.6
    shared: float = 0.5
    noise: float = 0.6
    pair: float = 0.0
    """Standard deviation of how alike two voices are."""
    tails: float = np.inf
    """Degrees of freedom of Student's t, from which levels and noise are drawn; infinite: Gaussian."""
    bad: float = 0.0
    """Share of speakers whose target scores are lower by `drop`."""
    drop: float = 0.0
    targets: int = 20
    nontargets: int = 40
    """Nontarget trials of each speaker, against randomly drawn others."""
    spread: float = 0.0
    """Standard deviation between speakers of the logarithm of both numbers of trials."""
    all_pairs: bool = False
    """Instead of random nontarget trials, every speaker meets every other one twice."""

    def noises(self, rng: np.random.Generator, *shape: int) -> Floats:
        """Draw noise of variance 1."""
        if np.isinf(self.tails):
            return rng.normal(size=shape)
        return rng.standard_t(self.tails, size=shape) / np.sqrt(self.tails / (self.tails - 2))

    def separation(self) -> float:
        """Return what must be added to target scores to reach the wanted EER."""
        targets, nontargets = self.raw_scores()
        return float(np.quantile(nontargets, 1 - self.eer) - np.quantile(targets, self.eer))

    def raw_scores(self) -> tuple[Floats, Floats]:
        """Return a score of each of many speakers and of many pairs; nothing is added to the targets yet."""
        rng = np.random.default_rng(1)
        rest = [
            self.shared * self.noises(rng, MARGINAL) + self.noise * self.noises(rng, MARGINAL)
            for _ in range(2)
        ]
        own, left, right = (self.level * self.noises(rng, MARGINAL) for _ in range(3))
        own -= self.drop * (rng.random(MARGINAL) < self.bad)
        return own + rest[0], left + right + self.pair * rng.normal(size=MARGINAL) + rest[1]

    def marginal(self) -> tuple[Floats, Floats]:
        """Return sorted target and nontarget scores of many speakers."""
        targets, nontargets = self.raw_scores()
        return np.sort(targets + separation(self)), np.sort(nontargets)

    def draw(self, num_speakers: int, rng: np.random.Generator) -> tuple[list[Floats], Ints, Ints, Ints]:
        """Return the scores of two systems, and the labels and speakers of both sides of their trials."""
        everyone = np.arange(num_speakers)
        factor = np.exp(self.spread * rng.normal(size=num_speakers))
        targets, nontargets = (
            np.maximum(1, np.round(count * factor)).astype(np.int64)
            for count in (self.targets, self.nontargets)
        )
        if self.all_pairs:
            left, right = (np.repeat(side, 2) for side in np.triu_indices(num_speakers, 1))
        else:
            left = np.repeat(everyone, nontargets)
            right = (left + rng.integers(1, num_speakers, len(left))) % num_speakers
        own = np.repeat(everyone, targets)
        labels = np.repeat([1, 0], [len(own), len(left)])
        left, right = np.concatenate([own, left]), np.concatenate([own, right])
        alike = self.pair * rng.normal(size=(num_speakers, num_speakers))
        drops = self.drop * (rng.random(num_speakers) < self.bad)
        common = np.sqrt(0.5) * self.noises(rng, 2, num_speakers)
        shared = self.shared * self.noises(rng, len(left))
        systems = []
        for _ in range(2):
            # With heavy tails both systems have the same levels, because a sum of two would have other tails.
            levels = common * np.sqrt(2) if np.isfinite(self.tails) else (
                common + np.sqrt(0.5) * self.noises(rng, 2, num_speakers)
            )  # fmt: skip
            within, between = self.level * levels
            means = np.where(
                labels == 1,
                separation(self) + within[left] - drops[left],
                between[left] + between[right] + alike[np.minimum(left, right), np.maximum(left, right)],
            )
            systems.append(means + shared + self.noise * self.noises(rng, len(left)))
        return systems, labels, left, right


@cache
def separation(population: Population) -> float:
    """Return the separation of a population, which is slow to compute."""
    return population.separation()


@dataclass(frozen=True, kw_only=True)
class Cosines:
    """Embeddings around one mean for each speaker; speakers vary by different amounts, and trials share recordings."""

    is_test: bool
    dim: int = 24
    noise: float = 0.75
    unsteady: float = 0.35
    """Standard deviation of the logarithm of a speaker's noise."""
    recordings: int = 8
    nontargets: int = 60

    def embed(self, means: Floats, count: int, rng: np.random.Generator) -> Floats:
        """Return `count` normalised embeddings around each mean, [S, count, D]."""
        widths = self.noise * np.exp(self.unsteady * rng.normal(size=(len(means), 1, 1)))
        made = means[:, None] + widths * rng.normal(size=(len(means), count, self.dim))
        return np.asarray(made / np.linalg.norm(made, axis=2, keepdims=True))

    def marginal(self) -> tuple[Floats, Floats]:
        """Return sorted target and nontarget scores of many speakers."""
        rng = np.random.default_rng(1)
        found: list[list[Floats]] = [[], []]
        for _ in range(MARGINAL // 20_000):
            made = self.embed(rng.normal(size=(20_000, self.dim)), 2, rng)
            found[0].append((made[:, 0] * made[:, 1]).sum(1))
            found[1].append((made[:, 0] * np.roll(made[:, 1], 1, axis=0)).sum(1))
        targets, nontargets = (np.sort(np.concatenate(scores)) for scores in found)
        return targets, nontargets

    def draw(self, num_speakers: int, rng: np.random.Generator) -> tuple[list[Floats], Ints, Ints, Ints]:
        """Return the scores of two systems, and the labels and speakers of both sides of their trials."""
        first, second = np.triu_indices(self.recordings, 1)
        own = np.repeat(np.arange(num_speakers), len(first))
        left = np.repeat(np.arange(num_speakers), self.nontargets)
        right = (left + rng.integers(1, num_speakers, len(left))) % num_speakers
        which = rng.integers(0, self.recordings, (2, len(left)))
        labels = np.repeat([1, 0], [len(own), len(left)])
        sides = np.concatenate([own, left]), np.concatenate([own, right])
        recordings = (
            np.concatenate([np.tile(first, num_speakers), which[0]]),
            np.concatenate([np.tile(second, num_speakers), which[1]]),
        )
        means = rng.normal(size=(num_speakers, self.dim))
        systems = []
        for _ in range(2):
            made = self.embed(means, self.recordings, rng)
            systems.append((made[sides[0], recordings[0]] * made[sides[1], recordings[1]]).sum(1))
        return systems, labels, *sides


POPULATIONS: dict[str, Population | Cosines] = {
    "Gaussian, 6.7 %": Population(is_test=False, eer=0.067),
    "Gaussian, 1 %": Population(is_test=False, eer=0.01),
    "Gaussian, 0.3 %": Population(is_test=False, eer=0.003),
    "heavy tails, 1 %": Population(is_test=False, eer=0.01, tails=3),
    "a tenth of the speakers bad, 2 %": Population(is_test=False, eer=0.02, bad=0.1, drop=2, spread=0.7),
    "all pairs, 1 %": Population(is_test=False, eer=0.01, all_pairs=True, pair=0.4),
    "voices that differ more, 2.5 %": Population(is_test=True, eer=0.025, level=1.0),
    "heavy tails, 0.5 %": Population(is_test=True, eer=0.005, tails=4, targets=40, nontargets=80),
    "one speaker in fifteen bad, 4 %": Population(is_test=True, eer=0.04, bad=1 / 15, drop=3, spread=0.5),
    "very unequal numbers, 1 %": Population(is_test=True, eer=0.01, spread=1.2),
    "all pairs, 3 %": Population(is_test=True, eer=0.03, all_pairs=True, pair=0.6, targets=10),
    "cosines of embeddings": Cosines(is_test=True),
}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The true values of a population, and the map from scores to log-likelihood ratios that its two systems share."""

    values: dict[str, float]
    scale: float
    offset: float
    nontargets: Floats
    """Sorted."""


STATISTICS = (
    "EER", "minDCF 0.05", "minDCF 0.01", "actDCF 0.05", "Cllr", "misses", "false accepts",
    "misses at few false accepts", "few false accepts", "DET band",
)  # fmt: skip


@cache
def truth_of(population: Population | Cosines) -> Truth:
    """Measure the true values on very many speakers."""
    targets, nontargets = population.marginal()

    def rates(threshold: Floats | float) -> tuple[Floats, Floats]:
        missed = np.searchsorted(targets, threshold) / len(targets)
        return np.asarray(missed), np.asarray(1 - np.searchsorted(nontargets, threshold) / len(nontargets))

    grid = np.linspace(nontargets[len(nontargets) // 2], nontargets[-1], 20_001)
    miss, accept = rates(grid)
    equal = int(np.argmax(miss >= accept))
    costs = {prior: metrics.detection_cost(miss, accept, prior) for prior in (0.05, 0.01)}
    offset = grid[equal]
    # The slope makes the threshold of prior 0.05 the best one, so that the ratios are nearly right.
    scale = float(np.log(19) / max(grid[int(np.argmin(costs[0.05]))] - offset, 0.02 * (grid[-1] - offset)))
    bits = sum(
        np.logaddexp(0, sign * scale * (scores - offset)).mean() for sign, scores in ((-1, targets), (1, nontargets))
    ) / (2 * np.log(2))  # fmt: skip
    (middle_miss, middle), (rare_miss, rare) = rates(offset), rates(offset + np.log(99) / scale)
    at_05 = metrics.detection_cost(*rates(offset + np.log(19) / scale), 0.05)
    band = rates(float(np.quantile(nontargets, 1 - BAND_RATES[BAND_PLACE])))[0]
    values = [
        (miss[equal] + accept[equal]) / 2, costs[0.05].min(), costs[0.01].min(), at_05, bits,
        middle_miss, middle, rare_miss, rare, band,
    ]  # fmt: skip
    named = {name: float(value) for name, value in zip(STATISTICS, values, strict=True)}
    return Truth(values=named, scale=scale, offset=float(offset), nontargets=nontargets)


def adopted(
    scores: Floats, labels: Ints, draws: Draws, resampled: tuple[Floats, Floats], truth: Truth
) -> dict[str, Interval | None]:
    """Return the intervals of `svkit score`."""
    llrs = truth.scale * (scores - truth.offset)
    found = summarize(scores, labels, llrs, draws, resampled[0])
    assert found.act_dcf is not None and found.bayes_thresholds is not None
    lowest, actual = (
        {cost.p_target: cost.interval for cost in costs} for costs in (found.min_dcf, found.act_dcf)
    )
    middle, rare = (found.bayes_thresholds[f"p_target_{prior:g}"] for prior in (0.5, 0.01))
    assert middle.miss_rate_interval is not None
    low, high = resampled[1][:, BAND_PLACE].tolist()
    intervals = [
        found.eer_interval, lowest[0.05], lowest[0.01], actual[0.05], found.cllr_interval,
        middle.miss_rate_interval, middle.false_accept_rate_interval,
        rare.miss_rate_interval, rare.false_accept_rate_interval,
        Interval(low=low, high=high, num_speakers=0, num_resamples=0),
    ]  # fmt: skip
    return dict(zip(STATISTICS, intervals, strict=True))


# ---- The candidates --------------------------------------------------------------------------------------------------

MEASURED = ("EER", "minDCF 0.05", "actDCF 0.05", "Cllr", "misses", "false accepts")


def measure(
    scores: Floats, labels: Ints, speakers: bootstrap.TrialSpeakers, drawn: Ints, truth: Truth
) -> Floats:
    """Return `MEASURED` in every resample, [R, 6]."""
    llrs, is_target = truth.scale * (scores - truth.offset), labels == 1

    costs: list[bootstrap.Cost] = [
        lambda rows: (llrs[rows] >= np.log(19)) != is_target[rows],
        lambda rows: np.logaddexp(0, np.where(is_target[rows], -1, 1) * llrs[rows]) / np.log(2),
        lambda rows: (llrs[rows] >= 0) != is_target[rows],
    ]
    of_targets, of_others = bootstrap.resample_means(costs, is_target, speakers, drawn)
    actual = metrics.detection_cost(of_targets[:, 0], of_others[:, 0], 0.05)
    eers, _ = resample_crossings(scores, labels, speakers, drawn)
    lowest = lowest_costs(scores, is_target, speakers, drawn)
    columns = [eers, lowest, actual, (of_targets + of_others)[:, 1] / 2, of_targets[:, 2], of_others[:, 2]]
    found = np.column_stack(columns)
    return np.where(np.isnan(found), np.nanmean(found, axis=0), found)


def lowest_costs(
    scores: Floats, is_target: NDArray[np.bool_], speakers: bootstrap.TrialSpeakers, drawn: Ints
) -> Floats:
    """Return minDCF 0.05 in every resample, [R]; scores [N] all differ. NaN where a class is missing."""
    order = np.argsort(scores)
    is_target, left, right = is_target[order], speakers.enroll[order], speakers.test[order]
    lowest = np.full(len(drawn), np.nan)
    for row, counts in enumerate(drawn):
        weights = counts[left] * np.where(is_target, 1, counts[right])
        missed, rejected = (np.cumsum(weights * of_class) for of_class in (is_target, ~is_target))
        if missed[-1] and rejected[-1]:
            costs = metrics.detection_cost(missed / missed[-1], 1 - rejected / rejected[-1], 0.05)
            lowest[row] = min(costs.min(), metrics.detection_cost(0.0, 1.0, 0.05))
    return lowest


# ---- Counting --------------------------------------------------------------------------------------------------------


def check(name: str, num_speakers: int, num_draws: int) -> dict[str, Any]:
    """Count how often intervals contain the truth and p-values fall below a level."""
    population = POPULATIONS[name]
    truth = truth_of(population)
    held: dict[str, dict[str, list[float]]] = {"adopted": {}, **{key: {} for key in CANDIDATES}}
    above: dict[str, list[bool]] = {}
    widths: dict[str, dict[str, list[float]]] = {key: {} for key in held}
    p_values, unseen = [], []
    for number in range(num_draws):
        rng = np.random.default_rng(np.random.SeedSequence([num_speakers, number]))
        systems, labels, left, right = population.draw(num_speakers, rng)
        speakers = bootstrap.TrialSpeakers(enroll=left, test=right, num_speakers=num_speakers)
        drawn = bootstrap.draw_multiplicities(num_speakers, NUM_RESAMPLES, number)
        draws = Draws(speakers=speakers, multiplicities=drawn, source="trials")

        def note(method: str, statistic: str, low: float, high: float) -> None:
            value = truth.values[statistic]
            held[method].setdefault(statistic, []).append(low <= value <= high)
            widths[method].setdefault(statistic, []).append(high - low)

        resampled = resample_errors(systems[0], labels, draws)
        for statistic, interval in adopted(systems[0], labels, draws, resampled, truth).items():
            assert interval is not None
            note("adopted", statistic, interval.low, interval.high)
            above.setdefault(statistic, []).append(truth.values[statistic] > interval.high)
        eers = [metrics.equal_error_rate(metrics.error_curve(one, labels)) for one in systems]
        if population.is_test:
            samples = resampled[0][np.isfinite(resampled[0]), None]
            ends = CANDIDATES["percentiles, expanded"](
                np.array(eers[:1]), samples, np.empty((num_speakers, 1))
            )
            note("percentiles, expanded", "EER", *(end.item() for end in ends))
        else:
            each = np.concatenate([np.ones((1, num_speakers)), 1 - np.eye(num_speakers)]).astype(np.int64)
            found = measure(systems[0], labels, speakers, np.concatenate([each, drawn]), truth)
            value, left_out, samples = found[0], found[1 : num_speakers + 1], found[num_speakers + 1 :]
            for method, candidate in CANDIDATES.items():
                for statistic, *ends in zip(MEASURED, *candidate(value, samples, left_out), strict=True):
                    note(method, statistic, *ends)
        second, _ = resample_crossings(systems[1], labels, speakers, drawn)
        pair = bootstrap.paired_difference(resampled.eer, second, (eers[0], eers[1]), num_speakers)
        p_values.append(pair.p_value)
        # At a threshold whose true false-accept rate is the bound for no error: is there an error?
        bound = bootstrap.highest_unseen(bootstrap.count_pairs(labels, speakers))
        threshold = truth.nontargets[int(len(truth.nontargets) * (1 - bound))]
        unseen.append(bool((systems[0][labels == 0] >= threshold).any()))
    return {
        "population": name,
        "chosen_on": not population.is_test,
        "num_speakers": num_speakers,
        "num_draws": num_draws,
        "num_resamples": NUM_RESAMPLES,
        "truth": truth.values,
        "coverage": {
            key: {one: float(np.mean(x)) for one, x in found.items()} for key, found in held.items()
        },
        "truth_above": {one: float(np.mean(values)) for one, values in above.items()},
        "median_width": {
            key: {one: float(np.median(x)) for one, x in found.items()} for key, found in widths.items()
        },
        "p_below": {f"{level:g}": float(np.mean(np.array(p_values) < level)) for level in (0.05, 0.2, 0.5)},
        "bound_of_pairs_holds": float(np.mean(unseen)),
    }


def main() -> None:
    """Print one line for each number of speakers and population, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--populations", nargs="*", default=list(POPULATIONS), choices=POPULATIONS)
    parser.add_argument("--speakers", type=int, nargs="*", default=SPEAKERS)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    import measuring  # takes seconds, and a test draws from the populations
    from intervals_page import page

    for num_speakers in given.speakers:
        for name in given.populations:
            row = check(name, num_speakers, given.draws)
            rates = " ".join(f"{100 * rate:.1f}" for rate in row["coverage"]["adopted"].values())
            print(
                f"{num_speakers:4} {name}: {rates}; p < 0.05: {100 * row['p_below']['0.05']:.1f}", flush=True
            )
            kept = json.loads(given.out.read_text(encoding="utf-8"))["rows"] if given.out.exists() else []
            key = (name, num_speakers)
            rows = [one for one in kept if (one.get("population"), one["num_speakers"]) != key] + [row]
            rows.sort(key=lambda one: (one["num_speakers"], list(POPULATIONS).index(one["population"])))
            facts = {"machine": measuring.machine(1), "rows": rows}
            given.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    given.out.with_suffix(".md").write_text(page(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
