"""Find the embeddings that a trial list is scored with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from svkit.config.conditions import plain_name
from svkit.errors import ArtifactError, ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.scoring.id_matching import find_matching
from svkit.scoring.request import ScoreRequest
from svkit.store.embeddings import META_NAME, Facts, read_embeddings, read_facts
from svkit.store.places import sha256_of
from svkit.store.provenance import RUN_NAME, is_finished
from svkit.store.trials import Trials


def find_systems(request: ScoreRequest, trials: Trials, progress: Progress) -> list[Path]:
    """Return the embeddings to score: those given, else the finished ones that have the utterances of the trials.

    Embeddings of a list other than the experiment's own that have only some of them are left out if there are better
    ones, and so is a second set by one model (`_without_repeats`).
    """
    if request.embeddings:
        names = [directory.name for directory in request.embeddings]
        if len(set(names)) != len(names):
            raise ConfigError(f"--embeddings: directories need different names, found {first_five(names)}")
        return list(request.embeddings)
    home = request.exp / "embeddings"
    ready = _finished(home, chain(*request.material.values()), progress)
    # Enough to tell which embeddings have the utterances; the scoring itself looks up every one.
    wanted = trials.test.values[:1000]
    known: list[_Candidate] = []
    partly: list[Path] = []
    offers = []
    own = request.exp / "data" / "eval.tsv"
    # The list that the trials were prepared with lies beside them, maybe in another experiment.
    lists = [place.resolve() for place in (request.trials.resolve().parent.parent / "eval.tsv", own)]
    for directory in ready:
        embeddings = read_embeddings(directory)
        ids = embeddings.ids
        listed = embeddings.meta.get("manifest")
        made_of = lists[-1] if listed is None else Path(listed["path"]).resolve()
        is_whole = set(wanted).issubset(ids)
        rank = lists.index(made_of) if made_of in lists else len(lists)
        candidate = _Candidate(directory=directory, facts=embeddings.meta, is_whole=is_whole, rank=rank)
        if not set(wanted).isdisjoint(ids):
            if made_of == lists[-1] or is_whole:
                known.append(candidate)
            else:
                partly.append(directory)
        elif (matching := find_matching(wanted, ids)) is None:
            progress.note(f"{directory}: has no utterance of {request.trials.name}, left out")
        elif request.match_ids:
            known.append(replace(candidate, is_whole=len(matching.names) == len(wanted)))
        else:
            offers.append(f"{directory}: {matching.offer()}")
    for directory in partly if known else ():
        progress.note(f"{directory}: has only some utterances of {request.trials.name}, left out")
    if known or partly:
        return _without_repeats(known, progress) or partly
    if offers:
        raise DataError(
            f"{request.trials}: no embeddings have utterances with these names; of the first"
            f" {len(wanted)} tests, {first_five(offers)}"
        )
    raise ArtifactError(
        f"{home}: no finished embeddings{' with utterances of these trials' if ready else ''};"
        " run `svkit extract` (`svkit extract LIST` for another list), or name a directory with"
        " --embeddings"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """Embeddings that may be scored."""

    directory: Path
    facts: Facts
    is_whole: bool
    """They have every utterance that was looked up."""
    rank: int
    """0: of the list that the trials were prepared with; 1: of the experiment's own; 2: of any other."""

    def maker(self) -> tuple[object, ...]:
        """Return what embeds a recording in the same way each time."""
        facts = self.facts
        settings = facts.get("condition"), facts.get("max_seconds"), facts.get("dtype")
        return sha256_of(facts.get("checkpoint")), *settings


def _without_repeats(known: Sequence[_Candidate], progress: Progress) -> list[Path]:
    """Leave out what a model made again in the same way, though it made embeddings of a list nearer to the trials.

    They would count as one system more, with the same scores. Of lists that are equally near, such as two folders,
    nothing says which is meant, so all are scored.
    """
    found = []
    for one in known:
        better = [
            other
            for other in known
            if other.maker() == one.maker() and other.rank < one.rank and other.is_whole
        ]
        if better and sha256_of(one.facts.get("checkpoint")) is not None:
            nearest = min(better, key=lambda other: other.rank)
            progress.note(
                f"{one.directory}: left out, because the same model made {nearest.directory} of the evaluation list;"
                " to score it all the same, name it with --embeddings"
            )
        else:
            found.append(one.directory)
    return found


def without_condition(directory: Path) -> Path:
    """Return the embeddings beside `directory` that the same model made from the same list without a condition.

    Raises:
        ArtifactError: there are none.
    """
    facts = read_facts(directory)

    def made_from(one: Facts) -> tuple[object, ...]:
        hashes = sha256_of(one.get("checkpoint")), sha256_of(one.get("manifest"))
        return *hashes, one.get("max_seconds"), one.get("dtype")

    for other in sorted(directory.parent.iterdir()):
        if is_finished(other) and (other / META_NAME).exists():
            theirs = read_facts(other)
            if "condition" not in theirs and made_from(theirs) == made_from(facts):
                return other
    raise ArtifactError(
        f"{directory}: is the test side under {facts['condition']}; expected embeddings of the same model and list"
        f" without a condition in {directory.parent}, found none; run `svkit extract` without --condition too, or put"
        " both sides under the condition (--sides both)"
    )


def _finished(home: Path, material: Iterable[Path], progress: Progress) -> list[Path]:
    """Return the finished embeddings below `home` that are not given as material; note the unfinished ones."""
    apart, found = {path.resolve() for path in material}, []
    for child in sorted(home.iterdir()) if home.is_dir() else []:
        if is_finished(child):
            found += [child] if child.resolve() not in apart else []
        elif (child / RUN_NAME).exists():
            progress.note(f"{child}: not finished, left out; run the same `svkit extract` again to finish it")
    return found


def one_each(option: str, given: tuple[Path, ...], names: Sequence[str]) -> list[Path | None]:
    """Return the path for each name: none, one for all, or one for each system, which its conditions share."""
    if not given:
        return [None] * len(names)
    systems = list(dict.fromkeys(map(plain_name, names)))
    if len(given) not in (1, len(systems)):
        raise ConfigError(f"{option}: expected 1 or {len(systems)} (one for each system), found {len(given)}")
    paths = dict(zip(systems, given if len(given) > 1 else given * len(systems), strict=True))
    return [paths[plain_name(name)] for name in names]
