"""docs/CONTRIBUTING.md and the pages beside it name files and code that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "compatibility.md", "releasing.md")
_DIRECTORIES = ("svkit", "tests", "benchmarks", "docs", ".ci", ".github")


def spans(page: str) -> list[str]:
    """Return what the page sets as code within its sentences."""
    text = re.sub(
        r"^```.*?^```", "", (ROOT / "docs" / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return re.findall(r"`([^`\n]+)`", text)


def definitions(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Return the names that a module or class defines, each with what is defined inside of it."""
    found: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.body
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found |= {name.id: [] for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def exists(dotted: str) -> bool:
    """Whether `svkit.a.b.Name.attribute` is a module, or what one defines."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        if place.is_dir() and length == len(parts):
            return True
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if source.is_file():
            body = ast.parse(source.read_text("utf-8")).body
            for name in parts[length:]:
                if name not in definitions(body):
                    return False
                body = definitions(body)[name]
            return True
    return False


def test_names_that_do_not_exist_are_found() -> None:
    assert exists("svkit.corpora.skeleton.Found.evaluation") and exists("svkit.scoring.material.KINDS")
    assert not exists("svkit.corpora.skeleton.Found.nothing") and not exists("svkit.nowhere.run")


@pytest.mark.parametrize("page", PAGES)
def test_files_and_names_exist(page: str) -> None:
    named = [span for span in spans(page) if re.fullmatch(r"[\w.]+(/[\w.-]+)+/?", span)]
    files = [span for span in named if span.split("/")[0] in _DIRECTORIES]
    dotted = [span for span in spans(page) if re.fullmatch(r"svkit(\.\w+)+", span)]
    lost = [span for span in files if not (ROOT / span).exists()]
    lost += [span for span in dotted if not exists(span)]
    assert lost == []
    assert page != "CONTRIBUTING.md" or (len(files) > 25 and len(dotted) > 20)


def test_members_that_are_named_alone_belong_to_the_class_before_them() -> None:
    """`Plda` has `enroll_factors`: the span before names the class."""
    for owner, members in {
        "svkit.eval.plda.Plda": ("enroll_factors", "test_factors"),
        "svkit.scoring.backend.Backend": ("method",),
        "svkit.eval.results.Rates": ("cllr",),
        "svkit.training.distill.DistillStage": ("read", "make_task", "write"),
        "svkit.training.distill": ("DistillRequest",),
    }.items():
        for member in members:
            assert member in spans("CONTRIBUTING.md") and exists(f"{owner}.{member}"), (owner, member)


def test_the_security_page_names_every_module_that_reaches_the_network() -> None:
    reach = re.compile(r"\b(urlopen|HfApi|hf_hub_download|import fsspec)\b")
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "svkit").rglob("*.py")
        if reach.search(path.read_text("utf-8"))
    }
    assert found == {"svkit.corpora.official", "svkit.models.hub", "svkit.store.remote_file"}
    sent = (
        (ROOT / "docs" / "SECURITY.md")
        .read_text("utf-8")
        .partition("## What svkit sends")[2]
        .partition("\n## ")[0]
    )
    assert all(f"`{module}`" in sent for module in found)
