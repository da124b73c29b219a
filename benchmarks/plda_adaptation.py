"""Measure whether adapting PLDA to the domain of the trials helps, and with which weight of the new recordings.

    OMP_NUM_THREADS=1 python benchmarks/plda_adaptation.py [--draws 12]

Speakers and sessions are Gaussian, in the domain of training and in another one. Every draw has new covariances, new
directions in which the domains differ, and new recordings. The weights of both kinds of adaptation are compared with no
adaptation (`none`) and with adapting the mean alone (0). Writes `docs/results/plda_adaptation.json` and `.md`.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svkit.eval.llr import cllr
from svkit.eval.metrics import equal_error_rate, error_curve
from svkit.eval.plda import Plda, adapt_plda, adapt_plda_to_speakers, train_plda
from svkit.eval.scoring import pair_products
from svkit.reports.tables import Table, to_markdown
from svkit.scoring.material import UNLABELLED_WEIGHT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DIM = 32
TRAINING, TESTED = (400, 8), (60, 4)
"""Speakers, and recordings of each."""
UNLABELLED = (100, 1_000)
"""Numbers of unlabelled recordings, two of each speaker."""
LABELLED, PER_SPEAKER = (4, 16, 64), 4
WEIGHTS = (0.0, 0.2, 0.5, UNLABELLED_WEIGHT, 1.0)
FEW_WEIGHTS = (0.0, 0.1, 0.3, 0.5, 0.8)
DEFAULT = "S/(S+D)"
RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "plda_adaptation.json"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """How another domain differs: the shift of its mean, and factors on the variances in a third of the directions."""

    moved: float = 0.0
    sessions: float = 1.0
    voices: float = 1.0


DOMAINS = {
    "the same": Domain(),
    "moved": Domain(moved=1.0),
    "moved, noisier sessions": Domain(moved=1.0, sessions=6.0),
    "moved, voices differ more": Domain(moved=1.0, voices=4.0),
    "moved, both": Domain(moved=1.0, sessions=6.0, voices=4.0),
    "moved, quieter sessions": Domain(moved=1.0, sessions=0.2),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Population:
    """A two-covariance model to draw from; covariances are given by their roots."""

    mean: Floats
    voices: Floats
    sessions: Floats

    def draw(self, rng: np.random.Generator, speakers: int, each: int) -> tuple[Floats, Ints]:
        """Return recordings, and the number of the speaker of each."""
        groups = np.repeat(np.arange(speakers), each)
        voices = rng.normal(size=(speakers, DIM)) @ self.voices
        return self.mean + voices[groups] + rng.normal(size=(len(groups), DIM)) @ self.sessions, groups

    def changed(self, domain: Domain, rng: np.random.Generator) -> "Population":
        """Return the population of another domain."""

        def stretched(root: Floats, factor: float) -> Floats:
            basis = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
            scale = np.where(np.arange(DIM) < DIM // 3, np.sqrt(factor), 1.0)
            return root @ (basis * scale) @ basis.T

        return Population(
            mean=self.mean + domain.moved * rng.normal(size=DIM),
            voices=stretched(self.voices, domain.voices),
            sessions=stretched(self.sessions, domain.sessions),
        )


def new_population(rng: np.random.Generator) -> Population:
    """Return a population whose variances fall along random directions, which differ for voices and sessions."""

    def root(scale: float) -> Floats:
        basis = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
        return scale * np.linspace(1.5, 0.5, DIM)[:, None] * basis.T

    return Population(mean=rng.normal(size=DIM), voices=root(1.0), sessions=root(1.2))


def measure(plda: Plda, rows: Floats, groups: Ints) -> tuple[float, float]:
    """Return EER and Cllr of all pairs of recordings [N, D]."""
    left, right = np.triu_indices(len(rows), 1)
    everyone = np.arange(len(rows))
    scores = pair_products(
        plda.enroll_factors(rows, everyone, len(rows)), plda.test_factors(rows), left, right
    )
    labels = (groups[left] == groups[right]).astype(np.int8)
    return equal_error_rate(error_curve(scores, labels)), cllr(scores, labels)


def measure_draw(domain: Domain, seed: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Return EER and Cllr for each weight, and for each material that PLDA is adapted to, in one draw."""
    rng = np.random.default_rng(np.random.SeedSequence([list(DOMAINS.values()).index(domain), seed]))
    source = new_population(rng)
    target = source.changed(domain, rng)
    trained = train_plda(*source.draw(rng, *TRAINING), TRAINING[0])
    tests = target.draw(rng, *TESTED)
    none = measure(trained, *tests)
    found: dict[str, dict[str, tuple[float, float]]] = {}

    def compare(name: str, adapt: Callable[[float], Plda], weights: dict[str, float]) -> None:
        measured = {label: measure(adapt(weight), *tests) for label, weight in weights.items()}
        found[name] = {"none": none, **measured}

    for count in UNLABELLED:
        rows, _ = target.draw(rng, count // 2, 2)
        weights = {f"{weight:g}": weight for weight in WEIGHTS}
        compare(f"{count:,} unlabelled", lambda weight, rows=rows: adapt_plda(trained, rows, weight), weights)
    for speakers in LABELLED:
        rows, groups = target.draw(rng, speakers, PER_SPEAKER)

        def adapted(weight: float, rows: Floats = rows, groups: Ints = groups, count: int = speakers) -> Plda:
            return adapt_plda_to_speakers(trained, rows, groups, count, weight)

        weights = {f"{weight:g}": weight for weight in FEW_WEIGHTS} | {DEFAULT: speakers / (speakers + DIM)}
        compare(f"{speakers} speakers", adapted, weights)
    return found


def summarise(draws: list[dict[str, dict[str, tuple[float, float]]]]) -> dict[str, Any]:
    """Return means over the draws, and the standard error of the difference to no adaptation."""
    result: dict[str, Any] = {}
    for name in draws[0]:
        result[name] = {}
        for label in draws[0][name]:
            values = np.array([draw[name][label] for draw in draws])
            gain = values - np.array([draw[name]["none"] for draw in draws])
            error = gain.std(axis=0, ddof=1) / np.sqrt(len(draws))
            result[name][label] = {
                "eer": round(float(values[:, 0].mean()), 5),
                "cllr": round(float(values[:, 1].mean()), 5),
                "gain_error": [round(float(one), 5) for one in error],
            }
    return result


def means(domains: dict[str, Any]) -> dict[str, Any]:
    """Return the mean over the domains for each weight."""
    first = next(iter(domains.values()))
    return {
        material: {
            label: {
                key: round(float(np.mean([found[material][label][key] for found in domains.values()])), 5)
                for key in ("eer", "cllr")
            }
            for label in first[material]
        }
        for material in first
    }


def page(facts: dict[str, Any]) -> str:
    """Return docs/results/plda_adaptation.md, from the content of the JSON beside it."""
    domains = facts["domains"]
    materials = list(next(iter(domains.values())))

    def tables(chosen: list[str], default: str) -> list[str]:
        labels = list(domains["moved"][chosen[0]])
        made = []
        for title, key, scale in (("EER, %", "eer", 100), ("Cllr, bits", "cllr", 1)):
            heads = [title, "recordings", *(f"**{one}**" if one == default else one for one in labels)]
            rows = []
            for material in chosen:
                for domain, found in [*domains.items(), ("mean", facts["mean"])]:
                    values = [scale * found[material][label][key] for label in labels]
                    rows.append([domain, material, *(f"{one:.2f}" for one in values)])
            made.append(to_markdown(Table(headings=heads, rows=rows)).replace(r"\*\*", "**"))
        return made

    unlabelled = [name for name in materials if name.endswith("unlabelled")]
    largest = max(
        100 * one["gain_error"][0]
        for found in domains.values()
        for by in found.values()
        for one in by.values()
    )
    parts = [
        "# Does adapting PLDA help, and with which weight?",
        "Written by `python benchmarks/plda_adaptation.py`; every figure is in `plda_adaptation.json`.",
        f"The domains are simulated, in {DIM} dimensions and with {facts['num_draws']} draws of each. PLDA is trained"
        f" on {TRAINING[0]} speakers of one domain and tested on {TESTED[0]} of another; the tables show means over the"
        " draws. A moved domain has another mean. In a third of the directions, noisier sessions vary 6 times as much"
        " (quieter ones a fifth as much), and voices that differ more vary 4 times as much. The standard error of a"
        f" difference to `none` is at most {largest:.2f} points of EER. Real domains differ in other ways, so these"
        " figures only help to choose a default.",
        "Each column is a weight of the new domain. `none` is PLDA as trained; with 0, only the mean is that of the new"
        " domain; S/(S+D) is the weight for S speakers and D dimensions. The default of"
        " `svkit score --plda-adapt` is in bold.",
        "## Recordings without labels (CORAL+)",
        *tables(unlabelled, f"{UNLABELLED_WEIGHT:g}"),
        f"## A few speakers, with {PER_SPEAKER} recordings each",
        *tables([name for name in materials if name not in unlabelled], DEFAULT),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=12)
    num_draws = parser.parse_args().draws
    domains = {}
    for name, domain in DOMAINS.items():
        domains[name] = summarise([measure_draw(domain, seed) for seed in range(num_draws)])
        print(
            name, {key: {one: found["eer"] for one, found in by.items()} for key, by in domains[name].items()}
        )
    facts = {"num_draws": num_draws, "mean": means(domains), "domains": domains}
    RESULT.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    RESULT.with_suffix(".md").write_text(page(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
