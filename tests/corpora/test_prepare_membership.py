"""Splits are sticky: who evaluated, validated or trained stays so; new speakers train; a change is said."""

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.corpora.membership import differences, read_splits, write_splits
from svkit.errors import DataError
from svkit.store.manifest import read_manifest
from svkit.store.trials import read_trials
from tests.corpora.test_prepare_folder import sound


def add(root, *speakers):
    for speaker in speakers:
        for number in (1, 2, 3):
            sound(root / speaker / f"{number}.wav")


@pytest.fixture
def root(tmp_path):
    add(tmp_path / "wav", *"abcdefghijkl")
    return tmp_path / "wav"


def prepare(root, *options, code=0, overwrite=True):
    exp = root.parent / "exp"
    arguments = ["prepare", "folder", str(root), "--exp", str(exp), "--preset", "tiny", *options]
    result = CliRunner().invoke(app, [*arguments, *(["--overwrite"] if overwrite else [])])
    assert result.exit_code == code, result.output
    return result.stderr


def parts(root):
    data = root.parent / "exp" / "data"
    found = {}
    for name in ("train", "valid", "eval"):
        path = data / f"{name}.tsv"
        found[name] = set(read_manifest(path).speaker_ids) if path.exists() else set()
    return found


def test_new_speakers_train_and_nobody_changes_sides(root):
    prepare(root)
    before = parts(root)
    trials = (root.parent / "exp/data/trials/folder.txt").read_bytes()
    add(root, "A", "m", "z")
    said = prepare(root)
    assert "3 speakers are new: 3 in training" in said and "change their part" not in said
    after = parts(root)
    assert (after["eval"], after["valid"]) == (before["eval"], before["valid"])
    assert after["train"] == before["train"] | {"A", "m", "z"}
    assert (root.parent / "exp/data/trials/folder.txt").read_bytes() == trials


def test_an_earlier_svkit_left_no_record_but_its_lists(root):
    prepare(root)
    before = parts(root)
    (root.parent / "exp/data/splits.tsv").unlink()
    add(root, "A", "B", "C")
    prepare(root)
    assert parts(root) == {**before, "train": before["train"] | {"A", "B", "C"}}


def test_a_speaker_that_comes_back_is_where_it_was(root):
    prepare(root, "--eval-speakers", "3")
    before = parts(root)
    gone = sorted(before["eval"])[0]
    (root / gone).rename(root.parent / gone)
    assert "1 earlier speaker is missing" in prepare(root, "--eval-speakers", "2")
    assert parts(root)["eval"] == before["eval"] - {gone}
    (root.parent / gone).rename(root / gone)
    prepare(root, "--eval-speakers", "3")
    assert parts(root) == before


def test_too_few_left_to_evaluate_is_an_error_that_says_what_to_do(root):
    prepare(root)
    for speaker in list(parts(root)["eval"])[1:]:
        (root / speaker).rename(root.parent / speaker)
    message = prepare(root, code=2)
    assert "--eval-speakers" in message and "--redraw" in message


def test_redraw_starts_anew_and_says_who_moves(root):
    prepare(root)
    before = parts(root)
    said = prepare(root, "--redraw", "--seed", "5")
    after = parts(root)
    assert after["eval"] != before["eval"] and "speakers change their part: " in said
    assert "earlier models may have been trained on them" in said
    (root.parent / "other").mkdir()
    fresh = CliRunner().invoke(
        app, ["prepare", "folder", str(root), "--exp", str(root.parent / "fresh"), "--seed", "5"]
    )
    assert fresh.exit_code == 0
    assert set(read_manifest(root.parent / "fresh/data/eval.tsv").speaker_ids) == after["eval"]


def test_another_seed_moves_nobody(root):
    prepare(root)
    before = parts(root)
    prepare(root, "--seed", "5")
    assert parts(root) == before


def test_the_seed_the_speakers_and_the_lists_of_before_are_remembered(root):
    prepare(root, "--seed", "5", "--eval-speakers", "4")
    before = parts(root)
    record = (root.parent / "exp/data/trials/folder.txt").read_bytes()
    said = prepare(root)
    assert (
        "--eval-speakers, --seed: kept from the last preparation" in said and "--redraw starts anew" in said
    )
    assert parts(root) == before and len(before["eval"]) == 4
    assert (root.parent / "exp/data/trials/folder.txt").read_bytes() == record
    mine = root.parent / "mine.txt"
    mine.write_text("1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n")
    prepare(root, "--trials", str(mine))
    mine.unlink()
    assert "--trials, --seed: kept from the last preparation" in prepare(root)
    data = root.parent / "exp" / "data"
    assert [path.name for path in (data / "trials").iterdir()] == ["mine.txt"]
    assert len(read_trials(data / "trials" / "mine.txt")) == 2 and parts(root)["eval"] == {"a", "b"}


def test_no_evaluation_and_no_validation_stay_so(root):
    prepare(root, "--eval-speakers", "0", "--valid-speakers", "0")
    add(root, "A", "B")
    prepare(root)
    assert parts(root) == {"train": set("abcdefghijklAB"), "valid": set(), "eval": set()}


def test_other_settings_than_before_are_said(root):
    given = (
        "--speaker-regex",
        "^([a-l])/",
        "--min-seconds",
        "0.2",
        "--eval-speakers",
        "3",
        "--channel",
        "mix",
    )
    prepare(root, *given)
    said = prepare(root)
    for option in ("--speaker-regex was ^([a-l])/", "--channel was mix"):
        assert f"{option} and is not given now; repeat it to keep it" in said
    assert "min_seconds was 0.2 and is 0.5 now" in said and "--eval-speakers was" not in said
    assert "--eval-speakers was 3 and is not given now; repeat it to keep it" in prepare(root, "--redraw")
    assert "eval_speakers was not given and is 2 now" in prepare(root, "--eval-speakers", "2")


def test_who_is_gone_can_be_forgotten(root):
    """By a line in the table, and everybody else keeps their part; or by drawing all of them anew."""
    prepare(root)
    before, table = parts(root), root.parent / "exp" / "data" / "splits.tsv"
    gone = sorted(before["train"])[:2]
    for speaker in gone:
        (root / speaker).rename(root.parent / speaker)
    assert "their names stay in splits.tsv" in prepare(root) and set(gone) < set(read_splits(table.parent))
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if line.split("\t")[0] != gone[0]))
    assert "1 earlier speaker is missing" in prepare(root)
    assert parts(root) == {**before, "train": before["train"] - set(gone)}
    assert set(read_splits(table.parent)).intersection(gone) == {gone[1]}
    assert "1 earlier speaker is missing; they are forgotten" in prepare(root, "--redraw")
    assert not set(read_splits(table.parent)).intersection(gone)


def test_named_speakers_move_and_that_is_said(root):
    prepare(root)
    before = parts(root)
    named = sorted(before["train"])[:2]
    (root.parent / "e.txt").write_text("\n".join([*named, *before["eval"]]) + "\n")
    said = prepare(root, "--eval-speakers", str(root.parent / "e.txt"))
    assert "2 speakers change their part: 2 from training to evaluation" in said
    assert parts(root)["eval"] == before["eval"] | set(named)
    (root.parent / "e.txt").unlink()
    assert "which does not exist any more; give the file, or --redraw" in prepare(root, code=2)


def test_more_of_a_number_are_new_ones_first(root):
    prepare(root, "--eval-speakers", "2", "--valid-speakers", "2")
    before = parts(root)
    add(root, "A", "B")
    said = prepare(root, "--eval-speakers", "4", "--valid-speakers", "3")
    after = parts(root)
    assert after["eval"] == before["eval"] | {"A", "B"}
    assert before["valid"] < after["valid"] and len(after["valid"]) == 3
    assert "1 speaker changes its part: 1 from training to validation" in said
    prepare(root, "--eval-speakers", "3", "--valid-speakers", "2")
    assert parts(root)["eval"] < after["eval"] and parts(root)["valid"] < after["valid"]


def test_another_corpus_in_the_experiment_is_drawn_on_its_own(root, tmp_path):
    prepare(root)
    before = parts(root)
    add(tmp_path / "others", "p1", "p2", "p3", "p4", "p5", "p6")
    said = prepare(tmp_path / "others")
    assert "6 speakers are new" in said and "12 earlier speakers are missing" in said
    assert parts(root)["eval"] and parts(root)["eval"] < {"p1", "p2", "p3", "p4", "p5", "p6"}
    prepare(root)
    assert parts(root) == before


def test_the_record_is_read_strictly(tmp_path):
    write_splits(tmp_path, {"NA": "training", "007": "evaluation"})
    assert read_splits(tmp_path) == {"NA": "training", "007": "evaluation"}
    (tmp_path / "splits.tsv").write_text("speaker_id\tsplit\na\ttest\n")
    with pytest.raises(DataError, match=r"splits.tsv: split: expected .*, found test"):
        read_splits(tmp_path)
    assert differences({"a": "training"}, {"a": "training"}) == []
    assert differences({}, {"a": "training", "b": "validation"}) == [
        "2 speakers: 1 in training, 1 in validation"
    ]


def test_a_remembered_number_draws_nobody_when_speakers_go_or_come_back(root):
    prepare(root, "--eval-speakers", "4")
    before = parts(root)
    gone = sorted(before["eval"])[0]
    (root / gone).rename(root.parent / gone)
    assert "change their part" not in prepare(root)
    assert parts(root) == {**before, "eval": before["eval"] - {gone}}
    prepare(root, "--eval-speakers", "2")
    left = parts(root)["eval"]
    (root.parent / gone).rename(root / gone)
    assert "change their part" not in prepare(root)
    assert parts(root)["eval"] == left | {gone}


def test_a_preset_that_is_none_is_refused_before_anything_is_written(root):
    message = prepare(root, "--preset", "nosuch", code=2)
    assert "--preset: unknown preset 'nosuch'; expected one of smoke, tiny," in message
    assert not (root.parent / "exp").exists()
