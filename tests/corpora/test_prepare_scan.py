"""The scan: in columns, in parallel, and remembered."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from svkit.corpora import scan
from svkit.corpora.layouts import folder
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import Candidate, CandidateTable, ScanOptions, repeated_digests, scan_files
from svkit.errors import ArtifactError
from svkit.progress import SilentProgress
from svkit.store.scan_journal import Entry, Finding, ScanJournal, stamp_of


def candidates(root: Path, count: int) -> list[Candidate]:
    """Write as many files of different lengths."""
    found = []
    for number in range(count):
        path = root / f"s{number % 3}" / f"{number:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(100 + number, 0.1), 100)
        name = path.relative_to(root).as_posix()
        found.append(Candidate(utterance_id=name, speaker_id=name[:2], session_id="", path=str(path)))
    return found


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of two files, columns of five rows."""
    monkeypatch.setattr(scan, "_CHUNK_FILES", 2)
    monkeypatch.setattr(scan, "_BLOCK_ROWS", 5)


@pytest.fixture
def counted(monkeypatch):
    """Names of the files whose header was read."""
    read, probe = [], scan.probe

    def count(path, *arguments, **options):
        read.append(path.name)
        return probe(path, *arguments, **options)

    monkeypatch.setattr(scan, "probe", count)
    return read


def test_rows_come_in_the_order_of_the_candidates(tmp_path, small_chunks):
    listed = candidates(tmp_path, 23)[::-1]
    table, bad = scan_files(iter(listed), ScanOptions(), SilentProgress())
    assert not bad and table["path"].tolist() == [file.path for file in listed]
    assert table["num_samples"].tolist() == [122 - k for k in range(23)] and set(table["sample_rate_hz"]) == {
        100
    }
    assert table["speaker_id"].tolist() == [file.speaker_id for file in listed]


def test_candidates_in_columns_are_what_they_were(small_chunks):
    listed = [
        Candidate(utterance_id=f"u{k}", speaker_id=f"s{k % 2}", session_id="", path=f"/p/{k}")
        for k in range(12)
    ]
    table = CandidateTable(listed)
    assert list(table) == listed and [table[k] for k in range(12)] == listed and len(table) == 12
    with pytest.raises(IndexError):
        table[12]


def test_a_scan_goes_on_where_it_was_interrupted(tmp_path, small_chunks, counted, monkeypatch):
    listed = candidates(tmp_path / "wav", 40)
    options = ScanOptions(reads_samples=False, journal=tmp_path / "journal", num_workers=1)
    expected, _ = scan_files(listed, ScanOptions(reads_samples=False), SilentProgress())
    counted.clear()
    limit, probe = 25, scan.probe

    def interrupted(path, *arguments, **options):
        if len(counted) == limit:
            raise KeyboardInterrupt
        return probe(path, *arguments, **options)

    monkeypatch.setattr(scan, "probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scan_files(listed, options, SilentProgress())
    monkeypatch.setattr(scan, "probe", probe)
    done = len(counted)
    table, bad = scan_files(listed, options, SilentProgress())
    again = counted[done:]
    assert table.equals(expected) and not bad
    # What was read in the first run is known but for the chunk that was interrupted.
    assert 40 - done <= len(again) <= 40 - done + 3
    counted.clear()
    scan_files(listed, options, SilentProgress())
    assert counted == []


def test_changed_new_and_removed_files_cost_only_themselves(tmp_path, small_chunks, counted):
    listed = candidates(tmp_path / "wav", 40)
    options = ScanOptions(reads_samples=False, journal=tmp_path / "journal")
    scan_files(listed, options, SilentProgress())
    counted.clear()
    soundfile.write(listed[7].path, np.zeros(500), 100)
    Path(listed[20].path).unlink()
    new = candidates(tmp_path / "more", 1)
    table, _ = scan_files([*listed[:20], *new, *listed[21:]], options, SilentProgress())
    assert table["num_samples"].iloc[7] == 500 and len(table) == 40
    assert sorted(counted) == ["000.wav", "007.wav"]


def test_headers_do_not_stand_for_samples(tmp_path, small_chunks):
    listed = candidates(tmp_path / "wav", 3)
    Path(listed[0].path).write_bytes(Path(listed[0].path).read_bytes()[:-50])
    listed[2:] = [Candidate(utterance_id="copy", speaker_id="s", session_id="", path=listed[1].path)]
    header = ScanOptions(reads_samples=False, journal=tmp_path / "journal")
    scan_files(listed, header, SilentProgress())
    _, bad = scan_files(listed, ScanOptions(journal=tmp_path / "journal"), SilentProgress())
    assert [file.reason for file in bad][-1] == "duplicate"


def test_a_broken_journal_is_found_out_again(tmp_path, small_chunks, counted):
    listed = candidates(tmp_path / "wav", 10)
    options = ScanOptions(reads_samples=False, journal=tmp_path / "journal")
    expected, _ = scan_files(listed, options, SilentProgress())
    for file in (tmp_path / "journal").rglob("*.sqlite"):
        file.write_bytes(file.read_bytes()[:40])
    counted.clear()
    table, _ = scan_files(listed, options, SilentProgress())
    assert table.equals(expected) and len(counted) == 10


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.booleans()), max_size=12),
)
def test_repeated_content_is_named_after_its_first_usable_row(rows):
    digests = np.array([row[:2] for row in rows], np.uint64).reshape(-1, 2)
    usable = np.array([row[2] for row in rows], bool)
    first, expected = {}, {}
    for number, (*content, is_usable) in enumerate(rows):
        if is_usable:
            if tuple(content) in first:
                expected[number] = first[tuple(content)]
            first.setdefault(tuple(content), number)
    assert dict(repeated_digests(digests, usable)) == expected


def test_entries_come_back(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"x")
    entry = Entry(
        stamp_of(path), Finding(sample_rate_hz=8000, num_samples=3, digest="ab", level_db=-1.5, reason="r")
    )
    journal = ScanJournal(tmp_path / "j", "samples")
    journal.write({str(path): entry, "gone": Entry(None, Finding()), "\udcff": entry})
    assert journal.read([path, "gone", "\udcff"]) == {str(path): entry, "\udcff": entry}
    assert ScanJournal(tmp_path / "j", "header").read([path]) == {}
    (tmp_path / "d" / "samples.sqlite").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="samples.sqlite: cannot be written"):
        ScanJournal(tmp_path / "d", "samples").write({str(path): entry})
    os.utime(path, ns=(1, 1))
    assert stamp_of(path) != entry.stamp and stamp_of(tmp_path / "no") is None


def test_prepare_remembers_its_scan_until_it_is_done(tmp_path, counted):
    for file in candidates(tmp_path / "wav", 12):
        soundfile.write(file.path, np.random.default_rng(len(file.path)).uniform(-0.5, 0.5, 9600), 16_000)
    (tmp_path / "wav" / "s0" / "bad.wav").write_text("no audio")
    request = CorpusRequest(
        exp=tmp_path / "exp", root=tmp_path / "wav", eval_speakers="2", valid_speakers=0,
        scan=ScanOptions(reads_samples=False),
    )  # fmt: skip
    with pytest.raises(scan.BadFilesError):
        folder.run(request, SilentProgress())
    assert len(counted) == 13 and (tmp_path / "exp/data/.scan").is_dir()
    counted.clear()
    (tmp_path / "wav" / "s0" / "bad.wav").unlink()
    with pytest.raises(Exception, match="expected 2 to 1"):  # three speakers: two must be left to train on
        folder.run(request, SilentProgress())
    assert counted == []


def test_a_flipped_byte_of_the_journal_is_read_again(tmp_path, small_chunks, counted):
    """Wherever it is: a file says what was found, or nothing."""
    listed = candidates(tmp_path / "wav", 6)
    options = ScanOptions(reads_samples=False, journal=tmp_path / "journal")
    expected, _ = scan_files(listed, options, SilentProgress())
    (file,) = (tmp_path / "journal").iterdir()
    whole = file.read_bytes()
    first = whole.index(str(listed[-1].path).encode())
    num_again = 0
    for place in (*range(first, first + 120, 3), *range(0, len(whole), len(whole) // 20)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        counted.clear()
        table, _ = scan_files(listed, options, SilentProgress())
        assert table.equals(expected)
        num_again += len(counted)
    assert num_again > 20
