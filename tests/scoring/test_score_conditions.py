"""Scores and reports of embeddings under conditions, through the commands; the embeddings themselves are made up."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.eval.logistic import pair_quality
from svkit.store.embeddings import read_embeddings
from svkit.store.metrics import read_metrics
from svkit.store.provenance import read_provenance
from svkit.store.scores import read_scores
from tests.fake_experiment import make_embeddings, make_experiment

TRIALS = "exp/data/trials/all.txt"
NOISE = {"dense": {"gsm": 0.8, "cut2s": 1.0}, "pruned": {"gsm": 1.6, "cut2s": 1.2}}
MODELS = {"dense": Path("exp/finetune/lmft"), "pruned": Path("exp/finetune-pruned/lmft")}


def svkit(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense and a pruned model, as recorded and under two conditions, and their scores."""
    home = tmp_path_factory.mktemp("conditions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        make_experiment(Path("exp"))
        ids = list(read_embeddings(Path("exp/embeddings/dense")).ids)
        for name, model in MODELS.items():
            for condition, noise in NOISE[name].items():
                make_embeddings(Path("exp"), f"{name}@{condition}", ids, noise, model, condition=condition)
        Path("answer.json").write_text(svkit("score", TRIALS, "--json"))
    return home


@pytest.fixture
def exp(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(scored, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("exp")


def unit(directory: str) -> dict[str, np.ndarray]:
    found = read_embeddings(Path("exp/embeddings", directory))
    rows = found.matrix / np.linalg.norm(found.matrix, axis=1, keepdims=True)
    return dict(zip(found.ids, rows, strict=True))


@pytest.mark.parametrize(("sides", "place"), [("test", "all"), ("both", "all-both-sides")])
def test_the_condition_is_of_the_test_side_or_of_both(exp: Path, sides: str, place: str) -> None:
    if sides == "both":
        svkit("score", TRIALS, "--sides", sides, "--embeddings", "exp/embeddings/pruned@gsm")
    scored = read_scores(exp / "scores/pruned@gsm" / place)
    here, enrolled = unit("pruned@gsm"), unit("pruned" if sides == "test" else "pruned@gsm")
    trials = scored.trials
    expected = [enrolled[a] @ here[b] for a, b in zip(trials.enroll_ids, trials.test_ids, strict=True)]
    np.testing.assert_allclose(scored.scores, expected, atol=1e-6)
    condition = read_metrics(exp / "scores/pruned@gsm" / place).condition
    assert condition is not None and (condition.name, condition.sides) == ("gsm", sides)
    inputs = [entry["name"] for entry in read_provenance(exp / "scores/pruned@gsm" / place)["inputs"]]
    assert ("enrolled" in inputs) == (sides == "test")
    assert read_metrics(exp / "scores/pruned/all").condition is None


def test_losses_and_their_differences_add_up(exp: Path) -> None:
    answer = json.loads(Path("answer.json").read_text())
    assert [(one["first"], one["second"]) for one in answer["comparisons"]] == [("pruned", "dense")]
    rows = {(row.get("condition"), row["system"]): row for row in answer["conditions"]}
    assert list(rows) == [(c, m) for c in (None, "gsm", "cut2s") for m in ("dense", "pruned")]
    eer = {key: row["eer"] for key, row in rows.items()}
    for condition in ("gsm", "cut2s"):
        dense, pruned = (rows[condition, name] for name in ("dense", "pruned"))
        lost = {name: eer[condition, name] - eer[None, name] for name in ("dense", "pruned")}
        assert dense["lost"]["difference"] == pytest.approx(lost["dense"])
        assert pruned["lost"]["difference"] == pytest.approx(lost["pruned"])
        assert pruned["gap"]["difference"] == pytest.approx(
            eer[condition, "pruned"] - eer[condition, "dense"]
        )
        assert pruned["lost_more"]["difference"] == pytest.approx(lost["pruned"] - lost["dense"])
        assert pruned["lost_more"]["interval"]["num_speakers"] == 8
        assert "gap" not in dense and "lost_more" not in dense
    assert "lost" not in rows[None, "pruned"]


@pytest.mark.usefixtures("plain_reports")
def test_score_and_report_show_a_table_of_conditions(exp: Path) -> None:
    printed = svkit("score", TRIALS, "--csv", "tables", "--keep-finished")
    title = "Conditions of the test side on all"
    table = printed[printed.index(title) : printed.index("Lost: a system")]
    assert all(name in table for name in ("as recorded", "gsm", "cut2s"))
    assert max(map(len, table.splitlines())) <= 80
    assert "Thresholds of pruned" in printed and "Thresholds of pruned@gsm" not in printed
    names = Path("tables/score-Conditions-of-the-test-side-on-all.csv").read_text().splitlines()[0]
    assert "pruned lost more, low (95 %)" in names
    svkit("report")
    page, record = (Path("exp/report", name).read_text() for name in ("report.md", "report.json"))
    section = page[page.index("## Conditions") :]
    section = section[: section.index("\n## ")]
    assert f"### {title}" in section and "| gsm |" in section and "pruned minus dense (95 %)" in section
    assert "@gsm" not in page[: page.index("## Provenance")]
    assert [one["name"] for one in json.loads(record)["systems"]] == ["dense", "pruned"]
    assert len(json.loads(record)["conditions"]) == 6


def test_a_condition_needs_the_recordings_as_they_are(exp: Path) -> None:
    (exp / "embeddings/dense").rename(exp / "dense")
    shutil.rmtree(exp / "scores")
    message = svkit("score", TRIALS, "--embeddings", "exp/embeddings/dense@gsm", code=4)
    assert "is the test side under gsm; expected embeddings of the same model and list" in message
    svkit("score", TRIALS, "--embeddings", "exp/embeddings/dense@gsm", "--sides", "both")
    assert "scores under conditions only" in svkit("report", code=4)
    message = svkit("score", TRIALS, "--embeddings", "exp/embeddings/pruned", "--sides", "both", code=2)
    assert "--sides both is for embeddings under a condition" in message


def test_a_calibration_learnt_under_a_condition_is_not_put_beside_the_model(exp: Path) -> None:
    svkit("score", TRIALS, "--embeddings", "exp/embeddings/dense@gsm", "--calibrate", "--overwrite")
    assert (exp / "scores/dense@gsm/all/calibration.json").exists()
    assert not (exp / "finetune/lmft/calibration.json").exists()


def test_fusions_are_of_one_condition(exp: Path) -> None:
    places = {name: f"exp/scores/{name}/all" for name in ("dense", "dense@gsm", "pruned@gsm")}
    message = svkit("score", TRIALS, "--fuse", places["dense"], "--fuse", places["pruned@gsm"], code=2)
    assert "--fuse: expected scores under one condition" in message
    svkit("score", TRIALS, "--fuse", places["dense@gsm"], "--fuse", places["pruned@gsm"])
    metrics = read_metrics(exp / "scores/dense+pruned@gsm/all")
    assert metrics.condition is not None and metrics.condition.name == "gsm"
    assert [one.name for one in metrics.backend.systems or ()] == ["dense", "pruned"]


def test_durations_of_a_cut_are_those_that_were_heard(exp: Path) -> None:
    """Of quality, the shorter side's duration is that of the cut test: 2 s by 6 s, not 6 s by 6 s."""
    table = (exp / "data/eval.tsv").read_text().replace("32000", "96000")
    (exp / "data/eval.tsv").write_text(table)
    ids = list(read_embeddings(exp / "embeddings/dense").ids)
    make_embeddings(exp, "dense", ids, 0.6, MODELS["dense"])
    make_embeddings(exp, "dense@cut2s", ids, 0.6, MODELS["dense"], condition="cut2s")
    seen: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "svkit.scoring.calibrate.pair_quality",
            lambda enroll, test: seen.append(np.array([enroll[0], test[0]])) or pair_quality(enroll, test),
        )
        words = [
            word for name in ("dense", "dense@cut2s") for word in ("--embeddings", exp / "embeddings" / name)
        ]
        svkit("score", TRIALS, *words, "--calibrate", "--qmf", "--overwrite")
    durations = np.exp(seen[1::2])
    np.testing.assert_allclose(durations[[0, -1]], [[6, 6], [6, 2]])
