"""Where a calibration may be written."""

import json

import pytest

from svkit.errors import ConfigError
from svkit.store.calibration import FORMAT, calibration_beside, check_place
from svkit.store.provenance import RUN_NAME
from tests.fake_experiment import DENSE, make_checkpoint


def test_only_a_calibration_is_replaced_and_only_when_asked(tmp_path):
    model, found = tmp_path / "model", tmp_path / "found.json"
    check_place(found, model, overwrite=False)
    found.write_text(json.dumps({"format": FORMAT}))
    check_place(found, model, overwrite=True)
    with pytest.raises(ConfigError, match="found.json already exists; use --overwrite"):
        check_place(found, model, overwrite=False)
    for text in ("{}", "[]", "not json"):
        found.write_text(text)
        with pytest.raises(ConfigError, match="found.json: expected a calibration to replace"):
            check_place(found, model, overwrite=True)
    with pytest.raises(ConfigError, match="expected a calibration to replace"):
        check_place(tmp_path, model, overwrite=True)


def test_a_link_that_leads_nowhere_is_a_calibration_that_got_lost(tmp_path):
    place = tmp_path / "calibration.json"
    assert calibration_beside(tmp_path) is None
    place.symlink_to("nowhere.json")
    assert calibration_beside(tmp_path) == place
    with pytest.raises(ConfigError, match="calibration.json already exists; use --overwrite"):
        check_place(place, tmp_path / "model", overwrite=False)
    check_place(place, tmp_path / "model", overwrite=True)
    place.rename(other := tmp_path / "other.json")
    with pytest.raises(ConfigError, match="other.json: expected a calibration to replace"):
        check_place(other, tmp_path / "model", overwrite=True)


@pytest.mark.parametrize("is_own", [True, False])
def test_in_a_checkpoint_only_the_name_that_is_no_content_is_taken(tmp_path, is_own):
    """`--out model/model.safetensors --overwrite` would lose the weights; another name would change the hash."""
    make_checkpoint(tmp_path / "model", DENSE, [])
    (tmp_path / "model" / RUN_NAME).write_text("{}")
    model = tmp_path / ("model" if is_own else "other")
    for name in ("model.safetensors", "config.json", "mine.json", "more/mine.json"):
        with pytest.raises(ConfigError, match="whose content it would change; name it calibration.json"):
            check_place(tmp_path / "model" / name, model, overwrite=True)
    check_place(tmp_path / "model" / "calibration.json", model, overwrite=False)
