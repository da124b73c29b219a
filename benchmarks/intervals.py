"""Do the intervals hold the truth, and are the p-values what they say? `python benchmarks/intervals.py`.

Populations of speakers are simulated whose true EER is known in closed form: a target score is a level of its speaker
plus noise, a nontarget score the sum of a level of each side plus noise, all Gaussian. An interval of 95 % should hold
the truth in 95 % of the populations; under the null hypothesis (two systems of the same true EER that share a part of
every score) a p-value should lie below 5 % in 5 % of them. The table goes to `docs/results/intervals.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kstest, norm

from svkit.eval import bootstrap, metrics

SPEAKERS = (5, 8, 17, 40, 100)
TARGETS, NONTARGETS = 8, 12
"""Trials of each speaker; the tests of a nontarget trial are drawn among the other speakers."""
SEPARATION = 3.2
LEVEL, SHARED, NOISE = 0.6, 0.5, 0.6
"""Standard deviations: of a speaker's level, of the part of a trial both systems hear alike, of the rest."""
RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "intervals.json"


def true_eer() -> float:
    """Return Phi(-d / (s_target + s_nontarget)), where the two Gaussians have equal tails."""
    rest = SHARED**2 + NOISE**2
    spreads = np.sqrt(LEVEL**2 + rest) + np.sqrt(2 * LEVEL**2 + rest)
    return float(norm.cdf(-SEPARATION / spreads))


def simulate(
    num_speakers: int, rng: np.random.Generator
) -> tuple[list[NDArray[np.float64]], NDArray[np.int64], bootstrap.TrialSpeakers]:
    """Draw a population: scores of two systems of equal worth on the same trials, labels, speakers."""
    everyone = np.arange(num_speakers)
    left = np.concatenate((np.repeat(everyone, TARGETS), np.repeat(everyone, NONTARGETS)))
    labels = np.repeat([1, 0], [TARGETS * num_speakers, NONTARGETS * num_speakers])
    other = (left + rng.integers(1, num_speakers, len(left))) % num_speakers
    right = np.where(labels == 1, left, other)
    shared = SHARED * rng.normal(size=len(left))
    common = np.sqrt(0.5) * LEVEL * rng.normal(size=(2, num_speakers))
    systems = []
    for _ in range(2):
        own, between = common + np.sqrt(0.5) * LEVEL * rng.normal(size=(2, num_speakers))
        level = np.where(labels == 1, SEPARATION + own[left], between[left] + between[right])
        systems.append(level + shared + NOISE * rng.normal(size=len(left)))
    return systems, labels, bootstrap.TrialSpeakers(enroll=left, test=right, num_speakers=num_speakers)


def check(num_speakers: int, num_populations: int, num_resamples: int) -> dict[str, Any]:
    """Count how often intervals hold the truth and p-values fall below a level."""
    truth = true_eer()
    covered, above, p_values = 0, 0, []
    for seed in range(num_populations):
        rng = np.random.default_rng(np.random.SeedSequence([num_speakers, seed]))
        systems, labels, speakers = simulate(num_speakers, rng)
        drawn = bootstrap.draw_multiplicities(num_speakers, num_resamples, seed)
        eers = [bootstrap.resample(one, labels, speakers, drawn, bootstrap.eer_statistic) for one in systems]
        values = [metrics.equal_error_rate(metrics.error_curve(one, labels)) for one in systems]
        interval = bootstrap.percentile_interval(eers[0], num_speakers)
        covered += interval.low <= truth <= interval.high
        above += truth > interval.high
        p_values.append(bootstrap.paired_difference(*eers, (values[0], values[1]), num_speakers).p_value)
    return {
        "num_speakers": num_speakers,
        "num_populations": num_populations,
        "num_resamples": num_resamples,
        "coverage": covered / num_populations,
        "truth_above": above / num_populations,
        "p_below": {f"{level:g}": float(np.mean(np.array(p_values) < level)) for level in (0.05, 0.2, 0.5)},
        "uniform": float(kstest(p_values, "uniform").statistic),
    }


def main() -> None:
    """Print one line for each number of speakers, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--populations", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--speakers", type=int, nargs="*", default=SPEAKERS)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    rows = []
    print(f"true EER {100 * true_eer():.3f} %")
    for num_speakers in given.speakers:
        rows.append(check(num_speakers, given.populations, given.resamples))
        print(json.dumps(rows[-1]), flush=True)
    given.out.write_text(
        json.dumps({"true_eer": true_eer(), "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
