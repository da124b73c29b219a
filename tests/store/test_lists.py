from svkit.store.lists import official_lists, read_shipped


def test_the_published_counts():
    lines = {entry.file: entry.lines for entry in official_lists()}
    assert lines == {
        "veri_test2.txt": 37_611, "list_test_all2.txt": 579_818, "list_test_hard2.txt": 550_894,
        "veri_test.txt": 37_720, "list_test_all.txt": 581_480, "list_test_hard.txt": 552_536,
        "trials.lst": 3_484_292,
    }  # fmt: skip


def test_entries_are_unique_and_stated_in_the_readme():
    entries = official_lists()
    readme = read_shipped("README.md").decode()
    for entry in entries:
        assert f"| {entry.title} | `{entry.file}` | {entry.lines:,} | {entry.targets:,} |" in readme
        assert entry.address.startswith("https://") and 0 < entry.targets < entry.lines
    assert len({entry.name for entry in entries}) == len({entry.md5 for entry in entries}) == len(entries)
