import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from svkit.errors import ArtifactError
from svkit.store.embeddings import read_embeddings, write_embeddings


@pytest.fixture
def directory(tmp_path):
    matrix = np.arange(12, dtype=np.float64).reshape(4, 3)[:3]
    write_embeddings(tmp_path / "e", ["007", "NA", "a b"], matrix, {"model": "dense"})
    return tmp_path / "e"


def test_round_trip(directory):
    embeddings = read_embeddings(directory)
    assert embeddings.ids.tolist() == ["007", "NA", "a b"]
    assert embeddings.matrix.dtype == np.float32
    assert embeddings.matrix.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert embeddings.meta["model"] == "dense"
    assert (embeddings.meta["dim"], embeddings.meta["num_utterances"]) == (3, 3)
    assert (directory / "ids.tsv").read_text() == "row\tutterance_id\n0\t007\n1\tNA\n2\ta b\n"


def test_missing_directory_says_what_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="svkit extract"):
        read_embeddings(tmp_path / "no")


@pytest.mark.parametrize("name", ["embeddings.safetensors", "ids.tsv", "embeddings.json"])
def test_a_missing_or_broken_file_is_named(directory, name):
    path = directory / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError):
        read_embeddings(directory)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: does not exist"):
        read_embeddings(directory)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": np.zeros((3, 3), np.float32)}, "expected 'embeddings'"),
        ({"embeddings": np.zeros((3, 3), np.float16)}, r"found .*float16\[3, 3\]"),
        ({"embeddings": np.zeros(9, np.float32)}, r"found .*float32\[9\]"),
        ({"embeddings": np.zeros((3, 2), np.float32)}, "says 3 x 3, embeddings.safetensors has 3 x 2"),
        (
            {"embeddings": np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0]], np.float32)},
            "embedding of NA is not finite",
        ),
    ],
)
def test_other_matrices_are_refused(directory, tensors, message):
    save_file(tensors, directory / "embeddings.safetensors")
    with pytest.raises(ArtifactError, match=message):
        read_embeddings(directory)


@pytest.mark.parametrize("rows", ["1\t007\n0\tNA\n2\tx\n", "0\t007\n1\t007\n2\tx\n"])
def test_rows_out_of_order_and_duplicates_are_refused(directory, rows):
    (directory / "ids.tsv").write_text("row\tutterance_id\n" + rows)
    with pytest.raises(ArtifactError, match="expected rows 0, 1, ... with unique utterances"):
        read_embeddings(directory)


def test_another_version_is_refused(directory):
    meta = json.loads((directory / "embeddings.json").read_text())
    (directory / "embeddings.json").write_text(json.dumps({**meta, "format_version": 2}))
    with pytest.raises(ArtifactError, match="format_version: expected 1, found 2"):
        read_embeddings(directory)
