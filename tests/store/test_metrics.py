"""`metrics.json`: the types are the schema, files of earlier versions included."""

import json
from dataclasses import fields

import numpy as np
import pytest

from svkit.errors import ArtifactError
from svkit.eval.bootstrap import TrialSpeakers, draw_multiplicities
from svkit.eval.summary import Draws, resample_errors, summarize
from svkit.store.metrics import (
    BackendRecord,
    CalibratedBy,
    ListId,
    Metrics,
    ScoredList,
    TrialList,
    metrics_record,
    read_metrics,
    write_metrics,
)


def facts(**changes):
    return {
        "name": "dense",
        "trials": TrialList(name="t", sha256="aa", path="/data/t.txt"),
        "backend": BackendRecord(name="cosine", method="cosine", norm="none", material={}),
        "manifest": {"path": "/data/eval.tsv", "sha256": "cc"},
        "calibration": CalibratedBy(method="held-out trials", trials=ListId(name="held", sha256="dd")),
        "cautions": ("careful",),
        **changes,
    }


def measured(**changes):
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 9, (2, 300))
    labels = (left == right).astype(np.int8)
    scores = rng.normal(size=300) + 2 * labels
    speakers = TrialSpeakers(enroll=left, test=right, num_speakers=9)
    draws = Draws(speakers=speakers, multiplicities=draw_multiplicities(9, 50, 0), source="manifest")
    rates = summarize(scores, labels, scores, draws, resample_errors(scores, labels, draws)[0])
    return Metrics(**{field.name: getattr(rates, field.name) for field in fields(rates)}, **facts(**changes))


@pytest.mark.parametrize("metrics", [measured(), ScoredList(num_targets=3, num_nontargets=0, **facts())])
def test_they_come_back_as_they_were(tmp_path, metrics):
    write_metrics(tmp_path, metrics)
    assert read_metrics(tmp_path) == metrics and type(read_metrics(tmp_path)) is type(metrics)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content == metrics_record(metrics)
    assert (content["eer"] is None) == (not isinstance(metrics, Metrics))
    assert content["trials"] == {"name": "t", "sha256": "aa", "path": "/data/t.txt", "left_out": None}
    assert content["checkpoint"] is None and content["calibration"]["trials"]["name"] == "held"


def test_intervals_lie_where_readers_of_earlier_versions_look(tmp_path):
    write_metrics(tmp_path, measured())
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["eer_interval"]["speakers_from"] == "manifest"
    places = [content["eer_interval"], content["min_dcf"][1]["interval"], content["act_dcf"][1]["interval"]]
    places += [content["thresholds"]["eer"]["miss_rate_interval"], content["cllr_interval"]]
    for interval in places:
        assert interval["low"] < interval["high"] and interval["num_speakers"] == 9
        assert (interval["level"], interval["num_resamples"]) == (0.95, 50)
    assert content["thresholds"]["far_0.01"]["is_resolved"] is True
    assert "is_resolved" not in content["thresholds"]["eer"]
    assert all("miss_rate_interval" in point for point in content["min_dcf"])  # null where there is none


def test_keys_of_other_versions_are_no_matter(tmp_path):
    write_metrics(tmp_path, measured())
    path = tmp_path / "metrics.json"
    content = json.loads(path.read_text())
    old = {key: value for key, value in content.items() if key not in ("unchecked", "no_interval", "model")}
    del old["trials"]["left_out"], old["eer_interval"]["level"], old["eer_interval"]["speakers_from"]
    path.write_text(json.dumps({**old, "of_the_future": 1}))
    metrics = read_metrics(tmp_path)
    assert metrics.trials.left_out is None and metrics.eer_interval.level == 0.95 and metrics.unchecked == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../../elsewhere"}, "name: expected a plain name"),
        ({"eer": "low"}, "eer: expected a number, found 'low'"),
        ({"num_targets": True}, "num_targets: expected a whole number, found true"),
        ({"backend": {}}, "backend.name: "),
        ({"min_dcf": [{"p_target": 0.01}]}, r"min_dcf\[0\].threshold: missing"),
        ({"cautions": [1]}, r"cautions\[0\]: expected text, found 1"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, words):
    write_metrics(tmp_path, measured())
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match=rf"metrics\.json: {words}"):
        read_metrics(tmp_path)
