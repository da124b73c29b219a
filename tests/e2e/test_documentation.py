"""What the documentation shows is what the code does: commands parse, examples run, pages are current."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.config.load import load_recipe
from tests.e2e.conftest import REPOSITORY, speech
from tests.tools.test_calibrate import record
from tests.training_experiment import make_teacher, one_process, write_list

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
RESULTS = REPOSITORY / "docs" / "results"


@pytest.fixture(scope="module")
def commands_page() -> ModuleType:
    """The script that writes docs/commands.md; scripts are no package."""
    spec = importlib.util.spec_from_file_location(
        "commands_page", REPOSITORY / "benchmarks" / "commands_page.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced code blocks of one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def shell_commands(path: Path) -> list[list[str]]:
    """Return the words of every command in the page's `bash` blocks, with torchrun's launcher taken off."""
    commands = []
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["torchrun"]:
                words = ["svkit", *words[words.index("svkit") + 1 :]]
            if words:
                commands.append(words)
    return commands


COMMANDS: Any = typer.main.get_command(app)
DOCS = REPOSITORY.resolve() / "docs"
NOTEBOOK = DOCS / "demo.ipynb"


def notebook_cells() -> list[str]:
    """Return the source of the notebook's cells of code."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")], (
        "clear the outputs"
    )
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


SVKIT_COMMANDS = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}"[:90])
    for path in PAGES
    for words in shell_commands(path)
    if words[0] == "svkit"
] + [
    pytest.param(shlex.split(cell[1:]), id=f"demo.ipynb: {cell[1:]}"[:90])
    for cell in notebook_cells()
    if cell.startswith("!")
]


@pytest.mark.parametrize("words", SVKIT_COMMANDS)
def test_every_command_shown_is_one_that_svkit_has(words: list[str]) -> None:
    """Parsed by the command line itself, and every --set names a key; nothing is run."""
    command = COMMANDS
    name, rest = "svkit", words[1:]
    context = None
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{name} {rest[0]}"
        context = command.context_class(command, info_name=name, parent=context)
        name, command, rest = rest[0], command.commands[rest[0]], rest[1:]
    if hasattr(command, "commands"):
        assert rest[0] in {option for item in command.params for option in item.opts} | {
            "--install-completion"
        }
        return
    overrides = [rest[index + 1] for index, word in enumerate(rest) if word == "--set"]
    command.make_context(name, rest, parent=context)
    sections = [f"dense.{stage}" for stage in ("lora", "head", "joint", "lmft")]
    load_recipe("w2v-bert-2.0", overrides=overrides, sections=[*sections, "prune", "distill", "extract"])


def test_the_cells_of_the_notebook_are_python_or_commands() -> None:
    cells = notebook_cells()
    for number, cell in enumerate(cells):
        if not cell.startswith("!"):
            compile(cell, f"demo.ipynb, cell {number}", "exec")
    assert sum(cell.startswith("!svkit ") for cell in cells) == 3


def test_settings_named_in_the_text_exist() -> None:
    for path in PAGES:
        for override in re.findall(r"`--set ([^`]+?)`", path.read_text(encoding="utf-8")):
            for part in shlex.split(override.replace(" --set ", " ")):
                if "=" in part and part.partition("=")[2] not in ("N", "VALUE"):
                    load_recipe("tiny", overrides=[part], sections=["dense.joint", "dense.lmft"])


def test_ci_runs_the_commands_of_readme_and_quick_start() -> None:
    """`.ci/run` executes them from the wheel in an empty directory."""
    chain = blocks(REPOSITORY / "docs" / "quickstart.md", "bash")[0].split("\n")[:-1]
    ran = [line.strip() for line in (REPOSITORY / ".ci" / "run").read_text().splitlines()]
    first = ran.index(chain[0])
    assert ran[first : first + len(chain)] == chain and len(chain) == 8
    assert "\n".join(chain) in (REPOSITORY / "README.md").read_text()


def test_settings_of_make_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for path in PAGES:
        for words in shell_commands(path):
            if words[0] == "make":
                settings = [word.partition("=")[0] for word in words if "=" in word]
                targets = [word for word in words[1:] if "=" not in word]
                assert all(re.search(rf"^{name} \?=", makefile, re.MULTILINE) for name in settings), words
                assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in targets), words


def anchors(path: Path) -> set[str]:
    """Return the anchors that a page's headings get: lower case, spaces as hyphens, no punctuation."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*PAGES, *sorted(RESULTS.glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lost = []
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", text):
        page = path.parent / target if target else path
        if not page.exists() or (anchor and anchor not in anchors(page)):
            lost.append(f"{target}#{anchor}")
        # `make docs` refuses what the site cannot show: folders, and files outside of docs.
        elif path.name != "README.md" and (page.is_dir() or DOCS not in page.resolve().parents):
            lost.append(f"{target}: not a file in docs; name it in code, `{target}`")
    assert lost == []


def test_the_page_of_commands_is_current(commands_page: ModuleType) -> None:
    assert commands_page.PAGE.read_text(encoding="utf-8") == commands_page.render(), (
        "run python benchmarks/commands_page.py"
    )


def test_the_page_of_commands_has_every_option(commands_page: ModuleType) -> None:
    page = commands_page.render()
    for name, function in commands_page.find_commands(app):
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        shown = CliRunner().invoke(app, [*name.split()[1:], "--help"]).stdout
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown)) - {"--help"} <= set(
            re.findall(r"--[a-z][a-z-]+", section)
        ), function


def test_no_page_names_a_place_of_one_machine() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text and "/root/" not in text and "/work/" not in text, path.name


@pytest.mark.slow
@pytest.mark.e2e
def test_the_examples_of_the_python_page_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_teacher(tmp_path / "model")
    write_list(tmp_path / "list.tsv", ("x", "y"), 2, tmp_path / "audio")
    soundfile.write(tmp_path / "a.wav", speech(1, 0, 1.5), 16_000)
    soundfile.write(tmp_path / "b.wav", np.stack([speech(1, 1, 1.2)] * 2, axis=1), 8_000)
    with one_process():
        arguments = [
            "--model",
            checkpoint,
            "--manifest",
            tmp_path / "list.tsv",
            "--out",
            tmp_path / "embeddings",
        ]
        done = CliRunner().invoke(app, ["extract", "--exp", str(tmp_path), *map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    for person in "uvwxyz":  # names that the teacher was not trained on
        for take in range(2):
            record(tmp_path / "held-out", f"of-{person}", take)
    names: dict[str, Any] = {
        "CHECKPOINT": str(checkpoint), "EMBEDDINGS": str(tmp_path / "embeddings"), "PEOPLE": str(tmp_path / "held-out")
    }  # fmt: skip
    found = blocks(REPOSITORY / "docs" / "python.md", "python")
    assert len(found) >= 5
    for number, block in enumerate(found):
        exec(compile(block, f"python.md, example {number}", "exec"), names)


@pytest.mark.e2e
def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    (block,) = blocks(REPOSITORY / "README.md", "python")
    checkpoint = make_teacher(tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", speech(1, 0, 1.5), 16_000)
    block = block.replace("exp/finetune-pruned/lmft", checkpoint.as_posix())
    block = block.replace('"a.wav"', repr(str(tmp_path / "a.wav")))
    waves = {"waveform_a": speech(1, 0, 1.0), "waveform_b": speech(2, 0, 1.4)}
    exec(compile(block, "README.md", "exec"), names := dict(waves))
    assert names["embeddings"].shape == (2, 8)
