"""One experiment with its report, read by the tests of this room."""

import json

import pytest

from svkit.progress import SilentProgress
from svkit.reports import report as stage
from svkit.scoring.score import ScoreRequest
from svkit.scoring.score import run as run_score
from svkit.store.report import read_report
from tests.fake_experiment import make_experiment


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """An experiment with its report."""
    exp = tmp_path_factory.mktemp("exp")
    make_experiment(exp)
    run_score(ScoreRequest(exp=exp, trials=exp / "data" / "trials" / "all.txt"), SilentProgress())
    stage.run(stage.ReportRequest(exp=exp), SilentProgress())
    return exp


@pytest.fixture(scope="session")
def facts(finished):
    """Content of report.json."""
    return json.loads((finished / "report" / "report.json").read_text())


@pytest.fixture(scope="session")
def report(finished):
    """The same, as it is read."""
    return read_report(finished / "report")
