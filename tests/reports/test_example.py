"""The two recordings that the report names to try a model on."""

import shlex

import numpy as np
import pandas as pd
import soundfile
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.reports.example import two_recordings
from svkit.store.manifest import COLUMNS, read_manifest, write_manifest


def write_list(home, rows, missing=()):
    """A list of (name, speaker, seconds, session), with its recordings."""
    table = pd.DataFrame(
        [[name, speaker, f"audio/{name}", "16000", str(16000 * seconds), session]
         for name, speaker, seconds, session in rows],
        columns=list(COLUMNS),
    )  # fmt: skip
    write_manifest(home / "data" / "eval.tsv", table)
    (home / "data" / "audio").mkdir()
    for name, _, seconds, _ in rows:
        if name not in missing:
            soundfile.write(home / "data" / "audio" / name, np.zeros(16000 * seconds, np.float32), 16000)
    return home / "data" / "eval.tsv"


def test_the_longest_of_two_sessions_of_the_first_speaker_with_two_files(tmp_path, monkeypatch):
    rows = [("a.wav", "gone", 9, ""), ("b.wav", "gone", 9, ""), ("c.wav", "", 9, ""), ("d.wav", "one", 9, "")]
    rows += [(f"{name}.wav", "x", seconds, session) for name, seconds, session in
             (("e", 2, "1"), ("f", 4, "1"), ("g", 3, "1"), ("h", 1, "2"))]  # fmt: skip
    path = write_list(tmp_path / "exp", rows, missing=("a.wav",))
    audio = path.parent / "audio"
    monkeypatch.chdir(tmp_path)
    found = two_recordings([tmp_path / "no list", path])
    assert [str(one) for one in found] == ["exp/data/audio/f.wav", "exp/data/audio/h.wav"]
    far = tmp_path.joinpath(*100 * "d")
    far.mkdir(parents=True)
    monkeypatch.chdir(far)
    assert two_recordings([path]) == (audio / "f.wav", audio / "h.wav")
    for name in ("f.wav", "g.wav", "h.wav"):
        (audio / name).unlink()
    assert two_recordings([path]) is None and two_recordings([]) is None


def test_the_next_command_can_be_pasted(finished, tmp_path, monkeypatch):
    path = write_list(tmp_path / "my voices", [("a.wav", "x", 2, ""), ("it's b.wav", "x", 1, "")])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "svkit.reports.example.read_manifest", lambda _, **options: read_manifest(path, **options)
    )
    done = CliRunner().invoke(app, ["report", "--exp", str(finished), "--keep-finished"])
    (line,) = [line for line in done.stderr.splitlines() if "svkit verify" in line]
    assert shlex.split(line.partition("svkit verify ")[2])[:2] == [
        "my voices/data/audio/a.wav",
        "my voices/data/audio/it's b.wav",
    ]
