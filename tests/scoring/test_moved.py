"""An experiment that was copied, moved or renamed, and is opened from elsewhere: every guard looks at its own files."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from svkit.errors import ArtifactError, DataError
from svkit.models import extract
from svkit.progress import SilentProgress
from svkit.reports.report import ReportRequest
from svkit.reports.report import run as run_report
from svkit.scoring.backend import Backend
from svkit.scoring.lineage import training_lists, training_speakers
from svkit.scoring.material import material_directory
from svkit.scoring.request import ScoreRequest
from svkit.scoring.score import run
from svkit.store.checkpoint import SPEAKERS_NAME
from svkit.store.embeddings import read_embeddings, write_embeddings
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.metrics import read_metrics
from svkit.store.places import EXPERIMENT, recorded_paths
from svkit.store.provenance import read_provenance, sha256_artifact
from svkit.store.report import read_report
from svkit.store.tables import write_table
from tests.fake_experiment import finish, make_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")

NUM_SPEAKERS, PER_SPEAKER = 8, 3


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An experiment whose pruned model was fine-tuned from a distilled one, and so on back to the first."""
    exp = tmp_path_factory.mktemp("moved") / "exp"
    make_experiment(exp, NUM_SPEAKERS, PER_SPEAKER)
    for name in ("train", "more"):
        table = read_manifest(exp / "data" / "eval.tsv").table
        table["speaker_id"] = f"{name}-" + table["speaker_id"].str[-1]
        table["utterance_id"] = f"{name}/" + table["utterance_id"]
        write_manifest(exp / "data" / f"{name}.tsv", table)
    for name, command, inputs in (
        ("finetune/joint", "finetune", {"train": "data/train.tsv"}),
        ("finetune/lmft", "finetune", {"train": "data/train.tsv", "checkpoint": "finetune/joint"}),
        ("prune", "prune", {"train": "data/more.tsv", "teacher": "finetune/joint"}),
        ("distill", "distill", {"train": "data/more.tsv", "student": "prune", "teacher": "finetune/joint"}),
        ("finetune-pruned/lmft", "finetune", {"train": "data/train.tsv", "checkpoint": "distill"}),
    ):
        described = [
            {"name": key, "path": path, "sha256": sha256_artifact(exp / path)} for key, path in inputs.items()
        ]
        way = "/".join([".."] * len(Path(name).parts))
        change(exp / name / "provenance.json", command=command, experiment=way, inputs=described)
    embed(exp, "cohorts/dense-train", ["00000/0.wav", "00001/0.wav", "00002/0.wav"], "train/", "train.tsv")
    return exp


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def embed(exp, name, like, prefix, manifest):
    """Write embeddings by the dense system, of utterances of another list."""
    known = read_embeddings(exp / "embeddings" / "dense")
    made_by = known.meta["checkpoint"]
    rows = [list(known.ids).index(one) for one in like]
    listed = exp / "data" / manifest
    facts = {"checkpoint": made_by, "manifest": {"path": str(listed), "sha256": sha256_artifact(listed)}}
    written = recorded_paths(exp / name, facts, exp)
    write_embeddings(exp / name, [prefix + one for one in like], known.matrix[rows], written)
    finish(exp / name)


def as_written_before(exp, prefix):
    """Turn every record into one of an earlier version: paths below `prefix`, and no word of the experiment."""

    def older(value):
        if isinstance(value, list):
            return [older(item) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {key: older(item) for key, item in value.items() if key != EXPERIMENT}
        return {**kept, "path": f"{prefix}/{kept['path']}"} if {"path", "sha256"} <= kept.keys() else kept

    for name in ("embeddings.json", "provenance.json"):
        for path in exp.rglob(name):
            path.write_text(json.dumps(older(json.loads(path.read_text()))))


@pytest.fixture(params=["now", "relative", "absolute"])
def original(request, template, tmp_path, monkeypatch):
    """The experiment as this version and as earlier ones recorded it; the working directory is another one."""
    exp = tmp_path / "exp"
    shutil.copytree(template, exp)
    if request.param != "now":
        as_written_before(exp, {"relative": "exp", "absolute": str(exp)}[request.param])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return exp


@pytest.fixture(params=["copied", "moved", "linked"])
def exp(request, original, tmp_path):
    """The experiment under another name, by a path from the working directory; a copy's original is still there."""
    other = tmp_path / "other"
    if request.param == "copied":
        shutil.copytree(original, other)
    elif request.param == "moved":
        shutil.move(original, other)
    else:
        other.symlink_to(original)
    return Path("../other")


@pytest.fixture
def copy(original, tmp_path):
    shutil.copytree(original, tmp_path / "copy")
    return Path("../copy")


def score(exp, trials="all", system="dense", **changes):
    request = ScoreRequest(exp=exp, trials=exp / "data" / "trials" / f"{trials}.txt",
                           embeddings=(exp / "embeddings" / system,), **changes)  # fmt: skip
    return run(request, SilentProgress()).systems[0]


def set_speakers(checkpoint, *names):
    table = pd.DataFrame({"row": range(len(names)), "speaker_id": names, "speed": "1"})
    write_table(checkpoint / SPEAKERS_NAME, table.astype(str))


def test_nothing_is_missed_where_nothing_is_wrong(exp):
    metrics = score(
        exp, backend=Backend(norm="snorm", cohort_speakers=True), cohorts=(exp / "cohorts/dense-train",)
    )
    assert metrics.metrics.cautions == () and metrics.metrics.unchecked == ()
    assert metrics.metrics.eer_interval.speakers_from == "manifest"


def test_stale_checkpoint(original, copy):
    set_speakers(copy / "finetune" / "lmft", "somebody", "new")
    with pytest.raises(ArtifactError, match=r"expected embeddings of .*copy/finetune/lmft .*--allow stale"):
        score(copy)
    assert score(original).metrics.cautions == ()
    set_speakers(original / "finetune-pruned" / "lmft", "somebody", "new")
    assert score(copy, system="pruned").metrics.cautions == ()


def test_stale_scores(original, copy):
    for exp in (original, copy):
        score(exp)
    change(copy / "embeddings" / "dense" / "embeddings.json", checkpoint={"path": "gone", "sha256": "c0ffee"})
    with pytest.raises(ArtifactError, match=r"than .*copy/embeddings/dense has now .*--allow stale"):
        run_report(ReportRequest(exp=copy), SilentProgress())
    run_report(ReportRequest(exp=original), SilentProgress())


def test_scores_of_a_model_that_was_trained_again_are_not_reported(original, copy):
    for exp in (original, copy):
        score(exp)
    set_speakers(copy / "finetune" / "lmft", "somebody", "new")
    with pytest.raises(ArtifactError, match=r"expected embeddings of .*copy/finetune/lmft .*--allow stale"):
        run_report(ReportRequest(exp=copy), SilentProgress())
    allowed = run_report(ReportRequest(exp=copy, allow=frozenset({"stale"})), SilentProgress())
    assert any("found those of an earlier one" in caution for caution in read_report(allowed).cautions)
    run_report(ReportRequest(exp=original), SilentProgress())


def test_trained_speakers_and_lists(original, copy):
    """By the classifiers and the lists along the copy's own chain, and a list is named where it can be opened."""
    set_speakers(copy / "finetune" / "joint", "00003", "carol")
    with pytest.raises(DataError, match=r"copy/finetune-pruned/lmft was trained on 1 of the 8 .*: 00003"):
        score(copy, system="pruned")
    assert score(original, system="pruned").metrics.cautions == ()
    first = Path(training_lists(copy / "finetune-pruned" / "lmft")[0]["path"])
    assert first.samefile(copy / "data" / "train.tsv")


def test_the_chain_is_walked_where_the_experiment_is_now(exp):
    set_speakers(exp / "finetune" / "joint", "train-0", "somebody")
    more = {f"more-{speaker}" for speaker in range(NUM_SPEAKERS)}
    assert training_speakers(exp / "finetune-pruned" / "lmft") == {"somebody", "train-0", "train-1"} | more
    for entry, name in zip(training_lists(exp / "finetune-pruned" / "lmft"), ("train", "more"), strict=True):
        assert Path(entry["path"]).samefile(exp / "data" / f"{name}.tsv")


def test_shared_speakers(exp):
    """The manifests of both sides are found: other utterances of the same people."""
    table = read_manifest(exp / "data" / "train.tsv").table
    table["speaker_id"] = "00002"
    write_manifest(exp / "data" / "again.tsv", table)
    embed(exp, "cohorts/dense-again", ["00000/0.wav", "00001/0.wav", "00002/0.wav"], "train/", "again.tsv")
    with pytest.raises(DataError, match=r"the cohort has speakers of the trials.*: 00002"):
        score(exp, backend=Backend(norm="snorm"), cohorts=(exp / "cohorts" / "dense-again",))


def test_calibrated_on_speakers_of_the_test_and_put_beside_the_own_model(original, copy):
    for name, wanted in (("held", "01234"), ("some", "4567")):
        lines = (copy / "data" / "trials" / "all.txt").read_text().splitlines()
        kept = [line for line in lines if all(one[4] in wanted for one in line.split()[1:])]
        (copy / "data" / "trials" / f"{name}.txt").write_text("\n".join(kept) + "\n")
    score(copy, "held", calibrate=True)
    assert (copy / "finetune" / "lmft" / "calibration.json").exists()
    assert not (original / "finetune" / "lmft" / "calibration.json").exists()
    with pytest.raises(DataError, match=r"learnt on 1 of the 4 speakers .*: 00004"):
        score(copy, "some", calibrations=(copy / "finetune" / "lmft" / "calibration.json",))


@pytest.fixture
def embedded_with(monkeypatch):
    """The checkpoints that a manifest is embedded with, instead of doing it."""
    asked = []

    def fake(request, progress):
        asked.extend(request.models)
        return [request.exp]

    monkeypatch.setattr(extract, "run", fake)
    return asked


def test_a_manifest_for_plda_or_a_cohort_finds_the_checkpoint(exp, embedded_with):
    arguments = (exp / "data" / "train.tsv", exp / "embeddings" / "pruned", exp, SilentProgress())
    material_directory(*arguments)
    assert embedded_with[0].samefile(exp / "finetune-pruned" / "lmft")
    set_speakers(exp / "finetune-pruned" / "lmft", "a", "b")
    with pytest.raises(ArtifactError, match=r"finetune-pruned/lmft: has changed since"):
        material_directory(*arguments)


def test_embeddings_that_lie_apart_find_the_checkpoint_in_the_experiment_by_content(
    template, tmp_path, embedded_with
):
    exp = shutil.copytree(template, tmp_path / "exp")
    for name in ("prune", "distill"):
        (exp / name / "more.txt").write_text("of other content")
    apart = shutil.copytree(exp / "embeddings" / "pruned", tmp_path / "a" / "part" / "pruned")
    material_directory(exp / "data" / "train.tsv", apart, exp, SilentProgress())
    assert embedded_with == [exp / "finetune-pruned" / "lmft"]
    set_speakers(exp / "finetune-pruned" / "lmft", "a", "b")
    with pytest.raises(
        ArtifactError, match=r"needs the checkpoint of .*pruned, found none at .*lmft and in .*exp;"
    ):
        material_directory(exp / "data" / "train.tsv", apart, exp, SilentProgress())


def test_what_is_finished_stays_so_and_the_report_is_of_the_copy(original, tmp_path, monkeypatch):
    score(original)
    score(original, system="pruned")
    stamp = (original / "scores" / "dense" / "all" / "provenance.json").read_bytes()
    exp = tmp_path / "later" / "renamed"
    exp.parent.mkdir()
    shutil.move(original, exp)
    # Random weights make all checkpoints of a width equal in content: the recorded path decides between them.
    for name in ("finetune/joint", "distill"):
        (exp / name / "classifier.safetensors").unlink()
    monkeypatch.chdir(exp)
    assert score(Path(), keep_finished=True).metrics.name == "dense"
    assert Path("scores/dense/all/provenance.json").read_bytes() == stamp
    written = run_report(ReportRequest(exp=Path()), SilentProgress())
    report = json.loads((written / "report.json").read_text())
    assert {system["name"]: system["model_path"] for system in report["systems"]} == {
        "dense": "finetune/lmft",
        "pruned": "finetune-pruned/lmft",
    }
    assert all(model["timing"] for model in report["models"] if model["is_evaluated"])
    assert {system["checkpoint"]["path"] for system in report["systems"]} == {
        "finetune/lmft",
        "finetune-pruned/lmft",
    }
    assert str(tmp_path) not in json.dumps({key: report[key] for key in ("systems", "provenance", "models")})
    monkeypatch.chdir(tmp_path)
    again = run_report(ReportRequest(exp=exp, keep_finished=True), SilentProgress())
    assert json.loads((again / "report.json").read_text()) == report


def test_systems_are_compared_though_their_list_was_named_differently(original):
    score(Path("../exp"))
    request = ScoreRequest(exp=original, trials=original / "data" / "trials" / "all.txt", keep_finished=True)
    assert [entry.second for entry in run(request, SilentProgress()).comparisons] == ["dense"]


def test_no_record_names_the_place_of_the_experiment(original, tmp_path):
    """What is written inside it; the command line is history, and its own words."""
    directory = score(original).directory
    for name in ("metrics.json", "provenance.json", "run.json"):
        record = json.loads((directory / name).read_text())
        record.pop("argv", None)
        assert str(tmp_path) not in json.dumps(record) and record[EXPERIMENT] == "../../..", name
    assert {entry["path"] for entry in json.loads((directory / "provenance.json").read_text())["inputs"]} == {
        "data/trials/all.txt",
        "embeddings/dense",
    }
    assert read_metrics(directory).manifest["path"] == str(original / "data" / "eval.tsv")
    assert {entry["name"] for entry in read_provenance(directory)["inputs"]} == {"trials", "embeddings"}
