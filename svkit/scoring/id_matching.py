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
_TAIL = "by the last parts of the path"
_PROBES = 5
"""Number of ids that are searched for a prefix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """The ids that a rule matches."""

    names: Mapping[str, str]
    """For each id that matches exactly one known id, that id."""
    ambiguous: Mapping[str, Sequence[str]]
    """Ids that match several known ids, or one that another id names too."""
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
        several, shared = (
            [
                f"{name} ({first_five(others)})"
                for name, others in self.ambiguous.items()
                if (len(others) > 1) == many
            ]
            for many in (True, False)
        )
        words = [f"{len(several):,} are ambiguous: {first_five(several)}"] if several else []
        if shared:
            words.append(
                f"{len(shared):,} name what another id names too, so they may be other recordings: {first_five(shared)}"
            )
        return "; ".join(words)


def find_matching(ids: Iterable[str], known: Iterable[str], *, apart: Iterable[str] = ()) -> Matching | None:
    """Find the shortest of the rules that match the most ids, among the ids that are not known as they are.

    A rule compares both sides without quotes, `./`, the extension or a common leading prefix, with slashes for
    backslashes, or in lower case. Only the steps that are needed are kept; a prefix may be on either side, or differ.
    If there are several prefixes, the longest common tail of whole parts of the paths decides.

    Args:
        ids: of which no two may name one recording, unless they differ in nothing but notation.
        known: ids to match.
        apart: more such ids, for which a recording may have another name than in `ids`.

    Returns:
        None if all ids are known, or nothing matches.
    """
    exact, sides = dict.fromkeys(known), (dict.fromkeys(ids), dict.fromkeys(apart))
    missing = [name for name in {**sides[0], **sides[1]} if name not in exact]
    if not missing:
        return None
    # Start with all steps, then drop every one whose removal loses no match and makes no further id ambiguous.
    steps = [*_STEPS, _PREFIX]
    best = _match(missing, sides, exact, steps)
    if len(best.names) < len(missing):
        found = _match(missing, sides, exact, [*steps, _TAIL])
        # Tails that are only ambiguous are no reason to refuse what matches without them.
        if len(found.names) > len(best.names) or not _hits(best):
            steps, best = [*steps, _TAIL], found
    # The steps that may merge different ids come last in the list, so they are the first to go.
    for step in reversed(list(steps)):
        others = [one for one in steps if one != step]
        found = _match(missing, sides, exact, others)
        if _hits(found) >= _hits(best) and len(found.ambiguous) <= len(best.ambiguous):
            steps, best = others, found
    return best if _hits(best) else None


def _hits(matching: Matching) -> int:
    return len(matching.names) + len(matching.ambiguous)


def _canonical(name: str, steps: Iterable[str]) -> str:
    for step in steps:
        if step in _STEPS:
            name = _STEPS[step](name)
    return name


def _match(
    missing: list[str], sides: Sequence[Iterable[str]], known: Iterable[str], steps: Sequence[str]
) -> Matching:
    table: dict[str, list[str]] = defaultdict(list)
    for name in known:
        table[_canonical(name, steps)].append(name)
    keys = {name: _canonical(name, steps) for name in missing}
    root = _root(table)
    cut, add = _prefix(list(keys.values()), table, root) if _PREFIX in steps else ("", "")
    found = {name: table.get(add + key.removeprefix(cut), []) for name, key in keys.items()}
    is_directory = add.endswith("/") and not cut  # others may hold files of the same names
    if _TAIL in steps or is_directory:
        by_tail = _by_tail(
            {key for name, key in keys.items() if is_directory or not found[name]}, table, root
        )
        found |= {
            name: by_tail[key]
            for name, key in keys.items()
            if key in by_tail and (found[name] or _TAIL in steps)
        }
    # On one side, two ids may share a recording only if they differ in nothing but notation.
    takers: dict[tuple[int, str], set[str]] = defaultdict(set)
    for number, side in enumerate(sides):
        for name in side:
            targets = found.get(name, [name])
            if len(targets) == 1:
                takers[number, targets[0]].add(_canonical(name, _NOTATION))
    contested = {target for (_, target), names in takers.items() if len(names) > 1}
    clear = {name for name, targets in found.items() if len(targets) == 1 and targets[0] not in contested}
    words = [step for step in steps if step in _STEPS]
    if cut or add:
        words.append(_prefix_words(cut, add))
    if _TAIL in steps:
        words.append(_TAIL)
    return Matching(
        names={name: targets[0] for name, targets in found.items() if name in clear},
        ambiguous={name: targets for name, targets in found.items() if targets and name not in clear},
        num_missing=len(missing),
        rule=", ".join(words) or "as they are",
    )


def _root(table: Mapping[str, object]) -> str:
    """Return the directory that all keys begin with."""
    first, last = min(table), max(table)
    common = next(
        (place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[: first.rfind("/", 0, common) + 1]


def _prefix_words(cut: str, add: str) -> str:
    if cut and add:
        return f"with the prefix {add!r} for {cut!r}"
    return f"without the prefix {cut!r}" if cut else f"with the prefix {add!r}"


def _prefix(keys: list[str], table: Mapping[str, object], root: str) -> tuple[str, str]:
    """Return what to cut from the front of the keys, and to add there, so that most are in the table.

    If it has to do both, it adds the `root` of the table: other directories may tell people apart.
    """

    def num_found(candidate: tuple[str, str]) -> int:
        cut, add = candidate
        return sum(key.startswith(cut) and add + key.removeprefix(cut) in table for key in keys)

    candidates = [("", "")]  # of equally good ones, the first is taken
    for key in keys[:: max(1, len(keys) // _PROBES)][:_PROBES]:
        for add in dict.fromkeys(("", root)):
            candidates += [(key[:start], add) for start in range(1, len(key)) if add + key[start:] in table][
                :1
            ]
        longer = [other for other in table if other.endswith(key) and other != key]
        candidates += [("", other[: -len(key)]) for other in longer[:_PROBES]]
    return max(dict.fromkeys(candidates), key=num_found)


def _by_tail(keys: set[str], table: Mapping[str, list[str]], root: str) -> dict[str, list[str]]:
    """Return the known ids whose path shares the longest tail of whole parts with each key.

    The tail is all of the key, or all of the known path below the `root`: parts left over on both sides may tell people
    apart.
    """
    lengths = {key.count("/") + 1 for key in keys}
    longer: dict[str, list[str]] = defaultdict(list)
    for other, names in table.items():
        parts = other.split("/")
        for length in lengths:
            if length < len(parts):
                longer["/".join(parts[-length:])] += names
    below = {other.removeprefix(root): names for other, names in table.items()}
    found = {}
    for key in keys:
        places = [place for place, letter in enumerate(key, start=1) if letter == "/"]
        tails = [key[place:] for place in places if key[place:] in below]
        if key in longer:
            found[key] = longer[key]
        elif tails:
            found[key] = below[tails[0]]
    return found
