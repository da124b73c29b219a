import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.errors import DataError
from svkit.store import tables
from svkit.store.trials import Trials, find_lines, read_trials, write_trials

EXPECTED = (["a/1.wav", "a/1.wav", "007"], ["a/2.wav", "b/1.wav", "NA"], [1, 0, 0])
FORMS = {
    "voxceleb": "1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n0 007 NA\n",
    "kaldi": "a/1.wav a/2.wav target\na/1.wav b/1.wav nontarget\n007 NA nontarget\n",
    "cnceleb": "a/1.wav a/2.wav 1\na/1.wav b/1.wav 0\n007 NA 0\n",
    "header": "label\tenroll_id\tx\ttest_id\n1\ta/1.wav\t5\ta/2.wav\n0\ta/1.wav\t\tb/1.wav\n"
    "nontarget\t007\t\tNA\n",
    "tabs": "1\ta/1.wav\ta/2.wav\n0\ta/1.wav\tb/1.wav\n0\t007\tNA",
    "mixed": "1\ta/1.wav a/2.wav\n0 a/1.wav\tb/1.wav\n0 \t007\t \tNA\t\n",
    "tabs, then any": "1\ta/1.wav\ta/2.wav\n0 a/1.wav b/1.wav\n0\t\t007\tNA\n",
    "comments": "\ufeff# made by hand\r\n\r\n1 a/1.wav a/2.wav\r\n #0 x y\r\n0 a/1.wav b/1.wav\r\n#\r\n0 007 NA \r\n",
    "any case": "a/1.wav a/2.wav TARGET\na/1.wav b/1.wav NonTarget\n007 NA nontarget\n",
    "short": "a/1.wav a/2.wav tgt\na/1.wav b/1.wav imp\n007 NA IMP\n",
    "commented header": "# a\tb\n\nenroll_id\ttest_id\tlabel\n# by hand\na/1.wav\ta/2.wav\tTARGET \n  \n"
    "a/1.wav\tb/1.wav\timp\n\n#\n007\tNA\t0\n#end\n",
    "ragged": "\n 1  a/1.wav\ta/2.wav \r\n\n0 a/1.wav b/1.wav\n0 007   NA\n\n",
}
IDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=5)


def read(path, text):
    path.write_bytes(text.encode())
    trials = read_trials(path)
    return trials.enroll_ids.tolist(), trials.test_ids.tolist(), trials.labels.tolist()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_is_recognised_by_content(tmp_path, form):
    assert read(tmp_path / "t.txt", FORMS[form]) == EXPECTED


def test_a_label_word_may_be_an_utterance(tmp_path):
    assert read(tmp_path / "t.txt", "1 target a\n0 0 1x\n") == (["target", "0"], ["a", "1x"], [1, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.txt: no trials"),
        ("\n \n", "t.txt: no trials"),
        ("enroll_id\ttest_id\tlabel\n", "t.txt: no trials below the header"),
        ("1 0 1\n", "t.txt:1: ambiguous"),
        ("\n1 1 1\n0 0 0\n", "t.txt:2: ambiguous"),
        ("1 a b\n\n2 a c\n", "t.txt:3: line 1 has the form `label enroll test` .* this one has '2'"),
        ("1 a b\na b target\n", "t.txt:2: line 1 has the form `label enroll test` .* this one has 'a'"),
        ("a b target\na b 0\n", "t.txt:2: line 1 has the form `enroll test target|nontarget`"),
        ("a b 1\na b target\n", "t.txt:2: line 1 has the form `enroll test 1|0`"),
        ("x y z\n1 a b\n", "t.txt:1: expected `label enroll test`"),
        ("1 a b\n1 a\n", r"t.txt:2: expected three fields, .* found 2: '1 a'"),
        ("1 a b\n1 a b c\n", "t.txt:2: expected three fields, .* found 4"),
        ("1\ta\tb\n1\t\tb\n", "t.txt:2: expected three fields"),
        (
            "enroll_id\ttest_id\tlabel\na\tb\t1\na\tb\t2\n",
            r"t.txt:3: label: expected 1, 0, .*found '2' \(line 3\)",
        ),
        (
            "# x\n1\ta b\tc\n#\n0 a c\n",
            "t.txt:4: ambiguous: line 2 has a space inside a field, line 4 has spaces",
        ),
        ("1\ta\tc\n0 a c\n1\ta b\tc\n", "t.txt:3: ambiguous: line 3 has a space inside a field, line 2"),
        ("1 a b\n1\ta b\tc\n", "t.txt:2: ambiguous: line 2 has a space inside a field, line 1 has spaces"),
        ("a b target\nb c tgt\n", "t.txt:2: line 1 has the form `enroll test target|nontarget`"),
        ("# no\n\n", "t.txt: no trials"),
        ("#\nenroll_id\ttest_id\tlabel\na\tb\t1\n#\na\tb\tx\n", "t.txt:5: label: expected 1, 0"),
        ("#\nenroll_id\ttest_id\tlabel\na\tb\t1\n# x\na\tb\n", "t.txt:5: expected 3 tab-separated columns"),
        ("enroll_id\ttest_id\tlabel\na\t\t1\n", "t.txt:2: test_id: expected an utterance"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.txt", text)


def test_an_utterance_of_a_table_may_begin_like_a_comment(tmp_path):
    text = "enroll_id\ttest_id\tlabel\n#a b\tc\t1\n# no trial\n"
    assert read(tmp_path / "t.txt", text) == (["#a b"], ["c"], [1])


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_lines_of_trials_are_found_again(tmp_path, form):
    """Blank lines and comments count as lines and not as trials; in blocks of any size."""
    path = tmp_path / "t.txt"
    path.write_bytes(FORMS[form].encode())
    lines = FORMS[form].replace("\t", " ").split("\n")
    expected = [
        next(n for n, line in enumerate(lines, 1) if part in line) for part in ("a/2.wav", "b/1", "NA")
    ]
    for size in (1 << 24, 30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "_BLOCK_BYTES", size)
            assert find_lines(path, np.arange(3)) == expected
            assert find_lines(path, np.array([2])) == expected[2:]
            assert read(path, FORMS[form]) == EXPECTED


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_trials(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_bytes(b"1 a b\n1 \xff\xfe c\n")
    with pytest.raises(DataError, match="t.txt:2: not UTF-8"):
        read_trials(tmp_path / "t.txt")


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(IDS, IDS, st.integers(0, 1)), min_size=1, max_size=8), spaced=st.booleans())
def test_round_trip(tmp_path_factory, rows, spaced):
    path = tmp_path_factory.mktemp("t") / "t.txt"
    gap = " x" if spaced else ""
    enroll, test, labels = zip(*rows, strict=True)
    enroll, test = [name + gap for name in enroll], [name + gap for name in test]
    write_trials(path, Trials.of(np.array(enroll, object), np.array(test, object), np.array(labels, np.int8)))
    back = read_trials(path)
    assert (back.enroll_ids.tolist(), back.test_ids.tolist()) == (enroll, test)
    assert back.labels.tolist() == list(labels) and back.labels.dtype == np.int8


def test_ids_with_line_ends_are_refused(tmp_path):
    bad = Trials.of(np.array(["a\tb"], object), np.array(["c"], object), np.ones(1, np.int8))
    with pytest.raises(DataError, match="tab or a line end"):
        write_trials(tmp_path / "t.txt", bad)


def test_regular_and_irregular_spacing_agree_on_many_lines(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"u{number}" for number in range(500)]
    lines = [f"{rng.integers(2)} {names[a]} {names[b]}" for a, b in rng.integers(0, 500, (20_000, 2))]
    plain = read(tmp_path / "a.txt", "\n".join(lines))
    assert plain == read(tmp_path / "b.txt", "\n".join(line.replace(" ", "  ") for line in lines))
    assert [f"{label} {a} {b}" for a, b, label in zip(*plain, strict=True)] == lines


PLAIN, ODD = "1 a{0} b\n", ("\n", " 0  c\t{0} \r\n", "x y\n", "2 a b\n", "c{0} d target\n", "1 0 1\n")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.just(PLAIN), st.sampled_from(ODD)), max_size=12),
    st.sampled_from(["", "\xff", "label\tenroll_id\ttest_id\n"]),
    st.integers(1, 40),
)
def test_blocks_of_any_size_give_the_same_trials_or_the_same_error(tmp_path_factory, lines, start, size):
    """Also the same line: what is wrong in it must not depend on what else is read with it."""
    path = tmp_path_factory.mktemp("t") / "t.txt"
    if start.startswith("label"):  # lines of another length are looked for in the whole block first
        lines = [start, *(line.replace(" ", "\t") for line in lines if line.count(" ") == 2)]
    text = "".join([line.format(number) for number, line in enumerate(lines)])
    data = text.encode() + (b"1 \xff b\n1 c\n" if start == "\xff" else b"")

    def outcome():
        path.write_bytes(data)
        try:
            trials = read_trials(path)
        except DataError as error:
            return str(error).split(" found")[0]  # a table names up to five rows of its block
        return trials.enroll_ids.tolist(), trials.test_ids.tolist(), trials.labels.tolist()

    whole = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_BLOCK_BYTES", size)
        assert outcome() == whole


def test_lines_are_right_beyond_the_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 64)
    good = "".join(f"1 enroll-{number} test-{number}\n" for number in range(50))
    for bad, message in (
        ("1 a\n", "t.txt:51: expected three fields"),
        ("2 a b\n", "t.txt:51: line 1 has the form .* this one has '2'"),
        ("\n\n1 a b c\n", "t.txt:53: expected three fields"),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path / "t.txt", good + bad + good)
    (tmp_path / "t.txt").write_bytes(good.encode() + b"1 \xff c\n")
    with pytest.raises(DataError, match="t.txt:51: not UTF-8"):
        read_trials(tmp_path / "t.txt")
    table = "label\tenroll_id\ttest_id\n" + good.replace(" ", "\t")
    for bad, message in (
        ("2\ta\tb\n", "label: expected 1, 0"),
        ("1\t\tb\n", "enroll_id: expected an utterance"),
    ):
        with pytest.raises(DataError, match=f"t.txt:52: {message}"):
            read(tmp_path / "t.txt", table + bad)


def test_spaces_around_the_fields_of_a_list_with_tabs_are_no_part_of_them(tmp_path):
    text = "1\ta b\tc\n 0\t a b \tc\r\n"
    assert read(tmp_path / "t.txt", text) == (["a b", "a b"], ["c", "c"], [1, 0])


@given(
    rows=st.lists(st.tuples(IDS, IDS, st.integers(0, 1)), min_size=1, max_size=20), seed=st.integers(0, 99)
)
def test_some_of_the_trials_are_as_if_no_others_had_been(rows, seed):
    enroll, test, labels = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    trials = Trials.of(enroll, test, labels.astype(np.int8))
    assert (trials.enroll_ids.tolist(), trials.test_ids.tolist()) == (enroll.tolist(), test.tolist())
    kept = np.random.default_rng(seed).random(len(rows)) < 0.5
    alone = Trials.of(enroll[kept], test[kept], labels[kept].astype(np.int8))
    assert trials.only(kept).equals(alone)
    assert trials.equals(trials.only(np.ones(len(rows), bool)))
    assert kept.all() or not trials.equals(alone)


@pytest.mark.parametrize("rest", ["1 b c\n", "a b 1\n"])
def test_a_label_without_end_does_not_fill_the_message(tmp_path, rest):
    (tmp_path / "t.lst").write_text(f"a b 1\n{rest}c d {'x' * 100_000}\n")
    with pytest.raises(DataError) as refused:
        read_trials(tmp_path / "t.lst")
    assert len(str(refused.value)) < 1_000


UNLABELLED = {
    "spaces": "a/1.wav a/2.wav\na/1.wav b/1.wav\n007 NA\n",
    "tabs": "a/1.wav\ta/2.wav\na/1.wav\tb/1.wav\n007\tNA",
    "ragged": "\n# x y z\n a/1.wav \ta/2.wav\r\n\na/1.wav  b/1.wav\n007\tNA \n",
    "header": "test_id\tenroll_id\na/2.wav\ta/1.wav\n# x\nb/1.wav\ta/1.wav\nNA\t007\n",
}


@pytest.mark.parametrize("form", sorted(UNLABELLED))
def test_a_list_without_labels_is_read_where_none_are_needed(tmp_path, form):
    path = tmp_path / "t.txt"
    path.write_bytes(UNLABELLED[form].encode())
    trials = read_trials(path, needs_labels=False)
    assert (trials.enroll_ids.tolist(), trials.test_ids.tolist()) == EXPECTED[:2]
    assert not trials.has_labels
    with pytest.raises(DataError, match=r"t.txt:[123]: expected trials with labels, .* found none"):
        read_trials(path)


@pytest.mark.parametrize("ids", [("a", "b"), ("a b", "c"), ("#a", "b"), ("1", "0")])
def test_lists_without_labels_come_back(tmp_path, ids):
    sides = [np.array([name, "z"], dtype=object) for name in ids]
    trials = Trials.of(*sides, np.full(2, -1, np.int8))
    write_trials(tmp_path / "t.txt", trials)
    assert read_trials(tmp_path / "t.txt", needs_labels=False).equals(trials)
