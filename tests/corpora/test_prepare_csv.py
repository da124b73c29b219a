import pytest

from svkit.corpora.layouts import csv_table
from svkit.corpora.layouts.csv_table import Columns
from svkit.corpora.request import CorpusRequest
from svkit.errors import ConfigError, DataError
from svkit.store.manifest import read_manifest
from tests import corpus_trees
from tests.corpus_trees import Notes

ROWS = [
    (f"clip, {speaker}{take}.wav", f"00{speaker}", f"day{take}") for speaker in range(4) for take in range(2)
]


@pytest.fixture
def write(tmp_path):
    for name, _, _ in ROWS:
        corpus_trees.sound(tmp_path / "clips" / name)

    def make(name="list.csv", header=("path", "speaker_id"), separator=",", rows=None):
        rows = [(f"clips/{clip}", speaker) for clip, speaker, _ in ROWS] if rows is None else rows
        lines = [
            separator.join(f'"{cell}"' if separator in cell else cell for cell in row)
            for row in [header, *rows]
        ]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return make


def prepare(tmp_path, root, progress=None, columns=None, audio_root=None, **fields):
    request = CorpusRequest(**{"exp": tmp_path / "exp", "root": root, "valid_speakers": 0, **fields})
    return csv_table.run(request, progress or Notes(), columns=columns or Columns(), audio_root=audio_root)


def rows(tmp_path):
    data = tmp_path / "exp" / "data"
    tables = [read_manifest(data / f"{name}.tsv").table for name in ("train", "eval")]
    return {row["utterance_id"]: row for table in tables for row in table.to_dict("records")}


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";")])
def test_separators_quotes_and_ids_as_text(tmp_path, write, name, separator):
    result = prepare(tmp_path, write(name, separator=separator))
    assert (result.train_speakers, result.eval_speakers) == (2, 2)
    row = rows(tmp_path)["clips/clip, 21.wav"]
    assert (row["speaker_id"], row["path"]) == ("002", f"{tmp_path}/clips/clip, 21.wav")


def test_usual_names_in_any_case_and_names_given(tmp_path, write):
    table = [(f"u{number}", clip, speaker, day, "f") for number, (clip, speaker, day) in enumerate(ROWS)]
    path = write(header=("ID", "Wav", "client", "day", "Sex"), rows=table)
    with pytest.raises(
        ConfigError, match=r"no column called speaker_id, .*it has ID, Wav, .*--speaker-column"
    ):
        prepare(tmp_path, path)
    columns = Columns(speaker="client", session="day")
    prepare(tmp_path, path, columns=columns, audio_root=tmp_path / "clips")
    row = rows(tmp_path)["u3"]
    assert (row["speaker_id"], row["session_id"], row["gender"]) == ("001", "day1", "f")
    with pytest.raises(ConfigError, match=r"--path-column x: .* has ID, Wav"):
        prepare(tmp_path, path, columns=Columns(path="x"), overwrite=True)


def test_parts_of_files_are_not_taken_in_silence(tmp_path, write):
    progress = Notes()
    table = [(f"clips/{clip}", speaker, "0", "100") for clip, speaker, _ in ROWS]
    prepare(tmp_path, write(header=("wav", "spk_id", "start", "stop"), rows=table), progress)
    assert "whole files are read, so these columns are not used: start, stop" in progress.all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv:1: expected a file with a header line"),
        ("path,speaker\n", "expected rows below the header, found none"),
        ("path,speaker\na.wav,x\nb.wav\n", "list.csv:3: expected 2 columns separated by commas .*, found 1"),
        ("path,speaker\na.wav,x\na.wav,y\n", "list.csv:3: utterance 'a.wav' already exists, in line 2"),
        ("path,speaker\na.wav,\n", r"expected text, found nothing: speaker \(line 2\)"),
        ('path,speaker\n"a.wav,x\n', "list.csv:2: unexpected end of data"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, tmp_path / "list.csv")


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="nope.csv: expected a file with a header line .*; found nothing"):
        prepare(tmp_path, tmp_path / "nope.csv")
    root = corpus_trees.kaldi(tmp_path / "k", tmp_path / "audio")
    with pytest.raises(
        DataError, match=f"found a directory; this looks like kaldi: svkit prepare kaldi {root}"
    ):
        prepare(tmp_path, root)


def test_an_id_that_climbs_is_refused_by_line(tmp_path, write):
    path = write(rows=[(f"clips/../clips/{clip}", speaker) for clip, speaker, _ in ROWS])
    with pytest.raises(
        DataError, match=r"list.csv:2: expected an id without the part `..`.*--utterance-column"
    ):
        prepare(tmp_path, path)
    assert not (tmp_path / "exp" / "data" / "train.tsv").exists()
