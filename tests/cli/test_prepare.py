import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.corpora.membership import read_splits
from svkit.store.experiment import update_experiment
from svkit.store.manifest import read_manifest
from tests import corpus_trees


@pytest.fixture
def tree(tmp_path):
    rng = np.random.default_rng(0)
    for speaker in "abcdef":
        for number in (1, 2):
            path = tmp_path / "wav" / speaker / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, rng.uniform(-0.5, 0.5, 9600), 16000)
    return tmp_path / "wav"


def run(*arguments):
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)])


def test_the_result_is_the_directory_or_json_on_stdout(tmp_path, tree):
    done = run("folder", tree, "--exp", tmp_path / "exp")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'exp' / 'data'}\n")
    done = run("folder", tree, "--exp", tmp_path / "exp", "--overwrite", "--json", "--valid-speakers", "0")
    assert json.loads(done.stdout)["train_speakers"] == 4


def said(done):
    """Return what is said of the split: the last lines on stderr."""
    lines = done.stderr.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("training: ")) :]


def test_under_make_which_runs_the_next_command_itself_it_is_not_named(tmp_path, tree, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAKELEVEL", "1")
    done = run("folder", tree)
    assert done.exit_code == 0 and "next: " not in done.stderr


def test_without_an_activated_environment_svkit_is_named_as_it_was_called(tmp_path, tree, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [".venv/bin/svkit"])
    assert said(run("folder", tree, "--preset", "tiny"))[-1] == "next: .venv/bin/svkit finetune"
    monkeypatch.setattr("sys.argv", ["svkit/__main__.py"])  # python -m svkit, torchrun
    assert said(run("folder", tree, "--keep-finished"))[-1] == "next: svkit finetune"


def test_what_the_recipe_needs_comes_before_training(tmp_path, tree, monkeypatch):
    """The published recipe trains with noise and rooms, and is refused without them; `tiny` takes what there is."""
    monkeypatch.chdir(tmp_path)
    noise = "next, for the noise, music and speech that the recipe trains with: svkit prepare musan DIR"
    rooms = "next, for the room impulse responses that the recipe trains with: svkit prepare rirs DIR"
    then = "then, or at once with --no-augment: svkit finetune"
    assert said(run("folder", tree))[-3:] == [noise, rooms, then]
    refused = CliRunner().invoke(app, ["finetune"])
    assert refused.exit_code == 2 and "svkit finetune --no-augment" in refused.stderr
    assert "svkit prepare noise DIR" in refused.stderr
    assert run("noise", tree).exit_code == 0
    assert said(run("folder", tree, "--overwrite"))[-2:] == [rooms, then]
    update_experiment(Path("exp"), augment="none")
    assert said(run("folder", tree, "--overwrite"))[-1] == "next: svkit finetune"
    assert (
        said(run("folder", tree, "--exp", "small", "--preset", "tiny"))[-1]
        == "next: svkit finetune --exp small"
    )


def test_it_ends_with_the_split_and_the_next_command(tmp_path, tree, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("folder", tree, "--preset", "tiny")
    assert said(done) == [
        "training: 2 speakers, 4 utterances, 2.5 s: exp/data/train.tsv",
        "validation: 2 speakers, 4 utterances, 2.5 s: exp/data/valid.tsv (held out of training: --valid-speakers)",
        "evaluation: 2 speakers, 4 utterances, 2.5 s: exp/data/eval.tsv (never trained on: --eval-speakers)",
        "trials: 2 targets, 4 nontargets: exp/data/trials/folder.txt",
        "next: svkit finetune",
    ]
    assert said(run("folder", tree, "--keep-finished")) == said(done)
    update = "next: svkit finetune --keep-finished --overwrite"
    assert said(run("folder", tree, "--keep-finished", "--overwrite"))[-1] == update
    Path("exp/finetune/lora").mkdir(parents=True)
    Path("exp/finetune/lora/run.json").touch()
    assert said(run("folder", tree, "--overwrite"))[-1] == update
    done = run(
        "folder", tree, "--exp", "my exp", "--eval-speakers", "0", "--valid-speakers", "0", "--preset", "tiny"
    )
    assert said(done)[1:] == [
        "validation: nobody",
        "evaluation: nobody",
        "next: svkit finetune --exp 'my exp'",
    ]
    monkeypatch.setenv("SVKIT_EXP", "other")
    assert said(run("folder", tree, "--preset", "tiny"))[-1] == "next: svkit finetune"
    # What is not listed is said too, and what an earlier version did not record is left out.
    Path("trials.txt").write_text("1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n")
    done = run("folder", tree, "--exp", "few", "--trials", "trials.txt", "--preset", "tiny")
    assert said(done)[-2] == "not listed: 1 utterances of evaluation speakers that no trial names"
    record = json.loads(Path("few/data/provenance.json").read_text())
    for name in ("valid_hours", "eval_hours", "unlisted_utterances"):
        del record["summary"][name]
    Path("few/data/provenance.json").write_text(json.dumps(record))
    lines = said(run("folder", tree, "--exp", "few", "--trials", "trials.txt", "--keep-finished"))
    assert "evaluation: 2 speakers, 3 utterances: few/data/eval.tsv" in lines[2] and "not listed" not in str(
        lines
    )


def test_everybody_evaluates_and_nobody_trains(tmp_path, tree, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("folder", tree, "--eval-speakers", "all", "--preset", "tiny")
    assert said(done)[:2] == ["training: nobody", "validation: nobody"]
    assert said(done)[-1] == "next: svkit extract --model CKPT"
    assert not {"train.tsv", "valid.tsv"} & {path.name for path in Path("exp/data").iterdir()}
    assert len(read_manifest(Path("exp/data/eval.tsv"))) == 12
    assert set(read_splits(Path("exp/data")).values()) == {"evaluation"}
    for command in (["finetune"], ["finetune", "--stage", "head"]):
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 3 and "prepared for evaluation only" in refused.stderr, refused.output
        assert "--manifest" in refused.stderr and "--eval-speakers N" in refused.stderr
    # It is remembered: those who come later evaluate too; a number draws from them again, and says who moves.
    for number in (1, 2):
        soundfile.write(
            tree / "f" / f"more{number}.wav", np.random.default_rng(number).normal(size=9600), 16000
        )
        (tree / "g").mkdir(exist_ok=True)
        soundfile.write(
            tree / "g" / f"{number}.wav", np.random.default_rng(9 + number).normal(size=9600), 16000
        )
    done = run("folder", tree, "--overwrite")
    assert "evaluation: 7 speakers, 16 utterances" in done.stderr and done.exit_code == 0
    done = run("folder", tree, "--overwrite", "--eval-speakers", "3", "--valid-speakers", "0")
    assert "4 speakers change their part: 4 from evaluation to training" in done.stderr
    assert "training: 4 speakers" in done.stderr
    done = run("folder", tree, "--overwrite", "--eval-speakers", "all")
    assert "4 from training to evaluation" in done.stderr and not Path("exp/data/train.tsv").exists()
    done = run("folder", tree, "--overwrite", "--eval-speakers", "all", "--valid-speakers", "2")
    assert done.exit_code == 2 and "leaves nobody for validation" in done.stderr


def test_bad_files_are_a_table_on_stderr(tmp_path, tree):
    (tree / "a" / "text[red].wav").write_text("no audio")
    soundfile.write(tree / "b" / "blip.wav", np.zeros(160), 16000)
    done = run("folder", tree, "--exp", tmp_path / "exp")
    assert done.exit_code == 3 and done.stdout == ""
    assert "2 bad files: 1 unreadable, 1 too short" in done.stderr
    assert "a/text[red].wav" in done.stderr and "0.01 s, shorter than 0.5 s" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 2 of 14 audio files cannot be used")
    done = run("folder", tree, "--exp", tmp_path / "exp", "--skip-bad")
    assert done.exit_code == 0 and "2 bad files" in done.stderr
    done = run("folder", tree, "--exp", tmp_path / "exp", "--skip-bad", "--keep-finished", "--json")
    assert [file["reason"] for file in json.loads(done.stdout)["bad_files"]] == ["unreadable", "too short"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["folder", "/no/such"], 3, "no such directory"),
        (["voxceleb", "/no/such"], 3, "voxceleb2/dev/aac/id00012"),
        (["musan", "/no/such"], 3, "expected musan/"),
        (["folder", "."], 3, "no audio files"),
        (["folder", "wav", "--eval-speakers", "9"], 2, "--eval-speakers 9: expected 2 to 4"),
        (["folder", "wav", "--eval-speakers", "who.txt"], 3, "who.txt: does not exist"),
        (["folder", "wav", "--trials", "none.txt"], 3, "none.txt: does not exist"),
        (["folder", "wav", "--evil"], 2, "No such option"),
        (["nosuch"], 2, "No such command"),
    ],
)
def test_exit_codes(tmp_path, tree, monkeypatch, arguments, code, message):
    monkeypatch.chdir(
        tree.parent if "wav" in arguments else tmp_path.parent if arguments[-1] != "." else tree / "a"
    )
    if arguments[-1] == ".":
        for path in (tree / "a").iterdir():
            path.unlink()
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert message in done.stderr and "Traceback" not in done.stderr


def test_the_root_of_voxceleb_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SVKIT_VOXCELEB", str(tmp_path / "from-env"))
    monkeypatch.chdir(tmp_path)
    done = run("voxceleb")
    assert done.exit_code == 3 and "from-env: no such directory" in done.stderr


def test_a_finished_experiment_asks_for_overwrite(tmp_path, tree, monkeypatch):
    monkeypatch.setenv("SVKIT_EXP", str(tmp_path / "exp"))
    assert run("folder", tree).exit_code == 0
    done = run("folder", tree)
    assert done.exit_code == 2 and "use --overwrite" in done.stderr


def test_every_corpus_by_its_command(tmp_path, monkeypatch):
    """The options that differ from command to command reach the stage."""
    monkeypatch.chdir(tmp_path)
    corpus_trees.voxceleb(tmp_path / "VoxCeleb")
    corpus_trees.voxblink2(tmp_path / "VoxBlink2")
    corpus_trees.cnceleb(tmp_path / "CN-Celeb")
    corpus_trees.librispeech(tmp_path / "LibriSpeech")
    corpus_trees.kaldi(tmp_path / "kaldi", tmp_path / "audio")
    lines = [f"audio/s{speaker}-u{number}.wav;s{speaker}\n" for speaker in range(6) for number in range(2)]
    (tmp_path / "list.csv").write_text("path;who\n" + "".join(lines))
    for arguments, train, evaluation in (
        (["voxceleb", "VoxCeleb", "--no-download-lists", "--format", "wav"], 4, 2),
        (["voxceleb", "VoxCeleb", "--eval-speakers", "2"], 2, 2),
        (["voxblink2", "VoxBlink2", "--eval-speakers", "0"], 6, 0),
        (["cnceleb", "CN-Celeb", "--allow-other-lists", "--join-below", "0"], 4, 2),
        (["librispeech", "LibriSpeech"], 4, 8),
        (["kaldi", "kaldi", "--audio-root", "/"], 4, 2),
        (["csv", "list.csv", "--speaker-column", "who"], 4, 2),
    ):
        done = run(*arguments, "--json", "--overwrite", "--valid-speakers", "0", "--skip-bad")
        assert done.exit_code == 0, (arguments, done.stderr)
        result = json.loads(done.stdout)
        assert (result["train_speakers"], result["eval_speakers"]) == (train, evaluation), arguments


@pytest.mark.parametrize(
    "command", ["voxceleb", "voxblink2", "cnceleb", "librispeech", "kaldi", "csv", "musan", "rirs"]
)
def test_a_wrong_tree_is_one_line_and_3(tmp_path, command):
    for speaker in "ab":
        corpus_trees.sound(tmp_path / "talks" / speaker / "1.wav")
    done = run(command, tmp_path / "talks", "--exp", tmp_path / "exp")
    assert done.exit_code == 3 and done.stdout == ""
    message = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1 and done.stderr.endswith(f"{message[0]}\n")
    assert "expected" in message[0] and f"svkit prepare folder {tmp_path / 'talks'}" in message[0]


def test_rirs_of_a_type(tmp_path):
    corpus_trees.rirs(tmp_path / "RIRS_NOISES")
    done = run("rirs", tmp_path, "--exp", tmp_path / "exp", "--type", "largeroom", "--type", "real", "--json")
    assert json.loads(done.stdout)["files"] == {"largeroom": 1, "real": 2}
