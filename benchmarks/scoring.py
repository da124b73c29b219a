"""Speed and memory of scoring and metrics at the sizes of the targets: `python benchmarks/scoring.py`.

Targets on two cores: EER and minDCF of 10 M scores in 2 s, 4 M cosine trials a second, AS-norm of 4,874 x 100,000
(top 300) in 5 s and 1 GB, 1,000 speaker resamples of 2,918 trials in 2 s.
"""

import resource
import time

import numpy as np

from svkit.eval import bootstrap, metrics, scoring


def _memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print one line a measurement."""
    rng = np.random.default_rng(0)
    enroll = rng.normal(size=(4_874, 256)).astype(np.float32)
    cohort = rng.normal(size=(100_000, 256)).astype(np.float32)
    start, cpu = time.perf_counter(), time.process_time()
    scoring.cohort_statistics(enroll, cohort, 300)
    wall, busy = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"AS-norm 4,874 x 100,000, top 300: {wall:.2f} s wall, {busy:.2f} s CPU, peak {_memory_gb():.2f} GB"
    )

    left, right = rng.integers(0, len(enroll), (2, 4_000_000))
    start = time.perf_counter()
    scoring.cosine_scores(enroll, enroll, left, right)
    print(f"cosine: {4 / (time.perf_counter() - start):.1f} M trials/s")

    for share in (0.02, 0.5):
        labels = rng.random(10_000_000) < share
        scores = rng.normal(size=len(labels)) + 4 * labels
        start = time.perf_counter()
        curve = metrics.error_curve(scores, labels)
        eer = metrics.equal_error_rate(curve)
        metrics.min_dcf(curve, 0.01)
        took = time.perf_counter() - start
        print(
            f"EER and minDCF of 10 M scores, {100 * share:g} % targets: {took:.2f} s (EER {100 * eer:.3f} %)"
        )

    for num_trials, num_speakers in ((2_918, 17), (580_000, 1_251)):
        a, b = rng.integers(0, num_speakers, (2, num_trials))
        b = np.where(rng.random(num_trials) < 0.3, a, b)
        labels = a == b
        speakers = bootstrap.TrialSpeakers(enroll=a, test=b, num_speakers=num_speakers)
        scores = rng.normal(size=num_trials) + 3 * labels
        drawn = bootstrap.draw_multiplicities(num_speakers, 1000, 0)
        start = time.perf_counter()
        bootstrap.resample(scores, labels, speakers, drawn, bootstrap.eer_statistic)
        print(f"1,000 resamples of {num_trials:,} trials: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
