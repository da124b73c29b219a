"""Official lists: the classic mix-ups at their real sizes, and downloads from a local server."""

import http.server
import threading
from functools import partial

import pytest

from svkit.corpora import official
from svkit.corpora.layouts import voxceleb
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import ScanOptions
from svkit.errors import DataError
from svkit.progress import SilentProgress
from svkit.store.lists import OfficialList
from tests import corpus_trees
from tests.corpus_trees import Notes


def write_counts(path, entry):
    """Write a list with the counts of an official one."""
    path.write_text("1 a b\n" * entry.targets + "0 a c\n" * (entry.lines - entry.targets))
    return path


@pytest.mark.parametrize(
    ("file", "found", "message"),
    [
        ("veri_test2.txt", "veri_test.txt", "its counts are those of VoxCeleb1-O (original), not of VoxCeleb1-O (cl"),
        ("list_test_all2.txt", "list_test_all.txt", "its counts are those of VoxCeleb1-E (original), not of VoxCele"),
        ("list_test_hard2.txt", "list_test_all2.txt", "its counts are those of VoxCeleb1-E (cleaned), not of VoxCe"),
    ],
)  # fmt: skip
def test_the_classic_mix_ups_are_named(tmp_path, file, found, message):
    known = official.voxceleb_lists()
    path = write_counts(tmp_path / file, known[found])
    with pytest.raises(DataError) as caught:
        official.take_lists([path], known, False, SilentProgress())
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert f"expected {known[file].lines:,} lines and {known[file].targets:,} targets" in str(caught.value)


def test_a_list_of_another_name_is_recognised_by_its_counts(tmp_path):
    known, progress = official.voxceleb_lists(), Notes()
    path = write_counts(tmp_path / "cleaned_o.txt", known["veri_test.txt"])
    assert official.take_lists([path], known, False, progress)[0].name == "cleaned_o"
    assert progress.notes == [f"{path}: its counts are those of VoxCeleb1-O (original)"]


TRIALS = b"1 id10270/AbC-_1/00001.wav id10270/x2/00001.wav\n0 id10270/AbC-_1/00001.wav id10309/x2/00001.wav\n"


@pytest.fixture
def server(tmp_path):
    """Serve a directory on the loopback interface; what is asked for is in `asked`."""
    (tmp_path / "www").mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    handler = partial(Handler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", tmp_path / "www", asked
        served.shutdown()
        thread.join()


def known_at(monkeypatch, address):
    entries = tuple(
        OfficialList(name=name, file=file, title=f"{name}!", address=f"{address}/{file}", lines=2, targets=1)
        for name, file in (("vox1-O", "veri_test2.txt"), ("vox1-E", "list_test_all2.txt"))
    )
    monkeypatch.setattr(official, "official_lists", lambda: entries)
    return entries


def prepare(tmp_path, root, progress=None, **fields):
    request = CorpusRequest(
        **{"exp": tmp_path / "exp", "root": root, "scan": ScanOptions(reads_samples=False), **fields}
    )
    return voxceleb.run(request, progress or SilentProgress(), downloads_lists=True)


def test_missing_lists_are_downloaded_once(tmp_path, server, monkeypatch):
    address, www, asked = server
    known_at(monkeypatch, address)
    for file in ("veri_test2.txt", "list_test_all2.txt"):
        (www / file).write_bytes(TRIALS)
    root = corpus_trees.voxceleb(tmp_path / "VoxCeleb")
    result = prepare(tmp_path, root)
    assert set(result.trials) == {"vox1-O", "vox1-E"}
    assert (tmp_path / "exp/data/trials/vox1-E.txt").read_bytes() == TRIALS
    assert len(asked) == 2
    prepare(tmp_path, root, overwrite=True)
    assert len(asked) == 2


def test_a_file_address_works_and_lists_without_audio_are_not_asked_for(tmp_path, monkeypatch):
    root = corpus_trees.voxceleb(tmp_path / "VoxCeleb")
    (root / "voxceleb1" / "dev").rename(tmp_path / "elsewhere")
    (tmp_path / "veri_test2.txt").write_bytes(TRIALS)
    known_at(monkeypatch, tmp_path.as_uri())
    assert set(prepare(tmp_path, root).trials) == {"vox1-O"}


def test_without_a_network_the_user_is_told_and_a_list_is_made(tmp_path, monkeypatch):
    known_at(monkeypatch, (tmp_path / "nowhere").as_uri())
    progress = Notes()
    result = prepare(tmp_path, corpus_trees.voxceleb(tmp_path / "VoxCeleb"), progress)
    assert set(result.trials) == {"voxceleb"}
    assert "vox1-O! could not be downloaded from file:" in progress.all()
    assert "put veri_test2.txt into ROOT or give it with --trials" in progress.all()
    assert "no official trial list found: one is made from the speakers" in progress.all()


def test_a_line_that_breaks_in_the_middle_is_no_list(tmp_path, server, monkeypatch):
    address, www, _ = server
    known_at(monkeypatch, address)
    (www / "veri_test2.txt").write_bytes(TRIALS)
    send_header = http.server.SimpleHTTPRequestHandler.send_header
    monkeypatch.setattr(
        http.server.SimpleHTTPRequestHandler,
        "send_header",
        lambda self, key, value: send_header(self, key, "999" if key == "Content-Length" else value),
    )
    progress = Notes()
    result = prepare(tmp_path, corpus_trees.voxceleb(tmp_path / "VoxCeleb"), progress)
    assert set(result.trials) == {"voxceleb"} and "vox1-O! could not be downloaded" in progress.all()


def test_what_comes_must_be_the_list(tmp_path, server, monkeypatch):
    address, www, _ = server
    known_at(monkeypatch, address)
    (www / "veri_test2.txt").write_bytes(b"<html>moved</html>\n")
    root = corpus_trees.voxceleb(tmp_path / "VoxCeleb")
    with pytest.raises(DataError, match="expected three fields"):
        prepare(tmp_path, root)
    (www / "veri_test2.txt").write_bytes(TRIALS + TRIALS)
    with pytest.raises(DataError, match="expected 2 lines and 1 targets .*found 4 and 2"):
        prepare(tmp_path, root)
    assert not list((tmp_path / "exp").rglob("veri_test2.txt"))


def test_given_lists_and_those_in_root_come_first(tmp_path, server, monkeypatch):
    address, _, asked = server
    known_at(monkeypatch, address)
    root = corpus_trees.voxceleb(tmp_path / "VoxCeleb")
    (tmp_path / "mine.txt").write_bytes(TRIALS)
    assert set(prepare(tmp_path, root, trials=(tmp_path / "mine.txt",)).trials) == {"mine"}
    (root / "meta").mkdir()
    (root / "meta" / "veri_test2.txt").write_bytes(TRIALS)
    assert set(prepare(tmp_path, root, overwrite=True).trials) == {"vox1-O"}
    assert asked == []
