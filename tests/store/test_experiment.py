from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.errors import ConfigError
from svkit.store.experiment import (
    Experiment,
    encoder_to_note,
    noted_encoder,
    read_experiment,
    read_noted,
    resolve,
    update_experiment,
)


def test_defaults_without_a_file(tmp_path):
    assert read_experiment(tmp_path) == Experiment(preset="w2v-bert-2.0", encoder=None, noise=None, rirs=None)


def test_changes_keep_the_other_keys_and_none_removes_one(tmp_path):
    update_experiment(tmp_path / "exp", preset="tiny", encoder="/models/e")
    update_experiment(tmp_path / "exp", noise="data/noise.tsv")
    update_experiment(tmp_path / "exp", encoder=None)
    experiment = read_experiment(tmp_path / "exp")
    assert experiment == Experiment(preset="tiny", noise="data/noise.tsv")
    assert resolve(Path("exp"), experiment.noise) == Path("exp/data/noise.tsv")
    assert resolve(Path("exp"), "/n.tsv") == Path("/n.tsv")
    assert resolve(Path("exp"), experiment.rirs) is None


def test_an_encoder_inside_the_experiment_moves_with_it(tmp_path, monkeypatch):
    for path in (tmp_path / "exp" / "models" / "e", tmp_path / "other"):
        path.mkdir(parents=True)
    exp, moved = tmp_path / "exp", tmp_path / "moved"
    monkeypatch.chdir(tmp_path)
    notes = [
        encoder_to_note(exp, given) for given in ("exp/models/e", "other", "facebook/w2v-bert-2.0", "tiny")
    ]
    assert notes == ["./models/e", str(tmp_path / "other"), "facebook/w2v-bert-2.0", "tiny"]
    found = [noted_encoder(moved, note) for note in notes]
    assert found == [str(moved / "models" / "e"), *notes[1:]]
    assert noted_encoder(moved, None) is None


def test_noting_a_list_first_decides_no_preset(tmp_path):
    """`svkit prepare musan` before `svkit prepare demo`: the demo's preset is still the demo's to choose."""
    update_experiment(tmp_path, noise="data/noise.tsv")
    assert read_noted(tmp_path) == {"noise": "data/noise.tsv"}


def test_changes_are_said_and_an_encoder_goes_with_its_preset(tmp_path):
    assert update_experiment(tmp_path, preset="tiny", encoder="/models/e", seed=7) == []
    assert update_experiment(tmp_path, preset="tiny", seed=7) == []
    path = tmp_path / "config.toml"
    assert update_experiment(tmp_path, preset="smoke", rirs="/r.tsv") == [
        f"{path}: preset is smoke from now on (was tiny)",
        f"{path}: encoder is not set from now on (was /models/e)",
        f"{path}: rirs is /r.tsv from now on (was not set)",
    ]
    assert read_experiment(tmp_path) == Experiment(preset="smoke", seed=7, rirs="/r.tsv")


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_comes_back(tmp_path_factory, text):
    exp = tmp_path_factory.mktemp("exp")
    update_experiment(exp, encoder=text)
    assert read_experiment(exp).encoder == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset = ", "config.toml: not a TOML file"),
        ("\xff", "config.toml: not a TOML file"),
        (
            'presets = "tiny"',
            "config.toml: presets: unknown key; did you mean 'preset'",
        ),
        ("seed = -1", "config.toml: seed: expected a whole number >= 0"),
        ('seed = "7"', "config.toml: seed: expected a whole number >= 0"),
        ('augment = "some"', "config.toml: augment: expected 'none' or 'all', found 'some'"),
        ("noise = 3", "config.toml: noise: expected text, found 3"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    (tmp_path / "config.toml").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=message):
        read_experiment(tmp_path)
