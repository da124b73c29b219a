"""The fine-tuning stages on a few synthetic speakers: what they write, resume, keep and refuse."""

import json
import signal
import threading
from pathlib import Path

import pytest
import torch

from svkit.config.schema import Recipe
from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.models.load import load_model
from svkit.progress import Progress, SilentProgress
from svkit.store import checkpoint as store
from svkit.store.provenance import read_provenance
from svkit.training.finetune import FinetuneRequest, rows_for, run
from svkit.training.stage import _Fit
from svkit.training.tasks import ClassificationTask
from svkit.training.validation import Validator
from tests import corpus_trees
from tests.training_experiment import (
    SPEAKERS,
    TEACHER,
    Notes,
    contents,
    interrupt,
    log,
    make_teacher,
    prepare,
    recipe,
)

pytestmark = pytest.mark.usefixtures("fresh_process")


def finetune(
    exp: Path,
    out: Path | None = None,
    using: Recipe | None = None,
    progress: Progress | None = None,
    **options,
) -> list[Path]:
    request = FinetuneRequest(exp=exp, recipe=using or recipe(), out=out, **{"augment": False, **options})
    return run(request, progress or SilentProgress())


def test_the_three_stages_follow_each_other(prepared, tmp_path):
    lora, joint, lmft = finetune(prepared, tmp_path)
    assert [path.name for path in (lora, joint, lmft)] == ["lora", "joint", "lmft"]
    common = {"config.json", "model.safetensors", "classifier.safetensors", "speakers.tsv", "train_log.jsonl"}
    for path in (lora, joint, lmft):
        files = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
        assert common | {"provenance.json", "run.json", "tensorboard"} <= files and "resume" not in files
        assert ("adapter" in files) == (path == lora)
    # Stage 1 leaves the encoder alone, LoRA apart; its own file has the weights before the merge.
    first = store.read_tensors(lora / "model.safetensors")
    assert not any("lora" in name for name in first)
    merged, plain = (
        load_model(lora).encoder.state_dict(),
        {k: v for k, v in first.items() if k.startswith("encoder.")},
    )
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, plain[f"encoder.{name}"])}
    assert changed == {
        f"encoder.layers.{i}.self_attn.linear_{part}.weight" for i in range(2) for part in ("q", "v")
    }
    # The classifier of LMFT is cut to the speakers at their own speed.
    known = [store.read_classifier(path) for path in (lora, joint, lmft)]
    assert [len(classifier.weight) for classifier in known] == [15, 15, 5]
    assert known[2].speakers == sorted(SPEAKERS) and known[2].speeds == [1.0] * 5
    inputs = {entry["name"] for entry in read_provenance(lmft)["inputs"]}
    assert inputs == {"train", "valid", "valid_trials", "checkpoint"}
    kinds = [record["kind"] for record in log(joint)]
    assert "train" in kinds and "valid" in kinds and any((joint / "tensorboard").iterdir())


AS_PUBLISHED = (
    "validations=none", "validate_every_steps=3", "data.random_seam=true", "augment.published_mix=true",
    "margin.uniform_start=true",
)  # fmt: skip
"""Of a stage; with half an epoch of 15 steps, three validations too."""


@pytest.mark.parametrize("stage", ["lora", "head", "joint"])
@pytest.mark.parametrize("kill", [False, True])
def test_an_interrupted_run_goes_on_bit_for_bit(prepared, tmp_path, monkeypatch, stage, kill):
    changes = AS_PUBLISHED if stage == "joint" else ("validations=3",)
    using = recipe(*(f"dense.{stage}.{change}" for change in changes), "save.every_steps=2")
    options = {"stage": stage, "encoder": "tiny", "using": using}
    finetune(prepared, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        interrupt(patch, 5, kill=kill)
        with pytest.raises(MemoryError if kill else SystemExit) as raised:
            finetune(prepared, tmp_path / "parts", **options)
    assert kill or raised.value.code == 143
    assert not (tmp_path / "parts" / "provenance.json").exists()
    progress = Notes()
    finetune(prepared, tmp_path / "parts", progress=progress, **options)
    assert f"resuming after step {4 if kill else 5}" in progress
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # A killed run logs some means over other spans; what it validated is the same.
    valid = [
        [record for record in log(tmp_path / run) if record["kind"] == "valid"] for run in ("whole", "parts")
    ]
    assert valid[0] == valid[1] and len(valid[0]) == 3


def test_the_bar_of_an_interrupted_run_ends_at_the_state_that_is_saved(prepared, tmp_path, monkeypatch):
    interrupt(monkeypatch, 2)  # before the first line of the log
    bars = corpus_trees.Notes()
    with pytest.raises(SystemExit):
        finetune(prepared, tmp_path, stage="lora", progress=bars)
    assert list(bars.tasks.values())[-1].done == 2 and "the state is saved" in bars.notes[-1]


@pytest.mark.parametrize("stage", ["lora", "joint"])
def test_a_state_holds_what_is_trained_and_an_older_one_with_all_is_read(
    prepared, tmp_path, monkeypatch, stage
):
    using = recipe(f"dense.{stage}.validations=1", "save.every_steps=2")
    options = {"stage": stage, "encoder": "tiny", "using": using}
    finetune(prepared, tmp_path / "whole", **options)
    out, tasks = tmp_path / "parts", []
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        original = ClassificationTask.trained_state
        patch.setattr(ClassificationTask, "trained_state", lambda task: tasks.append(task) or original(task))
        with pytest.raises(SystemExit):
            finetune(prepared, out, **options)
    (path,) = (out / "resume").glob("step-*/task.safetensors")
    kept, everything = store.read_tensors(path), tasks[0].state_dict()
    frozen = {name for name in everything if name not in kept}
    assert kept.keys() <= everything.keys()
    assert bool(frozen) == (stage == "lora") and all("network.encoder" in name for name in frozen)
    assert not any("lora_" in name for name in frozen)
    if stage == "lora":  # as an earlier version wrote it
        store.write_tensors(path, everything)
        state = path.with_name("state.json")
        facts = json.loads(state.read_text())
        facts["sha256"] = facts["checksum"] = None
        state.write_text(json.dumps(facts))
    finetune(prepared, out, **options)
    assert contents(out) == contents(tmp_path / "whole")


def test_training_goes_on_while_a_state_is_written(prepared, tmp_path, monkeypatch):
    original, steps = store.write_resume, []
    next_step = threading.Event()

    def write(directory: Path, state: store.ResumeState, keep_last: int = 1) -> None:
        is_last = state.num_done >= 6
        assert is_last or next_step.wait(60), "the loop waited for the disk"
        original(directory, state, keep_last)
        steps.append(state.num_done)

    forward = ClassificationTask.forward

    def watched(
        task: ClassificationTask, waveforms: torch.Tensor, labels: torch.Tensor, step: int, *rest: int
    ):
        if step == 3:
            next_step.set()
        return forward(task, waveforms, labels, step, *rest)

    monkeypatch.setattr(store, "write_resume", write)
    monkeypatch.setattr(ClassificationTask, "forward", watched)
    using = recipe("dense.head.validations=none", "save.every_steps=3")
    (out,) = finetune(prepared, tmp_path / "out", stage="head", encoder="tiny", using=using)
    assert steps[:2] == [3, 6] and not (out / "resume").exists()


def test_a_signal_after_the_last_step_of_a_stage_stops_before_the_next_one(prepared, tmp_path, monkeypatch):
    finetune(prepared, tmp_path / "whole")
    progress, before = Notes(), signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(_Fit, "_close_events", lambda fit: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            finetune(prepared, tmp_path / "parts", progress=progress)
    signal.signal(signal.SIGINT, before)
    assert "stopped after the last step; run the same command again to finish it" in progress
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["lora"]
    again = Notes()
    *_, whole = finetune(prepared, tmp_path / "parts", progress=again)
    assert "lora: resuming after step" in again and contents(whole) == contents(tmp_path / "whole" / "lmft")


def test_a_state_that_cannot_be_written_ends_training(prepared, tmp_path, monkeypatch):
    def full(directory: Path, state: store.ResumeState, keep_last: int = 1) -> None:
        raise ArtifactError(f"{directory}: No space left on device")

    monkeypatch.setattr(store, "write_resume", full)
    using = recipe("dense.head.validations=none", "save.every_steps=3")
    with pytest.raises(
        ArtifactError, match="No space left on device; no state is kept; run the same command again"
    ):
        finetune(prepared, tmp_path / "out", stage="head", encoder="tiny", using=using)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_changed_state_is_not_trained_on(prepared, tmp_path, monkeypatch):
    using = recipe("dense.head.validations=3", "save.every_steps=2", "save.keep_last=2")
    options = {"stage": "head", "encoder": "tiny", "using": using}
    finetune(prepared, tmp_path / "whole", **options)
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        with pytest.raises(SystemExit):
            finetune(prepared, out, **options)
    states = sorted((out / "resume").glob("step-*/state.json"))
    assert [path.parent.name for path in states] == ["step-000000004", "step-000000005"]
    weights = states[1].with_name("task.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    before = states[0].read_text()
    states[0].write_text(before.replace('"num_done": 4', '"num_done": 100000000000'))
    with pytest.raises(
        ArtifactError, match="num_done: expected that of step-000000004, found 100,000,000,000; remove"
    ):
        finetune(prepared, out, **options)
    states[0].write_text(before)
    progress = Notes()
    finetune(prepared, out, progress=progress, **options)
    assert f"{weights}: expected sha256 " in progress and "resuming after step 4" in progress
    assert contents(out) == contents(tmp_path / "whole")


def test_another_configuration_of_an_unfinished_run_is_refused(prepared, tmp_path, monkeypatch):
    options = {"stage": "head", "encoder": "tiny"}
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(SystemExit):
            finetune(prepared, tmp_path / "out", **options)
    with pytest.raises(
        ArtifactError, match=r"unfinished, made with another setting .optim.lr: 0.001 then, 0.01 now."
    ):
        finetune(prepared, tmp_path / "out", using=recipe("dense.head.optim.lr=0.01"), **options)
    finetune(prepared, tmp_path / "out", using=recipe("dense.head.optim.lr=0.01"), overwrite=True, **options)
    assert read_provenance(tmp_path / "out")["config"]["stage_config"]["optim"]["lr"] == 0.01


def test_finished_output_is_refused_kept_or_replaced(prepared, tmp_path):
    options = {"stage": "head", "encoder": "tiny"}
    (out,) = finetune(prepared, tmp_path / "out", **options)
    before = (out / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="is finished; use --overwrite"):
        finetune(prepared, tmp_path / "out", **options)
    progress = Notes()
    assert finetune(prepared, tmp_path / "out", progress=progress, keep_finished=True, **options) == [out]
    finetune(prepared, tmp_path / "out", keep_finished=True, overwrite=True, **options)
    assert (
        "finished, with equal inputs" in progress and (out / "model.safetensors").stat().st_mtime_ns == before
    )
    # Other settings: kept only where nothing has changed.
    changed = recipe("seed=5")
    with pytest.raises(ConfigError, match="is finished"):
        finetune(prepared, tmp_path / "out", using=changed, keep_finished=True, **options)
    finetune(prepared, tmp_path / "out", using=changed, keep_finished=True, overwrite=True, **options)
    assert (out / "model.safetensors").stat().st_mtime_ns != before


def scripted(monkeypatch: pytest.MonkeyPatch, errors: list[float]) -> None:
    """Let validation measure these EERs one after the other."""
    left = list(errors)
    monkeypatch.setattr(Validator, "measure", lambda *_: {"eer": left.pop(0), "min_dcf": 1.0})


@pytest.mark.parametrize("stage", ["head", "lora"])
def test_the_best_state_is_kept_and_the_last_beside_it(prepared, tmp_path, monkeypatch, stage):
    options = {"stage": stage, "encoder": "tiny", "using": recipe(f"dense.{stage}.validations=3")}
    scripted(monkeypatch, [0.3, 0.1, 0.2])
    (best,) = finetune(prepared, tmp_path / "best", **options)
    scripted(monkeypatch, [0.3, 0.2, 0.1])
    (last,) = finetune(prepared, tmp_path / "last", **options)
    assert (best / "last").exists() and not (last / "last").exists()
    assert contents(best / "last") == contents(last)
    assert contents(best)["model.safetensors"] != contents(last)["model.safetensors"]
    validation = read_provenance(best)["validation"]["best"]
    records = [record for record in log(best) if record["kind"] == "valid"]
    assert validation["eer"] == 0.1 and validation["step"] == records[1]["step"] < records[2]["step"]
    scripted(monkeypatch, [0.3, 0.1, 0.2])
    options["using"] = recipe(f"dense.{stage}.validations=3", f"dense.{stage}.keep=last")
    (kept,) = finetune(prepared, tmp_path / "kept", **options)
    assert contents(kept)["model.safetensors"] == contents(last)["model.safetensors"]
    ends = {"last/model.safetensors": contents(last)["model.safetensors"]}
    assert contents(kept / "best") | ends == contents(best)
    # The other state is a checkpoint: every command takes its directory, LoRA is merged as it is loaded.
    beside, result = (load_model(path).state_dict() for path in (best / "last", last))
    assert all(torch.equal(tensor, beside[name]) for name, tensor in result.items())
    scripted(monkeypatch, [0.1] * 9)
    (again,) = finetune(prepared, tmp_path / "again", stage="joint", source=best / "last")
    assert (again / "provenance.json").exists()


def test_without_held_out_speakers_the_last_state_is_the_result(tmp_path):
    exp = prepare(tmp_path / "exp", valid=False)
    (out,) = finetune(exp, stage="head", encoder="tiny")
    assert out == exp / "finetune" / "head" and not (out / "last").exists()
    assert {record["kind"] for record in log(out)} == {"train"}


def test_other_speakers_get_a_new_classifier_and_a_note(prepared, tmp_path):
    teacher = make_teacher(tmp_path / "joint")
    progress = Notes()
    (same,) = finetune(prepared, tmp_path / "same", stage="lmft", source=teacher, progress=progress)
    assert "new classifier" not in progress
    others = prepare(tmp_path / "exp", (*SPEAKERS[:-1], "frank"), valid=False)
    (other,) = finetune(others, tmp_path / "other", stage="lmft", source=teacher, progress=progress)
    assert "the training speakers are not those of" in progress and "new classifier" in progress
    start = store.read_classifier(teacher).weight[[SPEAKERS.index(name) for name in sorted(SPEAKERS)]]
    cosine = torch.nn.functional.cosine_similarity(store.read_classifier(same).weight, start)
    assert float(cosine.min()) > 0.99  # the rows at speed 1, a few small steps later
    assert "frank" in store.read_classifier(other).speakers


def test_rows_are_found_by_speaker_and_speed():
    weight = torch.arange(4.0)[:, None]
    known = store.Classifier(weight=weight, speakers=["a", "b", "a", "b"], speeds=[1.0, 1.0, 0.9, 0.9])
    assert rows_for(known, ["b", "a"], [1.0, 1.0]).flatten().tolist() == [1.0, 0.0]
    assert rows_for(known, ["a", "b"], [0.9, 0.9]).flatten().tolist() == [2.0, 3.0]
    assert rows_for(known, ["a", "c"], [1.0, 1.0]) is None and rows_for(known, ["a"], [1.1]) is None


def test_a_pruned_model_starts_at_head_and_keeps_its_structure(prepared, tmp_path):
    cut = {**TEACHER.encoder.widths(), "num_heads": [3, 0], "ffn1_dim": [7, 200]}
    architecture = TEACHER.__class__(
        encoder=TEACHER.encoder.with_widths(cut),
        head=TEACHER.head,
        dense_widths={name: tuple(widths) for name, widths in TEACHER.encoder.widths().items()},
    )
    source = make_teacher(tmp_path / "distill", architecture)
    outs = finetune(prepared, tmp_path / "out", source=source)
    assert [path.name for path in outs] == ["head", "joint", "lmft"]
    assert all(store.read_architecture(path) == architecture for path in outs)
    before, after = (load_model(path).encoder.state_dict() for path in (source, outs[0]))
    assert all(torch.equal(before[name], after[name]) for name in before)  # frozen in `head`


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stage": "joint"}, ArtifactError, "run the stage before joint first, or pass --from"),
        ({"source": Path("nowhere")}, ArtifactError, "nowhere: no such checkpoint"),
        ({"encoder": "./nowhere"}, ArtifactError, "no such encoder directory"),
        ({"manifest": Path("nowhere.tsv")}, DataError, "nowhere.tsv"),
    ],
)
def test_what_is_missing_is_named_before_training(tmp_path, options, error, message):
    exp = prepare(tmp_path / "exp", SPEAKERS[:2], valid=False)
    with pytest.raises(error, match=message):
        finetune(exp, **options)
    assert not list(exp.glob("finetune/*/model.safetensors"))


@pytest.mark.parametrize("name", [store.MODEL_NAME, store.CONFIG_NAME, store.CLASSIFIER_NAME])
def test_a_corrupt_source_leaves_no_output(prepared, tmp_path, name):
    """Else the right command would meet an unfinished run of the wrong one."""
    source = make_teacher(tmp_path / "source")
    (source / name).write_bytes((source / name).read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=name):
        finetune(prepared, tmp_path / "out", stage="joint", source=source)
    assert not (tmp_path / "out").exists()


def test_another_precision_in_one_python_process(prepared, tmp_path):
    """Accelerate would keep the first one and refuse the second."""
    for precision in ("fp32", "bf16", "fp32"):
        options = {"stage": "head", "encoder": "tiny", "using": recipe(f"precision={precision}")}
        (out,) = finetune(prepared, tmp_path / "out", overwrite=True, **options)
        assert read_provenance(out)["config"]["precision"] == precision


def test_a_batch_in_parts_trains_much_the_same_model(prepared, tmp_path):
    states = []
    for micro_batch in ("none", "3"):
        using = recipe(f"dense.head.data.micro_batch={micro_batch}")
        (out,) = finetune(prepared, tmp_path / micro_batch, stage="head", encoder="tiny", using=using)
        states.append(store.read_tensors(out / store.MODEL_NAME))
        recorded = str(read_provenance(out)["config"])
        assert f"'micro_batch': {'None' if micro_batch == 'none' else 3}" in recorded
    whole, parts = states
    moved = [
        name
        for name in whole
        if "head" in name and "batch_norm" not in name and whole[name].is_floating_point()
    ]
    for name in moved:  # the batch norm's statistics are of a part
        torch.testing.assert_close(parts[name], whole[name], rtol=0.2, atol=0.02)


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_without_instructions_for_it_is_said(prepared, tmp_path, monkeypatch, has_bf16):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    notes = Notes()
    options = {"stage": "head", "encoder": "tiny", "using": recipe("precision=bf16"), "progress": notes}
    finetune(prepared, tmp_path / "out", **options)
    assert ("this cpu has no bf16 instructions" in notes) == (not has_bf16)


@pytest.mark.parametrize(("stage", "expected"), [("lora", 0.0), ("head", 0.0), ("joint", 0.1), ("lmft", 0.1)])
def test_dropout_follows_the_stage(prepared, tmp_path, monkeypatch, stage, expected):
    """A frozen encoder runs without; validation never sees any."""
    seen: list[tuple[bool, float]] = []
    original = torch.nn.functional.dropout

    def watched(hidden, p, training=True, inplace=False):
        seen.append((training, p))
        return original(hidden, p, training, inplace)

    monkeypatch.setattr(torch.nn.functional, "dropout", watched)
    source = make_teacher(tmp_path / "source") if stage == "lmft" else None
    finetune(prepared, tmp_path / "out", stage=stage, encoder=None if source else "tiny", source=source)
    assert {p for training, p in seen if training} == {expected}
    assert any(not training for training, _ in seen)


def test_provenance_names_recipe_and_inputs(prepared, tmp_path):
    (out,) = finetune(prepared, tmp_path / "out", stage="head", encoder="tiny")
    record = json.loads((out / "provenance.json").read_text())
    assert record["command"] == "finetune" and record["seed"] == 24 and record["device"] == "cpu"
    assert record["config"]["stage"] == "head" and record["config"]["encoder"] == "tiny"
