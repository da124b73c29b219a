"""Find the rule by which ids that differ in notation name the same utterances; `--match-ids` applies it."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from svkit.errors import DataError, first_five

_STEPS: Mapping[str, Callable[[str], str]] = {
    "without quotes": lambda name: name.strip("\"'"),
    "with / for \\": lambda name: name.replace("\\", "/"),
    "without ./": lambda name: (
        re.sub(r"(^|/)(?:\.?/)+", r"\1", name) if "./" in name or "//" in name else name
    ),
    "in lower case": str.lower,
    "without the extension": lambda name: re.sub(r"\.[A-Za-z][A-Za-z0-9]{1,4}$", "", name),
}
_NOTATION = tuple(_STEPS)[:4]
"""Steps that never merge two different ids; extensions and prefixes may tell two recordings apart."""
_PREFIX = "without a prefix"
_PROBES = 5
"""Number of ids that are searched for a prefix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """The ids that a rule matches."""

    names: Mapping[str, str]
    """For each id that matches exactly one known id, that id."""
    ambiguous: Mapping[str, Sequence[str]]
    """Ids that match several known ids, or one that another id matches too."""
    num_missing: int
    rule: str

    def offer(self) -> str:
        """Say how many ids the rule would match."""
        words = f"{len(self.names):,} of {self.num_missing:,} match {self.rule}"
        if self.names:
            words += f", such as {self._example()}: `--match-ids` applies that rule"
        return f"{words}; {self._refusal()}" if self.ambiguous else words

    def take(self, source: str) -> str:
        """Return the record of the rule that is applied (DataError: some ids are ambiguous)."""
        if self.ambiguous:
            raise DataError(f"{source}: --match-ids: {self.rule}, {self._refusal()}")
        return f"{source}: {len(self.names):,} ids were matched {self.rule} (--match-ids), such as {self._example()}"

    def _example(self) -> str:
        return " -> ".join(next(iter(self.names.items())))

    def _refusal(self) -> str:
        found = [f"{name} ({first_five(others)})" for name, others in self.ambiguous.items()]
        return f"{len(found):,} are ambiguous: {first_five(found)}"


def find_matching(ids: Iterable[str], known: Iterable[str]) -> Matching | None:
    """Find the shortest of the rules that match the most ids, among the ids that are not known as they are.

    A rule compares both sides without quotes, `./`, the extension or a common leading prefix, with slashes for
    backslashes, or in lower case. Only the steps that are needed are kept; a prefix may be on either side.

    Returns:
        None if all ids are known, or nothing matches.
    """
    known, ids = list(known), list(dict.fromkeys(ids))  # a recording may be on both sides of trials
    exact = set(known).intersection(ids)
    missing = [name for name in ids if name not in exact]
    if not missing:
        return None
    # Start with all steps, then drop every one whose removal loses no match and makes no further id ambiguous.
    steps = [*_STEPS, _PREFIX]
    best = _match(missing, exact, known, steps)
    # The steps that may merge different ids come last in the list, so they are the first to go.
    for step in reversed(list(steps)):
        others = [one for one in steps if one != step]
        found = _match(missing, exact, known, others)
        if _hits(found) >= _hits(best) and len(found.ambiguous) <= len(best.ambiguous):
            steps, best = others, found
    return best if _hits(best) else None


def _hits(matching: Matching) -> int:
    return len(matching.names) + len(matching.ambiguous)


def _canonical(name: str, steps: Iterable[str]) -> str:
    for step in steps:
        if step != _PREFIX:
            name = _STEPS[step](name)
    return name


def _match(missing: list[str], exact: set[str], known: list[str], steps: Sequence[str]) -> Matching:
    table: dict[str, list[str]] = defaultdict(list)
    for name in known:
        table[_canonical(name, steps)].append(name)
    keys = {name: _canonical(name, steps) for name in missing}
    cut, add = _prefix(list(keys.values()), table) if _PREFIX in steps else ("", "")
    found = {name: table.get(add + key.removeprefix(cut), []) for name, key in keys.items()}
    # Two ids may share a recording only if they differ in nothing but notation.
    takers: dict[str, set[str]] = defaultdict(set)
    for name, targets in (*((name, [name]) for name in exact), *found.items()):
        if len(targets) == 1:
            takers[targets[0]].add(_canonical(name, _NOTATION))
    clear = {name for name, targets in found.items() if len(targets) == 1 == len(takers[targets[0]])}
    words = [step for step in steps if step != _PREFIX]
    if cut or add:
        words.append(f"without the prefix {cut!r}" if cut else f"with the prefix {add!r}")
    return Matching(
        names={name: targets[0] for name, targets in found.items() if name in clear},
        ambiguous={name: targets for name, targets in found.items() if targets and name not in clear},
        num_missing=len(missing),
        rule=", ".join(words) or "as they are",
    )


def _prefix(keys: list[str], table: Mapping[str, object]) -> tuple[str, str]:
    """Return what to cut from the front of the keys, or to add there, so that most are in the table."""

    def num_found(candidate: tuple[str, str]) -> int:
        cut, add = candidate
        return sum(key.startswith(cut) and add + key.removeprefix(cut) in table for key in keys)

    candidates = [("", "")]  # of equally good ones, the first is taken
    for key in keys[:: max(1, len(keys) // _PROBES)][:_PROBES]:
        candidates += [(key[:start], "") for start in range(1, len(key)) if key[start:] in table][:1]
        longer = [other for other in table if other.endswith(key) and other != key]
        candidates += [("", other[: -len(key)]) for other in longer[:_PROBES]]
    return max(dict.fromkeys(candidates), key=num_found)
