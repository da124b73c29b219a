"""docs/compatibility.md lists the formats of the code, and readers treat versions and fields as it says."""

import ast
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from svkit.config.architecture import W2V_BERT_2, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.errors import ArtifactError
from svkit.store.checkpoint import FORMAT, VERSION, read_architecture
from svkit.store.strict_json import read_json

ROOT = Path(__file__).parents[2]
_FORMAT = re.compile(r"svkit(-[a-z]+)+")


def listed() -> dict[str, int]:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    return {
        name: int(version)
        for name, version in re.findall(r"^\| `(svkit-\S+)` \| (\d+) \|", page, re.MULTILINE)
    }


def test_the_table_is_that_of_the_code() -> None:
    pairs: dict[str, int] = {}
    for path in (ROOT / "svkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Assign(
                    value=ast.Tuple(elts=[ast.Constant(value=str(name)), ast.Constant(value=int(version))])
                ):
                    pairs |= {name: version} if _FORMAT.fullmatch(name) else {}
                case ast.Dict(keys=keys, values=values):
                    plain = [
                        key
                        for key, value in zip(keys, values, strict=True)
                        if isinstance(value, ast.Constant)
                    ]
                    named = {key.value for key in plain if isinstance(key, ast.Constant)}
                    assert not named & {"format", "format_version"}, f"{path}: expected FORMAT, VERSION = ..."
    assert pairs == listed()


def test_unknown_fields_are_ignored_but_in_an_architecture(tmp_path: Path) -> None:
    architecture = ModelArchitecture(encoder=W2V_BERT_2, head=HeadConfig())
    path, content = (
        tmp_path / "config.json",
        {"format": FORMAT, "format_version": VERSION, **asdict(architecture)},
    )
    path.write_text(json.dumps(content))
    assert read_architecture(tmp_path) == architecture

    path.write_text(json.dumps({**content, "later": 1}))
    assert read_json(path, FORMAT, VERSION, dict)["later"] == 1
    with pytest.raises(ArtifactError, match=r"config\.json: later: unknown key"):
        read_architecture(tmp_path)

    path.write_text(json.dumps({**content, "format_version": VERSION + 1}))
    with pytest.raises(ArtifactError, match="format_version: expected 1, found 2"):
        read_architecture(tmp_path)
