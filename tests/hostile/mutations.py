"""Damage done to valid files: bytes, tokens, and the structure of JSON; and the counts of the short and the long form.

Mutants of valid files reach far deeper than random bytes, which fail at the first check.
"""

import copy
import json
import os
import re
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_SOAK = os.environ.get("SVKIT_SOAK") or "0"
SOAK_FACTOR = {"0": 1, "1": 20}.get(_SOAK) or int(_SOAK)
"""`SVKIT_SOAK=1` makes every fuzz test draw 20 times more examples, a higher number as many times more as it says."""

outcomes: Counter[str] = Counter()
"""How many damaged files were taken and how many refused in this run."""

TOKENS = (
    *(
        b"",
        b"0",
        b"-1",
        b"1",
        b"1e999",
        b"nan",
        b"NaN",
        b"inf",
        b"-Infinity",
        b"9" * 400,
        b"0x10",
        b"1.5",
        b"true",
    ),
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\r",
        b"\r\n",
        b"\n",
        b"\t",
        b" ",
        b"\x0b",
        b"\x1b[2J",
    ),
    *(
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b'"',
        b"'",
        b"\\",
        b"\\ud800",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b"=",
        b"#",
    ),
    *(
        b"../../../../etc/passwd",
        b"/etc/passwd",
        b"a" * 5000,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"NA",
        b"00123",
        b"None",
    ),
    *(b"[[", b"]]", b"a.b.c", b"1_000", b"1979-05-27T07:32:00Z", b'"""', b"null", b"target", b"nontarget"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**63, 10**12, 10**400, 1.5, 1e308, -0.0, float("nan"), float("inf")),
    *("", "x", "7", "nan", "\ud800", "a\0b", "a\nb", "../../../../etc/passwd", "/etc/passwd", "x" * 5000),
    *([], {}, [[]], [None], [1, 2], {"": 0}, {"a": {"b": []}}, [10**12] * 2, ["x"], [True], [1.5], [-1]),
)  # fmt: skip


def examples(count: int) -> settings:
    """Return settings for this many examples, or `SOAK_FACTOR` times as many."""
    return settings(
        max_examples=count * SOAK_FACTOR,
        deadline=None,
        database=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw one to four edits of a file's bytes or tokens."""
    for _ in range(draw(st.integers(1, 4))):
        content = draw(st.sampled_from(_EDITS))(draw, content)
    return content


def _flip(draw: st.DrawFn, content: bytes) -> bytes:
    if not content:
        return content
    place = draw(st.integers(0, len(content) - 1))
    return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]


def _span(draw: st.DrawFn, content: bytes, longest: int = 64) -> tuple[int, int]:
    first = draw(st.integers(0, len(content)))
    return first, min(len(content), first + draw(st.integers(0, longest)))


def _delete(draw: st.DrawFn, content: bytes) -> bytes:
    first, last = _span(draw, content)
    return content[:first] + content[last:]


def _repeat(draw: st.DrawFn, content: bytes) -> bytes:
    first, last = _span(draw, content)
    return content[:last] + content[first:last] * draw(st.integers(1, 3)) + content[last:]


def _truncate(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: draw(st.integers(0, len(content)))]


def _insert(draw: st.DrawFn, content: bytes) -> bytes:
    place = draw(st.integers(0, len(content)))
    return content[:place] + draw(st.sampled_from(TOKENS)) + content[place:]


def _replace_token(draw: st.DrawFn, content: bytes) -> bytes:
    found = list(re.finditer(rb'[\w.\-+/]+|"[^"\n]*"', content[:100_000]))
    if not found:
        return content
    chosen = draw(st.sampled_from(found))
    other = draw(st.sampled_from(TOKENS) | st.sampled_from([match[0] for match in found]))
    return content[: chosen.start()] + other + content[chosen.end() :]


def _move_line(draw: st.DrawFn, content: bytes) -> bytes:
    lines = content.split(b"\n")
    first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    lines.insert(second, lines.pop(first))
    return b"\n".join(lines)


def _write_integer(draw: st.DrawFn, content: bytes) -> bytes:
    """Put a number into a binary header."""
    width = draw(st.sampled_from([1, 2, 4, 8]))
    number = draw(
        st.sampled_from([0, 1, 2, 3, 8, 127, 255, 65535, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1])
    )
    place = draw(st.integers(0, min(len(content), 512)))
    packed = (number % (1 << 8 * width)).to_bytes(width, draw(st.sampled_from(["little", "big"])))
    return content[:place] + packed + content[place + width :]


_EDITS = (
    _flip, _delete, _repeat, _truncate, _insert, _insert, _replace_token, _replace_token, _move_line, _write_integer,
)  # fmt: skip


@st.composite
def damaged_json(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw one to three edits of the structure of a JSON document: values replaced, keys gone, added or twice."""
    root = copy.deepcopy(json.loads(content))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(root))
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add", "copy"]))
        if action == "replace":
            parent[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif action == "delete":
            del parent[key]
        elif action == "copy":
            parent[key] = copy.deepcopy(draw(st.sampled_from([one[k] for one, k in places])))
        elif isinstance(parent, dict):
            parent["surprise"] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        else:
            parent.append(copy.deepcopy(draw(st.sampled_from(VALUES))))
    text = json.dumps(root).encode()
    if draw(st.integers(0, 9)) == 0 and text.startswith(b'{"'):  # a key twice
        text = b"{" + text[1:].split(b",", 1)[0].rstrip(b"}") + b"," + text[1:]
    return text


def _places(node: Any) -> Any:
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key])
