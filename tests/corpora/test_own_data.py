"""Going on from a checkpoint with one's own speakers, as docs/own_data.md shows it."""

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store import checkpoint as store
from svkit.store.provenance import read_provenance
from tests.training_experiment import make_teacher, one_process, prepare, set_options

pytestmark = pytest.mark.e2e


def test_head_then_joint_from_a_checkpoint_of_other_speakers(tmp_path):
    exp = prepare(tmp_path / "exp", ("xenia", "yves", "zoe", "ugo", "vera"), valid=False)
    published = make_teacher(tmp_path / "published")

    def finetune(*arguments):
        with one_process():
            result = CliRunner().invoke(
                app, ["finetune", "--exp", str(exp), *map(str, arguments), *set_options()]
            )
        assert result.exit_code == 0, result.stderr
        return result

    said = finetune("--from", published, "--stage", "head")
    assert (
        f"head: the training speakers are not those of {published}; starting a new classifier" in said.stderr
    )
    head = exp / "finetune" / "head"
    classifier = store.read_classifier(head)
    assert classifier is not None and set(classifier.speakers) == {"xenia", "yves", "zoe", "ugo", "vera"}
    assert store.read_architecture(head) == store.read_architecture(published)
    assert "new classifier" not in finetune("--from", head, "--stage", "joint").stderr
    inputs = {entry["name"]: entry["path"] for entry in read_provenance(exp / "finetune" / "joint")["inputs"]}
    assert inputs["checkpoint"] == str(head)
