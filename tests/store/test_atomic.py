import errno
import os
import resource
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from svkit.errors import ArtifactError
from svkit.store import atomic
from svkit.store.arrays import write_arrays
from svkit.store.strict_json import read_json


def test_a_failed_write_leaves_the_previous_file_and_no_sibling(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_text(path, "before")
    with pytest.raises(RuntimeError), atomic.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_is_too(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(atomic, "_flush", lambda path: flushed.append((path, (tmp_path / "a").exists())))
    atomic.write_text(tmp_path / "a", "text")
    (temporary, early), last = flushed
    assert temporary.parent == tmp_path and not early and last == (tmp_path, True)


def test_an_os_error_while_writing_is_one_line(tmp_path):
    with pytest.raises(ArtifactError, match="No space left"), atomic.replacing(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EEXIST, errno.EFBIG])
def test_to_free_some_space_is_said_where_it_helps(tmp_path, number):
    with pytest.raises(ArtifactError, match="; choose another directory$"), atomic.one_line(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(ArtifactError, match="; free some space or choose"), atomic.one_line(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_takes_part_of_an_array_is_full(tmp_path):
    """As in a graph of more than 2 GB, whose weights numpy writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (
        pytest.raises(ArtifactError, match="; free some space or choose"),
        atomic.replacing(tmp_path / "a") as file,
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            np.zeros(10_000).tofile(file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_what_safetensors_says_is_one_line(tmp_path):
    """Its errors are no OSError: a full disk is reported by the library in its own class."""
    with (
        pytest.raises(ArtifactError, match="a: cannot be written: .*No space left"),
        atomic.replacing(tmp_path / "a"),
    ):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert list(tmp_path.iterdir()) == []


def test_who_may_read_a_file_does_not_depend_on_its_writer(tmp_path):
    """From 0.8 on, safetensors puts a file of its own there, which only its owner may read."""
    write_arrays(tmp_path / "a.safetensors", {"a": np.zeros(3)})
    atomic.write_text(tmp_path / "a.txt", "a")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1 and len(list(tmp_path.iterdir())) == 2


def test_what_killed_writers_left_is_removed_where_nobody_else_writes(tmp_path):
    left, foreign = tmp_path / ".svkit-tmp-0123abcd.json", tmp_path / ".tmpAb3dEf"
    for path in (left, foreign, tmp_path / ".tmpfile-of-mine"):
        path.write_text("half")
    atomic.remove_unfinished([tmp_path], are_own=False)
    assert not left.exists() and foreign.exists()
    atomic.remove_unfinished([tmp_path], are_own=True)
    assert [path.name for path in tmp_path.iterdir()] == [".tmpfile-of-mine"]


def test_a_file_in_place_of_the_directory_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        atomic.write_text(tmp_path / "file" / "a", "x")


def test_written_files_have_the_usual_rights(tmp_path):
    atomic.write_bytes(tmp_path / "deep" / "a", b"x")
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    assert (tmp_path / "deep" / "a").stat().st_mode == plain.stat().st_mode


def test_json_round_trip_keeps_the_order(tmp_path):
    content = {"format": "svkit-x", "format_version": 1, "b": [1.5, None], "a": "\u00e9"}
    atomic.write_json(tmp_path / "a.json", content)
    assert (
        list(read_json(tmp_path / "a.json", "svkit-x", 1, dict[str, Any]).items())
        == list(content.items())[2:]
    )


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", {"eer": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("{", "not a JSON file"),
        ("\xff", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[]", r"a.json: content: expected an object, found \[\]"),
        ('{"format": "svkit-y", "format_version": 1}', "format: expected 'svkit-x', found 'svkit-y'"),
        ('{"format": "svkit-x", "format_version": 2}', "format_version: expected 1, found 2"),
        ('{"format": "svkit-x"}', "format_version: expected 1, found None"),
    ],
)
def test_read_json_names_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match=message):
        read_json(path, "svkit-x", 1, dict[str, Any])


def test_a_name_that_is_not_utf_8_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"facts.json: cannot be written: .*caf.udce9.* is not UTF-8"
    ) as error:
        atomic.write_json(tmp_path / "facts.json", {"path": "exp/caf\udce9/x"})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
