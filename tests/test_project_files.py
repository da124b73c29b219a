"""Files that only others' tools read: what they name exists, and versions are the same wherever they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with what follows them, continued lines joined."""
    text = (ROOT / ".ci" / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def test_the_top_level_holds_what_it_may() -> None:
    """Everything else has a place below: GitHub reads `.github` and `docs`, other tools take a path."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {name.partition("/")[0] for name in done.stdout.splitlines() if (ROOT / name).is_file()}
    asked_for = (
        "pyproject.toml README.md svkit tests data_lists Makefile docs benchmarks .ci .gitignore LICENSE"
    )
    read_there_only = "CITATION.cff .pre-commit-config.yaml .github"
    assert found == set(f"{asked_for} {read_there_only}".split())


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    newest = re.search(r"^## (\S+), (.+)$", (ROOT / "docs" / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == citation["version"] == PROJECT["version"]
    assert newest[2] == "not released yet" or re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2])
    assert citation["license"] == PROJECT["license"]


def test_the_paper_is_cited_as_the_readme_names_it() -> None:
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["references"]
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    authors = ", ".join(author["family-names"] for author in paper["authors"])
    number = paper["identifiers"][0]["value"].removeprefix("arXiv:")
    assert f'"{paper["title"]}" ({authors};' in readme and f"arXiv {number}" in readme
    assert paper["url"].endswith(f"/{number}") and number.startswith(str(paper["year"])[2:])


def test_the_dockerfile_copies_what_there_is_and_runs_svkit() -> None:
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT"}
    assert {name for name, _ in instructions()} == known
    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied)
    # All that setuptools needs to build the package.
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "svkit", "data_lists"} == set(
        copied
    )
    assert dict(instructions())["ENTRYPOINT"] == '["svkit"]' and "svkit" in PROJECT["scripts"]


@pytest.mark.parametrize("index", ["", "somewhere"])
def test_the_dockerfile_installs_with_cuda_or_without(tmp_path: Path, index: str) -> None:
    """Its RUN is run by the shell, with others in the place of pip, rm and mkdir."""
    for name in ("pip", "rm", "mkdir"):
        stand_in = tmp_path / name
        stand_in.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        stand_in.chmod(0o755)
    (script,) = [rest for name, rest in instructions() if name == "RUN"]
    done = subprocess.run(
        ["sh", "-euc", script],
        env={"PATH": f"{tmp_path}:{os.defpath}", "TORCH_INDEX": index},
        capture_output=True,
        text=True,
        check=True,
    )
    pip, *rest = done.stdout.splitlines()
    extras = re.search(r"\.\[(.+)]$", pip)
    assert extras is not None and set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert ("--extra-index-url somewhere" in pip) == bool(index)
    assert rest == ["rm -rf /src/*", "mkdir --mode 1777 /cache"]


def test_workflows_call_what_there_is() -> None:
    called = []
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text("utf-8"))["jobs"].values():
            called += [step["run"] for step in job["steps"] if "run" in step]
    assert called == ["bash .ci/run", 'make dist TAG="$GITHUB_REF_NAME"']
    # Until its last line is read, bash does not see that a quotation mark is missing: by then it has run for minutes.
    script = subprocess.run(
        ["bash", "-n", str(ROOT / ".ci" / "run")], capture_output=True, text=True, check=False
    )
    assert script.returncode == 0, script.stderr
    assert re.search(r"^dist:", MAKEFILE, re.MULTILINE)


def test_ci_tries_pythons_of_the_stated_range() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]
    stated = {item.rpartition(" ")[2] for item in PROJECT["classifiers"] if "Python :: 3." in item}
    tried = set(jobs["run"]["strategy"]["matrix"]["python"])
    assert tried <= stated and {"3.10", "3.13"} <= tried


def test_issue_forms_have_what_github_requires() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [path.stem for path in forms] == ["bug", "config", "wish"]
    for path in forms:
        form = yaml.safe_load(path.read_text("utf-8"))
        if path.stem == "config":
            continue
        assert form["name"] and form["description"]
        ids = [item["id"] for item in form["body"] if item["type"] != "markdown"]
        assert len(ids) == len(set(ids)) and all(item["attributes"] for item in form["body"])


def test_hooks_run_tools_that_the_extra_installs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    static = MAKEFILE.partition("\nstatic:")[2].partition("\n\n")[0]
    for command, *arguments in entries:
        tool = command.removeprefix(".venv/bin/")
        if tool == "python":
            assert (ROOT / arguments[0]).is_file()
        else:
            assert f"$(VENV)/bin/{tool}" in static
    assert {entry[0] for entry in entries} == {
        f".venv/bin/{tool}" for tool in ("ruff", "lint-imports", "python", "mypy")
    }
