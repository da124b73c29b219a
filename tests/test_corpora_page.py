"""`docs/corpora.md` names commands and options that exist, and every corpus that there is a command for."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer

from svkit.cli.app import app

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "corpora.md").read_text(encoding="utf-8")
ROOT: Any = typer.main.get_command(app)
COMMAND = re.compile(r"^(svkit .+?)(?:\s+#.*)?$", re.MULTILINE)


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_named_exists_with_its_options() -> None:
    found = 0
    for block in blocks():
        for line in COMMAND.findall(block.replace("\\\n", " ")):
            words = shlex.split(line)[1:]
            command = ROOT
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            assert not hasattr(command, "commands"), line
            options = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}
            unknown = [
                word for word in words if word.startswith("--") and word.partition("=")[0] not in options
            ]
            assert not unknown, line
            found += 1
    assert found >= 12


def test_every_corpus_has_its_section() -> None:
    for name in (
        "voxceleb",
        "voxblink2",
        "cnceleb",
        "librispeech",
        "folder",
        "kaldi",
        "csv",
        "musan",
        "rirs",
    ):
        assert name in ROOT.commands["prepare"].commands
        assert f"\n## `{name}`" in PAGE
        section = PAGE.partition(f"\n## `{name}`")[2].partition("\n## ")[0]
        assert f"svkit prepare {name} " in section, name
        assert "Disk:" in section, name
