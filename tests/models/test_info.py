"""`svkit info`: exact figures of checkpoints and of published configurations, for people and as JSON."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from svkit.cli.app import app
from tests.fake_experiment import DENSE, make_checkpoint, pruned
from tests.pruning.published import CONVOLUTION, HEADS, PRUNED_CONFIGURATION, STOCK_CONFIGURATION


def info(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["info", *map(str, arguments)])


def configuration(tmp_path: Path, content: dict) -> Path:
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps(content))
    return path


def test_the_stock_configuration(tmp_path):
    facts = json.loads(info(configuration(tmp_path, STOCK_CONFIGURATION), "--json").stdout)
    assert facts["encoder_parameters"] == 580_492_096 and facts["head_parameters"] == 6_160_640
    assert round(facts["macs_per_second"]["total"] / 1e9, 3) == 28.748
    assert facts["teacher_parameters"] is None and facts["sparsity"] == 0.0 and facts["size_bytes"] is None


def test_the_published_pruned_configuration(tmp_path):
    facts = json.loads(info(configuration(tmp_path, PRUNED_CONFIGURATION), "--json").stdout)
    assert facts["encoder_parameters"] == 124_307_464 and facts["teacher_parameters"] == 580_492_096
    assert round(facts["macs_per_second"]["total"] / 1e9, 3) == 6.325
    assert facts["sparsity"] == pytest.approx(0.7859, abs=5e-5)
    assert facts["widths"]["num_heads"] == list(HEADS) and facts["widths"]["conv_dim"] == list(CONVOLUTION)
    assert facts["dense_widths"]["ffn1_dim"] == [4096] * 24


def test_people_read_tables(tmp_path):
    shown = info(configuration(tmp_path, PRUNED_CONFIGURATION)).stdout
    for part in (
        "124,307,464",
        "580,492,096",
        "78.59 %",
        "6,160,640",
        "6.325 G",
        "13 of 16",
        "2417 of 4096",
        "absent",
    ):
        assert part in shown
    assert "\x1b" not in shown and len(shown.splitlines()) < 50
    stock = info(configuration(tmp_path, STOCK_CONFIGURATION)).stdout
    assert "580,492,096" in stock and " of 16" not in stock and "sparsity" not in stock


def test_a_calibration_behind_a_link_that_leads_nowhere_is_refused(tmp_path):
    """It got lost: "none" would say that it was never learnt, and `svkit verify` refuses it as well."""
    model = tmp_path / "model"
    make_checkpoint(model, DENSE, [])
    assert info(model).exit_code == 0
    (model / "calibration.json").symlink_to("nowhere.json")
    done = info(model)
    assert done.exit_code == 4 and "calibration.json: is a symbolic link to a place that does" in done.stderr


def test_a_checkpoint(tmp_path):
    make_checkpoint(tmp_path / "cut", pruned(DENSE), [])
    result = info(tmp_path / "cut", "--json")
    facts = json.loads(result.stdout)
    assert (
        facts["name"] == "cut"
        and facts["size_bytes"] == (tmp_path / "cut" / "model.safetensors").stat().st_size
    )
    assert 0 < facts["sparsity"] < 1
    assert facts["sparsity"] == 1 - facts["encoder_parameters"] / facts["teacher_parameters"]
    assert f"{facts['encoder_parameters']:,}" in info(tmp_path / "cut").stdout


def test_a_transformers_directory_needs_no_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(STOCK_CONFIGURATION))
    assert json.loads(info(tmp_path, "--json").stdout)["encoder_parameters"] == 580_492_096


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"hidden_size": 4}'])
def test_what_is_none_of_these_is_exit_4_in_one_line(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    result = info(path)
    assert result.exit_code == 4 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_an_unfinished_checkpoint_is_said(tmp_path):
    make_checkpoint(tmp_path, DENSE, [])
    (tmp_path / "model.safetensors").unlink()
    result = info(tmp_path)
    assert result.exit_code == 4 and "not finished" in result.stderr
