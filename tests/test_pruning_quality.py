"""The benchmark over folds: who is in which fold, which trials are made, how folds are pooled, what the page says."""

import importlib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from svkit.config.architecture import EncoderArchitecture
from svkit.eval.bootstrap import TrialSpeakers
from svkit.eval.metrics import equal_error_rate, error_curve
from svkit.nn.encoder import Encoder, initialise
from svkit.pruning.counting import sparsity
from svkit.store.scores import Scores
from svkit.store.trials import Trials

ENCODER = EncoderArchitecture(
    feature_dim=20,
    hidden_size=16,
    head_size=4,
    num_heads=(4, 4),
    ffn1_dim=(64, 64),
    ffn2_dim=(64, 64),
    conv_dim=(32, 32),
)
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def speakers(count: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {
        "package": rng.choice(["many", "some", "few"], count, p=[0.6, 0.3, 0.1]),
        "gender": rng.choice(["F", "M"], count),
        "language": rng.choice(["de", "en", "fr"], count),
        "n_utt": rng.integers(5, 60, count),
    }
    return pd.DataFrame(columns, index=pd.Index([f"s{i:02d}" for i in range(count)], name="speaker_id"))


@pytest.mark.parametrize("seed", range(5))
def test_every_speaker_is_in_one_fold_and_sources_are_spread(benchmark: Any, seed: int) -> None:
    table = speakers(62, seed)
    folds = benchmark("folds").fold_speakers(table)
    assert sorted(name for fold in folds for name in fold) == sorted(table.index)
    for package in table["package"].unique():
        counts = [(table.loc[fold, "package"] == package).sum() for fold in folds]
        assert max(counts) - min(counts) <= 1
    shuffled = table.sample(frac=1, random_state=seed)
    assert benchmark("folds").fold_speakers(shuffled) == folds, "the order of the file decides nothing"


def test_trials_of_a_fold(benchmark: Any) -> None:
    folds = benchmark("folds")
    table = speakers(16)
    utterances = {name: [f"{name}/{i}.flac" for i in range(table.n_utt[name])] for name in table.index}
    trials = folds.make_trials(table, utterances, 24)
    pairs = list(zip(trials.enroll[:], trials.test[:], trials.labels.tolist(), strict=True))
    names = [(a.split("/")[0], b.split("/")[0], label) for a, b, label in pairs]
    assert all((first == second) == bool(label) for first, second, label in names)
    assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs), "no pair twice"
    targets = Counter(first for first, _, label in names if label)
    assert set(targets) == set(table.index) and max(targets.values()) <= folds.MAX_TARGETS
    kinds = Counter(
        (table.package[a] == table.package[b], table.gender[a] == table.gender[b])
        for a, b, label in names
        if not label
    )
    wanted = folds.NONTARGETS_PER_TARGET * sum(targets.values())
    assert {kind: round(count / wanted, 2) for kind, count in kinds.items()} == folds.NONTARGET_SHARES


def fold_scores(seed: int, count: int = 6) -> tuple[Scores, TrialSpeakers]:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(count, size=(2, 400))
    first[:count] = second[:count] = np.arange(count)
    labels = (first == second).astype(np.int8)
    ids = np.array([f"{seed}-{i}" for i in range(800)], dtype=object)
    scores = rng.normal(size=400) + 1.5 * labels + seed  # folds have scores of different height
    trials = Trials.of(ids[:400], ids[400:], labels)
    return Scores(trials=trials, scores=scores, llrs=None), TrialSpeakers(
        enroll=first, test=second, num_speakers=count
    )


def test_folds_are_pooled_at_one_threshold_or_each_at_its_own(benchmark: Any) -> None:
    folds, found = zip(*(fold_scores(seed) for seed in range(3)), strict=True)
    pool = benchmark("quality_pool").Pool(found)
    assert (pool.num_speakers, pool.num_trials) == (18, 1200)
    pooled, resampled = pool.pooled(folds)
    scores = np.concatenate([fold.scores for fold in folds])
    labels = np.concatenate([fold.trials.labels for fold in folds])
    assert pooled == equal_error_rate(error_curve(scores, labels))
    assert abs(np.nanmean(resampled) - pooled) < 0.03
    mean, resampled = pool.mean(folds)
    own = [equal_error_rate(error_curve(fold.scores, fold.trials.labels)) for fold in folds]
    assert mean == pytest.approx(np.mean(own))
    assert mean < pooled - 0.05, "a threshold for each fold forgives their different heights"
    assert abs(np.nanmean(resampled) - mean) < 0.03


def evidence(module: ModuleType, trials: Trials, **changes: Any) -> Any:
    facts = {
        "fold": 2,
        "method": "ours",
        "settings": {"preset": "tiny", "seed": 24},
        "made": {"date": "2026-11-26", "precision": "fp32", "teacher": "ab", "machine": {"processor": "x"}},
        "rows": [{"stage": "cut", "eer": 0.125}],
        "scores": np.linspace(-1, 1, len(trials)).round(6),
        "trials_sha256": module.trials_sha256(trials),
    }
    return module.Evidence(**facts | changes)


def test_evidence_of_a_fold_comes_back_and_is_pooled_by_speakers(benchmark: Any, tmp_path: Path) -> None:
    module, pool = benchmark("evidence"), benchmark("quality_pool")
    folds = {fold: benchmark("folds").make_trials(*fold_of(fold), 24) for fold in (2, 3)}
    found: dict[str, dict[int, Any]] = {"ours": {}, "dense": {}}
    for fold, trials in folds.items():
        for method in found:
            kept = evidence(module, trials, fold=fold, method=method)
            module.write_evidence(tmp_path, kept)
            again = module.read_evidence(tmp_path, fold, method, kept.settings)
            np.testing.assert_array_equal(again.scores, kept.scores)
            assert (again.rows, again.made) == (kept.rows, kept.made)
            module.check_trials([again], trials)
            found[method][fold] = again
    assert module.read_evidence(tmp_path, 0, "ours", {}) is None
    ours, dense = pool.pool_methods(found, folds)
    assert (ours["method"], ours["num_speakers"], ours["num_trials"]) == (
        "ours",
        12,
        sum(map(len, folds.values())),
    )
    assert dense["pooled"]["ours_minus_it"]["difference"] == 0, "the same scores"
    assert benchmark("quality_pool").speakers_of(folds[2]).num_speakers == 6


def fold_of(fold: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    table = speakers(6, fold)
    return table, {name: [f"{name}/{i}.flac" for i in range(4)] for name in table.index}


def test_evidence_of_other_settings_or_trials_is_refused(benchmark: Any, tmp_path: Path) -> None:
    module = benchmark("evidence")
    trials, others = (benchmark("folds").make_trials(*fold_of(fold), 24) for fold in (2, 3))
    kept = evidence(module, trials)
    module.write_evidence(tmp_path, kept)
    with pytest.raises(SystemExit, match="made with .*'seed': 24.*, not with .*25"):
        module.read_evidence(tmp_path, 2, "ours", {"preset": "tiny", "seed": 25})
    with pytest.raises(SystemExit, match="fold 2, ours: not of the trials"):
        module.check_trials([kept], others)


def pooled_facts(difference: float, high: float, p_value: float) -> dict[str, Any]:
    pair = {"difference": difference, "low": difference - 0.01, "high": high, "p_value": p_value}
    return {"pooled": {"ours_minus_it": pair}}


@pytest.mark.parametrize(
    ("difference", "p_value", "word"), [(-0.01, 0.01, "met"), (-0.01, 0.2, "missed"), (0.01, 0.01, "missed")]
)
def test_the_page_says_whether_a_target_is_met(
    benchmark: Any, difference: float, p_value: float, word: str
) -> None:
    facts = {"pooled": [{"method": "peer"} | pooled_facts(difference, 0.02, p_value)]}
    (sentence,) = benchmark("quality_page").verdict(facts)
    assert f"peer: {word}" in sentence


@pytest.mark.parametrize(("high", "word"), [(0.014, "met"), (0.016, "missed")])
def test_the_limit_on_what_pruning_costs(benchmark: Any, high: float, word: str) -> None:
    facts = {"pooled": [{"method": "dense"} | pooled_facts(0.0, high, 0.5)]}
    (sentence,) = benchmark("quality_page").verdict(facts)
    assert f": {word} " in sentence


def test_the_peer_keeps_whole_heads_and_rows_of_the_teacher(benchmark: Any) -> None:
    pytest.importorskip("torch_pruning", reason="the extra `bench`")
    encoder = Encoder(ENCODER)
    initialise(encoder, torch.Generator().manual_seed(1))
    cut = benchmark("peer").cut_to(encoder, "norm-isomorphic", {}, 0.5)
    assert 0.5 <= sparsity(cut.architecture, encoder.architecture) <= 0.505
    size = encoder.architecture.head_size
    for before, after in zip(encoder.encoder.layers, cut.encoder.layers, strict=True):
        rows = {tuple(row) for row in before.ffn1.intermediate_dense.weight.tolist()}
        assert {tuple(row) for row in after.ffn1.intermediate_dense.weight.tolist()} <= rows
        heads = {tuple(head.flatten().tolist()) for head in before.self_attn.linear_q.weight.split(size)}
        assert {tuple(h.flatten().tolist()) for h in after.self_attn.linear_q.weight.split(size)} <= heads
        kept = after.conv_module.depthwise_conv.weight.flatten(1).tolist()
        kernels = before.conv_module.depthwise_conv.weight.flatten(1).tolist()
        channels = [kernels.index(kernel) for kernel in kept]
        both = before.conv_module.pointwise_conv1.weight
        halves = torch.cat([both[channels], both[[c + len(kernels) for c in channels]]])
        torch.testing.assert_close(after.conv_module.pointwise_conv1.weight, halves)
