"""One table in the forms that other programs read."""

import csv
import io

from svkit.reports.tables import Table, file_names, shown_hours, to_csv, to_latex, to_terminal

ODD = 'a_b & 50 % $x$ #1 {c} ~ ^ \\ < > | "q"\x1b[31m'


def test_a_duration_has_the_unit_that_it_can_be_read_in():
    seconds = (0.5, 59.0, 90.0, 3599.0, 3600.0, 4_449_600.0)
    shown = ["0.5 s", "59.0 s", "1.5 min", "60.0 min", "1.00 h", "1,236.00 h"]
    assert [shown_hours(one / 3600) for one in seconds] == shown


def test_csv_has_numbers_where_tables_have_sentences():
    table = Table(
        headings=["name", "trials, n", "EER, % (95 %)", "misses, %", "from"],
        rows=[
            ["1,234", "1,234,567", "3.10 (2.00 to 4.50)", "0 (none of 2,189)", "score 0.1"],
            ["-", "12", "-", "1.5 (-1.0 to 2)", "-"],
        ],
    )
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert rows == [
        ["name", "trials, n", "EER, %", "EER, %, low (95 %)", "EER, %, high (95 %)",
         "misses, %", "misses, %, low (95 %)", "misses, %, high (95 %)", "from"],
        ["1,234", "1234567", "3.10", "2.00", "4.50", "0", "", "", "score 0.1"],
        ["-", "12", "", "", "", "1.5", "-1.0", "2", ""],
    ]  # fmt: skip


def test_latex_shows_any_name_as_it_is():
    text = to_latex(Table(headings=["name", "n"], rows=[[ODD, "-"]]))
    assert text.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"name & n \\",
        r"\midrule",
        r"a\_b \& 50 \% \$x\$ \#1 \{c\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}"
        r" \textgreater{} \textbar{} \textquotedbl{}q\textquotedbl{}\textbackslash{}x1b[31m & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert list(csv.reader(io.StringIO(to_csv(Table(headings=["name"], rows=[[ODD]])))))[1] == [
        ODD.replace("\x1b", r"\x1b")
    ]


def test_a_narrow_terminal_breaks_no_word():
    row = ["finetune-pruned/lmft", "14.81 (6.92 to 25.93)", "0.000545"]
    table = Table(title="Models", headings=["model", "EER, % (95 %)", "GMACs, 1 s"], rows=[row])
    wide, narrow = to_terminal(table, 80), to_terminal(table, 28)
    assert wide.splitlines()[-1].split() == " ".join(row).split()
    assert narrow.splitlines() == [
        "Models", "", "model: finetune-pruned/lmft", "  EER, % (95 %): 14.81 (6.92", "    to 25.93)",
        "  GMACs, 1 s: 0.000545",
    ]  # fmt: skip
    assert set(narrow.split()) >= set(" ".join(row).split())


def test_names_of_files_are_different_and_plain():
    assert file_names(["a b", "a/b", "../x", "a-b"]) == ["a-b", "a-b-2", "..-x", "a-b-2-2"]
