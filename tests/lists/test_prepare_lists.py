"""merge, split, check and stats: lists made from lists."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.corpora.scan import BadFilesError
from svkit.errors import ConfigError, DataError
from svkit.lists import check, merge, split, stats
from svkit.progress import SilentProgress
from svkit.store.manifest import COLUMNS, read_manifest, write_manifest
from svkit.store.provenance import FORMAT, VERSION, sha256_file
from svkit.store.strict_json import read_json

RATE = 16_000


def listed(path: Path, rows: list[tuple[str, str]], **extra: str) -> Path:
    """Write a list of (utterance, speaker) without audio."""
    table = [
        (utterance, speaker, utterance, RATE, RATE * (1 + number), "", *extra.values())
        for number, (utterance, speaker) in enumerate(rows)
    ]
    write_manifest(path, pd.DataFrame(table, columns=[*COLUMNS, *extra]))
    return path


def svkit(*arguments):
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)])


# ---- merge


@pytest.fixture
def two(tmp_path):
    """`anna` and `anna/1.wav` are in both lists and are not the same."""
    a = listed(tmp_path / "a" / "train.tsv", [("anna/1.wav", "anna"), ("00123", "NA")], gender="f")
    b = listed(tmp_path / "b" / "train.parquet", [("anna/1.wav", "anna"), ("carl/1.wav", "carl")])
    return a, b


def merged(tmp_path, *lists, **options):
    options = {"out": tmp_path / "m.tsv", **options}
    result = merge.run(merge.MergeRequest(lists=tuple(map(str, lists)), **options), SilentProgress())
    return result, read_manifest(options["out"])


def test_colliding_ids_get_the_name_of_their_list(tmp_path, two):
    a, b = two
    result, manifest = merged(tmp_path, f"A={a}", f"B={b}")
    rows = manifest.table.set_index("utterance_id")
    assert rows["speaker_id"].to_dict() == {
        "A/anna/1.wav": "A/anna", "B/anna/1.wav": "B/anna", "00123": "NA", "carl/1.wav": "carl",
    }  # fmt: skip
    assert rows["gender"].to_dict() == {
        "A/anna/1.wav": "f",
        "B/anna/1.wav": "",
        "00123": "f",
        "carl/1.wav": "",
    }
    assert (result.speakers, result.utterances, result.renamed_speakers, result.renamed_utterances) == (
        4,
        4,
        2,
        2,
    )
    assert result.hours == pytest.approx(6 / 3600, abs=1e-4)
    # Paths are still right: below the new list, and absolute where it lies elsewhere.
    for out in (tmp_path / "m.tsv", tmp_path / "far" / "m.tsv"):
        _, manifest = merged(tmp_path, f"A={a}", f"B={b}", out=out, overwrite=True)
        places = {manifest.audio_path(row) for row in range(4)}
        assert places == {
            a.parent / "anna/1.wav",
            a.parent / "00123",
            b.parent / "anna/1.wav",
            b.parent / "carl/1.wav",
        }
    assert manifest.column("path")[0].startswith("/") and read_manifest(tmp_path / "m.tsv").column("path")[
        0
    ].startswith("a/")


def test_every_id_or_none_gets_the_name(tmp_path, two):
    a, b = two
    _, manifest = merged(tmp_path, f"A={a}", f"B={b}", prefix="always")
    assert set(manifest.speaker_ids) == {"A/anna", "A/NA", "B/anna", "B/carl"}
    assert set(manifest.utterance_ids) == {"A/anna/1.wav", "A/00123", "B/anna/1.wav", "B/carl/1.wav"}
    with pytest.raises(DataError, match="in several lists: anna/1.wav; merge with --prefix collision"):
        merged(tmp_path, f"A={a}", f"B={b}", prefix="never", overwrite=True)
    c = listed(tmp_path / "c.tsv", [("anna/2.wav", "anna")])
    result, manifest = merged(tmp_path, f"A={a}", c, prefix="never", overwrite=True)
    assert sorted(manifest.speaker_ids) == ["NA", "anna", "anna"] and result.speakers == 2


ROWS = st.lists(
    st.tuples(st.sampled_from("xyz"), st.sampled_from(["a", "b", "L0/a"])),
    min_size=1,
    max_size=5,
    unique_by=lambda row: row[0],
)


@settings(max_examples=12)
@given(lists=st.lists(ROWS, min_size=1, max_size=3), prefix=st.sampled_from(["collision", "always"]))
def test_merging_keeps_people_apart_and_utterances_with_them(tmp_path_factory, lists, prefix):
    directory = tmp_path_factory.mktemp("merge")
    paths = [listed(directory / f"L{number}" / "l.tsv", rows) for number, rows in enumerate(lists)]
    try:
        _, manifest = merged(
            directory, *[f"L{number}={path}" for number, path in enumerate(paths)], prefix=prefix
        )
    except DataError as error:
        assert "give the lists other names" in str(error)  # L0/a is a speaker of another list
        assert any(speaker == "L0/a" for rows in lists for _, speaker in rows)
        return
    # The people of the merged list are those of the lists: one for each (list, speaker).
    people = {}
    for path, speaker in zip(manifest.column("path"), manifest.speaker_ids, strict=True):
        number = int(path[1])
        original = dict(lists[number])[path.split("/", 1)[1]]
        people.setdefault((number, original), set()).add(speaker)
    assert all(len(names) == 1 for names in people.values())
    assert len({next(iter(names)) for names in people.values()}) == len(people)
    assert len(manifest) == sum(map(len, lists))


def test_merging_refuses(tmp_path, two):
    a, b = two
    with pytest.raises(ConfigError, match="a second list is called train; give it another name"):
        merged(tmp_path, a, b)
    with pytest.raises(DataError, match=r"some recordings are in several of the lists again, train: .*00123"):
        copy = tmp_path / "a" / "again.tsv"
        copy.write_bytes(a.read_bytes())
        merged(tmp_path, a, copy)
    with pytest.raises(DataError, match="does not exist"):
        merged(tmp_path, tmp_path / "no.tsv")
    with pytest.raises(ConfigError, match="ends in .tsv or .parquet"):
        merged(tmp_path, a, out=tmp_path / "m.csv")
    with pytest.raises(ConfigError, match="is an input of this command"):
        merged(tmp_path, a, out=a, overwrite=True)
    merged(tmp_path, a)
    with pytest.raises(ConfigError, match="use --overwrite"):
        merged(tmp_path, a)


def test_one_list_is_converted_and_says_what_from(tmp_path, two):
    done = svkit("merge", two[0], "--out", tmp_path / "train.parquet", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["renamed_speakers"] == 0
    assert pd.read_parquet(tmp_path / "train.parquet")["num_samples"].dtype == np.int64
    again = read_manifest(tmp_path / "train.parquet")
    assert again.utterance_ids.tolist() == ["00123", "anna/1.wav"]
    provenance = read_json(tmp_path / "train.provenance.json", FORMAT, VERSION, dict)
    assert provenance["inputs"][0]["sha256"] == sha256_file(two[0])


# ---- split


@pytest.fixture
def corpus(tmp_path):
    rows = [(f"s{speaker:02d}/{take}.wav", f"s{speaker:02d}") for speaker in range(20) for take in range(3)]
    return listed(tmp_path / "lists" / "all.tsv", rows)


def parts(corpus, out, *specs, **options):
    result = split.run(split.SplitRequest(list=corpus, out=out, parts=specs, **options), SilentProgress())
    return result, {name: read_manifest(Path(part.list)) for name, part in result.parts.items()}


def test_parts_share_no_speaker_and_lose_no_row(tmp_path, corpus):
    (tmp_path / "who.txt").write_text("s03\ns04\n")
    result, lists = parts(corpus, tmp_path / "out", "valid=4", "test=10%", f"own={tmp_path / 'who.txt'}")
    people = {name: set(manifest.speaker_ids) for name, manifest in lists.items()}
    assert {name: len(found) for name, found in people.items()} == {
        "valid": 4,
        "test": 2,
        "own": 2,
        "train": 12,
    }
    assert people["own"] == {"s03", "s04"} and len(set.union(*people.values())) == 20
    assert sum(map(len, lists.values())) == 60 and result.parts["train"].utterances == 36
    assert lists["valid"].audio_path(0).parent.parent == tmp_path / "lists"


@pytest.mark.parametrize("rest", ["../x", "a/b", ""])
def test_the_rest_of_a_split_stays_in_its_directory(tmp_path, corpus, rest):
    request = split.SplitRequest(list=corpus, out=tmp_path / "out", parts=("a=1",), rest=rest)
    with pytest.raises(ConfigError, match=f"--rest {rest}: expected the name of a part"):
        split.run(request, SilentProgress())


def test_a_split_follows_from_the_seed_and_the_speakers(tmp_path, corpus):
    _, first = parts(corpus, tmp_path / "1", "valid=5")
    shuffled = tmp_path / "lists" / "shuffled.tsv"
    write_manifest(shuffled, read_manifest(corpus).table.sample(frac=1, random_state=3), is_sorted=False)
    _, again = parts(shuffled, tmp_path / "2", "valid=5")
    assert set(first["valid"].speaker_ids) == set(again["valid"].speaker_ids)
    assert (tmp_path / "1/valid.tsv").read_bytes() == (tmp_path / "2/valid.tsv").read_bytes()
    _, other = parts(corpus, tmp_path / "3", "valid=5", seed=25)
    assert set(first["valid"].speaker_ids) != set(other["valid"].speaker_ids)


@pytest.mark.parametrize(
    ("specs", "code", "message"),
    [
        (["valid=20"], 2, "expected 1 to 19"),
        (["valid=15", "test=30%"], 2, "test=30%: 6 speakers, expected 1 to 4"),
        (["valid"], 2, "expected NAME=SPEAKERS"),
        (["valid=2", "valid=3"], 2, "two parts are called valid"),
        (["train=3"], 2, "two parts are called train"),
        (["valid=who.txt"], 3, "who.txt: does not exist"),
    ],
)
def test_parts_that_cannot_be_given_are_refused(tmp_path, corpus, monkeypatch, specs, code, message):
    monkeypatch.chdir(tmp_path)
    done = svkit("split", corpus, "--out", "out", *[word for spec in specs for word in ("--part", spec)])
    assert (done.exit_code, done.stdout) == (code, "") and message in done.stderr
    assert not list(tmp_path.glob("out/*.tsv"))


# ---- check


@pytest.fixture
def recordings(tmp_path):
    """A list with one good recording and one of every fault."""
    rng = np.random.default_rng(0)
    good = 0.1 * rng.standard_normal(RATE)
    sounds = {
        "a/good.wav": good,
        "b/twin.flac": good,
        "c/silent.wav": np.zeros(RATE),
        "d/clipped.wav": np.clip(8 * good, -0.6, 0.6),
        "e/short.wav": good[:4000] * 0.5,
        "f/changed.wav": good[:12_000],
        "g/nan.wav": np.where(np.arange(RATE) == 99, np.nan, good),
        "h/text.wav": None,
        "i/gone.wav": None,
        "j/empty.wav": None,
    }  # fmt: skip
    rows = []
    for name, sound in sounds.items():
        (tmp_path / name).parent.mkdir()
        count = RATE
        if sound is not None:
            if sound is good:
                soundfile.write(tmp_path / name, (32_768 * good).astype(np.int16), RATE, subtype="PCM_16")
            else:
                soundfile.write(tmp_path / name, sound, RATE, subtype="FLOAT")
            count = RATE if "changed" in name else len(sound)
        rows.append((name, name[0], name, RATE, count, ""))
    (tmp_path / "h/text.wav").write_text("no audio")
    (tmp_path / "j/empty.wav").touch()
    write_manifest(tmp_path / "l.tsv", pd.DataFrame(rows, columns=list(COLUMNS)))
    return tmp_path / "l.tsv"


FAULTS = {
    "b/twin.flac": "duplicate",
    "c/silent.wav": "silent",
    "d/clipped.wav": "clipped",
    "e/short.wav": "too short",
    "f/changed.wav": "changed",
    "g/nan.wav": "non-finite",
    "h/text.wav": "unreadable",
    "i/gone.wav": "missing",
    "j/empty.wav": "empty",
}


def test_every_fault_is_found_by_its_name(recordings):
    with pytest.raises(BadFilesError, match="9 of 10 audio files cannot be used") as caught:
        check.run(check.CheckRequest(list=recordings), SilentProgress())
    assert {file.utterance_id: file.reason for file in caught.value.bad_files} == FAULTS
    details = {file.reason: file.detail for file in caught.value.bad_files}
    assert details["duplicate"] == "the same samples as a/good.wav, which is listed under speaker a"
    assert details["changed"] == "the list says 16000 samples at 16000 Hz, the file has 12000 at 16000 Hz"
    assert "99" in details["non-finite"]


def test_exit_codes_table_and_json(tmp_path, recordings):
    done = svkit("check", recordings)
    assert (done.exit_code, done.stdout) == (3, "") and "9 bad files" in done.stderr
    assert "write a list without them with --out" in done.stderr
    done = svkit("check", recordings, "--json")
    assert done.exit_code == 3
    assert {file["utterance_id"]: file["reason"] for file in json.loads(done.stdout)["bad_files"]} == FAULTS
    clean = tmp_path / "clean" / "l.parquet"
    done = svkit("check", recordings, "--out", clean, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["reasons"] == dict.fromkeys(FAULTS.values(), 1)
    assert read_manifest(clean).utterance_ids.tolist() == ["a/good.wav"]
    done = svkit("check", clean)
    assert done.exit_code == 0 and "1 utterances, 0.0 hours, none of them bad" in done.stdout
    assert svkit("check", recordings, "--max-clipped", "60", "--min-seconds", "0", "--json").exit_code == 3


def test_thresholds_are_asked_for(recordings):
    request = check.CheckRequest(list=recordings, min_seconds=0.1, max_clipped=0.9)
    with pytest.raises(BadFilesError) as caught:
        check.run(request, SilentProgress())
    left = {file.reason for file in caught.value.bad_files}
    assert left == set(FAULTS.values()) - {"clipped", "too short"}


def test_an_interrupted_check_goes_on(recordings, monkeypatch):
    from svkit.corpora import scan

    read, examine = [], scan.examine

    def counted(path, *arguments, **options):
        read.append(Path(path).name)
        return examine(path, *arguments, **options)

    monkeypatch.setattr(scan, "examine", counted)
    with pytest.raises(BadFilesError):
        check.run(check.CheckRequest(list=recordings), SilentProgress())
    # The missing file has no stamp; the others are known, until one changes.
    first = len(read)
    good = recordings.parent / "a/good.wav"
    soundfile.write(good, np.full(RATE, 0.25) + np.sin(np.arange(RATE)) / 4, RATE, subtype="FLOAT")
    with pytest.raises(BadFilesError) as caught:
        check.run(check.CheckRequest(list=recordings), SilentProgress())
    assert first == 10 and sorted(read[first:]) == ["gone.wav", "good.wav"]
    check.run(check.CheckRequest(list=recordings, out=recordings.with_name("clean.tsv")), SilentProgress())
    assert read[first + 2 :] == ["gone.wav"] and not list(recordings.parent.glob(".*"))
    assert {file.reason for file in caught.value.bad_files} == set(FAULTS.values()) - {"duplicate"}


# ---- stats


def test_stats_agree_with_counting(tmp_path):
    rng = np.random.default_rng(1)
    rows = [
        (f"u{k:03d}", f"s{k % 7}", "x", [8000, RATE][k % 2], int(n), f"v{k % 3}" if k % 5 else "", "fm"[k % 2])
        for k, n in enumerate(rng.integers(100, 400_000, 200))
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=[*COLUMNS, "gender"])
    write_manifest(tmp_path / "l.tsv", table)
    found = stats.run(tmp_path / "l.tsv")
    seconds = table["num_samples"] / table["sample_rate_hz"]
    assert (found.speakers, found.utterances) == (7, 200)
    known = table[table["session_id"] != ""]
    assert found.sessions == len(known[["speaker_id", "session_id"]].drop_duplicates())
    assert found.hours == pytest.approx(seconds.sum() / 3600, abs=1e-4)
    assert found.sample_rates_hz == {"8000": 100, "16000": 100} and found.columns == {
        "gender": {"f": 100, "m": 100}
    }
    assert found.seconds.median == pytest.approx(seconds.median(), abs=1e-3)
    for spread, values in (
        (found.seconds, seconds),
        (found.utterances_per_speaker, table["speaker_id"].value_counts()),
        (found.minutes_per_speaker, seconds.groupby(table["speaker_id"]).sum() / 60),
    ):
        for bar in spread.histogram:
            high = np.inf if bar.high is None else bar.high
            assert bar.count == ((values >= bar.low) & (values < high)).sum()
        assert sum(bar.count for bar in spread.histogram) == len(values)
    done = svkit("stats", tmp_path / "l.tsv")
    assert done.exit_code == 0 and "gender: f" in done.stdout and "#" in done.stdout
    assert json.loads(svkit("stats", tmp_path / "l.tsv", "--json").stdout)["speakers"] == 7


@pytest.mark.parametrize("command", ["stats", "check", "shards", "split"])
def test_a_list_that_is_not_there_is_a_data_error(tmp_path, command):
    options = {"shards": ["--out", tmp_path / "o"], "split": ["--out", tmp_path / "o", "--part", "a=1"]}
    done = svkit(command, tmp_path / "no.tsv", *options.get(command, []))
    assert done.exit_code == 3 and "no.tsv: does not exist" in done.stderr and "Traceback" not in done.stderr


def test_a_list_is_text_in_columns_not_python_objects(tmp_path):
    """10 million rows have to fit: reading makes no Python object for each cell (pandas 3 holds arrow text)."""
    rows = [(f"speaker{k % 100:05d}/session/{k:08d}.wav", f"speaker{k % 100:05d}") for k in range(20_000)]
    path = listed(tmp_path / "l.parquet", rows)
    if pd.read_parquet(path)["path"].dtype == object:
        pytest.skip("pandas before 3.0 holds text as objects")
    read_manifest(path)
    tracemalloc.start()
    manifest = read_manifest(path)
    manifest.index()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(manifest) == 20_000 and peak < 60 * 20_000  # one str of 40 characters alone takes 89 bytes
