"""`svkit prepare split`: splits a list into several that share no speaker."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svkit.corpora import splits
from svkit.corpora.derived import Written, derived_lists, rebased_table, write_derived
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.manifest import read_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRequest:
    """Request to split a list."""

    list: Path
    out: Path
    """Directory of the parts."""
    parts: tuple[str, ...]
    """Parts as `NAME=SPEAKERS`: a number, a percentage (`5%`), or a file with one speaker per line."""
    rest: str = "train"
    """Name of the part with all other speakers."""
    seed: int = 24
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitResult:
    """The written lists by name of the part."""

    parts: dict[str, Written]


def run(request: SplitRequest, progress: Progress) -> SplitResult:
    """Split a list by speakers.

    The draw depends on the seed, the names of the parts and the set of speakers, but not on the order of rows.

    Raises:
        ConfigError: the list has too few speakers for a part, or an output already exists.
        DataError: the list or a file of speakers is missing or malformed.
    """
    wanted = _parse(request.parts, request.rest)
    config = {"parts": wanted, "rest": request.rest, "seed": request.seed}
    files = {f"speakers {name}": Path(spec) for name, spec in wanted.items() if Path(spec).exists()}
    outputs = derived_lists(
        {
            request.out / f"{name}{request.list.suffix}": {"part": name, **config}
            for name in (*wanted, request.rest)
        },
        command="prepare split",
        inputs={"manifest": request.list, **files},
        overwrite=request.overwrite,
    )
    table = rebased_table(read_manifest(request.list), request.out)
    speakers = sorted(str(name) for name in table["speaker_id"].unique())
    chosen = _choose(wanted, speakers, request.seed)
    chosen[request.rest] = sorted(set(speakers).difference(*chosen.values()))
    parts = {}
    with progress.task("writing lists", len(outputs)) as task:
        for (name, members), output in zip(chosen.items(), outputs, strict=True):
            parts[name] = write_derived(output, table[table["speaker_id"].isin(members)])
            task.advance()
    return SplitResult(parts=parts)


def _parse(parts: Sequence[str], rest: str) -> dict[str, str]:
    if not rest or "/" in rest:
        raise ConfigError(f"--rest {rest}: expected the name of a part, such as train")
    wanted: dict[str, str] = {}
    for text in parts:
        name, _, spec = text.partition("=")
        if not name or not spec or "/" in name:
            raise ConfigError(
                f"--part {text}: expected NAME=SPEAKERS, such as valid=40, test=5% or test=FILE"
            )
        if name in wanted or name == rest:
            raise ConfigError(f"--part {text}: two parts are called {name}; rename one")
        wanted[name] = spec
    if not wanted:
        raise ConfigError("--part: expected at least one NAME=SPEAKERS")
    return wanted


def _choose(wanted: dict[str, str], speakers: list[str], seed: int) -> dict[str, list[str]]:
    """Return the speakers of each part in the order of `wanted`; files are read before speakers are drawn."""
    chosen: dict[str, list[str]] = {name: [] for name in wanted}
    free = set(speakers)
    counts = {name: _count(name, spec, len(speakers)) for name, spec in wanted.items()}
    for name, spec in wanted.items():
        if counts[name] is None:
            chosen[name] = splits.read_speakers(Path(spec), speakers)
            again = sorted(set(chosen[name]) - free)
            if again:
                raise DataError(f"{spec}: speakers that are also in another part: {first_five(again)}")
            free -= set(chosen[name])
    for name, count in counts.items():
        if count is None:
            continue
        if not 1 <= count < len(free):
            raise ConfigError(
                f"--part {name}={wanted[name]}: {count} speakers, expected 1 to {len(free) - 1}: the list has"
                f" {len(speakers)}, {len(speakers) - len(free)} are in other parts, and one must be left for the rest"
            )
        drawn = splits.generator(seed, f"split {name}").choice(sorted(free), count, replace=False)
        chosen[name] = sorted(str(speaker) for speaker in drawn)
        free -= set(chosen[name])
    if not free:
        raise ConfigError(
            f"--part: the parts take all {len(speakers)} speakers, so none is left for the rest"
        )
    return chosen


def _count(name: str, spec: str, num_speakers: int) -> int | None:
    """Return how many speakers a part asks for; None: it names a file."""
    if not spec.endswith("%") or Path(spec).exists():
        return int(spec) if splits.is_count(f"--part {name}", spec) else None
    try:
        share = float(spec.removesuffix("%"))
    except ValueError:
        return None
    if not 0 < share < 100:
        raise ConfigError(f"--part {name}={spec}: expected a percentage > 0 and < 100")
    return max(1, round(share / 100 * num_speakers))
