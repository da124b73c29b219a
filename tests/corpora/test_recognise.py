import pytest

from svkit.corpora.recognise import guess_corpus, wrong_tree
from tests import corpus_trees


def folder(root):
    for speaker in "ab":
        corpus_trees.sound(root / speaker / "1.wav")


TREES = {
    "voxceleb": corpus_trees.voxceleb, "voxblink2": corpus_trees.voxblink2, "cnceleb": corpus_trees.cnceleb,
    "librispeech": corpus_trees.librispeech, "musan": corpus_trees.musan, "rirs": corpus_trees.rirs,
    "kaldi": lambda root: corpus_trees.kaldi(root, root / "audio"), "folder": folder,
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("is_above", [False, True])
def test_a_corpus_is_recognised_from_its_directory_and_the_one_above(tmp_path, name, is_above):
    TREES[name](tmp_path / "some" / "where")
    assert guess_corpus(tmp_path / "some" if is_above else tmp_path / "some" / "where") == name


def test_cnceleb2_alone_is_not_voxceleb(tmp_path):
    """Its speakers are called id10000 and so on."""
    corpus_trees.sound(tmp_path / "data" / "id10270" / "movie-01-001.flac")
    assert guess_corpus(tmp_path) == "cnceleb"


def test_nothing_is_guessed_from_nothing(tmp_path):
    assert guess_corpus(tmp_path) is None
    (tmp_path / "letters" / "2020").mkdir(parents=True)
    (tmp_path / "letters" / "2020" / "a.txt").write_text("dear")
    assert guess_corpus(tmp_path) is None
    assert guess_corpus(tmp_path / "missing") is None


def test_the_message_is_one_line_with_expected_found_and_guess(tmp_path):
    corpus_trees.librispeech(tmp_path / "corpus")
    message = str(
        wrong_tree(tmp_path / "corpus", "voxceleb", "no speakers", "expected id10001/VIDEO/00001.wav")
    )
    assert message == (
        f"{tmp_path}/corpus: no speakers; expected id10001/VIDEO/00001.wav; found SPEAKERS.TXT, dev-clean,"
        f" test-clean, test-other, train-clean-100; this looks like librispeech: svkit prepare librispeech"
        f" {tmp_path}/corpus"
    )
    (tmp_path / "bare").mkdir()
    assert str(wrong_tree(tmp_path / "bare", "kaldi", "no wav.scp", "expected wav.scp")).endswith(
        "found an empty directory"
    )
