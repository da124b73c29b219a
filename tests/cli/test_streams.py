"""Streams as callers leave them: closed, without a reader, full, in another encoding; names that no record can hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from tests.fake_experiment import make_lists
from tests.hostile.test_trees import sound

PROGRAM = f"{sys.executable} -m svkit"
SHORT = ("finetune --print-config", "score --help", "prepare stats LIST --json")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp = tmp_path_factory.mktemp("made")
    make_lists(exp, 3, 2)
    return (exp / "data" / "eval.tsv").rename(exp / "Zoë.tsv")


def shell(line: str, where: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash beside a file: SVKIT and LIST in it are the program and the file."""
    return subprocess.run(
        ["bash", "-c", line.replace("SVKIT", PROGRAM).replace("LIST", where.name)],
        env={**os.environ, **variables},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
        cwd=where.parent,
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", SHORT)
def test_a_stream_that_is_closed_or_without_reader_ends_nothing(words: str, manifest: Path) -> None:
    """Four in one: a closed stdout, all three closed, a reader that has gone before the first line, one after it."""
    line = (
        f"SVKIT {words} >&-; echo $?; SVKIT {words} <&- >&- 2>&-; echo $?;"
        f" SVKIT {words} | true; echo ${{PIPESTATUS[0]}};"
        f" set -o pipefail; SVKIT {words} | head -n 1 | wc -l; echo $?"
    )
    done = shell(line, manifest)
    assert (done.stdout.split(), done.stderr) == (["0", "0", "0", "1", "0"], "")


def test_what_is_opened_later_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """What a library prints would go into that file."""
    program = "from svkit.cli import streams\nstreams.open_streams()\nprint(open('made', 'w').fileno() > 2)"
    line = f'{sys.executable} -c "{program}" 3>&1 <&- >&- 2>&-; {sys.executable} -c "{program}" <&-'
    assert shell(line, tmp_path).stdout == "True\n"


@pytest.mark.slow
def test_a_full_disk_under_stdout_is_one_line(manifest: Path) -> None:
    done = shell("SVKIT prepare stats LIST > /dev/full", manifest)
    assert (done.returncode, done.stderr) == (4, "error: output: No space left on device\n")


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["2>&1 | true", "2>/dev/full | cat"])
def test_work_whose_listener_has_gone_is_finished(fate: str, tmp_path: Path) -> None:
    """Notes, progress and result have nowhere to go: the files are made all the same."""
    for number in range(12):
        sound(tmp_path / "audio" / f"s{number % 6}" / f"{number}.wav", number)
    line = f"SVKIT prepare folder audio --min-seconds 0 --exp exp {fate}; echo ${{PIPESTATUS[0]}}"
    done = shell(line, tmp_path / "x")
    assert done.stdout.split()[-1:] == ["0"], done
    assert (tmp_path / "exp" / "data" / "provenance.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("prepare stats LIST", "Zo\\xeb.tsv"),
        ("prepare stats LIST --json", '"list": "Zo\\u00eb.tsv"'),
        ("prepare stats Zoë", "error: Zo\\xeb: does not exist"),
    ],
)
def test_a_terminal_that_knows_ascii_only(words: str, expected: str, manifest: Path) -> None:
    done = shell(f"SVKIT {words} 2>&1", manifest, PYTHONIOENCODING="ascii:strict")
    assert expected in done.stdout and done.stdout.isascii() and "Traceback" not in done.stdout


@pytest.mark.parametrize("word", ["a\0b", "caf\udce9", "\ud800"])
@pytest.mark.parametrize(
    "words",
    [
        *(
            ["info"],
            ["finetune", "--exp"],
            ["extract", "--model"],
            ["extract", "--out"],
            ["finetune", "--set"],
        ),
        *(
            ["finetune", "--preset"],
            ["verify", "a.wav"],
            ["score", "--embeddings"],
            ["score"],
            ["report", "--exp"],
        ),
    ],
)
def test_words_that_no_record_can_hold_are_refused_before_the_work(
    words: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, word])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert ("NUL" if "\0" in word else "not UTF-8") in done.stderr and not list(tmp_path.iterdir())


def test_a_variable_that_no_record_can_hold_is_refused_too(tmp_path: Path) -> None:
    done = shell("SVKIT report", tmp_path / "x", SVKIT_EXP="caf\udce9")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "caf\\udce9: not UTF-8" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["info", "LONG"],
            ["finetune", "--exp", "LONG"],
            ["finetune", "--from", "LONG"],
            ["prune", "--out", "LONG"],
        ),
        *(
            ["extract", "--model", "LONG"],
            ["extract", "--manifest", "LONG"],
            ["finetune", "--config", "LONG"],
        ),
        *(["finetune", "--encoder", "LONG"], ["finetune", "--preset", "LONG"], ["finetune", "--set", "LONG"]),
        *(
            ["score", "LONG"],
            ["score", "t", "--embeddings", "LONG"],
            ["report", "--exp", "LONG"],
            ["distill", "--from", "LONG"],
        ),
        *(["verify", "LONG", "LONG"], ["verify", "a", "b", "--model", "LONG"], ["convert", "LONG", "LONG"]),
        *(
            ["export", "LONG"],
            ["export", "--out", "LONG"],
            ["prepare", "folder", "LONG"],
            ["prepare", "csv", "LONG"],
        ),
        *(
            ["prepare", "folder", ".", "--eval-speakers", "LONG"],
            ["prepare", "folder", ".", "--trials", "LONG"],
        ),
        *(
            ["prepare", "stats", "LONG"],
            ["prepare", "merge", "LONG", "LONG", "--out", "x"],
            ["prepare", "musan", "LONG"],
        ),
        *(["prepare", "kaldi", "LONG"], ["prepare", "voxceleb", "LONG"], ["prepare", "check", "LONG"]),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 2500, "./" + "b" * 300])
def test_a_path_that_is_too_long_is_one_line(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [name if word == "LONG" else word for word in words])
    assert done.exit_code in (2, 3, 4), done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and len(done.stderr) < 1100, (
        done.stderr
    )
    assert {path.name for path in tmp_path.rglob("*")} <= {"exp", "data", ".lock"}


def test_a_path_that_no_file_can_have_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["info", "b" * 300])
    assert done.exit_code == 2 and "File name too long; use a shorter one" in done.stderr


@pytest.mark.parametrize(
    "words", [["prepare", "csv"], ["prepare", "kaldi"], ["report", "--exp"], ["info"]], ids=" ".join
)
def test_a_loop_of_links_is_one_line(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    done = CliRunner().invoke(app, [*words, str(tmp_path / "loop")])
    assert done.exit_code in (2, 3, 4) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
