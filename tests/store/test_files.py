"""The one door for opening files: what it refuses, and that nothing goes past it."""

import ast
import os
import re
import socket
from pathlib import Path

import pytest

import svkit
from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.store.files import check_file, open_file, read_file


def test_a_regular_file_is_read_whole_also_by_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link"
    path.write_bytes(b"x" * 100_000)
    link.symlink_to(path)
    for name in (path, link):
        assert read_file(name, DataError) == b"x" * 100_000


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nothing", "does not exist"),
        ("directory", "is a directory"),
        ("pipe", "is a pipe, socket or device"),
        ("socket", "is a pipe, socket or device"),
        ("/dev/zero", "is a pipe, socket or device"),
        ("loop", "Too many levels of symbolic links"),
        ("long", "File name too long"),
        ("NUL", "null"),
    ],
)
def test_what_is_no_file_is_one_line(
    kind: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path, listener = Path("a"), socket.socket(socket.AF_UNIX)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        listener.bind("a")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind.startswith("/dev"):
        path.symlink_to(kind)
    path = {"long": Path("a" * 5000), "NUL": Path("a\0b")}.get(kind, path)
    for read in (read_file, check_file):
        with listener, pytest.raises(DataError, match=reason) as error:
            read(path, DataError)
        assert "\n" not in str(error.value)


def test_a_file_may_have_as_many_bytes_as_the_limit_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"0123456789")
    assert read_file(path, ArtifactError, 10) == b"0123456789"
    with pytest.raises(ArtifactError, match=r"config.json: expected at most 9 bytes, found 10"):
        read_file(path, ArtifactError, 9)


def test_an_error_while_reading_has_the_family_and_the_handle_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    expected = pytest.raises(ConfigError, match="a: cannot be read: Input/output error")
    with expected, open_file(tmp_path / "a", ConfigError) as file:
        raise OSError(5, "Input/output error")
    assert file.closed


# ---- Nothing goes past it ------------------------------------------------------------------------------------------

OPENERS = {
    *("open", "fdopen", "read_text", "read_bytes", "load", "load_file", "safe_open", "SoundFile", "from_pretrained"),
    *("InferenceSession", "memory_map", "memmap", "fromfile", "loadtxt", "genfromtxt", "ParquetFile", "read_parquet"),
    "imread",
}  # fmt: skip
ALLOWED = {
    "store/files.py": {"os.open", "os.fdopen"},
    # Opened by the door, or looked at by `check_file` first because a library wants a path.
    "store/checkpoint.py": {"load_file", "safe_open", "path.open"},
    "store/arrays.py": {"load_file"},
    "store/upstream.py": {"torch.load"},
    "models/load.py": {
        "AutoConfig.from_pretrained",
        "Wav2Vec2BertModel.from_pretrained",
        "SpeakerModel.from_pretrained",
    },
    "lists/shards.py": {"tarfile.open"},
    # svkit's own files, in the package or just written.
    "config/load.py": {"(...).read_text"},
    "store/lists.py": {"(...).read_bytes", "path.read_bytes"},
    "tools/onnx_graph.py": {"ir.load", "onnxruntime.InferenceSession"},
    "tools/export.py": {"script.read_bytes"},
    # Runs beside an exported graph, without svkit.
    "tools/decide.py": {"onnxruntime.InferenceSession", "(...).read_text", "np.fromfile"},
    # To write, flush or lock; the null device; a file of svkit's own that is read and written at places.
    "store/block_cache.py": {"os.open"},
    "cli/streams.py": {"os.open"},
    "store/atomic.py": {"os.open"},
    "store/locks.py": {"os.open"},
    "store/score_forms.py": {"temporary.open"},
    "store/scores.py": {"temporary.open"},
    "store/tables.py": {"temporary.open"},
    "store/trials.py": {"temporary.open"},
    # No files on this machine.
    "store/remote_file.py": {"system.open"},
    "__init__.py": {"SpeakerModel.from_pretrained"},
}


def test_files_are_opened_in_one_place() -> None:
    """A new reader uses `svkit.store.files`; where a library must open a path, it is named here with its reason."""
    root, found = Path(svkit.__file__).parent, {}
    for path in sorted(root.rglob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {
            re.sub(r"^.*[()].*\.", "(...).", ast.unparse(call))
            for call in calls
            if (isinstance(call, ast.Attribute) and call.attr in OPENERS)
            or (isinstance(call, ast.Name) and call.id in OPENERS - {"read_bytes"})
            if not re.match(
                r"(Output\(.*|output|self\._output|data)\.open$", ast.unparse(call)
            )  # store/output.py
        }
        if names:
            found[path.relative_to(root).as_posix()] = names
    assert found == ALLOWED
