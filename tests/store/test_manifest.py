import numpy as np
import pandas as pd
import pytest

from svkit.errors import DataError
from svkit.store.manifest import COLUMNS, read_manifest, write_manifest


def rows(**changes):
    table = {
        "utterance_id": ["b/1.wav", "a/1.wav", "007"],
        "speaker_id": ["NA", "a", "00123"],
        "path": ["/abs/1.wav", "a/1.wav", "x y.wav"],
        "sample_rate_hz": [16000, 8000, 44100],
        "num_samples": [32000, 8000, 1],
        "session_id": ["", "v1", ""],
    }
    return pd.DataFrame({**table, **changes})


@pytest.mark.parametrize("name", ["m.tsv", "m.parquet"])
def test_round_trip_is_sorted_and_typed(tmp_path, name):
    write_manifest(tmp_path / name, rows(category=["noise", "music", "noise"]))
    manifest = read_manifest(tmp_path / name)
    assert len(manifest) == 3
    assert manifest.utterance_ids.tolist() == ["007", "a/1.wav", "b/1.wav"]
    assert manifest.speaker_ids.tolist() == ["00123", "a", "NA"]
    assert manifest.sample_rates_hz.tolist() == [44100, 8000, 16000]
    assert manifest.num_samples.dtype == np.int64
    assert manifest.durations_seconds.tolist() == [1 / 44100, 1.0, 2.0]
    assert manifest.column("session_id").tolist() == ["", "v1", ""]
    assert manifest.column("category").tolist() == ["noise", "music", "noise"]
    assert list(manifest.table.columns) == [*COLUMNS, "category"]


def test_relative_paths_are_below_the_manifest_or_the_audio_root(tmp_path):
    write_manifest(tmp_path / "m.tsv", rows())
    assert read_manifest(tmp_path / "m.tsv").audio_path(1) == tmp_path / "a/1.wav"
    assert read_manifest(tmp_path / "m.tsv", tmp_path / "r").audio_path(0) == tmp_path / "r" / "x y.wav"
    assert str(read_manifest(tmp_path / "m.tsv", tmp_path / "r").audio_path(2)) == "/abs/1.wav"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"utterance_id": ["x", "y", "x"]},
            r"m.tsv:4: utterance_id: expected unique ids, found 'x' \(line 4\)",
        ),
        ({"utterance_id": ["x", "", "z"]}, r"m.tsv:3: utterance_id: expected text, found nothing"),
        *(
            (
                {"utterance_id": ["x", name, "z"]},
                r"m.tsv:3: utterance_id: expected an id without the part `..`",
            )
            for name in ("../../x", "a/../x", "..", "a/..", "..\\x")
        ),
        (
            {"utterance_id": ["x", "y", "a\0b"]},
            r"m.tsv:4: utterance_id: expected an id of one line without NUL",
        ),
        ({"speaker_id": ["x", "", ""]}, r"m.tsv:3: speaker_id: .* \(line 3\), nothing \(line 4\)"),
        ({"path": ["", "y", "z"]}, "m.tsv:2: path: expected text"),
        ({"num_samples": [1, 0, -5]}, r"m.tsv:3: num_samples: expected a positive integer, found '0' .*'-5'"),
        ({"num_samples": ["1", "2", "1.5"]}, "m.tsv:4: num_samples: .* found '1.5'"),
        ({"sample_rate_hz": ["16000", "x", "1"]}, "m.tsv:3: sample_rate_hz: .* found 'x'"),
        (
            {"sample_rate_hz": ["16000", "9999999", "1"]},
            "m.tsv:3: sample_rate_hz: expected at most 768000 Hz",
        ),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path, changes, message):
    table = rows(**changes).astype(str)
    (tmp_path / "m.tsv").write_text(table.to_csv(sep="\t", index=False))
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "m.tsv")


def test_six_bad_rows_are_five_and_the_count(tmp_path):
    table = pd.concat([rows()] * 2)
    table["utterance_id"] = [f"u{index}" for index in range(6)]
    table["num_samples"] = 0
    (tmp_path / "m.tsv").write_text(table.to_csv(sep="\t", index=False))
    with pytest.raises(DataError, match=r"\(line 6\), \.\.\. \(6 in all\)$"):
        read_manifest(tmp_path / "m.tsv")


def test_missing_file_column_or_rows(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(tmp_path / "m.tsv")
    (tmp_path / "m.tsv").write_text("\t".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match="no utterances"):
        read_manifest(tmp_path / "m.tsv")
    (tmp_path / "m.tsv").write_text("utterance_id\tpath\n")
    with pytest.raises(DataError, match="missing column speaker_id, sample_rate_hz, num_samples, session_id"):
        read_manifest(tmp_path / "m.tsv")
    write_manifest(tmp_path / "m.tsv", rows())
    with pytest.raises(DataError, match="no column 'category'"):
        read_manifest(tmp_path / "m.tsv").column("category")


def test_ids_that_only_look_like_climbing_are_ids(tmp_path):
    table = rows(utterance_id=["..a", "a..b/c...", "/absolute/..x.wav"]).astype(str)
    (tmp_path / "m.tsv").write_text(table.to_csv(sep="\t", index=False))
    assert list(read_manifest(tmp_path / "m.tsv").utterance_ids) == list(table["utterance_id"])


def test_an_id_with_a_line_end_is_named_where_the_format_can_hold_one(tmp_path):
    rows(utterance_id=["x", "y\nz", "z"]).astype(str).to_parquet(tmp_path / "m.parquet")
    with pytest.raises(
        DataError, match=r"utterance_id: expected an id of one line without NUL, found 'y\\nz'"
    ):
        read_manifest(tmp_path / "m.parquet")
