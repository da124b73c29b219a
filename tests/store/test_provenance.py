import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.store import provenance
from svkit.store.output import Output
from svkit.store.provenance import read_provenance, sha256_artifact


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "train.tsv").write_text("x")
    return {"train": tmp_path / "train.tsv"}


def take(tmp_path, inputs, *, overwrite=False, **config):
    return Output(
        tmp_path / "out", command="prune", config={"seed": 3, **config}, inputs=inputs, overwrite=overwrite
    ).open()


def test_finished_output_is_refused_then_replaced(tmp_path, inputs):
    with take(tmp_path, inputs) as output:
        assert not output.is_resumed
        (output.path / "resume").mkdir()
        (output.path / "model.safetensors").write_text("1")
        output.finish({"device": "cuda"})
    record = read_provenance(tmp_path / "out")
    assert (record["command"], record["seed"], record["device"]) == ("prune", 3, "cuda")
    assert record["inputs"] == [
        {
            "name": "train",
            "path": str(tmp_path / "train.tsv"),
            "sha256": provenance.sha256_file(inputs["train"]),
        }
    ]
    assert record["libraries"]["torch"] and record["svkit"]
    with pytest.raises(ConfigError, match="is finished; use --overwrite"):
        take(tmp_path, inputs)
    assert (tmp_path / "out" / "model.safetensors").exists()
    with take(tmp_path, inputs, overwrite=True, lr=1) as output:
        assert not output.is_resumed
        assert sorted(path.name for path in output.path.iterdir()) == [".lock", "run.json"]


@pytest.mark.parametrize("name", ["out", "out/model.safetensors", "link"])
def test_an_output_is_not_made_where_its_inputs_are(tmp_path, inputs, name):
    with take(tmp_path, inputs) as output:
        (output.path / "model.safetensors").write_text("1")
        output.finish()
    (tmp_path / "link").symlink_to("out")
    for overwrite in (True, False):
        with pytest.raises(
            ConfigError, match=f"{name}: is an input of this command; write to another directory"
        ):
            take(tmp_path, {"checkpoint": tmp_path / name}, overwrite=overwrite)
    assert (tmp_path / "out" / "model.safetensors").read_text() == "1"


def test_unfinished_output_of_the_same_run_is_resumed(tmp_path, inputs):
    with take(tmp_path, inputs, widths=(1, 2)) as first:
        (first.path / "train_log.jsonl").write_text("1")
    with take(tmp_path, inputs, widths=(1, 2)) as second:
        assert second.is_resumed and (second.path / "train_log.jsonl").exists()
        assert second.started == first.started


def test_unfinished_output_of_another_run_names_the_difference(tmp_path, inputs):
    take(tmp_path, inputs, optim={"lr": 1, "clip": 2}).close()
    with pytest.raises(ArtifactError, match=r"another setting \(optim.clip: 2 then, 3 now\)"):
        take(tmp_path, inputs, optim={"lr": 1, "clip": 3})
    with pytest.raises(ArtifactError, match=r"made with optim.clip 2, which is not set now"):
        take(tmp_path, inputs, optim={"lr": 1})
    inputs["train"].write_text("y")
    with pytest.raises(
        ArtifactError,
        match=r"made with train (.*), which has changed since; restore it to continue, or use --overwrite",
    ):
        take(tmp_path, inputs, optim={"lr": 1, "clip": 2})
    with pytest.raises(ArtifactError, match="another command"):
        Output(tmp_path / "out", command="distill", config={}, inputs=inputs).open()


def test_files_of_others_are_never_deleted(tmp_path, inputs):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ArtifactError, match=r"files that svkit did not write \(thesis.tex\)"):
            take(tmp_path, inputs, overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_links_are_removed_not_followed(tmp_path, inputs):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a").write_text("")
    with take(tmp_path, inputs) as output:
        (output.path / "tensorboard").symlink_to(tmp_path / "precious")
        output.finish()
    take(tmp_path, inputs, overwrite=True).close()
    assert (tmp_path / "precious" / "a").exists() and not (tmp_path / "out" / "tensorboard").exists()


def test_finished_output_of_another_run_names_the_difference(tmp_path, inputs):
    with take(tmp_path, inputs, lr=1) as output:
        output.finish()
    with pytest.raises(ConfigError, match=r"out is finished; use --overwrite"):
        take(tmp_path, inputs, lr=1)
    with pytest.raises(
        ConfigError,
        match=r"and was made with another setting \(lr: 1 then, 2 now\); give .*, or use --overwrite",
    ):
        take(tmp_path, inputs, lr=2)
    inputs["train"].write_text("others")
    with pytest.raises(
        ConfigError, match=r"and was made with train (.*), which has changed since; use --overwrite"
    ):
        take(tmp_path, inputs, lr=1)


def test_an_unfinished_run_is_resumed_by_the_same_command_with_overwrite(tmp_path, inputs):
    with take(tmp_path, inputs, overwrite=True) as first:
        (first.path / "train_log.jsonl").write_text("1")
    with take(tmp_path, inputs, overwrite=True) as second:
        assert second.is_resumed and (second.path / "train_log.jsonl").exists()
    with take(tmp_path, inputs, overwrite=True, lr=1) as other:
        assert not other.is_resumed and not (other.path / "train_log.jsonl").exists()
    (tmp_path / "out" / "run.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"run.json: not a JSON file"):
        take(tmp_path, inputs, lr=1)
    assert not take(tmp_path, inputs, overwrite=True, lr=1).is_resumed


def test_an_interrupted_emptying_looks_neither_finished_nor_like_a_run_to_resume(
    tmp_path, inputs, monkeypatch
):
    with take(tmp_path, inputs) as output:
        for name in ("adapter", "best", "last"):
            (output.path / name).mkdir()
        output.finish()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            take(tmp_path, inputs, overwrite=True)
    assert (tmp_path / "out" / "best").exists() and not provenance.is_finished(tmp_path / "out")
    with pytest.raises(ArtifactError, match="unfinished, made with another command"):
        take(tmp_path, inputs)
    with take(tmp_path, inputs, overwrite=True) as output:
        assert not output.is_resumed
        assert sorted(path.name for path in output.path.iterdir()) == [".lock", "run.json"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path, inputs):
    with take(tmp_path, inputs) as output:
        (output.path / "resume").mkdir()
        for name in (
            ".svkit-tmp-1a_b2c3d.safetensors",
            "resume/.svkit-tmp-1a_b2c3d",
            "resume/kept.safetensors",
        ):
            (output.path / name).write_text("half")
    with take(tmp_path, inputs) as output:
        assert output.is_resumed
        assert [path.name for path in output.path.rglob("*") if path.is_file() and path.name != ".lock"] == [
            "run.json", "kept.safetensors",
        ]  # fmt: skip


def test_what_is_not_svkits_is_not_removed_where_a_run_goes_on(tmp_path, inputs):
    """Other programs have temporary files too; only those of svkit's own making go, where it makes them."""
    out = tmp_path / "out"
    with take(tmp_path, inputs):
        for name in (
            ".git/.tmp-1",
            ".git/.svkit-tmp-1a_b2c3d",
            ".tmp-1a2b3c4d",
            ".svkit-tmp-mine",
            "src/.svkit-tmp-1a_b2c3d",
        ):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text("mine")
        (out / ".tmp-x").mkdir()
        (out / ".svkit-tmp-12345678").mkdir()
        (out / ".svkit-tmp-87654321").symlink_to(out / "src")
    before = sorted(out.rglob("*"))
    with take(tmp_path, inputs) as output:
        assert output.is_resumed and sorted(out.rglob("*")) == before


def test_a_forked_child_does_not_keep_the_lock(tmp_path, inputs):
    """Workers of a loader outlive a killed process by seconds; the same command may start at once."""
    output = take(tmp_path, inputs)
    started, ended = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(started[1], b".")
        os.close(ended[1])
        os.read(ended[0], 1)
        os._exit(0)
    try:
        os.read(started[0], 1)
        with pytest.raises(ArtifactError, match="another svkit command"):
            take(tmp_path, inputs)
        output.close()
        take(tmp_path, inputs).close()
    finally:
        for handle in (*started, *ended):
            os.close(handle)
        os.waitpid(child, 0)


def test_a_second_process_is_told(tmp_path, inputs):
    code = (
        "import sys; from pathlib import Path; from svkit.store.output import Output\n"
        "Output(Path(sys.argv[1]), command='prune', config={}, inputs={}, overwrite=True).open()"
    )
    with take(tmp_path, inputs):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True)
        assert "another svkit command is writing here" in done.stderr
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_failed_opening_releases_the_lock(tmp_path, inputs):
    take(tmp_path, inputs, a=1).close()
    with pytest.raises(ArtifactError, match=r"another setting \(a:"):
        take(tmp_path, inputs, a=2)
    assert take(tmp_path, inputs, a=1).is_resumed


def test_missing_inputs_have_the_exit_code_of_their_kind(tmp_path):
    with pytest.raises(DataError, match="no.tsv: does not exist"):
        take(tmp_path, {"train": tmp_path / "no.tsv"})
    with pytest.raises(ArtifactError, match="joint: does not exist"):
        take(tmp_path, {"teacher": tmp_path / "joint"})
    assert not (tmp_path / "out").exists()


def test_an_artifact_is_its_content(tmp_path):
    def write(name, files):
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return sha256_artifact(tmp_path / name)

    content = {"config.json": "{}", "adapter/w.safetensors": "abc"}
    around = {
        "provenance.json": "1", "run.json": "1", "train_log.jsonl": "1", "resume/a": "1",
        "tensorboard/a": "1",
        "checkpoints/a": "1", "calibration.json": "1", "README.md": "1", ".lock": "",
    }  # fmt: skip
    digest = write("a", content)
    assert write("b", {**content, **around}) == digest
    assert write("c", {**content, "model.safetensors": ""}) != digest
    assert write("d", {"config.json": "{}", "adapter/x.safetensors": "abc"}) != digest
    assert write("e", {"config.json": "{}", "adapter/w.safetensors": "abd"}) != digest
    assert sha256_artifact(tmp_path / "a" / "config.json") == provenance.sha256_file(
        tmp_path / "a" / "config.json"
    )


def test_unfinished_output_has_no_provenance(tmp_path, inputs):
    take(tmp_path, inputs).close()
    with pytest.raises(ArtifactError, match="not finished"):
        read_provenance(tmp_path / "out")
    assert not provenance.is_finished(tmp_path / "out")


def test_configuration_becomes_plain_json():
    @dataclass
    class Inner:
        path: Path
        widths: tuple[int, ...]

    plain = provenance.plain({"a": Inner(Path("x/y"), (1, 2)), "b": {3, 1}, "c": None})
    assert json.loads(json.dumps(plain)) == {"a": {"path": "x/y", "widths": [1, 2]}, "b": [1, 3], "c": None}


def test_links_that_lead_back_up_are_named_and_not_followed(tmp_path: Path) -> None:
    """Three such links would be walked in 3 ** 40 orders."""
    (tmp_path / "model" / "adapter").mkdir(parents=True)
    (tmp_path / "model" / "weights").write_text("w")
    (tmp_path / "elsewhere").symlink_to("model")
    assert sha256_artifact(tmp_path / "elsewhere") == sha256_artifact(tmp_path / "model")
    for name in "abc":
        (tmp_path / "model" / "adapter" / name).symlink_to("..")
    with pytest.raises(ArtifactError, match=r"adapter/[abc]: a link that leads back to .*/model; remove it"):
        sha256_artifact(tmp_path / "elsewhere")


# ---- Finished outputs are what they were ---------------------------------------------------------------------------


def finished(tmp_path, inputs):
    """A finished output of several files, and what appears beside them later."""
    with take(tmp_path, inputs) as output:
        for name in (
            "model.safetensors",
            "config.json",
            "last/model.safetensors",
            "train_log.jsonl",
            "tensorboard/e",
        ):
            (output.path / name).parent.mkdir(exist_ok=True)
            (output.path / name).write_text(f"0123456789 {name}")
        output.finish()
    for name in ("calibration.json", "README.md", "resume/left"):
        (output.path / name).parent.mkdir(exist_ok=True)
        (output.path / name).write_text("later")
    return output.path


def change(path, *, keeps_time):
    """As many other bytes in place."""
    status = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns if keeps_time else status.st_mtime_ns + 1))


def test_provenance_has_the_hash_of_every_file_of_the_output(tmp_path, inputs):
    out = finished(tmp_path, inputs)
    outputs = read_provenance(out)["outputs"]
    assert [entry["name"] for entry in outputs] == [
        "config.json",
        "last/model.safetensors",
        "model.safetensors",
    ]
    for entry in outputs:
        path = out / entry["name"]
        assert entry["sha256"] == provenance.sha256_file(path)
        assert (entry["size"], entry["mtime_ns"]) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize("keeps_time", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "last/model.safetensors"])
def test_a_changed_file_is_refused_as_input_of_another_output(tmp_path, inputs, name, keeps_time):
    out = finished(tmp_path, inputs)
    before = provenance.sha256_input(out)
    was = provenance.sha256_file(out / name)
    change(out / name, keeps_time=keeps_time)
    now = provenance.sha256_file(out / name)
    message = (
        rf"{out / name}: expected sha256 {was[:12]}, found {now[:12]}: .* since it was finished; .*--overwr"
    )
    for path in dict.fromkeys((out, (out / name).parent)):
        with pytest.raises(ArtifactError, match=message):
            Output(tmp_path / "next", command="distill", config={}, inputs={"checkpoint": path}).open()
    assert not (tmp_path / "next").exists()
    # Without hashes, as earlier versions recorded outputs, it is hashed as it is.
    record = json.loads((out / "provenance.json").read_text())
    del record["outputs"]
    (out / "provenance.json").write_text(json.dumps(record))
    after = provenance.sha256_input(out)
    assert after != before and provenance.is_finished(out)


def test_equal_size_and_time_are_taken_as_equal_and_a_touched_file_is_hashed(tmp_path, inputs, monkeypatch):
    out, hashed = finished(tmp_path, inputs), []
    original = provenance.sha256_file
    monkeypatch.setattr(provenance, "sha256_file", lambda path: hashed.append(path.name) or original(path))
    provenance.check_outputs(out, "model.safetensors", "config.json", "not-there.json", "README.md")
    assert hashed == []
    os.utime(out / "config.json", ns=(1, 1))  # as a copy, or touch
    provenance.check_outputs(out, "model.safetensors", "config.json")
    assert hashed == ["config.json"]
    change(out / "model.safetensors", keeps_time=True)
    provenance.check_outputs(out, "model.safetensors")  # cheap, so this it cannot see
    with pytest.raises(ArtifactError, match="model.safetensors: expected sha256"):
        provenance.check_outputs(out, "model.safetensors", in_full=True)
    change(out / "config.json", keeps_time=False)
    with pytest.raises(ArtifactError, match="config.json: expected sha256"):
        provenance.check_outputs(out, "config.json")


def test_an_edited_list_is_another_input_and_no_damage(tmp_path, inputs):
    """People take rows out of manifests; a run from the edited list has its hash."""
    files = [tmp_path / "train.tsv"]
    Output(tmp_path, command="prepare", config={}, inputs={}, kind="part").finish(files=files)
    files[0].write_text("edited")
    assert provenance.sha256_input(files[0]) == provenance.sha256_file(files[0])


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "thesis/a.tex", "model2.safetensors"])
def test_files_of_the_user_in_an_output_are_not_removed(tmp_path, inputs, name, is_old):
    out = finished(tmp_path, inputs)
    if is_old:
        record = json.loads((out / "provenance.json").read_text())
        (out / "provenance.json").write_text(json.dumps({**record, "outputs": []}))
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match=rf"did not write \({name.split('/')[0]}.*; move them elsewhere"):
        take(tmp_path, inputs, overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / Path(name).parts[0]).rename(tmp_path / "mine")
    with take(tmp_path, inputs, overwrite=True) as output:
        assert not output.is_resumed
        assert {path.name for path in output.path.iterdir()} == {".lock", "run.json", "README.md"}


def test_a_file_of_the_user_inside_a_directory_of_ours_is_not_removed(tmp_path, inputs):
    out = finished(tmp_path, inputs)
    (out / "last" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"did not write \(last/notes.txt\)"):
        take(tmp_path, inputs, overwrite=True)


def test_a_file_put_there_while_the_run_went_on_is_not_taken_for_an_output(tmp_path, inputs):
    with take(tmp_path, inputs) as output:
        (output.path / "model.safetensors").write_text("ours")
        (output.path / "notes.txt").write_text("mine")
        output.finish()
    assert [entry["name"] for entry in read_provenance(tmp_path / "out")["outputs"]] == ["model.safetensors"]
    with pytest.raises(ArtifactError, match="notes.txt"):
        take(tmp_path, inputs, overwrite=True)
