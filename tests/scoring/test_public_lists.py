"""A few lines of each public list that docs/corpora.md says was checked, through the command that reads it."""

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store.manifest import read_manifest
from svkit.store.scores import read_scores
from tests import corpus_trees
from tests.fake_experiment import make_experiment

PAIRS = [("00000/0.wav", "00000/1.wav"), ("00000/0.wav", "00001/0.wav"), ("00001/0.wav", "00001/1.wav")]
LISTS = {
    "TidyVoice development, VoxBlink2": ("1 00000/0.wav 00000/1.wav\n0 00000/0.wav 00001/0.wav\n"
    "1 00001/0.wav 00001/1.wav\n", [1, 0, 1]),
    "TidyVoice evaluation": ("00000/0 00000/1\n00000/0 00001/0\n00001/0 00001/1\n", [-1, -1, -1]),
    "NIST SRE24 key": ("modelid\tsegmentid\tside\ttargettype\tgender\n00000/0.wav\t00000/1.wav\ta\ttarget\tmale\n"
    "00000/0.wav\t00001/0.wav\ta\tnontarget\tmale\n00001/0.wav\t00001/1.wav\ta\ttarget\tmale\n", [1, 0, 1]),
    "NIST SRE trials": ("modelid\tsegmentid\tside\n00000/0.wav\t00000/1.wav\ta\n00000/0.wav\t00001/0.wav\ta\n"
    "00001/0.wav\t00001/1.wav\ta\n", [-1, -1, -1]),
}  # fmt: skip


def svkit(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    return done


@pytest.fixture
def exp(tmp_path):
    make_experiment(tmp_path / "exp", num_speakers=8)
    return tmp_path / "exp"


@pytest.mark.parametrize("name", sorted(LISTS))
def test_score_reads_the_list(exp, name):
    text, labels = LISTS[name]
    path = exp / "data" / "trials" / "list.txt"
    path.write_text(text)
    svkit("score", path, "--exp", exp, "--match-ids")
    trials = read_scores(exp / "scores" / "dense" / "list").trials
    assert list(zip(trials.enroll_ids, trials.test_ids, strict=True)) == PAIRS
    assert trials.labels.tolist() == labels


def test_nist_models_of_several_segments(exp):
    path = exp / "data" / "trials" / "key.tsv"
    path.write_text(
        "modelid\tsegmentid\ttargettype\nm1\t00000/2.wav\ttarget\nm1\t00001/0.wav\tnontarget\nm2\t00001/1.wav\ttarget\n"
    )
    models = exp / "models.tsv"
    models.write_bytes(b"modelid\tsegmentid\r\nm1\t00000/0.wav\r\nm1\t00000/1.wav\r\nm2\t00001/2.wav\r\n")
    svkit("score", path, "--exp", exp, "--enroll", models)
    assert set(read_scores(exp / "scores" / "dense" / "key").trials.enroll_ids) == {"m1", "m2"}


def test_common_voice_tables_have_quotes_in_their_sentences(tmp_path):
    lines = ["client_id\tpath\tsentence_id\tsentence\tgender\tlocale"]
    for client in ("ab", "cd", "ef", "gh"):
        for number, said in enumerate(
            ('"Hello," she said.', 'A "quoted" word', '"All of it"', 'An 11" rule')
        ):
            clip = f"common_voice_en_{client}{number}.wav"
            corpus_trees.sound(tmp_path / "cv" / "clips" / clip)
            lines.append(f'{client}\t"{clip}"\tx\t{said}\tfemale_feminine\ten')
    (tmp_path / "cv" / "validated.tsv").write_text("\n".join(lines) + "\n")
    exp, clips = tmp_path / "exp", tmp_path / "cv" / "clips"
    svkit("prepare", "csv", tmp_path / "cv" / "validated.tsv", "--audio-root", clips, "--exp", exp,
          "--eval-speakers", 2, "--valid-speakers", 0)  # fmt: skip
    found = [read_manifest(exp / "data" / name) for name in ("train.tsv", "eval.tsv")]
    assert sum(len(manifest.table) for manifest in found) == 16
    assert {*found[0].speaker_ids, *found[1].speaker_ids} == {"ab", "cd", "ef", "gh"}


def test_the_tree_of_tidyvoice_is_a_folder_with_languages_for_sessions(tmp_path):
    for speaker in ("id1", "id2", "id3", "id4"):
        for language in ("en", "fa"):
            corpus_trees.sound(tmp_path / "TidyVoiceX_Dev" / speaker / language / "1.wav")
    trials = tmp_path / "trial_pairs_dev.txt"
    trials.write_text("1 id1/en/1.wav id1/fa/1.wav\n0 id1/en/1.wav id2/en/1.wav\n")
    exp = tmp_path / "exp"
    svkit("prepare", "folder", tmp_path / "TidyVoiceX_Dev", "--exp", exp, "--trials", trials,
          "--valid-speakers", 0)  # fmt: skip
    table = read_manifest(exp / "data" / "eval.tsv").table
    assert {*table["session_id"]} == {"id1/en", "id1/fa", "id2/en"}
    assert {*table["speaker_id"]} == {"id1", "id2"}
