"""Benchmarks are run by hand, so what they import from svkit is looked up here."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("svkit"):
            continue
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            if not hasattr(module, alias.name):  # a module of a package, then
                importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.e2e
@pytest.mark.slow
def test_the_benchmark_for_gpus_has_a_dry_run(tmp_path: Path) -> None:
    """Nobody who lends a card should meet a mistake in it."""
    record = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--preset", "smoke", "--steps", "1"]
    command += ["--batch-size", "2", "--stages", "extract", "prune", "--no-compile", "--json", str(record)]
    done = subprocess.run(
        command,
        cwd=BENCHMARKS[0].parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(record.read_text())
    assert [row["what"] for row in found["rows"]] == ["extract dense", "extract pruned", "prune"]
    assert all(row["examples/s"] > 0 and row["of peak"] > 0 for row in found["rows"])
    assert found["sanity"]["failed"] == [] and found["sanity"]["embeddings"] > 0.9999
    assert set(found["sanity"]["steps"]) == {"prune"}
