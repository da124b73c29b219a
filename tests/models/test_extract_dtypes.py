"""`svkit extract --dtype`: what embeddings are made with is said beside them, and all kinds agree."""

import pytest
import torch
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.nn import inference
from svkit.store.embeddings import read_embeddings
from tests.training_experiment import make_teacher, prepare

pytestmark = pytest.mark.usefixtures("fresh_process")


def extract(exp, model, dtype):
    words = [
        "extract",
        "--exp",
        str(exp),
        "--model",
        str(model),
        "--manifest",
        str(exp / "data" / "train.tsv"),
    ]
    return CliRunner().invoke(app, [*words, "--dtype", dtype, "--out", str(exp / dtype), "--preset", "smoke"])


def test_every_dtype_gives_like_embeddings(tmp_path):
    exp, model = prepare(tmp_path / "exp"), make_teacher(tmp_path / "model")
    found = {}
    for dtype in ("float32", "bfloat16", "int8"):
        if not inference.can_pack(torch.device("cpu"), torch.int8) and dtype == "int8":
            continue
        result = extract(exp, model, dtype)
        assert result.exit_code == 0, result.output
        found[dtype] = read_embeddings(exp / dtype)
        assert found[dtype].meta["dtype"] == dtype
        assert {"sha256", "path"} == set(found[dtype].meta["checkpoint"])
    full = torch.from_numpy(found["float32"].matrix)
    for embeddings in found.values():
        similar = torch.nn.functional.cosine_similarity(torch.from_numpy(embeddings.matrix), full)
        assert similar.min() > 0.999


def test_a_stage_that_stands_in_for_an_unfinished_one_is_said(tmp_path):
    exp = prepare(tmp_path / "exp")
    for stage in ("lora", "joint"):
        make_teacher(exp / "finetune" / stage)
    make_teacher(exp / "distill")
    (exp / "finetune" / "lmft").mkdir()
    words = ["extract", "--exp", str(exp), "--manifest", str(exp / "data" / "train.tsv"), "--preset", "smoke"]
    result = CliRunner().invoke(app, [*words, "--out", str(exp / "here")])
    assert result.exit_code == 2 and "name it with --model, such as" in result.stderr
    assert "not finished" not in result.stderr
    (exp / "finetune" / "lmft" / "run.json").write_text("{}")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    lmft, joint = (exp / "finetune" / stage for stage in ("lmft", "joint"))
    assert f"{lmft} is not finished: {joint} is used as the dense model" in result.stderr
    assert read_embeddings(exp / "embeddings" / "dense-train").meta["checkpoint"]["path"] == str(joint)


def test_int8_without_such_products_is_exit_2_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "can_pack", lambda device, dtype: False)
    exp, model = prepare(tmp_path / "exp"), make_teacher(tmp_path / "model")
    result = extract(exp, model, "int8")
    assert result.exit_code == 2
    assert "int8: expected an x86 processor, found cpu" in result.output
    assert not (exp / "int8").exists()
