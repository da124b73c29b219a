"""What people get wrong, through the real command line: one clear line, the exit code of its family, no traceback.

The models are random and the stages take a few steps: what is tested is what the user reads.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.signal import resample_poly
from typer.testing import CliRunner, Result

from svkit.cli.app import app
from svkit.store.embeddings import read_embeddings
from svkit.store.manifest import COLUMNS, write_manifest
from tests.e2e.conftest import speech, write_audio
from tests.training_experiment import make_teacher, one_process, prepare, set_options, write_list

pytestmark = pytest.mark.e2e

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with lists, audio, a random dense model and embeddings of it; tests only read it."""
    exp = prepare(tmp_path_factory.mktemp("bad") / "exp")
    for stage in ("joint", "lmft"):
        make_teacher(exp / "finetune" / stage)
    write_list(exp / "data" / "eval.tsv", ("x", "y"), 3, exp / "audio")
    assert run("extract", "--exp", exp).exit_code == 0
    return exp


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """A prepared experiment that a test may spoil."""
    made = prepare(tmp_path / "exp")
    make_teacher(made / "finetune" / "joint")
    return made


def run(*arguments: Any) -> Result:
    """Run a command as a process of its own would."""
    with one_process():
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *words: str, layout: bool = False) -> None:
    """Check that the last and only complaint is one line with these words (and a layout below it, where said)."""
    assert result.exit_code == code, result.stderr + result.stdout
    assert result.stdout == "" and "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1 and (layout or errors[0] == len(lines) - 1), result.stderr
    message = lines[errors[0]]
    assert len(message) < 500 and "bug" not in message
    for word in words:
        assert word in message, message


def training(command: str, *overrides: str) -> list[str]:
    # The experiments hold a teacher in finetune/joint: fine-tuning replaces it.
    replace = ["--overwrite"] if command == "finetune" else []
    return [command, *replace, *set_options(*overrides)]


def manifest(path: Path, *files: tuple[Path, str]) -> Path:
    """Write a manifest of files and what is said about their length and rate: `(path, "samples rate")`."""
    rows = []
    for number, (file, facts) in enumerate(files):
        samples, rate = facts.split()
        rows.append((f"u{number}", f"s{number % 3}", file.resolve().as_posix(), rate, samples, ""))
    write_manifest(path, pd.DataFrame(rows, columns=list(COLUMNS)))
    return path


# ---- Paths that do not exist ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["prepare", "folder", "{no}"], 3),
        (["prepare", "voxceleb", "{no}"], 3),
        (["prepare", "musan", "{no}"], 3),
        (["prepare", "rirs", "{no}"], 3),
        (["prepare", "noise", "{no}"], 3),
        (["prepare", "folder", "{audio}", "--trials", "{no}"], 3),
        (["prepare", "folder", "{audio}", "--eval-speakers", "{no}"], 3),
        (["finetune", "--manifest", "{no}"], 3),
        (["finetune", "--noise", "{no}"], 3),
        (["finetune", "--rirs", "{no}"], 3),
        (["finetune", "--from", "{no}"], 4),
        (["finetune", "--encoder", "{no}"], 4),
        (["prune", "--manifest", "{no}"], 3),
        (["prune", "--teacher", "{no}"], 4),
        (["distill", "--student", "{no}"], 4),
        (["distill", "--student", "{exp}/finetune/joint", "--teacher", "{no}"], 4),
        (["extract", "--manifest", "{no}"], 3),
        (["extract", "--model", "{no}"], 4),
        (["score", "{no}"], 3),
        (["score", "{exp}/data/valid_trials.txt", "--embeddings", "{no}"], 4),
        (["info", "{no}"], 4),
    ],
)
def test_a_path_that_does_not_exist(prepared: Path, tmp_path: Path, arguments: list[str], code: int) -> None:
    """Audio, manifests and trials are data (3); checkpoints, encoders and embeddings are artifacts (4)."""
    nowhere = tmp_path / "nowhere"
    filled = [a.format(no=nowhere, exp=prepared, audio=prepared / "audio") for a in arguments]
    if arguments[0] in ("finetune", "prune", "distill"):
        filled += ["--out", str(tmp_path / "out"), *set_options()]
    where = [] if arguments[0] == "info" else ["--exp", tmp_path if arguments[0] == "prepare" else prepared]
    refused(run(*filled, *where), code, str(nowhere), layout=arguments[1] in ("voxceleb", "musan", "rirs"))


def test_a_wrong_audio_root(prepared: Path, tmp_path: Path) -> None:
    """The error names the first file that is not there."""
    listed = pd.DataFrame([("u", "s", "a/u.wav", "16000", "32000", "")], columns=list(COLUMNS))
    write_manifest(tmp_path / "list.tsv", listed)
    options = ["--manifest", tmp_path / "list.tsv", "--audio-root", tmp_path / "nowhere", "--exp", prepared]
    refused(run("extract", *options, "--out", tmp_path / "a"), 3, str(tmp_path / "nowhere" / "a" / "u.wav"))
    for command in ("finetune", "prune"):
        result = run(*training(command), *options, "--out", tmp_path / command)
        refused(
            result,
            3,
            str(tmp_path / "nowhere" / "a" / "u.wav"),
            "does not exist; if the recordings were moved",
        )


# ---- Names that do not exist ----------------------------------------------------------------------------------


def test_an_unknown_speaker_in_eval_speakers(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "speakers.txt").write_text("carol\ncarlo\n")
    result = run("prepare", "folder", prepared / "audio", "--exp", tmp_path / "exp",
                 "--eval-speakers", tmp_path / "speakers.txt", "--min-seconds", "0.1")  # fmt: skip
    refused(result, 3, "speakers.txt", "carlo (line 2)")


def test_a_trial_naming_an_unknown_utterance(prepared: Path, exp: Path, tmp_path: Path) -> None:
    trials = tmp_path / "trials.txt"
    trials.write_text("1 x/0.wav x/1.wav\n0 x/0.wav y/9.wav\n")
    result = run("prepare", "folder", prepared / "audio", "--exp", tmp_path / "new", "--trials", trials,
                 "--min-seconds", "0.1")  # fmt: skip
    refused(result, 3, "trials.txt", "y/9.wav (line 2)")
    refused(run("score", trials, "--exp", prepared), 3, "y/9.wav")
    # The validation list of an experiment: known before the first step.
    valid = exp / "data" / "valid_trials.txt"
    valid.write_text(valid.read_text() + "1 val-1/0.wav val-1/77.wav\n")
    refused(run(*training("finetune"), "--exp", exp), 3, "valid_trials.txt", "val-1/77.wav")
    assert not list((exp / "finetune").glob("*/train_log.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune", "--sparsty", "0.8"], ["--sparsty", "--sparsity"]),
        (["finetun"], ["finetun", "finetune"]),
        (["prepare", "voxcelb"], ["voxcelb", "voxceleb"]),
        (["finetune", "--preset", "tny"], ["tny", "tiny"]),
        (["finetune", "--preset", "smoke", "--set", "joint.optm.lr=1"], ["joint.optm.lr", "joint.optim.lr"]),
        (["prune", "--preset", "smoke", "--config", "{config}"], ["prune.epoch:", "epochs"]),
        (["finetune", "--stage", "lmtf"], ["lmtf", "lmft"]),
        (["extract", "--dtype", "float61"], ["float61", "float32"]),
    ],
)
def test_an_unknown_option_command_key_or_choice_says_what_was_meant(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "mine.toml").write_text("[prune]\nepoch = 3\n")
    filled = [argument.format(config=tmp_path / "mine.toml") for argument in arguments]
    refused(run(*filled), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune", "--sparsity", "80"], ["--sparsity", "0.99"]),
        (["prune", "--sparsity", "much"], ["--sparsity", "number"]),
        (["finetune", "--preset", "smoke", "--set", "joint.epochs=many"], ["joint.epochs", "many"]),
        (["finetune", "--preset", "smoke", "--set", "joint.epochs=-1"], ["epochs", "-1"]),
        (["finetune", "--preset", "smoke", "--set", "epochs"], ["epochs", "KEY=VALUE"]),
        (["score"], ["TRIALS"]),
        (["finetune", "--config", "nowhere.toml"], ["nowhere.toml"]),
    ],
)
def test_a_value_that_cannot_be(arguments: list[str], words: list[str]) -> None:
    refused(run(*arguments), 2, *words)


# ---- Lists with bad rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("num_samples", "-5", ["num_samples", "'-5'", "positive integer"]),
        ("sample_rate_hz", "16 kHz", ["sample_rate_hz", "'16 kHz'"]),
        ("speaker_id", "", ["speaker_id", "nothing"]),
        ("utterance_id", "0007/0.wav", ["utterance_id", "unique"]),
        ("path", "a\tb", ["expected 6 tab-separated columns"]),
    ],
)
def test_a_manifest_with_a_bad_row(exp: Path, column: str, cell: str, words: list[str]) -> None:
    """Line and column are named by whatever reads the list; every command reads it before it starts."""
    path = exp / "data" / "train.tsv"
    lines = path.read_text().splitlines()
    cells = lines[4].split("\t")
    cells[lines[0].split("\t").index(column)] = cell
    lines[4] = "\t".join(cells)
    path.write_text("\n".join(lines) + "\n")
    for command in ("finetune", "prune"):
        refused(run(*training(command), "--exp", exp), 3, f"{path}:5", *words)
    if column != "speaker_id":  # embedding needs none
        refused(run("extract", "--exp", exp, "--manifest", path), 3, f"{path}:5", *words)


def test_a_trial_list_with_a_bad_row(prepared: Path, tmp_path: Path) -> None:
    trials = tmp_path / "trials.txt"
    trials.write_text("1 x/0.wav x/1.wav\n0 x/0.wav y/0.wav\n2 x/0.wav y/1.wav\n")
    refused(run("score", trials, "--exp", prepared), 3, f"{trials}:3")
    trials.write_bytes(b"1 x/0.wav x/1.wav\n\xff\xfe\x00\n")
    refused(run("score", trials, "--exp", prepared), 3, f"{trials}:2", "UTF-8")
    trials.write_text("")
    refused(run("score", trials, "--exp", prepared), 3, str(trials))


# ---- Audio that is not what it seems ---------------------------------------------------------------------------


def _text(path: Path) -> None:
    path.write_text("RIFF of the mountains, a song\n" * 40)


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 30_000, dtype=np.uint8).tobytes())


def _cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def _cut_samples(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2_000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _not_finite(path: Path) -> None:
    samples, rate = soundfile.read(path)
    samples[len(samples) // 3 :: 50] = np.nan
    soundfile.write(path, samples, rate, subtype="FLOAT")


SPOILERS = [_text, _garbage, _cut_header, _cut_samples, _empty, _not_finite]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_corrupt_file_met_by_prepare(tmp_path: Path, spoil: Any) -> None:
    """Truncated samples cannot be told from a short file by a reader that trusts the file's size."""
    root = tmp_path / "recordings"
    for index in range(6):
        for take in range(2):
            write_audio(root / f"s{index}" / f"{take}.wav", speech(index, take, 1.0))
    spoil(root / "s3" / "1.wav")
    command = ["prepare", "folder", root, "--exp", tmp_path / "exp"]
    refused(run(*command), 3, "s3/1.wav", "--skip-bad", "bad_files.tsv")
    done = run(*command, "--skip-bad", "--json")
    assert done.exit_code == 0, done.stderr
    assert "s3/1.wav" in done.stdout and "s3/1.wav" in done.stderr


# The reader is the same in every command: one of them meets every kind, each meets some, also in a worker process.
MET = [("finetune", 0, spoil) for spoil in SPOILERS]
MET += [("finetune", 1, spoil) for spoil in (_garbage, _not_finite)]
MET += [(command, workers, _garbage) for command in ("prune", "distill") for workers in (0, 1)]


@pytest.mark.parametrize(("command", "num_workers", "spoil"), MET)
def test_a_corrupt_file_met_while_training(
    exp: Path, tmp_path: Path, command: str, num_workers: int, spoil: Any
) -> None:
    """Also when a worker process meets it; the stage is left unfinished."""
    for path in sorted((exp / "audio").glob("*/[0-3].wav")):
        if "val" not in path.parts[-2]:
            spoil(path)
    option = {"distill": ["--student", exp / "finetune" / "joint"]}.get(command, [])
    overrides = [f"{s}.data.num_workers={num_workers}" for s in ("lora", "prune", "distill")]
    result = run(*training(command, *overrides), *option, "--exp", exp, "--out", tmp_path / "out")
    refused(result, 3, str(exp / "audio"), ".wav")
    assert not list((tmp_path / "out").rglob("provenance.json"))


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_corrupt_file_met_by_validation(exp: Path, spoil: Any) -> None:
    spoil(exp / "audio" / "val-2" / "1.wav")
    refused(run(*training("finetune"), "--exp", exp), 3, "val-2/1.wav")


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_corrupt_file_met_by_extract(prepared: Path, tmp_path: Path, spoil: Any) -> None:
    write_list(tmp_path / "list.tsv", ("p", "q"), 3, tmp_path / "audio")
    spoil(tmp_path / "audio" / "q" / "1.wav")
    out = tmp_path / "out"
    result = run("extract", "--exp", prepared, "--manifest", tmp_path / "list.tsv", "--out", out)
    refused(result, 3, "q/1.wav")
    assert not (out / "provenance.json").exists()


def test_8_khz_and_stereo_files_get_the_embedding_of_the_16_khz_mono_file(
    prepared: Path, tmp_path: Path
) -> None:
    wave = speech(3, 0, 2.0)
    narrow = resample_poly(wave, 1, 2)
    wide = resample_poly(narrow, 2, 1)
    files = {
        "mono": (wide, RATE_HZ),
        "stereo": (np.stack([wide, -wide[::-1]], axis=1), RATE_HZ),
        "narrow": (narrow, 8_000),
        "other": (speech(4, 0, 2.0), RATE_HZ),
    }
    rows = []
    for name, (samples, rate) in files.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype="FLOAT")
        rows.append((tmp_path / f"{name}.wav", f"{len(samples)} {rate}"))
    listed = manifest(tmp_path / "list.tsv", *rows)
    options = ["--exp", prepared, "--manifest", listed, "--dtype", "float32"]
    done = run("extract", *options, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    found = read_embeddings(tmp_path / "out").matrix
    mono, stereo, narrow_band, other = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert np.allclose(stereo, mono, atol=1e-5)
    # Above 4 kHz there is nothing but what two different filters leave, which the features normalise to one level.
    assert np.linalg.norm(narrow_band - mono) < 0.5 * np.linalg.norm(other - mono)


def test_a_manifest_that_says_another_rate(prepared: Path, exp: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "narrow.wav", speech(3, 0, 2.0)[::2], 8_000)
    listed = manifest(tmp_path / "list.tsv", (tmp_path / "narrow.wav", "16000 16000"))
    words = ("narrow.wav", "expected 16000 Hz", "found 8000 Hz")
    refused(run("extract", "--exp", prepared, "--manifest", listed, "--out", tmp_path / "out"), 3, *words)
    refused(run(*training("prune"), "--exp", exp, "--manifest", listed), 3, *words)


def test_a_10_ms_file(prepared: Path, exp: Path, tmp_path: Path) -> None:
    """Too short to embed: every command that would have to says so before it starts; a training crop repeats it."""
    root = tmp_path / "recordings"
    for index in range(6):
        for take in range(2):
            write_audio(root / f"s{index}" / f"{take}.wav", speech(index, take, 1.0))
    write_audio(root / "s0" / "click.wav", speech(0, 3, 0.01))
    refused(
        run("prepare", "folder", root, "--exp", tmp_path / "new"), 3, "s0/click.wav", "0.01 s", "too short"
    )
    click = (root / "s0" / "click.wav", "160 16000")
    listed = manifest(tmp_path / "list.tsv", (root / "s1" / "0.wav", "16000 16000"), click)
    out = tmp_path / "out"
    refused(run("extract", "--exp", prepared, "--manifest", listed, "--out", out), 3, "35 ms", "u1")
    assert not out.exists()
    done = run(*training("prune"), "--exp", exp, "--manifest", listed, "--out", tmp_path / "prune")
    assert done.exit_code == 0, done.stderr
    valid = exp / "data" / "valid.tsv"
    first = valid.read_text().splitlines()[1].split("\t")
    write_audio(Path(first[2]), speech(0, 3, 0.01))
    valid.write_text(valid.read_text().replace("\t".join(first), "\t".join([*first[:4], "160", first[5]])))
    refused(run(*training("finetune"), "--exp", exp), 3, "35 ms", first[0])


# ---- Artifacts that are not what they seem ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_corrupt_or_incomplete_checkpoint(exp: Path, tmp_path: Path, name: str) -> None:
    teacher = exp / "finetune" / "joint"
    content = (teacher / name).read_bytes()
    for number, damaged in enumerate((content[: len(content) // 2], b"", None)):
        if damaged is None:
            (teacher / name).unlink()
        else:
            (teacher / name).write_bytes(damaged)
        out = ["--exp", exp, "--out", tmp_path / str(number)]
        for command in (
            ["prune", *set_options(), *out],
            ["finetune", *set_options(), *out, "--from", teacher],
            ["extract", *out, "--model", teacher, "--manifest", exp / "data" / "train.tsv"],
            ["info", teacher],
        ):
            refused(run(*command), 4, str(teacher))
