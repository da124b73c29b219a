"""`svkit convert`: published `.pth` checkpoints and transformers directories become checkpoint directories.

Every command that takes a checkpoint also takes the name of one on the hub. It is fetched, and converted once into the
user's cache (`local_checkpoint`).
"""

import os
from pathlib import Path

from torch import Tensor

from svkit.config.architecture import ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.errors import ArtifactError, ConfigError
from svkit.models import hub
from svkit.models.load import check_buildable, load_into, load_transformers_encoder, new_network
from svkit.nn.speaker import SpeakerNetwork
from svkit.progress import Progress
from svkit.store import checkpoint
from svkit.store.output import Output
from svkit.store.provenance import is_finished
from svkit.store.source import Source
from svkit.store.upstream import published_classes, read_published


def local_checkpoint(name: str | os.PathLike[str], file: str | None, progress: Progress) -> Path:
    """Return the directory of a checkpoint: a path unchanged, or the local copy of one on the hub.

    A model that was fetched before needs no connection. `file` says which of a hub repository's published checkpoints
    is meant.

    Raises:
        ConfigError: `file` was given with a path, or the repository holds several checkpoints and none was named.
        ArtifactError: the name is unknown on the hub, there is no connection, or it is no speaker model.
    """
    wanted = hub.parse(name)
    if wanted is None:
        _refuse_file(name, file)
        if not Path(name).exists():
            raise ArtifactError(
                f"{os.fspath(name)}: does not exist; expected the directory of a checkpoint, or a name on the hub"
                " (OWNER/NAME)"
            )
        return Path(name)
    pin = hub.known_pin(wanted)
    is_new = pin is None
    if pin is None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                f"{wanted}: not downloaded yet; run `svkit info {wanted}` once, in one process, before "
                "the processes start"
            )
        pin = hub.ask(wanted, file)
    chosen = hub.choose(wanted, pin, file)
    leaf = wanted.repository.partition("/")[2]
    if chosen is not None:
        leaf += "-" + Path(chosen).with_suffix("").as_posix().replace("/", "-")
    place = wanted.cache / pin.commit / leaf
    if not is_finished(place):
        progress.note(
            f"downloading {wanted}: {chosen or 'a checkpoint of svkit'} at {pin.commit}, into {place}"
        )
        if chosen is None:
            hub.download_checkpoint(wanted, pin, place, progress)
        else:
            source = hub.download_file(wanted, pin, chosen, progress)
            run(source, place, None, False, progress, hub.origin(wanted, pin, chosen))
    if is_new:
        hub.write_pin(wanted, pin)
    return place


def convert(
    source: Path, out: Path, config: Path | None, overwrite: bool, file: str | None, progress: Progress
) -> None:
    """Convert a source on disk, or one on the hub by its name; arguments and errors as for `run`."""
    wanted = hub.parse(source)
    if wanted is None:
        _refuse_file(source, file)
        return run(source, out, config, overwrite, progress)
    pin = hub.known_pin(wanted) or hub.ask(wanted, file)
    chosen = hub.choose(wanted, pin, file)
    if chosen is None:
        raise ConfigError(f"{wanted}: is already a checkpoint of svkit; use it directly")
    progress.note(f"{wanted}: {chosen} at {pin.commit}")
    downloaded = hub.download_file(wanted, pin, chosen, progress)
    run(downloaded, out, config, overwrite, progress, hub.origin(wanted, pin, chosen))
    return hub.write_pin(wanted, pin)


def _refuse_file(path: str | os.PathLike[str], file: str | None) -> None:
    if file is not None:
        raise ConfigError(f"--file {file}: is only for a model on the hub, and {path} is a local path")


def run(
    source: Path,
    out: Path,
    config: Path | None,
    overwrite: bool,
    progress: Progress,
    origin: Source | None = None,
) -> None:
    """Convert a `.pth` file, or a transformers directory, which gets an untrained head.

    `config` is the encoder configuration for a `.pth` file; without it, the shapes of the weights determine it.
    `origin` is where on the hub the source comes from (`svkit.models.hub.origin`).

    Raises:
        ArtifactError: the source is missing, unsafe, or does not fit its configuration.
        ConfigError: `config` was given for a transformers directory.
    """
    if not source.exists():
        raise ArtifactError(f"{source}: does not exist")
    classifier = None
    inputs = {"source": source}
    if source.is_dir():
        if config is not None:
            raise ConfigError(
                "--config: a transformers directory has its own config.json; leave the option out"
            )
        encoder, state = load_transformers_encoder(str(source))
        network = new_network(ModelArchitecture(encoder=encoder, head=HeadConfig()), state, seed=0)
        progress.note("the speaker head is new and untrained: fine-tune before use")
    else:
        inputs |= {} if config is None else {"config": config}
        published = read_published(source, config)
        for text in published.said:
            progress.note(text)
        shapes = {key: tensor.shape for key, tensor in published.tensors.items()}
        check_buildable(published.architecture, shapes, str(source))
        network = SpeakerNetwork(published.architecture)
        load_into(network, published.tensors, str(source))
        if published.classifier is not None:
            classifier = _named(published.classifier)
    with Output(out, command="convert", config={}, inputs=inputs, overwrite=overwrite).open() as output:
        if classifier is not None:
            checkpoint.write_classifier(out, classifier)
        checkpoint.write_model(out, network.architecture, network.state_dict())
        output.finish({} if origin is None else {"origin": origin})
        # Imported here, because it takes a second and most starts need no conversion.
        from svkit.reports.card import write_card

        write_card(out)


def _named(weight: Tensor) -> checkpoint.Classifier:
    """Number the speakers of a published classifier, which has no names; their speeds follow from its size if known."""
    num_speakers, speeds = published_classes(len(weight)) or (len(weight), (1.0,))
    return checkpoint.Classifier(
        weight=weight,
        speakers=[f"class-{row % num_speakers:06d}" for row in range(len(weight))],
        speeds=[speeds[row // num_speakers] for row in range(len(weight))],
    )
