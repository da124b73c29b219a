"""Files at URLs: ranges of bytes, faults of the network that pass and those that stay, files that change."""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from svkit.errors import ConfigError, DataError
from svkit.store import remote_file
from svkit.store.remote_file import RemoteFile, is_url, open_remote, require_backend

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DATA = bytes(range(256)) * 40


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote_file, "_WAITS_SECONDS", (0, 0, 0))
    (tmp_path / "a.tar").write_bytes(DATA)
    with importlib.import_module("range_server").serving(tmp_path) as server:
        yield server


def test_ranges_are_read_and_the_file_is_opened_once(served) -> None:
    url = f"{served.address}/a.tar"
    open_remote.cache_clear()
    for offset, count in ((0, 7), (255, 600), (len(DATA) - 3, 3)):
        file = open_remote(url)
        assert file.read(offset, count) == DATA[offset : offset + count]
    assert file.size == len(DATA) and file.version != 0
    assert served.asked == [
        ("a.tar", 0, 1),
        ("a.tar", 0, 7),
        ("a.tar", 255, 600),
        ("a.tar", len(DATA) - 3, 3),
    ]


@pytest.mark.parametrize("faults", [[503], [500, 429, 408], [0], [0, 502, 0]])
def test_what_passes_is_tried_again(served, faults) -> None:
    file = RemoteFile(f"{served.address}/a.tar")
    served.faults = list(faults)
    assert file.read(100, 1000) == DATA[100:1100]
    assert len(served.asked) == 2 + len(faults)


@pytest.mark.parametrize(
    ("faults", "reason", "tries"),
    [
        (
            [503] * 9,
            r"HTTP Error 503: Service Unavailable \(tries: 4\); check the network and the server",
            4,
        ),
        ([0] * 9, r"only 500 bytes came \(tries: 4\); check the network", 4),
        ([403], "HTTP 403 Forbidden; check the URL and your rights", 1),
    ],
)
def test_what_stays_is_one_line_after_a_few_tries(served, faults, reason, tries) -> None:
    file = RemoteFile(f"{served.address}/a.tar")
    served.faults = list(faults)
    with pytest.raises(DataError, match=f"/a.tar: bytes 100 to 1100 cannot be read: ({reason})") as error:
        file.read(100, 1000)
    assert "\n" not in str(error.value) and len(served.asked) == 1 + tries


def test_a_server_that_is_gone_is_one_line(served) -> None:
    with pytest.raises(
        DataError, match=r"a.tar: size cannot be read: .*refused.* \(tries: 4\); check the network"
    ):
        RemoteFile("http://127.0.0.1:9/a.tar")


def test_a_file_that_is_not_there_is_said_to_be_missing_at_once(served) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        RemoteFile(f"{served.address}/b.tar")
    assert len(served.asked) == 1


def test_a_server_without_ranges_is_refused_before_it_sends_everything(served) -> None:
    served.knows_ranges = False
    with pytest.raises(
        DataError, match=r"expected an answer to a range of bytes \(HTTP 206\), found HTTP 200"
    ):
        RemoteFile(f"{served.address}/a.tar")
    assert len(served.asked) == 1


@pytest.mark.parametrize("stated", ["bytes 0-99/10240", "bytes 1000-1099/*", "bytes 1000-1099/-5", ""])
def test_an_answer_of_another_part_of_the_file_is_refused(served, monkeypatch, stated) -> None:
    file = RemoteFile(f"{served.address}/a.tar")
    real = remote_file.urlopen

    def lying(*given: Any, **more: Any) -> Any:
        answer = real(*given, **more)
        answer.headers.replace_header("Content-Range", stated)
        return answer

    monkeypatch.setattr(remote_file, "urlopen", lying)
    with pytest.raises(
        DataError, match=f"found HTTP 206 with the range {re.escape(repr(stated))} for bytes=1000-1099;"
    ):
        file.read(1000, 100)


@pytest.mark.parametrize("data", [DATA[:5000], DATA[::-1]])
def test_a_file_that_changes_is_refused(served, data) -> None:
    path = served.root / "a.tar"
    file = RemoteFile(f"{served.address}/a.tar")
    path.write_bytes(data)
    os.utime(path, ns=(0, 7))
    with pytest.raises(
        DataError, match=f"has changed: expected {len(DATA)} bytes.*found {len(data)} bytes.*list"
    ):
        file.read(0, 10)
    assert len(served.asked) == 2
    assert RemoteFile(f"{served.address}/a.tar").version != file.version


def test_other_kinds_of_urls_are_read_by_fsspec(monkeypatch) -> None:
    monkeypatch.setattr(remote_file, "_WAITS_SECONDS", (0,))
    system = fsspec.filesystem("memory")
    system.pipe("/shards/a.tar", DATA)
    file = RemoteFile("memory://shards/a.tar")
    assert (file.size, file.read(300, 500)) == (len(DATA), DATA[300:800])
    system.pipe("/shards/a.tar", DATA[:400])
    again = RemoteFile("memory://shards/a.tar")
    assert again.size == 400 and again.version != file.version
    with pytest.raises(DataError, match=r"bytes 300 to 500 cannot be read: .*100 bytes came \(tries: 2\)"):
        again.read(300, 200)
    with pytest.raises(FileNotFoundError):
        RemoteFile("memory://shards/b.tar")
    system.rm("/shards", recursive=True)


def test_a_back_end_that_is_missing_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(
        ConfigError, match=r"s3://bucket/x: no package that reads s3:// .*: pip install s3fs$"
    ):
        require_backend("s3://bucket/x")
    with pytest.raises(ConfigError, match="nonsense:// is not known; expected s3://"):
        require_backend("nonsense://bucket/x")
    require_backend("https://host/x")


def test_urls_are_told_from_paths() -> None:
    assert all(map(is_url, ("s3://b/c", "https://h", "HTTP://h", "abfs+x://y")))
    assert not any(map(is_url, ("a/b.tar", "/s3://b", "x y://b", "s3:/b", "://b", "", None, Path("s3://b"))))


def test_a_file_that_is_empty_is_no_matter_of_rights(served) -> None:
    """What web servers answer to a range of an empty file."""
    served.faults = [416]
    with pytest.raises(DataError, match=r"HTTP 416: the file ends before byte 1; use the list that belongs"):
        RemoteFile(f"{served.address}/a.tar")
    assert len(served.asked) == 1
