"""Checkpoint directories: equal bytes for equal models, strict reading, round trips of every part."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from svkit.config.architecture import ModelArchitecture, tiny_architecture
from svkit.config.schema import HeadConfig
from svkit.errors import ArtifactError, DataError
from svkit.store import checkpoint as store
from svkit.store.provenance import read_provenance, sha256_file, sha256_input

MODEL = ModelArchitecture(encoder=tiny_architecture({}), head=HeadConfig())


def tensors() -> dict[str, torch.Tensor]:
    return {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(4, dtype=torch.int64)}


def test_model_round_trip(tmp_path):
    transposed = torch.arange(6.0).view(3, 2).T  # not contiguous
    store.write_model(tmp_path, MODEL, {"b": transposed, "a": torch.ones(4, dtype=torch.int64)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert store.read_architecture(tmp_path) == MODEL
    read = store.read_tensors(tmp_path / "model.safetensors")
    assert torch.equal(read["b"], transposed) and read["a"].dtype == torch.int64


def test_equal_tensors_give_equal_bytes_in_any_order(tmp_path):
    store.write_tensors(tmp_path / "one", tensors())
    store.write_tensors(tmp_path / "two", dict(reversed(tensors().items())))
    assert sha256_file(tmp_path / "one") == sha256_file(tmp_path / "two")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a checkpoint: config.json is missing"),
        (b"{", "not a JSON file"),
        (b"\xff", "not a JSON file"),
        (b"[]", "content: expected an object, found "),
        (b"{}", "config.json: format: expected 'svkit-checkpoint', found None"),
        (b'{"format": "other"}', "config.json: format: expected 'svkit-checkpoint', found 'other'"),
        (b'{"format": "svkit-checkpoint", "format_version": 2}', "format_version: expected 1, found 2"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        store.read_architecture(tmp_path)
    with pytest.raises(ArtifactError, match="no such checkpoint directory"):
        store.read_architecture(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("command", "said"),
    [("finetune", "the same `svkit finetune`"), ("--overwrite", "the command that writes it")],
)
def test_an_unfinished_checkpoint_says_what_finishes_it(tmp_path, command, said):
    (tmp_path / "run.json").write_text(json.dumps({"command": command}))
    for read in (store.read_architecture, read_provenance, sha256_input):
        with pytest.raises(ArtifactError, match=f"not finished; run {said} again to finish it first"):
            read(tmp_path)
    (tmp_path / "provenance.json").touch()
    with pytest.raises(ArtifactError, match="not a checkpoint: config.json is missing"):
        store.read_architecture(tmp_path)


def test_a_directory_of_checkpoints_names_them(tmp_path):
    for name in ("distill", "finetune/lmft"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    inside = f"{tmp_path}/finetune/lmft, {tmp_path}/distill"
    with pytest.raises(ArtifactError, match=f"is missing; there are checkpoints in it: {inside}$"):
        store.read_architecture(tmp_path)


def test_corrupt_weights_are_said(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ArtifactError, match="does not exist"):
        store.read_tensors(path)
    store.write_tensors(path, tensors())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        store.read_tensors(path)
    path.write_text("text")
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        store.read_tensors(path)


def test_classifier_round_trip_keeps_ids_as_they_are(tmp_path):
    known = store.Classifier(weight=torch.randn(3, 2), speakers=["007", "NA", "1e5"], speeds=[1.0, 0.9, 1.1])
    store.write_classifier(tmp_path, known)
    read = store.read_classifier(tmp_path)
    assert read is not None and torch.equal(read.weight, known.weight)
    assert (read.speakers, read.speeds) == (["007", "NA", "1e5"], [1.0, 0.9, 1.1])
    assert (tmp_path / "speakers.tsv").read_text().splitlines()[:2] == ["row\tspeaker_id\tspeed", "0\t007\t1"]
    assert store.read_classifier(tmp_path / "none") is None


def test_a_classifier_that_does_not_fit_its_speakers(tmp_path):
    known = store.Classifier(weight=torch.randn(3, 2), speakers=["a", "b", "c"], speeds=[1.0] * 3)
    store.write_classifier(tmp_path, known)
    lines = (tmp_path / "speakers.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "speakers.tsv").write_text("".join(lines[:-1]))
    with pytest.raises(ArtifactError, match="one weight row for each of the 2 rows"):
        store.read_classifier(tmp_path)
    (tmp_path / "speakers.tsv").write_text("".join([*lines[:-1], "2\tc\tfast\n"]))
    with pytest.raises(ArtifactError, match="speed"):
        store.read_classifier(tmp_path)
    (tmp_path / "speakers.tsv").unlink()
    with pytest.raises((ArtifactError, DataError)):
        store.read_classifier(tmp_path)


def test_adapter_round_trip(tmp_path):
    assert store.read_adapter(tmp_path) is None
    store.write_adapter(tmp_path, {"r": 4, "target_modules": ["linear_q"]}, tensors())
    config, read = store.read_adapter(tmp_path) or ({}, {})
    assert config == {"r": 4, "target_modules": ["linear_q"]} and torch.equal(read["b"], tensors()["b"])
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(ArtifactError, match="not a JSON file"):
        store.read_adapter(tmp_path)


def state(num_done: int) -> store.ResumeState:
    return store.ResumeState(
        batch_size=8,
        num_done=num_done,
        task={"w": torch.full((2,), float(num_done))},
        optimizer=tensors(),
        facts={"best": {"eer": 0.1}},
    )


def names(directory: Path) -> list[str]:
    return sorted(f"resume/{path.name}" for path in (directory / "resume").iterdir())


def test_the_last_resume_states_replace_those_before(tmp_path):
    assert store.read_resume(tmp_path, 20) is None
    for num_done in (5, 10, 15):
        store.write_resume(tmp_path, state(num_done), keep_last=2)
    assert names(tmp_path) == ["resume/step-000000010", "resume/step-000000015"]
    store.write_resume(tmp_path, state(20))
    assert names(tmp_path) == ["resume/step-000000020"]
    read = store.read_resume(tmp_path, 20)
    assert read is not None and (read.num_done, read.facts) == (20, {"best": {"eer": 0.1}})
    assert torch.equal(read.task["w"], torch.tensor([20.0, 20.0])) and set(read.optimizer) == {"a", "b"}
    assert read.batch_size == store.read_resume_batch(tmp_path) == 8
    store.remove_resume(tmp_path)
    assert store.read_resume(tmp_path, 20) is None and store.read_resume_batch(tmp_path) is None


def test_what_is_no_state_stays_beside_the_states(tmp_path):
    (tmp_path / "resume" / "step-by-step").mkdir(parents=True)
    (tmp_path / "resume" / "step-1").write_text("mine")
    (tmp_path / "resume" / "best-of.safetensors").write_text("mine")
    for num_done in (5, 10):
        store.write_resume(tmp_path, state(num_done))
    assert names(tmp_path) == [
        "resume/best-of.safetensors", "resume/step-000000010", "resume/step-1", "resume/step-by-step",
    ]  # fmt: skip


def test_the_best_state_goes_when_no_state_mentions_it_any_more(tmp_path):
    for step in (3, 6):
        store.write_tensors(store.best_path(tmp_path, step), tensors())
    store.write_resume(tmp_path, replace(state(5), best_step=3), keep_last=2)
    assert names(tmp_path) == ["resume/best-000000003.safetensors", "resume/step-000000005"]
    store.write_tensors(store.best_path(tmp_path, 6), tensors())
    store.write_resume(tmp_path, replace(state(6), best_step=6), keep_last=2)
    assert [name for name in names(tmp_path) if "best" in name] == [
        "resume/best-000000003.safetensors", "resume/best-000000006.safetensors",
    ]  # fmt: skip
    store.write_resume(tmp_path, replace(state(7), best_step=6))
    assert names(tmp_path) == ["resume/best-000000006.safetensors", "resume/step-000000007"]


@pytest.mark.parametrize("name", ["write_json", "write_tensors"])
def test_a_run_killed_while_it_saves_keeps_the_state_before(tmp_path, monkeypatch, name):
    store.write_resume(tmp_path, state(5))
    monkeypatch.setattr(store, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write_resume(tmp_path, state(10))
    read = store.read_resume(tmp_path, 20)
    assert read is not None and read.num_done == 5


def test_a_full_disk_leaves_the_state_before_and_no_half_of_the_next(tmp_path, monkeypatch):
    store.write_resume(tmp_path, state(5))
    original = store.write_tensors

    def full(path: Path, content: Mapping[str, torch.Tensor]) -> None:
        if "optimizer" in path.name:
            raise ArtifactError("No space left")
        original(path, content)

    monkeypatch.setattr(store, "write_tensors", full)
    with pytest.raises(ArtifactError, match="No space left"):
        store.write_resume(tmp_path, state(10))
    assert names(tmp_path) == ["resume/step-000000005"]


def test_a_state_that_cannot_be_read_gives_way_to_the_one_before(tmp_path):
    store.write_resume(tmp_path, state(5))
    store.write_resume(tmp_path, state(10), keep_last=2)
    path = tmp_path / "resume" / "step-000000010" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    notes: list[str] = []
    read = store.read_resume(tmp_path, 20, notes.append)
    assert read is not None and read.num_done == 5
    assert len(notes) == 1 and str(path) in notes[0] and "the state before" in notes[0]
    # The step is done and saved again, over the file that was spoilt.
    store.write_resume(tmp_path, state(10), keep_last=2)
    again = store.read_resume(tmp_path, 20)
    assert again is not None and again.num_done == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_done": None}, "num_done: expected a whole number, found null; remove .* to begin again"),
        ({"batch_size": "many"}, "batch_size: expected a whole number"),
        ({"batch_size": 0}, "batch_size: expected a whole number >= 1, found 0"),
        ({"format_version": 9}, "9"),
        ({"num_done": 10**11}, "num_done: expected that of step-000000005, found 100,000,000,000"),
        ({"num_done": 4}, "num_done: expected that of step-000000005, found 4"),
        ({"batch_size": 4}, "state.json: has changed since it was saved"),
        ({"facts": {"best": {"eer": 0.0}}}, "state.json: has changed since it was saved"),
        ({"best_step": 4}, "state.json: has changed since it was saved"),
        # As earlier versions wrote it:
        ({"best_step": 4, "checksum": ..., "sha256": ...}, "best-000000004.safetensors: does not exist"),
    ],
)
def test_a_changed_resume_state_is_said(tmp_path, changes, message):
    store.write_resume(tmp_path, state(5))
    path = tmp_path / "resume" / "step-000000005" / "state.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not ...}))
    with pytest.raises(ArtifactError, match=message):
        store.read_resume(tmp_path, 20)
    if "best_step" not in changes:
        assert store.read_resume_batch(tmp_path) is None


def test_a_state_beyond_the_run_is_refused(tmp_path):
    """Also where the number is that of the directory."""
    store.write_resume(tmp_path, state(10))
    assert store.read_resume(tmp_path, 10).num_done == 10
    with pytest.raises(
        ArtifactError, match=r"num_done: expected at most the run's 9, found 10; remove .* to begin"
    ):
        store.read_resume(tmp_path, 9)


def flip_last_byte(path: Path) -> None:
    """Another number of the same file: the header is the same, and so is the size."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("name", ["step-000000010/task", "step-000000010/optimizer", "best-000000006"])
def test_a_flipped_byte_goes_back_to_the_state_before(tmp_path, name):
    store.write_tensors(store.best_path(tmp_path, 3), tensors())
    store.write_resume(tmp_path, replace(state(5), best_step=3))
    store.write_tensors(store.best_path(tmp_path, 6), tensors())
    store.write_resume(tmp_path, replace(state(10), best_step=6), keep_last=2)
    path = tmp_path / "resume" / f"{name}.safetensors"
    flip_last_byte(path)
    notes: list[str] = []
    read = store.read_resume(tmp_path, 20, notes.append)
    assert read is not None and (read.num_done, read.best_step) == (5, 3)
    assert len(notes) == 1 and f"{path}: expected sha256 " in notes[0] and "going back" in notes[0]
    # The step is done and saved again, over the file that was spoilt, though its header is sound.
    store.write_tensors(store.best_path(tmp_path, 6), tensors())
    store.write_resume(tmp_path, replace(state(10), best_step=6), keep_last=2)
    again = store.read_resume(tmp_path, 20)
    assert again is not None and again.num_done == 10
    flip_last_byte(tmp_path / "resume" / "step-000000005" / "task.safetensors")
    flip_last_byte(path)
    with pytest.raises(
        ArtifactError, match=r"expected sha256 .* it has changed since it was saved; remove .* to begin"
    ):
        store.read_resume(tmp_path, 20)


def test_a_newer_state_that_was_not_read_does_not_outlive_those_saved_after_it(tmp_path):
    store.write_resume(tmp_path, state(10))
    (tmp_path / "resume" / "step-000000010" / "state.json").write_text("{")
    store.write_resume(tmp_path, state(7))
    assert names(tmp_path) == ["resume/step-000000007"]


def test_a_state_of_an_earlier_version_is_resumed(tmp_path):
    store.write_resume(tmp_path, state(5))
    path = tmp_path / "resume" / "step-000000005" / "state.json"
    record = json.loads(path.read_text())
    assert set(record.pop("sha256")) == {"task.safetensors", "optimizer.safetensors"} and record.pop(
        "checksum"
    )
    path.write_text(json.dumps(record))
    read = store.read_resume(tmp_path, 20)
    assert read is not None and read.num_done == 5 and store.read_resume_batch(tmp_path) == 8


def test_log_lines_of_steps_to_be_done_again_are_dropped(tmp_path):
    for step in (10, 20, 30):
        store.append_log(tmp_path, {"kind": "train", "step": step})
    path = tmp_path / "train_log.jsonl"
    path.write_text(path.read_text() + '{"kind": "tra')  # killed while writing
    store.truncate_log(tmp_path, 20)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]
    store.truncate_log(tmp_path / "none", 0)


def test_keys_that_do_not_fit_are_named():
    store.check_keys(["a", "b"], ["b", "a"], "x")
    with pytest.raises(ArtifactError, match=r"x: .*: missing c \(1\); unexpected b \(1\)"):
        store.check_keys(["a", "b"], ["a", "c"], "x")
