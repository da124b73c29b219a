"""The one rule of what is kept, refused, replaced or continued, whatever the kind of output."""

import copy
from dataclasses import replace

import pytest

from svkit.errors import ArtifactError, ConfigError, FinishedError, OutdatedError
from svkit.progress import SilentProgress
from svkit.store import provenance
from svkit.store.output import Output, continue_parts
from svkit.store.provenance import is_finished, sha256_input


class Notes(SilentProgress):
    def __init__(self):
        self.lines = []

    def note(self, message):
        self.lines.append(message)


@pytest.fixture(params=["directory", "part", "file of a part"])
def plan(tmp_path, request):
    """Plans an output of each kind; the input has a name of its own in each test."""
    (tmp_path / "in.tsv").write_text("x")

    def make(seed=1, **options):
        kind = "directory" if request.param == "directory" else "part"
        path = tmp_path / ("out/noise.tsv" if request.param == "file of a part" else "out")
        inputs = {"train": tmp_path / "in.tsv"}
        return Output(path, command="prune", config={"seed": seed}, inputs=inputs, kind=kind, **options)

    return make


def finish(output, name="model.safetensors"):
    with output.open():
        file = output.path if output.path.suffix else output.path / name
        file.write_text("made")
        output.unmark()
        output.finish(files=[file])


def test_a_finished_output_is_kept_refused_or_replaced(plan, tmp_path):
    progress = Notes()
    assert not plan(keep_finished=True).is_kept(progress)
    finish(plan())
    assert plan(keep_finished=True).is_kept(progress) and plan(keep_finished=True, overwrite=True).is_kept(
        progress
    )
    assert len(progress.lines) == 2 and all(
        "is finished, with equal inputs" in line for line in progress.lines
    )
    for options in ({"keep_finished": True}, {}):
        with pytest.raises(
            ConfigError,
            match=r"was made with another setting \(seed: 1 then, 2 now\); give .*, or use --overwrite",
        ):
            plan(seed=2, **options).is_kept(progress)
    with pytest.raises(
        FinishedError, match="is finished; use --overwrite .*, or --keep-finished to keep it"
    ) as raised:
        plan().is_kept(progress)
    assert raised.value.final == str(plan().path)
    with pytest.raises(ConfigError, match="is finished; use --overwrite"):
        plan().open()
    assert not plan(overwrite=True).is_kept(progress) and not plan(
        seed=2, keep_finished=True, overwrite=True
    ).is_kept(progress)
    (tmp_path / "in.tsv").write_text("others")
    with pytest.raises(ConfigError, match="was made with train (.*), which has changed since"):
        plan(keep_finished=True).is_kept(progress)
    (tmp_path / "in.tsv").unlink()  # named by the command, which knows what it is
    assert not plan(keep_finished=True).is_kept(progress)


def test_an_input_from_elsewhere_and_one_that_has_changed_are_told_apart(plan, tmp_path):
    finish(plan())
    (tmp_path / "in.tsv").write_text("others")
    with pytest.raises(
        OutdatedError, match=r"made with train \(.*in.tsv\), which has changed since; use --over"
    ):
        plan().open()
    (tmp_path / "other.tsv").write_text("others")
    other = replace(plan(), inputs={"train": tmp_path / "other.tsv"})
    said = r"made with another train: .*/in.tsv then, .*/other.tsv now; give what it was made with, or use --over"
    with pytest.raises(ConfigError, match=said):
        other.open()


def test_a_switch_that_an_earlier_version_did_not_know_was_off(tmp_path):
    def output(**data):
        config = {"data": {"speeds": [1.0], **data}}
        return Output(tmp_path / "out", command="prune", config=config, inputs={}, keep_finished=True)

    finish(output())
    assert output(random_seam=False).is_current and output(final=None).is_current
    assert not output(random_seam=True).is_current and not output(final=0).is_current


def test_inputs_are_hashed_once_and_only_where_it_matters(plan, tmp_path, monkeypatch):
    hashed = []
    original = provenance.sha256_input
    monkeypatch.setattr(provenance, "sha256_input", lambda path: hashed.append(path.name) or original(path))
    output = plan()
    assert not output.is_kept(Notes()) and hashed == []
    finish(output)
    assert hashed == ["in.tsv"] and output.hashes["train"]
    assert not plan(seed=2).is_current and hashed == ["in.tsv"]
    again = plan(keep_finished=True)
    assert again.is_kept(Notes()) and again.is_current and hashed == ["in.tsv", "in.tsv"]


def test_a_part_leaves_what_others_have_there(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.tsv").write_text("mine")
    part = Output(tmp_path / "data", command="prepare", config={}, inputs={}, overwrite=True, kind="part")
    for _ in range(2):
        with part.open():
            with pytest.raises(ArtifactError, match="another svkit command is writing here"):
                Output(tmp_path / "data" / "noise.tsv", command="x", config={}, inputs={}, kind="part").open()
            part.finish(files=[])
    assert is_finished(tmp_path / "data") and (tmp_path / "data" / "mine.tsv").read_text() == "mine"


def test_a_list_is_replaced_only_when_asked_and_never_by_what_is_read(tmp_path):
    (tmp_path / "a.tsv").write_text("x")
    wanted = {"command": "merge", "config": {}, "kind": "list"}
    with pytest.raises(ConfigError, match="a.tsv: is an input of this command; write to another file"):
        Output(tmp_path / "a.tsv", inputs={"a": tmp_path / "a.tsv"}, overwrite=True, **wanted).open()
    with pytest.raises(ConfigError, match="a.tsv already exists; use --overwrite to replace it"):
        Output(tmp_path / "a.tsv", inputs={}, **wanted).open()
    assert (
        Output(tmp_path / "a.tsv", inputs={}, overwrite=True, **wanted).open().record.name
        == "a.provenance.json"
    )


@pytest.mark.parametrize("is_input", [True, False])
def test_nothing_is_written_into_another_output_or_an_input(tmp_path, is_input):
    """It would change the hash of, say, a checkpoint, to which embeddings and calibrations would then not belong."""
    model = tmp_path / "model"
    if is_input:
        model.mkdir()
        (model / "model.safetensors").write_text("made")
    else:
        finish(Output(model, command="x", config={}, inputs={}))
    before, inputs = sha256_input(model), {"checkpoint": model} if is_input else {}
    for place in (model / "onnx", model / "a" / "onnx", tmp_path / "link" / "onnx"):
        (tmp_path / "link").exists() or (tmp_path / "link").symlink_to(model)
        with pytest.raises(ConfigError, match="onnx: lies in .*model, whose content it would change"):
            Output(place, command="export", config={}, inputs=inputs, overwrite=True).open()
    assert sha256_input(model) == before and not (model / "onnx").exists() and not (model / "a").exists()
    Output(tmp_path / "onnx", command="export", config={}, inputs=inputs).open().close()


@pytest.mark.parametrize("num_finished", [0, 1, 2])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_command_of_several_outputs_continues_with_the_first_that_is_not_finished(
    tmp_path, num_finished, overwrite
):
    def plans(**options):
        return [Output(tmp_path / name, command="x", config={}, inputs={}, **options) for name in ("a", "b")]

    for output in plans()[:num_finished]:
        finish(output)
    outputs = plans(overwrite=overwrite)
    if num_finished == 2 and not overwrite:
        with pytest.raises(FinishedError, match="up to .*b, is finished; use --overwrite") as raised:
            continue_parts(outputs)
        # Processes of a job send each other such errors, as `copy` does.
        assert copy.copy(raised.value).final == str(tmp_path / "b")
        continue_parts(plans(keep_finished=True))
    else:
        continue_parts(outputs)
        kept = [output.is_kept(Notes()) for output in outputs]
        assert kept == [num_finished == 1 and not overwrite, False]


def test_what_is_finished_from_another_source_is_refused_before_that_is_made(tmp_path):
    """Such as stages of an experiment that began with another first stage."""

    def plans(first, **options):
        names = {first: {}, "joint": {"checkpoint": tmp_path / first}}
        return [
            Output(tmp_path / name, command="x", config={}, inputs=inputs, **options)
            for name, inputs in names.items()
        ]

    for output in plans("head"):
        finish(output)
    with pytest.raises(
        ConfigError, match="joint is finished, but .*lora, from which it is made here, is not"
    ):
        continue_parts(plans("lora", keep_finished=True))
    continue_parts(plans("lora", keep_finished=True, overwrite=True))
    continue_parts(plans("head", keep_finished=True))


@pytest.mark.parametrize("is_last_finished", [True, False])
@pytest.mark.parametrize("options", [{}, {"keep_finished": True}])
def test_a_chain_made_with_other_settings_or_inputs_names_what_differs(tmp_path, options, is_last_finished):
    (tmp_path / "train.tsv").write_text("x")

    def plans(epochs, **options):
        inputs = {"lora": {"train": tmp_path / "train.tsv"}, "joint": {"checkpoint": tmp_path / "lora"}}
        config = {"stage_config": {"epochs": epochs}}
        return [
            Output(tmp_path / name, command="x", config=config, inputs=sources, **options)
            for name, sources in inputs.items()
        ]

    for output in plans(2.0)[: 1 + is_last_finished]:
        finish(output)
    difference = (
        r"lora is finished, and was made with another setting \(epochs: 2.0 then, 0.3 now\); give what .*"
    )
    with pytest.raises(ConfigError, match=f"{difference}, or use --keep-finished --overwrite"):
        continue_parts(plans(0.3, **options))
    (tmp_path / "train.tsv").write_text("others")
    with pytest.raises(
        ConfigError, match="lora is finished, and was made with train (.*), which has changed since"
    ):
        continue_parts(plans(2.0, **options))
    (tmp_path / "train.tsv").unlink()
    continue_parts(plans(2.0, **options))  # named by the command, which knows what it is


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [({"cut": True}, {}, "made with cut true, which is not set now"),
     ({}, {"cut": True}, "made without cut, which is true now")],
)  # fmt: skip
def test_a_setting_that_is_there_only_once_is_said_as_such(tmp_path, before, now, said):
    finish(Output(tmp_path / "a", command="x", config=before, inputs={}))
    with pytest.raises(ConfigError, match=said):
        Output(tmp_path / "a", command="x", config=now, inputs={}).is_kept(Notes())


def test_an_input_that_is_being_made_again_is_not_called_missing(tmp_path):
    def make(name, **inputs):
        return Output(tmp_path / name, command=name, config={}, inputs=inputs, kind="directory")

    finish(make("prune"))
    finish(make("report", prune=tmp_path / "prune"))
    for name, said in (("provenance.json", "not finished"), ("run.json", "missing")):
        (tmp_path / "prune" / name).unlink()
        with (
            pytest.raises(ConfigError, match=f"made with prune, which is {said} now"),
            make("report").open(),
        ):
            pass
