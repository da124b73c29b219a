"""`svkit push`: publishes a checkpoint as a repository on the Hugging Face hub, with its calibration and a card.

The card begins with what the hub's pages and searches read: library, tags, licence, and the figures of every scores
directory that was made with this checkpoint. The provenance is published without paths of this machine.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from svkit.errors import ArtifactError, ConfigError, first_five, first_line, printable
from svkit.eval.results import Interval
from svkit.models import hub
from svkit.models.info import describe_checkpoint
from svkit.progress import Progress
from svkit.reports import card
from svkit.reports.wording import corpus_title
from svkit.scoring.lineage import source_of
from svkit.scoring.verify import find_calibration
from svkit.store import provenance
from svkit.store.atomic import json_text, replacing, write_bytes
from svkit.store.calibration import FILE_NAME, CalibrationRecord
from svkit.store.checkpoint import SPEAKERS_NAME
from svkit.store.locks import LOCK_NAME
from svkit.store.metrics import Metrics, read_metrics
from svkit.store.places import EXPERIMENT, sha256_of
from svkit.store.provenance import PROVENANCE_NAME
from svkit.store.report import find_scores
from svkit.store.request import Request
from svkit.store.source import Source
from svkit.store.tables import read_artifact_table

TAGS = ("speaker-verification", "speaker-recognition", "speaker-embedding", "w2v-bert-2.0")
_PERMISSIVE = {"mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0"}
"""Licences that let derived works have another licence."""
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", re.ASCII)
_PLACE = re.compile(r"(?<![\w.:/~-])/(?:[^\s/:;,'\"]+/)+")
"""The directories of an absolute path inside a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PushRequest(Request):
    """Which checkpoint to push where."""

    checkpoint: Path
    name: hub.HubName
    """Repository and branch."""
    licence: str | None = None
    """Its name on the hub; None: the licence of the model that this one comes from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """The content of a repository."""

    contents: dict[str, Path | bytes]
    """By name: a file's path, or its content; the provenance last."""
    sha256: str
    """Of the checkpoint."""
    licence: str | None
    scores: tuple[Path, ...]
    """Directories whose figures are in the card."""


def gather(request: PushRequest, progress: Progress) -> Folder:
    """Collect what to publish of a checkpoint, in memory except for the weights; note what the publisher should know.

    Raises:
        ArtifactError: the checkpoint is unfinished or has changed, it holds foreign files, or `svkit verify` would
            refuse its calibration.
        ConfigError: the licence is unknown, or the source's does not allow it; or the user's card is not a card.
    """
    source = request.checkpoint
    if request.licence is not None and not _LICENCE.fullmatch(request.licence):
        raise ConfigError(
            f"--license {printable(request.licence)}: expected a name of the hub's list, such as mit or apache-2.0"
        )
    describe_checkpoint(source)
    record, sha256 = provenance.read_provenance(source), provenance.sha256_input(source)
    files = {path.relative_to(source).as_posix(): path for path in provenance.content_files(source)}
    if foreign := sorted(file for file in files if not hub.is_part(file)):
        raise ArtifactError(
            f"{source}: holds files that svkit did not write ({first_five(foreign)}); move them elsewhere"
        )
    calibrated, systems = find_calibration(None, source, sha256), _systems(request.exp, sha256)
    text, facts = _card(request, list(systems.values()))
    licence = hub.licence_of(facts)
    if licence is None:
        progress.note("no licence is known, so nobody may use it: state one with --license, such as mit")
    if not systems:
        progress.note(
            f"no figures: nothing in {request.exp / 'scores'} was scored with this checkpoint (--exp)"
        )
    if calibrated is None:
        progress.note("no calibration: others get scores but no decisions (`svkit calibrate` learns one)")
    else:
        files[FILE_NAME] = calibrated[0]
    if named := _named_people(files, record, calibrated):
        progress.note(f"ids of people are published too: {named}")
    published = Source(repository=request.name.repository, licence=licence)
    contents: dict[str, Path | bytes] = {
        **dict(sorted(files.items())),
        card.CARD_NAME: text.encode(),
        PROVENANCE_NAME: _public(record, published).encode(),
    }
    return Folder(contents=contents, sha256=sha256, licence=licence, scores=tuple(systems))


def write(request: PushRequest, folder: Folder, out: Path | None) -> Path:
    """Write the folder to `out` (None: `exp/hub/NAME`), the provenance last (ConfigError: it exists and must stay)."""
    directory = out or request.exp / "hub" / request.name.repository.partition("/")[2]
    # `Output` cannot tell: the provenance that lies there is the checkpoint's, and says nothing about this command.
    if (directory / PROVENANCE_NAME).exists() and not request.overwrite:
        raise ConfigError(f"{directory}: is there already; use --overwrite to write it again, or --out")
    config = {"repository": request.name.repository, "licence": folder.licence}
    output = request.output(directory, "push", config, {"checkpoint": request.checkpoint})
    with output.open():
        for name, content in folder.contents.items():
            if isinstance(content, bytes):
                write_bytes(directory / name, content)
                continue
            with replacing(directory / name) as temporary:
                shutil.copy2(content, temporary)  # keeps the modification time, which the provenance has
    for name in (provenance.RUN_NAME, LOCK_NAME):  # no part of what is published
        (directory / name).unlink(missing_ok=True)
    return directory


def send(request: PushRequest, folder: Folder, message: str | None, *, is_private: bool) -> hub.HubName:
    """Push the folder; without a `message`, the commit names the content. Raises what `hub.upload` raises."""
    said = message or f"svkit push: {request.checkpoint.name}, sha256 {folder.sha256[:12]}"
    return hub.upload(request.name, folder.contents, said, is_private=is_private)


def _systems(exp: Path, sha256: str) -> dict[Path, Metrics]:
    """Return the metrics of all scores that were made with a checkpoint, by directory."""
    return {
        directory: metrics
        for directory in find_scores(exp)
        if isinstance(metrics := read_metrics(directory), Metrics)
        and sha256_of(metrics.checkpoint) == sha256
        and metrics.condition is None
    }


def _licence(request: PushRequest, on_card: str | None) -> str | None:
    """Return the model's licence as the hub names it; `on_card` is the one that the user's own card states."""
    stated = request.licence or on_card
    if on_card not in (None, stated):
        raise ConfigError(
            f"--license {stated}: {request.checkpoint / card.CARD_NAME} says {on_card}: give only one of them"
        )
    source = source_of(request.checkpoint)
    if source is None or source.licence is None:
        return stated
    # For a known repository, a comma and the place where the licence is stated may follow.
    found = source.licence.partition(",")[0]
    found = found if found.startswith(hub.OTHER_LICENCE) else found.lower().replace(" ", "-")
    if stated not in (None, found) and found not in _PERMISSIVE:
        raise ConfigError(
            f"licence {stated}: the model comes from {source.repository}, whose licence, {found}, also "
            "applies to models made from it: leave --license out"
        )
    return stated or found


def _named_people(
    files: Mapping[str, Path],
    record: provenance.Provenance,
    calibrated: tuple[Path, CalibrationRecord] | None,
) -> str:
    """Say how many speakers are named in which files; empty if none are."""
    named = {} if calibrated is None else {FILE_NAME: calibrated[1].speakers or ()}
    if SPEAKERS_NAME in files and record["command"] != "convert":  # which only numbers the classes
        named[SPEAKERS_NAME] = tuple(read_artifact_table(files[SPEAKERS_NAME], ("speaker_id",))["speaker_id"])
    return ", ".join(f"{len(set(ids)):,} speakers in {file}" for file, ids in named.items() if ids)


def _own_card(directory: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the text of the user's own card, if there is one, and its front matter (ConfigError: not the hub's)."""
    from huggingface_hub import ModelCard

    content = card.users_document(directory)
    try:
        text = None if content is None else content.decode()
        if text is None or not text.startswith("---"):
            return text, {}
        read = ModelCard(text)
    except Exception as error:  # the client and its YAML reader raise many types
        raise ConfigError(
            f"{directory / card.CARD_NAME}: not a card of the hub: {first_line(error)}"
        ) from error
    return read.text, read.data.to_dict()


def _card(request: PushRequest, systems: Sequence[Metrics]) -> tuple[str, dict[str, Any]]:
    """Return the card (the user's own if there is one) and its front matter, in which the user's entries win."""
    from huggingface_hub import CardData, ModelCardData

    text, own_facts = _own_card(request.checkpoint)
    source, licence = source_of(request.checkpoint), _licence(request, hub.licence_of(own_facts))
    other = re.fullmatch(rf"{hub.OTHER_LICENCE} \((.+)\)", licence or "")
    is_cut = describe_checkpoint(request.checkpoint).teacher_parameters is not None
    facts = ModelCardData(
        library_name="svkit",
        license=hub.OTHER_LICENCE if other else licence,
        license_name=other[1] if other else None,
        license_link=f"https://huggingface.co/{source.repository}" if other and source else None,
        base_model=source.repository if source else None,
        tags=[*TAGS, *(["pruned"] if is_cut else [])],
        model_name=request.name.repository.partition("/")[2],
        eval_results=[result for system in systems for result in _results(system)] or None,
    ).to_dict()
    facts |= own_facts
    if text is None:
        publication = card.Publication(repository=request.name.repository, licence=request.licence)
        text = _placeless(card.render(request.checkpoint, systems, publication=publication))
    return f"---\n{CardData(**facts).to_yaml()}\n---\n\n{text.lstrip()}", facts


def _results(system: Metrics) -> list[Any]:
    """Return the figures of a system in the hub's terms, each with its interval; EER in percent."""
    from huggingface_hub import EvalResult

    recordings = card.evaluated_on(system) or corpus_title(None)
    counts = {"targets": system.num_targets, "nontargets": system.num_nontargets}
    cautions = {"cautions": list(map(_placeless, system.cautions))} if system.cautions else {}
    measured: list[tuple[str, str, float, float | None, Interval | None]] = [
        ("eer", "EER, %", 100, system.eer, system.eer_interval),
        *(
            ("mindcf", f"minDCF {cost.application.name}", 1, cost.value, cost.interval)
            for cost in system.min_dcf
        ),
        ("cllr", "Cllr, bits", 1, system.cllr, system.cllr_interval),
    ]

    def result(kind: str, title: str, scale: float, value: float, interval: Interval | None) -> EvalResult:
        facts: dict[str, object] = {"no_interval": system.no_interval or "not resampled"}
        spread = "no interval"
        if interval is not None:
            ends = [round(scale * end, 4) for end in (interval.low, interval.high)]
            spread = f"{100 * interval.level:g} %: {ends[0]:.4g} to {ends[1]:.4g}"
            facts = {"interval": ends, "level": interval.level, "speakers": interval.num_speakers}
        return EvalResult(
            task_type="speaker-verification",
            task_name="Speaker verification",
            dataset_type=recordings.partition(":")[0],
            dataset_name=f"{recordings}; trials {system.trials.name}",
            dataset_config=system.trials.name,
            dataset_args={**counts, "sha256": system.trials.sha256},
            metric_type=kind,
            metric_name=f"{title} ({system.backend.name}; {spread})",  # pages show no more than this
            metric_value=round(scale * value, 4),
            metric_args={**facts, **cautions},
        )

    return [
        result(kind, title, scale, value, spread)
        for kind, title, scale, value, spread in measured
        if value is not None
    ]


def _placeless(text: str) -> str:
    """Return text without the directories of absolute paths, which are of no use elsewhere."""
    return _PLACE.sub("", text)


def _public(record: provenance.Provenance, published: Source) -> str:
    """Return the provenance of a checkpoint for others: without paths of this machine, with its place there."""

    def placeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placeless(item) for key, item in value.items()}
        if isinstance(value, list):
            return list(map(placeless, value))
        return _placeless(value) if isinstance(value, str) else value

    kept = placeless({key: value for key, value in record.items() if key != "argv"})
    kept["inputs"] = [{**entry, "path": Path(entry["path"]).name} for entry in kept["inputs"]]
    # Paths begin at the checkpoint itself, so that no lists of the same name are taken for its inputs.
    ours = {"published": asdict(published), EXPERIMENT: "."}
    heading = {"format": provenance.FORMAT, "format_version": provenance.VERSION}
    return json_text({**heading, **kept, **ours})
