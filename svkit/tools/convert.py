"""`svkit convert`: published `.pth` checkpoints and transformers directories become checkpoint directories."""

from pathlib import Path

from svkit.config.architecture import ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.errors import ArtifactError, ConfigError
from svkit.models.load import check_buildable, load_into, load_transformers_encoder, new_network
from svkit.nn.speaker import SpeakerNetwork
from svkit.progress import Progress
from svkit.reports.card import write_card
from svkit.store import checkpoint
from svkit.store.output import Output
from svkit.store.upstream import read_published


def run(source: Path, out: Path, config: Path | None, overwrite: bool, progress: Progress) -> None:
    """Convert a `.pth` file, with its encoder configuration, or a transformers directory, which gets an untrained head.

    Raises:
        ArtifactError: the source is missing, unsafe, or does not fit its configuration.
        ConfigError: `config` is missing or not wanted.
    """
    if not source.exists():
        raise ArtifactError(f"{source}: does not exist")
    classifier = None
    inputs = {"source": source}
    if source.is_dir():
        if config is not None:
            raise ConfigError("--config: a transformers directory has its own config.json")
        encoder, state = load_transformers_encoder(str(source))
        network = new_network(ModelArchitecture(encoder=encoder, head=HeadConfig()), state, seed=0)
        progress.note("the speaker head is new and untrained: fine-tune before use")
    else:
        if config is None:
            raise ConfigError("--config: expected the encoder configuration (json) of the checkpoint")
        inputs["config"] = config
        published = read_published(source, config)
        shapes = {key: tensor.shape for key, tensor in published.tensors.items()}
        check_buildable(published.architecture, shapes, str(source))
        network = SpeakerNetwork(published.architecture)
        load_into(network, published.tensors, str(source))
        if published.classifier is not None:
            # The published files do not name their speakers.
            names = [f"class-{row:06d}" for row in range(len(published.classifier))]
            classifier = checkpoint.Classifier(
                weight=published.classifier, speakers=names, speeds=[1.0] * len(names)
            )
    with Output(out, command="convert", config={}, inputs=inputs, overwrite=overwrite).open() as output:
        if classifier is not None:
            checkpoint.write_classifier(out, classifier)
        checkpoint.write_model(out, network.architecture, network.state_dict())
        output.finish()
        write_card(out)
