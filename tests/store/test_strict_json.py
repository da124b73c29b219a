"""A JSON file becomes a dataclass: nothing is coerced, and what does not fit is named as it stands in the file."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from svkit.config.ranges import Range
from svkit.errors import ArtifactError
from svkit.store.strict_json import read_json, typed


@dataclass(frozen=True)
class Point:
    value: float
    name: str | None = None


@dataclass(frozen=True)
class Record:
    count: Annotated[int, Range(ge=1)]
    points: tuple[Point, ...]
    share: Annotated[float, Range(gt=0, lt=1)] = 0.5
    kind: Literal["a", "b"] = "a"
    is_done: bool = False
    others: dict[str, Point] | None = None


GOOD = {"count": 2, "points": [{"value": 1}, {"value": 0.5, "name": "x", "unknown": []}], "later": {"key": 1}}


def test_a_record_without_format_and_unknown_keys(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"format": "svkit-x", "format_version": 1, **GOOD}))
    assert read_json(path, "svkit-x", 1, Record) == Record(2, (Point(1.0), Point(0.5, "x")))
    assert isinstance(read_json(path, "svkit-x", 1, Record).points[0].value, float)
    assert read_json(path, "svkit-x", 1, dict) == GOOD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "2"}, "r.json: count: expected a whole number >= 1, found '2'"),
        ({"count": 2.0}, "count: expected a whole number >= 1, found 2"),
        ({"count": True}, "count: expected a whole number >= 1, found true"),
        ({"count": 0}, "count: expected a whole number >= 1, found 0"),
        ({"share": 80}, "share: expected a number > 0 and < 1, found 80; did you mean 0.8?"),
        ({"kind": "c"}, "kind: expected 'a' or 'b', found 'c'"),
        ({"is_done": 1}, "is_done: expected true or false, found 1"),
        ({"points": {}}, "points: expected a list of an object, found {}"),
        ({"points": [3]}, r"points\[0\]: expected an object, found 3"),
        ({"points": [{"value": 1}, {}]}, r"points\[1\].value: missing"),
        ({"points": [{"value": 1, "name": 3}]}, r"points\[0\].name: expected text or null, found 3"),
        ({"others": {"x y": {"value": None}}}, "others.x y.value: expected a number, found null"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(ArtifactError, match=message):
        typed(tmp_path / "r.json", {**GOOD, **change}, Record)


def test_a_part_has_its_name_in_the_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"r.json: outputs\[1\]: expected text, found 2$"):
        typed(tmp_path / "r.json", ["a", 2], list[str], "outputs")
    with pytest.raises(ArtifactError, match=r"r.json: outputs.x: expected text, found 2$"):
        typed(tmp_path / "r.json", {"x": 2}, dict[str, str], "outputs")
    with pytest.raises(ArtifactError, match=r"r.json: content: expected a list of text, found 2$"):
        typed(tmp_path / "r.json", 2, list[str])
