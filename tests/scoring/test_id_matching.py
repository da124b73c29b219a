"""Ids that differ in notation only: the rule is found and offered, and applied where it is asked for."""

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.errors import DataError
from svkit.progress import SilentProgress
from svkit.reports.report import ReportRequest
from svkit.reports.report import run as run_report
from svkit.scoring.id_matching import find_matching
from svkit.scoring.score import ScoreRequest, run
from svkit.store.scores import read_scores
from tests.fake_experiment import make_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")

KNOWN = [
    f"spk0{speaker}/s{session}/0{take}.flac" for speaker in range(3) for session in (1, 2) for take in (1, 2)
]
NOTATIONS = {
    "extension": (lambda name: name[:-5], "without the extension"),
    "another extension": (lambda name: name[:-5] + ".wav", "without the extension"),
    "case": (str.upper, "in lower case"),
    "dot": (lambda name: f"./{name}", "without ./"),
    "quotes": (lambda name: f'"{name}"', "without quotes"),
    "backslashes": (lambda name: name.replace("/", "\\"), "with / for \\"),
    "prefix": (lambda name: f"/data/corpus/{name}", "without the prefix '/data/corpus/'"),
    "shorter": (lambda name: name.removeprefix("spk"), "with the prefix 'spk'"),
    "all": (
        lambda name: "'.\\WAV\\" + name.replace("/", "\\").upper()[:-5] + ".MP3'",
        "without quotes, with / for \\, in lower case, without the extension, without the prefix './wav/'",
    ),
}


@pytest.mark.parametrize("kind", sorted(NOTATIONS))
def test_the_shortest_rule_that_matches_every_id(kind):
    change, rule = NOTATIONS[kind]
    found = find_matching([change(name) for name in KNOWN], KNOWN)
    assert found.rule == rule and found.ambiguous == {}
    assert found.names == {change(name): name for name in KNOWN}
    assert f"12 of 12 match {rule}, such as {change(KNOWN[0])} -> {KNOWN[0]}: `--match-ids`" in found.offer()


def test_an_id_on_both_sides_of_trials_is_one():
    twice = [name.removesuffix(".flac") for name in (*KNOWN, *KNOWN)]
    assert find_matching(twice, KNOWN) == find_matching(twice[: len(KNOWN)], KNOWN)


@pytest.mark.parametrize(
    ("ids", "known", "rule"),
    [
        # The two lists begin with directories of their own.
        (
            [f"/data/x/{name}" for name in KNOWN],
            [f"wav/{name}" for name in KNOWN],
            "with the prefix 'wav/' for '/data/x/'",
        ),
        # There are several prefixes, on either side.
        (
            [f"{'dev' if place % 2 else 'test/more'}/{name[:-5]}" for place, name in enumerate(KNOWN)],
            KNOWN,
            "without the extension, by the last parts of the path",
        ),
        (
            KNOWN,
            [f"{'dev' if place % 2 else 'test/more'}/{name}" for place, name in enumerate(KNOWN)],
            "by the last parts of the path",
        ),
    ],
    ids=["other", "several", "several known"],
)
def test_paths_with_other_prefixes_match_by_their_longest_common_tail(ids, known, rule):
    found = find_matching([*ids, "spk09/s1/01.flac"], known)
    assert found.names == dict(zip(ids, known, strict=True)) and found.ambiguous == {}
    assert f"12 of 13 match {rule}, such as" in found.offer()


def test_tails_that_several_paths_have_are_ambiguous():
    both = [f"{part}/{name}" for part in ("dev", "test") for name in KNOWN]
    found = find_matching([KNOWN[0]], both)
    assert found.names == {} and found.ambiguous == {KNOWN[0]: [f"dev/{KNOWN[0]}", f"test/{KNOWN[0]}"]}
    # The longer tail wins; what is ambiguous by its tail alone does not hinder the others.
    found = find_matching(["x/dev/a.wav", "x/b.wav"], ["dev/a.wav", "test/a.wav", "a.wav", "b.wav"])
    assert found.names == {"x/dev/a.wav": "dev/a.wav", "x/b.wav": "b.wav"}
    found = find_matching(["./dev/a.wav", "b.wav"], ["dev/a.wav", "dev/b.wav", "test/b.wav"])
    assert found.names == {"./dev/a.wav": "dev/a.wav"} and found.ambiguous == {}


def test_a_recording_has_one_name_on_each_side_of_imported_scores():
    prefixed = [f"wav/{name}" for name in KNOWN]
    found = find_matching([*KNOWN, prefixed[0]], KNOWN)
    assert found.names == {} and found.ambiguous == {prefixed[0]: [KNOWN[0]]}
    assert (
        f"1 name what another id names too, so they may be other recordings: {prefixed[0]} (" in found.offer()
    )
    found = find_matching(KNOWN, KNOWN, apart=prefixed)
    assert found.names == dict(zip(prefixed, KNOWN, strict=True)) and found.ambiguous == {}
    found = find_matching(KNOWN, KNOWN, apart=[*prefixed, KNOWN[0]])
    assert len(found.names) == 11 and found.ambiguous == {prefixed[0]: [KNOWN[0]]}


def test_known_ids_stay_and_strange_ones_are_no_match():
    assert find_matching(KNOWN, KNOWN) is None
    assert find_matching(["somebody", "else"], KNOWN) is None
    found = find_matching([KNOWN[0], KNOWN[1][:-5], "somebody"], KNOWN)
    assert found.names == {KNOWN[1][:-5]: KNOWN[1]} and "1 of 2 match" in found.offer()


def test_ambiguous_ids_are_refused():
    several = find_matching(["a", "b"], ["a.wav", "a.flac", "b.wav"])
    assert several.names == {"b": "b.wav"} and several.ambiguous == {"a": ["a.wav", "a.flac"]}
    with pytest.raises(DataError, match=r"x: --match-ids: .*1 are ambiguous: a \(a\.wav, a\.flac\)"):
        several.take("x")
    # Recordings of their own that would become one; another notation of one recording is none.
    assert set(find_matching(["a.wav", "a.flac"], ["a.flac"]).ambiguous) == {"a.wav"}
    assert find_matching(["./a.wav", "a.wav"], ["a.wav"]).names == {"./a.wav": "a.wav"}
    # Case is kept where it tells recordings apart.
    assert find_matching(["A", "a"], ["A.wav", "a.wav"]).names == {"A": "A.wav", "a": "a.wav"}


@pytest.fixture
def exp(tmp_path):
    make_experiment(tmp_path / "exp", num_speakers=8)
    path = tmp_path / "exp" / "data" / "trials" / "all.txt"
    path.with_name("noext.txt").write_text(path.read_text().replace(".wav", ""))
    return tmp_path / "exp"


def score(exp, name, **changes):
    trials = exp / "data" / "trials" / f"{name}.txt"
    return run(ScoreRequest(exp=exp, trials=trials, **changes), SilentProgress()).systems


def test_the_rule_is_offered_and_never_silently_applied(exp):
    dense = (exp / "embeddings" / "dense",)
    offer = r"32 of 32 match without the extension, such as 00000/0 -> 00000/0\.wav: `--match-ids` applies that rule"
    with pytest.raises(DataError, match=f"nothing for 31 of 31 enrollment utterances .*{offer}"):
        score(exp, "noext", embeddings=dense)
    with pytest.raises(
        DataError, match=r"no embeddings have utterances with these names.*match without the extension"
    ):
        score(exp, "noext")
    assert not (exp / "scores").exists()
    plain = score(exp, "all")
    done = score(exp, "noext", match_ids=True)
    for one, other in zip(done, plain, strict=True):
        assert one.metrics.eer == other.metrics.eer
        assert one.metrics.eer_interval == other.metrics.eer_interval
        assert read_scores(one.directory).trials.equals(read_scores(other.directory).trials)
        (caution,) = one.metrics.cautions
        assert (
            "32 ids were matched without the extension (--match-ids), such as 00000/0 -> 00000/0.wav"
            in caution
        )
    page = (run_report(ReportRequest(exp=exp), SilentProgress()) / "report.md").read_text()
    assert "32 ids were matched without the extension" in page
    systems = tuple(one.directory for one in done)
    with pytest.raises(Exception, match="expected the trials of"):
        score(exp, "noext", fuse=systems)
    (fused,) = score(exp, "noext", fuse=systems, match_ids=True)
    assert fused.metrics.eer <= max(one.metrics.eer for one in done)


def test_two_names_of_one_utterance_are_looked_at_as_one(exp):
    path = exp / "data" / "trials" / "dots.txt"
    path.write_text("1 00000/0.wav 00000/1.wav\n1 ./00000/0.wav 00000/1.wav\n0 ./00000/0.wav 00001/0.wav\n")
    with pytest.raises(DataError, match="1 of 3 trials repeat an earlier one"):
        score(exp, "dots", match_ids=True)
    path.write_text("1 00000/0.wav ./00000/0.wav\n0 00000/0.wav 00001/0.wav\n")
    with pytest.raises(DataError, match="1 of 2 trials compare an utterance with itself"):
        score(exp, "dots", match_ids=True)


def test_enrollment_maps_are_matched_on_all_sides(exp):
    (exp / "map").write_text("Anna ./00000/0.wav ./00000/1.wav\nBert ./00001/0.wav\n")
    path = exp / "data" / "trials" / "enrolled.txt"
    path.write_text("1 anna 00000/2\n0 bert 00000/3\n0 anna 00001/1\n1 bert 00001/2\n")
    dense = (exp / "embeddings" / "dense",)
    with pytest.raises(DataError) as caught:
        score(exp, "enrolled", embeddings=dense, enroll=exp / "map")
    for part in (
        "trials: 4 of 4 match without the ext",
        "map: 3 of 3 match without ./",
        "enrollments: 2 of 2 match in",
    ):
        assert part in str(caught.value)
    (done,) = score(exp, "enrolled", embeddings=dense, enroll=exp / "map", match_ids=True)
    assert len(done.metrics.cautions) == 3
    assert set(read_scores(done.directory).trials.enroll_ids) == {"Anna", "Bert"}


def test_on_the_command_line(exp):
    arguments = ["score", str(exp / "data" / "trials" / "noext.txt"), "--exp", str(exp)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 3 and "`--match-ids` applies that rule" in done.stderr
    done = CliRunner().invoke(app, [*arguments, "--match-ids"])
    assert done.exit_code == 0, done.stderr
    assert "ids were matched without the extension" in " ".join(done.stdout.split())
