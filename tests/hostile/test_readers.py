"""Every reader on damaged files: a value that survives a round trip, or one line that names the file.

Never another exception, a hang, or memory out of proportion. `SVKIT_SOAK=1` draws many more mutants.
"""

import json
import pickle  # noqa: TID251 - the attack
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from svkit.config.load import load_recipe, resolved, to_toml
from svkit.config.schema import LoraConfig
from svkit.corpora.splits import read_speakers
from svkit.errors import ArtifactError, SvkitError, terminal_text
from svkit.eval.summary import summarize
from svkit.models import info
from svkit.models.load import load_model
from svkit.nn import lora
from svkit.nn.speaker import SpeakerNetwork
from svkit.progress import SilentProgress
from svkit.scoring.breakdown import read_sidecar
from svkit.store import checkpoint as store
from svkit.store.calibration import CalibrationRecord, read_calibration, write_calibration
from svkit.store.embeddings import read_embeddings, read_facts, write_embeddings
from svkit.store.enrollment import read_enrollment
from svkit.store.experiment import read_experiment
from svkit.store.gallery import GalleryModel, NewRecording, add_recordings, read_gallery
from svkit.store.manifest import COLUMNS, read_manifest, write_manifest
from svkit.store.metrics import BackendRecord, ListId, Metrics, TrialList, read_metrics, write_metrics
from svkit.store.output import Output
from svkit.store.provenance import read_provenance
from svkit.store.report import read_log
from svkit.store.score_forms import read_form
from svkit.store.scores import read_scores, write_scores
from svkit.store.trials import Trials, read_trials, write_trials
from svkit.store.upstream import read_published
from svkit.tools.convert import run as run_convert
from tests.fake_experiment import finish
from tests.hostile.mutations import VALUES, damaged, damaged_json, examples, outcomes
from tests.training_experiment import TEACHER, make_teacher

LONGEST_CPU_SECONDS = 10.0
GOLDEN = Path(__file__).parents[1] / "golden"
TABLE = pd.DataFrame(
    [
        ("id1/a b.wav", "00123", "id1/a b.wav", "16000", "32000", "id1/a"),
        ("id1/ü.flac", "NA", "/audio/ü.flac", "8000", "1", ""),
        ("x", "007", "y/..x.wav", "44100", "999999", "s"),
    ],
    columns=list(COLUMNS),
)
TRIALS = Trials.of(
    np.array(["a", "a", "b", "c"], object),
    np.array(["b", "c", "c", "a"], object),
    np.array([1, 0, 1, 0], np.int8),
)


def survives(read: Callable[[], Any], *names: str) -> Any:
    """Run a reader; None where it refuses, which it must do in one line with one of these names."""
    start = time.process_time()
    try:
        value = read()
    except SvkitError as error:
        value, message = None, str(error)
        assert any(name in message for name in names), message
        assert "\n" not in message, repr(message)
        assert len(message) < 20_000, len(message)
        assert terminal_text(message).isprintable()
    outcomes["refused" if value is None else "taken"] += 1
    assert time.process_time() - start < LONGEST_CPU_SECONDS
    return value


# ---- Tables ---------------------------------------------------------------------------------------------------------


def again_manifest(value: Any, path: Path) -> None:
    write_manifest(path, value.table)
    expected = value.table.sort_values("utterance_id", kind="stable").reset_index(drop=True)
    pd.testing.assert_frame_equal(read_manifest(path).table[list(expected.columns)], expected)
    assert (value.durations_seconds > 0).all()


def again_trials(value: Any, path: Path) -> None:
    write_trials(path, value)
    other = read_trials(path)
    for name in ("enroll_ids", "test_ids", "labels"):
        np.testing.assert_array_equal(getattr(other, name), getattr(value, name))


def read_blind(path: Path) -> Trials:
    return read_trials(path, needs_labels=False)


def read_theirs(path: Path) -> Any:
    found = read_form(path, TRIALS)
    assert np.isfinite(found.scores).all() and len(found.lines) == len(found.scores)
    return found


def again_blind(value: Trials, path: Path) -> None:
    write_trials(path, value)
    assert read_blind(path).equals(value)


def again_scores(value: Any, path: Path) -> None:
    write_scores(path.parent / "again", value.trials, value.scores, value.llrs)
    other = read_scores(path.parent / "again")
    np.testing.assert_allclose(other.scores, value.scores, rtol=1e-8)


@dataclass(frozen=True)
class TextReader:
    """A reader of a text file, and what it must be able to do with what it takes."""

    file: str
    content: str
    read: Callable[[Path], Any]
    again: Callable[[Any, Path], None] | None = None


SCORES = "enroll_id\ttest_id\tlabel\tscore\tllr\na\tb\t1\t0.5\t2.1\na\tc\t0\t-1e-3\t-0.25\n"
TEXTS = {
    "manifest": TextReader("list.tsv", TABLE.to_csv(sep="\t", index=False), read_manifest, again_manifest),
    "trials, VoxCeleb": TextReader("t.txt", "1 a b\n0 a c\n1 b c\n", read_trials, again_trials),
    "trials, Kaldi": TextReader("t.txt", "a b target\na c nontarget\n", read_trials, again_trials),
    "trials, CN-Celeb": TextReader("t.lst", "a b 1\na c 0\nx y 0\n", read_trials, again_trials),
    "trials, header": TextReader(
        "t.tsv", "enroll_id\ttest_id\tlabel\na a\tb\t1\na a\tc\t0\n", read_trials, again_trials
    ),
    "trials, blind": TextReader("t.txt", "a b\na c\n# x\nb c\n", read_blind, again_blind),
    "trials, blind header": TextReader(
        "t.tsv", "enroll_id\ttest_id\na a\tb\n#a\tc\n", read_blind, again_blind
    ),
    "scores, Kaldi": TextReader("s.txt", "a b 0.5\na c -1e-3\nb c 7\n", read_theirs),
    "scores, WeSpeaker": TextReader("s.txt", "a b 0.5 target\na c 0.1 nontarget\n", read_theirs),
    "scores, in order": TextReader("s.txt", "1\t0.5\n0 -3\n1 0.25\n0 0.1\n", read_theirs),
    "scores, header": TextReader(
        "s.tsv", "enroll_id\ttest_id\tscore\tx\na\tb\t0.5\t\na\tc\t1\ty\n", read_theirs
    ),
    "enrollment, map": TextReader("map", "model-1 a b c\nmodel-2 d\n", read_enrollment),
    "enrollment, table": TextReader("map.tsv", "enroll_id\tutterance_id\nm\ta\nm\tb\n", read_enrollment),
    "scores": TextReader("scores.tsv", SCORES, lambda path: read_scores(path.parent), again_scores),
    "sidecar": TextReader(
        "side.tsv",
        "enroll_id\ttest_id\tkind\na\tb\tx\na\tc\ty\nb\tc\tx\nc\ta\ty\n",
        lambda path: read_sidecar(path, TRIALS),
    ),
    "speakers": TextReader(
        "speakers.txt", "anna\nbert\n", lambda path: read_speakers(path, ["anna", "bert"])
    ),
    "experiment": TextReader(
        "config.toml",
        '# of prepare\npreset = "smoke"\nencoder = "tiny"\nnoise = "data/noise.tsv"\n',
        lambda path: read_experiment(path.parent),
    ),
    "training log": TextReader(
        "train_log.jsonl",
        '{"kind": "train", "step": 1, "loss": 2.5}\n{"kind": "valid", "step": 2, "eer": 0.1}\n',
        lambda path: read_log(path.parent),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
@given(data=st.data())
@examples(60)
def test_damaged_tables(name: str, tmp_path: Path, data: st.DataObject) -> None:
    reader = TEXTS[name]
    path = tmp_path / reader.file
    path.write_bytes(data.draw(damaged(reader.content.encode())))
    value = survives(lambda: reader.read(path), reader.file)
    if value is not None and reader.again is not None:
        reader.again(value, tmp_path / f"again-{reader.file}")


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("parquet") / "list.parquet"
    write_manifest(path, TABLE)
    return path.read_bytes()


@given(data=st.data())
@examples(60)
def test_damaged_parquet(parquet: bytes, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(data.draw(damaged(parquet)))
    survives(lambda: read_manifest(path), path.name)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def make_metrics(root: Path) -> None:
    """Write the metrics of a scored list."""
    rng = np.random.default_rng(0)
    labels = np.tile([1, 0, 0], 20)
    scores = labels + rng.normal(size=60)
    rates = summarize(scores, labels, scores)
    metrics = Metrics(
        name="dense",
        trials=TrialList(name="t", path="t.txt", sha256="aa"),
        backend=BackendRecord(name="cosine"),
        model="dense",
        checkpoint={"path": "exp/finetune/lmft", "sha256": "bb"},
        manifest={"path": "exp/data/eval.tsv", "sha256": "cc"},
        **{field.name: getattr(rates, field.name) for field in fields(rates)},
    )
    write_metrics(root, metrics)


def make_calibration(root: Path) -> None:
    write_calibration(
        root / "calibration.json",
        CalibrationRecord(
            features=("score", "log_norm_low"),
            weights=(2.0, 0.5),
            offset=-1.0,
            prior=0.05,
            backend=BackendRecord(name="cosine", norm="none"),
            checkpoint_sha256="aa",
            trials=ListId(name="held", sha256="bb"),
            num_targets=10,
            num_nontargets=90,
            speakers=("anna", "bert"),
        ),
    )


def calibration_in(root: Path) -> CalibrationRecord:
    return read_calibration(root / "calibration.json")


def again_metrics(value: Any, root: Path) -> None:
    (root / "again").mkdir(exist_ok=True)
    write_metrics(root / "again", value)
    assert read_metrics(root / "again").name == value.name


def again_calibration(value: Any, root: Path) -> None:
    write_calibration(root / "again.json", value)
    assert read_calibration(root / "again.json") == value


def make_provenance(root: Path) -> None:
    finish(root)
    record = json.loads((root / "provenance.json").read_text())
    record["inputs"] = [{"name": "train", "path": "exp/data/train.tsv", "sha256": "aa"}]
    record["outputs"] = [{"name": "model.safetensors", "sha256": "bb", "size": 3, "mtime_ns": 1 << 60}]
    (root / "provenance.json").write_text(json.dumps(record))


def open_run(root: Path) -> bool:
    with Output(root, command="x", config={"a": {"b": 1}}, inputs={}).open():
        return True


def make_resume(root: Path) -> None:
    ones = {"w": torch.ones(2)}
    state = store.ResumeState(
        num_done=7, batch_size=8, task=ones, optimizer=ones, facts={"best": {"step": 7, "eer": 0.5}}
    )
    store.write_resume(root, state)


def make_adapter(root: Path) -> None:
    make_teacher(root)
    encoder, settings = SpeakerNetwork(TEACHER).encoder, LoraConfig(rank=2, alpha=4.0)
    lora.attach(encoder, settings)
    store.write_adapter(root, lora.adapter_config(settings), lora.adapter_state(encoder))


def make_gallery(root: Path) -> None:
    one = NewRecording(embedding=np.ones(4, dtype=np.float32), seconds=1.0, fingerprint=bytes(32))
    add_recordings(root, GalleryModel(path="/model", sha256="aa"), {"anna": {Path("a.wav"): one}})


def make_embeddings(root: Path) -> None:
    facts = {
        "model": "dense",
        "checkpoint": {"path": "x", "sha256": "aa"},
        "manifest": {"path": "y", "sha256": "b"},
    }
    write_embeddings(root, ["a", "b", "ü"], np.eye(3, 4, dtype=np.float32), facts)


def make_model(root: Path) -> None:
    make_teacher(root)


def make_published(root: Path) -> None:
    (root / "encoder.json").write_bytes((GOLDEN / "pruned_config.json").read_bytes())


@dataclass(frozen=True)
class JsonReader:
    """A reader of a directory, and the JSON file in it that is damaged."""

    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]
    again: Callable[[Any, Path], None] | None = None


JSONS = {
    "metrics": JsonReader("metrics.json", make_metrics, read_metrics, again_metrics),
    "calibration": JsonReader(
        "calibration.json", make_calibration, calibration_in, again_calibration
    ),
    "provenance": JsonReader("provenance.json", make_provenance, read_provenance),
    "run": JsonReader("run.json", open_run, open_run),
    "resume": JsonReader("state.json", make_resume, lambda root: store.read_resume(root, 10)),
    "adapter": JsonReader("adapter_config.json", make_adapter, load_model),
    "architecture": JsonReader("config.json", make_model, load_model),
    "architecture, counted": JsonReader("config.json", make_model, info.run),
    "published configuration": JsonReader("encoder.json", make_published, lambda root: info.run(root / "encoder.json")),
    "embeddings": JsonReader("embeddings.json", make_embeddings, read_embeddings),
    "gallery": JsonReader("gallery.json", make_gallery, read_gallery),
    "embedding facts": JsonReader("embeddings.json", make_embeddings, read_facts),
}  # fmt: skip


@pytest.mark.parametrize("name", JSONS)
@given(data=st.data())
@examples(60)
def test_damaged_json(name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    reader, (path, root, valid) = JSONS[name], made(name, tmp_path_factory)
    path.write_bytes(data.draw(damaged_json(valid) | damaged(valid)))
    value = survives(lambda: reader.read(root), path.name, str(root))
    if isinstance(value, dict):
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    if value is not None and reader.again is not None:
        reader.again(value, root)


_MADE: dict[str, tuple[Path, Path, bytes]] = {}


def made(name: str, factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """Return the file of a case, its directory and its valid content; made once, and taken before it is damaged."""
    if name not in _MADE:
        root = factory.mktemp("json")
        JSONS[name].make(root)
        (path,) = root.rglob(JSONS[name].file)
        assert JSONS[name].read(root) is not None
        _MADE[name] = path, root, path.read_bytes()
    return _MADE[name]


# ---- Recipes --------------------------------------------------------------------------------------------------------

RECIPE = to_toml(resolved(load_recipe("smoke")))


@given(data=st.data())
@examples(60)
def test_damaged_recipes(data: st.DataObject) -> None:
    try:
        text = data.draw(damaged(RECIPE.encode())).decode("utf-8")
    except UnicodeDecodeError:
        return
    recipe = survives(lambda: load_recipe("smoke", text), "")
    if recipe is not None:
        assert load_recipe("smoke", to_toml(resolved(recipe))) == recipe


@given(
    key=st.sampled_from(
        ["joint.optim.lr", "optim.lr", "epochs", "prune.sparsity", "seed", "like", "a.b", "dense.like"]
    ),
    value=st.sampled_from(
        ["nan", "inf", "-inf", "1e999", "9" * 5000, "[" * 3000, "'", "{a=1}", "dense.joint", "\x00"]
    )
    | st.text(max_size=20),
)
@examples(100)
def test_hostile_overrides(key: str, value: str) -> None:
    survives(lambda: load_recipe("smoke", None, [f"{key}={value}"], ["dense.joint"]), "")


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        ".".join("a" * 50_000) + " = 1",
        "[dense]\n" + "".join(f"[dense.{'.'.join('x' * n)}]\n" for n in range(1, 1500, 300)),
        "x = " + "{a = " * 20_000,
        "like = 'dense'\n[dense]\nlike = 'dense.joint'\n[dense.joint]\nlike = 'dense'",
        "seed = nan",
        "[dense.joint.optim]\nlr = nan",
        "[dense.joint.optim]\nlr = inf",
        f"[dense.joint.optim]\nlr = {'9' * 400}",
        "[prune]\nsparsity = nan",
        "[encoder_overrides]\nhidden_size = nan",
    ],
)
def test_recipes_that_nothing_should_swallow(text: str) -> None:
    with pytest.raises(SvkitError) as refused:
        load_recipe("smoke", text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 2000


# ---- Tensors --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("tensors") / "model")


@given(data=st.data())
@examples(60)
def test_damaged_safetensors_of_a_model(checkpoint: Path, data: st.DataObject) -> None:
    """Bytes of header and numbers; a number more or less cannot be seen, a name, shape or type must be."""
    path = checkpoint / store.MODEL_NAME
    valid = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(valid) | damaged_header(valid)))
        survives(lambda: load_model(checkpoint), path.name)
        survives(lambda: info.run(checkpoint), path.name)
    finally:
        path.write_bytes(valid)


@st.composite
def damaged_header(draw: st.DrawFn, content: bytes) -> bytes:
    """Change the JSON header of a safetensors file and keep its length field true."""
    length = int.from_bytes(content[:8], "little")
    header = draw(damaged_json(content[8 : 8 + length]))
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@given(data=st.data())
@examples(40)
def test_damaged_safetensors_of_embeddings(tmp_path: Path, data: st.DataObject) -> None:
    make_embeddings(tmp_path)
    path = tmp_path / "embeddings.safetensors"
    valid = path.read_bytes()
    path.write_bytes(data.draw(damaged(valid) | damaged_header(valid)))
    survives(lambda: read_embeddings(tmp_path), tmp_path.name)


@given(data=st.data())
@examples(40)
def test_damaged_classifier(checkpoint: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([store.CLASSIFIER_NAME, store.SPEAKERS_NAME]))
    path = checkpoint / name
    valid = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(valid)))
        survives(lambda: store.read_classifier(checkpoint), store.CLASSIFIER_NAME, store.SPEAKERS_NAME)
    finally:
        path.write_bytes(valid)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("head.embedding.weight"), "missing head.embedding.weight"),
        (lambda t: t.update(surprise=torch.ones(1)), "unexpected surprise"),
        (
            lambda t: t.update({"head.embedding.bias": torch.ones(3)}),
            r"head.embedding.bias is \[3\], expected \[8\]",
        ),
        (
            lambda t: t.update({"head.embedding.bias": torch.ones(8, dtype=torch.int64)}),
            "head.embedding.bias is int64, expected float32",
        ),
    ],
)
def test_other_tensors_than_the_configuration_says(tmp_path: Path, change: Any, words: str) -> None:
    directory = make_teacher(tmp_path / "model")
    tensors = SpeakerNetwork(TEACHER).state_dict()
    change(tensors)
    save_file(tensors, directory / store.MODEL_NAME)
    with pytest.raises(ArtifactError, match=rf"model\.safetensors: .*{words}"):
        load_model(directory)


@pytest.mark.parametrize("name", [store.CONFIG_NAME, "provenance.json"])
@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_format_version_is_refused_by_name(tmp_path: Path, name: str, version: Any) -> None:
    directory = make_teacher(tmp_path / "model")
    record = json.loads((directory / name).read_text())
    (directory / name).write_text(json.dumps({**record, "format_version": version}))
    with pytest.raises(
        ArtifactError, match=rf"{name}: .*version.*expected 1, found|{name}: .*version 1, found"
    ):
        load_model(directory)
        read_provenance(directory)


# ---- Pickles --------------------------------------------------------------------------------------------------------


class Attack:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def attacked(tmp_path: Path, read: Callable[[Path], Any], path: Path) -> None:
    with pytest.raises(SvkitError, match=path.name):
        read(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_pth_is_refused_and_not_run(tmp_path: Path, nested: bool) -> None:
    attack: Any = Attack(tmp_path / "owned")
    content = {"modules": {"spk_model": {"front.encoder.x": attack}}} if nested else attack
    torch.save(content, tmp_path / "zip.pth")
    torch.save(content, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
    for name in ("zip.pth", "legacy.pth", "plain.pth"):
        attacked(tmp_path, lambda path: read_published(path, GOLDEN / "plain_config.json"), tmp_path / name)


@pytest.mark.parametrize("name", ["embeddings.safetensors", "ids.tsv", "embeddings.json"])
def test_pickles_and_object_arrays_under_our_names_are_not_run(tmp_path: Path, name: str) -> None:
    make_embeddings(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Attack(tmp_path / "owned")))
    attacked(tmp_path, lambda path: read_embeddings(path.parent), tmp_path / name)
    with (tmp_path / name).open("wb") as file:
        np.save(file, np.array([Attack(tmp_path / "owned")], dtype=object), allow_pickle=True)
    attacked(tmp_path, lambda path: read_embeddings(path.parent), tmp_path / name)


def test_nothing_reads_numpy_files() -> None:
    """There is no reader that an object array could reach, nor any other of pickles."""
    import svkit

    for path in Path(svkit.__file__).parent.rglob("*.py"):
        text = path.read_text()
        for word in (
            "np.load(",
            "pickle.load",
            "joblib",
            "read_pickle",
            "weights_only=False",
            "eval(",
            "exec(",
        ):
            assert word not in text.replace(".eval()", "").replace("_eval(", ""), f"{path}: {word}"


@given(data=st.data())
@examples(15)
def test_damaged_pth(tmp_path: Path, data: st.DataObject) -> None:
    path, valid = tmp_path / "model.pth", (GOLDEN / "plain.pth").read_bytes()
    path.write_bytes(data.draw(damaged(valid)))
    survives(lambda: read_published(path, GOLDEN / "plain_config.json"), "model.pth", "plain_config.json")


@given(value=st.sampled_from(VALUES), place=st.integers(0, 3))
@examples(40)
def test_pth_of_other_content(tmp_path: Path, value: Any, place: int) -> None:
    """Anything a safe pickle can hold, at every level of the published layout."""
    content: Any = value
    for key in ("weight", "spk_model", "modules")[3 - place :]:
        content = {key: content}
    path = tmp_path / "model.pth"
    torch.save(content, path)
    survives(lambda: read_published(path, GOLDEN / "plain_config.json"), "model.pth")


def test_a_published_configuration_that_does_not_fit_its_weights(tmp_path: Path) -> None:
    config = json.loads((GOLDEN / "plain_config.json").read_text())
    for changes in ({"hidden_size": 10**6, "num_attention_heads": 10}, {"num_hidden_layers": 10**9}):
        (tmp_path / "c.json").write_text(json.dumps(config | changes))
        with pytest.raises(SvkitError, match=r"c\.json|plain\.pth"):
            run_convert(GOLDEN / "plain.pth", tmp_path / "out", tmp_path / "c.json", False, SilentProgress())
