"""Recorded paths: what is written, and what a reader in another directory, place or version makes of it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from svkit.errors import ArtifactError
from svkit.store.output import Output
from svkit.store.places import recorded_path, recorded_paths, usable_paths
from svkit.store.provenance import read_provenance


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name)
    return path


def facts(**paths):
    return {key: {"path": str(path), "sha256": "aa"} for key, path in paths.items()}


def read(directory, record):
    """The checkpoint's path that a reader of `directory` gets, resolved."""
    return Path(usable_paths(directory / "embeddings.json", record)["checkpoint"]["path"]).resolve()


@pytest.fixture
def exp(tmp_path):
    for place in (
        "finetune/lmft/config.json",
        "embeddings/dense/ids.tsv",
        "data/eval.tsv",
        "prune/config.json",
    ):
        touch(tmp_path / "exp" / place)
    return tmp_path / "exp"


def test_inside_is_relative_to_the_experiment_and_outside_absolute(exp, tmp_path, monkeypatch):
    outside = touch(tmp_path / "models" / "config.json").parent
    given = facts(checkpoint=exp / "finetune" / "lmft", manifest=tmp_path / "lists.tsv")
    given["inputs"] = [
        {"name": "a", "path": str(exp), "sha256": "b"},
        {"name": "b", "path": "models", "sha256": "c"},
    ]
    monkeypatch.chdir(tmp_path)
    found = recorded_paths(Path("exp/embeddings/dense"), given, Path("exp"))
    assert found["checkpoint"] == {"path": "finetune/lmft", "sha256": "aa"}
    assert found["manifest"]["path"] == str(tmp_path / "lists.tsv")
    assert [entry["path"] for entry in found["inputs"]] == [".", str(outside)]
    assert found["experiment"] == "../.."
    for directory in (tmp_path / "out", tmp_path / "exp2" / "out"):  # of no experiment: nothing moves with it
        written = recorded_paths(directory, given, exp)
        assert written["checkpoint"]["path"] == str(exp / "finetune" / "lmft") and "experiment" not in written
    assert recorded_paths(exp, given, exp)["experiment"] == "."


def test_links_and_dots_are_seen_through(exp, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(exp)
    elsewhere = touch(tmp_path / "disk" / "lmft" / "config.json").parent
    (exp / "finetune" / "big").symlink_to(elsewhere)
    assert recorded_path(exp / "finetune" / "lmft", tmp_path / "link") == "finetune/lmft"
    assert recorded_path(tmp_path / "link" / "prune", exp) == "prune"
    assert (
        recorded_path(exp / "finetune" / "big", exp) == "finetune/big"
    )  # by its name here, wherever it leads
    assert recorded_path(exp / ".." / "exp2", exp) == str(tmp_path / "exp2")
    monkeypatch.chdir(exp / "data")
    assert recorded_path(Path("../finetune/lmft"), Path("..")) == "finetune/lmft"
    record = {**facts(checkpoint="finetune/lmft"), "experiment": "../.."}
    (tmp_path / "mine").symlink_to(exp / "embeddings" / "dense")
    for directory in (exp / "embeddings" / "dense", tmp_path / "link" / "embeddings" / "dense", tmp_path / "mine",
                      Path("../embeddings/dense")):  # fmt: skip
        assert read(directory, record) == exp / "finetune" / "lmft"
    shown = usable_paths(Path("../embeddings/dense/embeddings.json"), record)
    assert shown["checkpoint"]["path"] == "../finetune/lmft" and "experiment" not in shown


@pytest.mark.parametrize("keeps_original", [True, False])
@pytest.mark.parametrize("name", ["exp", "renamed"])
def test_a_copy_finds_its_own(exp, tmp_path, monkeypatch, keeps_original, name):
    """Also where the record is old: relative to a directory nobody noted, or absolute."""
    target = tmp_path / "elsewhere" / name if name == "exp" else tmp_path / name
    target.parent.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    checkpoint = exp / "finetune" / "lmft"
    records = {
        "new": recorded_paths(exp / "embeddings" / "dense", facts(checkpoint=checkpoint), exp),
        "relative": facts(checkpoint="exp/finetune/lmft"),
        "from a directory beside": facts(checkpoint="../exp/finetune/lmft"),
        "absolute": facts(checkpoint=checkpoint),
    }
    for record in records.values():
        assert read(exp / "embeddings" / "dense", record) == checkpoint
    (shutil.copytree if keeps_original else shutil.move)(exp, target)
    for place in (tmp_path, tmp_path / "models", target):
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        for version, record in records.items():
            directory = Path(os.path.relpath(target / "embeddings" / "dense"))
            assert read(directory, record) == target / "finetune" / "lmft", version


def test_an_old_path_outside_the_experiment_stays_outside(exp, tmp_path, monkeypatch):
    outside = touch(tmp_path / "models" / "finetune" / "lmft" / "config.json").parent
    monkeypatch.chdir("/")
    for path in (outside, "models/finetune/lmft"):
        assert read(exp / "embeddings" / "dense", facts(checkpoint=path)) == outside
    other = touch(tmp_path / "runs" / "joint" / "config.json").parent
    touch(exp / "finetune" / "joint" / "config.json")
    assert read(exp / "finetune" / "lmft", facts(checkpoint="runs/joint")) == other


def test_another_experiment_in_the_working_directory_is_not_taken_for_this_one(exp, tmp_path, monkeypatch):
    shutil.rmtree(exp / "finetune")
    touch(tmp_path / "work" / "exp" / "finetune" / "lmft" / "config.json")
    monkeypatch.chdir(tmp_path / "work")
    for directory in (exp / "embeddings" / "dense", Path("../exp/embeddings/dense")):
        assert not read(directory, facts(checkpoint="exp/finetune/lmft")).exists()


def test_a_list_named_from_the_working_directory_is_still_found(exp, tmp_path, monkeypatch):
    touch(tmp_path / "work" / "lists" / "eval.tsv")
    monkeypatch.chdir(tmp_path / "work")
    found = usable_paths(exp / "prune" / "provenance.json", facts(manifest="lists/eval.tsv"))
    assert found["manifest"]["path"] == "lists/eval.tsv"


def test_what_cannot_be_a_path_is_left_alone_or_refused(exp):
    for path in ("", "x" * 5000, ".", "/"):
        usable_paths(exp / "prune" / "provenance.json", facts(checkpoint=path))
        usable_paths(exp / "prune" / "provenance.json", {**facts(checkpoint=path), "experiment": ".."})
    for changes in ({}, {"experiment": ".."}):
        with pytest.raises(ArtifactError, match=r"provenance.json: expected a path, found 'a.x00b'"):
            usable_paths(exp / "prune" / "provenance.json", {**facts(checkpoint="a\0b"), **changes})
    with pytest.raises(ArtifactError, match=r"provenance.json: experiment: expected text, found 5"):
        usable_paths(exp / "prune" / "provenance.json", {"experiment": 5})


def test_an_output_records_and_reads_its_inputs_so(exp, tmp_path):
    inputs = {"train": exp / "data" / "eval.tsv", "teacher": exp / "finetune" / "lmft"}

    def take(root):
        return Output(
            root / "distill", command="distill", config={}, experiment=root,
            inputs={name: root / path.relative_to(exp) for name, path in inputs.items()},
        ).open()  # fmt: skip

    take(exp).close()
    moved = tmp_path / "moved"
    shutil.move(exp, moved)
    with take(moved) as output:
        assert output.is_resumed  # by content
        output.finish()
    for name in ("run.json", "provenance.json"):
        record = json.loads((moved / "distill" / name).read_text())
        assert [entry["path"] for entry in record["inputs"]] == ["data/eval.tsv", "finetune/lmft"]
        assert record["experiment"] == ".."
    found = {entry["name"]: Path(entry["path"]) for entry in read_provenance(moved / "distill")["inputs"]}
    assert found == {name: moved / path.relative_to(exp) for name, path in inputs.items()}


def test_a_local_encoder_counts_by_content_not_by_its_path(tmp_path):
    for name in ("here", "there"):
        touch(tmp_path / name / "config.json")

    def ask(name, seed=1):
        config = {"encoder": str(tmp_path / name), "seed": seed}
        inputs = {"encoder": tmp_path / name}
        return Output(tmp_path / "out", command="finetune", config=config, inputs=inputs)

    with ask("here").open() as output:
        output.finish()
    assert ask("there").is_current
    assert not ask("there", seed=2).is_current
    (tmp_path / "there" / "config.json").write_text("other")
    assert not ask("there").is_current
