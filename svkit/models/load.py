"""Build encoders and speaker models, and load their weights from files, strictly."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from svkit.audio.crop import kept_samples
from svkit.audio.features import refuse_short
from svkit.audio.resample import SAMPLE_RATE_HZ, resample
from svkit.config.architecture import EncoderArchitecture, ModelArchitecture, tiny_architecture
from svkit.config.schema import TINY_ENCODER, ExtractConfig, LoraConfig, Recipe
from svkit.errors import ArtifactError, ConfigError, DataError, first_five, first_line
from svkit.nn import inference
from svkit.nn.encoder import Encoder, initialise
from svkit.nn.speaker import SpeakerNetwork
from svkit.store import checkpoint
from svkit.store.audio_file import LOUDEST_SAMPLE, probe, read_audio
from svkit.store.files import check_file
from svkit.store.provenance import check_outputs
from svkit.store.upstream import encoder_tensors, model_architecture

SamplesOrFile = NDArray[np.floating] | str | os.PathLike[str]
"""Samples, or an audio file."""


class WithoutDraws(TorchFunctionMode):
    """Skips the random initialisation of new parameters, which takes seconds, because they are loaded next.

    On the meta device, where shapes are checked, a draw from a normal distribution also makes torch import its
    decompositions.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class SpeakerModel(SpeakerNetwork):
    """A speaker model that loads from a checkpoint directory and embeds arrays (`svkit.SpeakerModel`)."""

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], *, mapped: bool = True) -> "SpeakerModel":
        """Load a checkpoint directory, in evaluation mode on the CPU; LoRA that is not merged yet is merged.

        Args:
            directory: the checkpoint.
            mapped: map the parameters from the file, whose pages are read when needed; this halves the memory. If the
                file is overwritten in place, the model changes too, so a training of days takes a copy (False).

        Raises:
            ArtifactError: not a checkpoint, its tensors do not fit its configuration, or a file has changed since it
                was finished (`svkit.store.provenance.check_outputs`).
        """
        path = Path(directory)
        weights = path / checkpoint.MODEL_NAME
        architecture = checkpoint.read_architecture(path)
        check_buildable(architecture, checkpoint.read_shapes(weights), str(weights))
        with WithoutDraws():
            model = cls(architecture)
        load_into(model, checkpoint.read_tensors(weights), str(weights), assign=mapped)
        adapter = checkpoint.read_adapter(path)
        if adapter is not None:
            _merge_adapter(model.encoder, *adapter, where=str(path / checkpoint.ADAPTER_NAME))
        check_outputs(path, checkpoint.CONFIG_NAME, checkpoint.MODEL_NAME, *checkpoint.ADAPTER_FILES)
        return model.eval().requires_grad_(False)

    @torch.inference_mode()
    def embed(
        self, recordings: SamplesOrFile | Sequence[SamplesOrFile], sample_rate: int = SAMPLE_RATE_HZ
    ) -> NDArray[np.float32]:
        """Embed recordings of any lengths as one padded batch; each gets the embedding that it would get alone.

        Args:
            recordings: 1-D arrays in [-1, 1] or audio files (channel 0, cut at 60 s, as in `svkit extract`), or
                a single one of these.
            sample_rate: rate of the arrays in Hz; other rates than 16,000 are resampled. Files state their own rate.

        Returns:
            float32 [N, D], not length-normalised; [D] for a single recording.

        Raises:
            DataError: an array is not 1-D, not finite or absurdly loud, a file is missing or unreadable, or one is
                shorter than 35 ms.
        """
        if isinstance(recordings, str | os.PathLike) or getattr(recordings, "ndim", 0) == 1:
            return self.embed([recordings], sample_rate)[0]  # type: ignore[list-item]
        waveforms = [_checked(index, recording, sample_rate) for index, recording in enumerate(recordings)]
        if not waveforms:
            return np.zeros((0, self.architecture.head.embedding_dim), dtype=np.float32)
        return self.embed_padded(waveforms)

    def pack(self, *, int8: bool = False) -> "SpeakerModel":
        """Lay the weights out for this CPU, as `svkit extract` does, to embed many recordings; returns the model.

        From then on the model can only embed: it has no gradients and no state to save, and stays on this device. If
        the processor has no such layout, nothing changes (`svkit.nn.inference`). Packing reads and writes all weights
        once, so it does not pay for one or two recordings.

        Args:
            int8: quantise weights and activations of the encoder's layers too.

        Raises:
            ConfigError: the device does not support int8 products.
        """
        inference.prepare(self, torch.int8 if int8 else torch.float32)
        return self


def _checked(index: int, recording: SamplesOrFile, sample_rate: int) -> NDArray[np.float32]:
    """Return a recording at 16 kHz, read as in extraction; DataError if it cannot be embedded."""
    name = f"waveform {index}"
    if isinstance(recording, str | os.PathLike):
        name = os.fspath(recording)
        info = probe(Path(name))
        sample_rate = info.sample_rate_hz
        kept = kept_samples(info.num_samples, sample_rate, ExtractConfig().max_seconds)
        recording = read_audio(Path(name), num_samples=kept)
    array = np.asarray(recording, dtype=np.float32)
    if array.ndim != 1:
        raise DataError(f"{name}: expected one dimension (mono), found shape {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{name}: has samples that are not finite")
    if len(array) and np.abs(array).max() > LOUDEST_SAMPLE:
        raise DataError(f"{name}: has samples beyond {LOUDEST_SAMPLE:g} times full scale")
    refuse_short(name, len(array), sample_rate)
    return np.ascontiguousarray(resample(array, sample_rate))


def refuse_broken(network: SpeakerNetwork, checkpoint: Path) -> None:
    """Raise ArtifactError if a model gives no usable embedding of plain noise: then no recording is at fault."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ, dtype=np.float32)
    with torch.inference_mode():
        embedding = network.embed_padded([noise])
    if not is_usable(embedding[0]):
        raise ArtifactError(
            f"{checkpoint}: the model gives no usable embedding, not even of plain noise: its weights are damaged, or"
            " its training has failed; use another checkpoint"
        )


def is_usable(embedding: NDArray[np.float32]) -> bool:
    """Whether an embedding `[D]` is finite and not zero."""
    return bool(np.isfinite(embedding).all() and embedding.any())


def load_model(directory: Path, *, mapped: bool = True) -> SpeakerModel:
    """Load a checkpoint directory, in evaluation mode; see `SpeakerModel.from_pretrained`."""
    return SpeakerModel.from_pretrained(directory, mapped=mapped)


def check_buildable(architecture: ModelArchitecture, shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Check that tensors of these shapes, in the file `where`, fit the model, before memory is allocated for it.

    Raises:
        ArtifactError: keys or shapes do not fit; the message names them.
    """
    try:
        with torch.device("meta"), WithoutDraws():
            expected = SpeakerNetwork(architecture).state_dict()
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        raise ArtifactError(
            f"{where}: the model of config.json cannot be built ({first_line(error)})"
        ) from error
    _refuse_misfits({name: list(shape) for name, shape in shapes.items()}, _shapes(expected), where)


def load_into(
    module: torch.nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    optional: Collection[str] = (),
    assign: bool = False,
) -> None:
    """Load a state strictly, except that `optional` names may be missing; `assign`: the tensors themselves, not copies.

    Raises:
        ArtifactError: keys, shapes or kinds of numbers that do not fit.
    """
    expected = module.state_dict()
    expected = {name: value for name, value in expected.items() if name in tensors or name not in optional}
    _refuse_misfits(_shapes(tensors), _shapes(expected), where)
    # Any floating-point precision is accepted (a checkpoint may be in half precision), but no other kind of number.
    others = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.is_floating_point() != expected[name].is_floating_point()
    }
    found, wanted = ({name: str(state[name].dtype)[6:] for name in others} for state in (tensors, expected))
    _refuse_misfits(found, wanted, where)
    if assign:
        tensors = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    # Not strict, because optional names may be missing; everything else was checked above.
    module.load_state_dict(dict(tensors), strict=False, assign=assign)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _refuse_misfits(found: Mapping[str, object], expected: Mapping[str, object], where: str) -> None:
    checkpoint.check_keys(list(found), list(expected), where)
    wrong = [
        f"{name} is {value}, expected {expected[name]}"
        for name, value in found.items()
        if value != expected[name]
    ]
    if wrong:
        raise ArtifactError(
            f"{where}: the tensors do not fit config.json: {'; '.join(wrong[:5])} ({len(wrong)} in all)"
        )


def _merge_adapter(
    encoder: Encoder, config: Mapping[str, object], state: Mapping[str, Tensor], where: str
) -> None:
    from svkit.nn import lora  # peft takes seconds to import, and only an adapter needs it

    for option in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern"):
        if config.get(option):
            raise ArtifactError(f"{where}: {option}: expected plain LoRA, found {config[option]!r}")
    try:
        settings = LoraConfig(
            rank=int(str(config["r"])),
            alpha=float(str(config["lora_alpha"])),
            target_modules=tuple(config["target_modules"]),  # type: ignore[arg-type]
        )
        ranks = {tensor.shape[0] for name, tensor in state.items() if "lora_A" in name}
        if ranks != {settings.rank}:  # before memory is taken for it
            raise ValueError(f"r is {settings.rank}, the tensors have {sorted(ranks)}")
        lora.attach(encoder, settings)
        misfits = lora.load_adapter(encoder, state)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, ConfigError) as error:
        raise ArtifactError(f"{where}: the adapter does not fit the encoder ({first_line(error)})") from error
    if misfits:
        raise ArtifactError(f"{where}: the adapter does not fit the encoder: {', '.join(misfits[:5])}")
    lora.merge(encoder)


def load_encoder(name: str, recipe: Recipe) -> tuple[EncoderArchitecture, dict[str, Tensor]]:
    """Get an encoder's architecture and state: `tiny` (random, by the recipe's seed), a local directory, or a hub id.

    Raises:
        ArtifactError: the encoder does not exist, cannot be reached, or is not a w2v-BERT 2.0 encoder.
    """
    if name == TINY_ENCODER:
        architecture = tiny_architecture(recipe.encoder_overrides)
        encoder = Encoder(architecture)
        initialise(encoder, torch.Generator().manual_seed(recipe.seed))
        return architecture, encoder.state_dict()
    return load_transformers_encoder(name)


def load_transformers_encoder(name: str) -> tuple[EncoderArchitecture, dict[str, Tensor]]:
    """Read a `Wav2Vec2BertModel` from a local directory or the hub."""
    from transformers import AutoConfig, Wav2Vec2BertModel

    is_local = Path(name).is_dir()
    for path in Path(name).iterdir() if is_local else ():
        if not path.is_dir():
            check_file(path, ArtifactError)
    if not is_local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ArtifactError(f"{name}: no such encoder directory")
    hint = f"; if the hub cannot be reached, run `hf download {name} --local-dir DIR` on a machine where it can, then"
    hint = "" if is_local else f"{hint} use --encoder DIR here"
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != "wav2vec2-bert":
            raise ArtifactError(f"{name}: expected a wav2vec2-bert encoder, found {config.model_type}")
        model, report = Wav2Vec2BertModel.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True
        )
    except ArtifactError:
        raise
    except Exception as error:  # transformers raises many types for a bad directory
        raise ArtifactError(f"{name}: the encoder cannot be loaded ({first_line(error)}){hint}") from error
    missing = [key for key in report["missing_keys"] if key != "masked_spec_embed"]
    wrong = missing or list(report["mismatched_keys"])
    if wrong:
        raise ArtifactError(f"{name}: weights are missing or have another shape: {first_five(wrong)}")
    extra = sorted(report["unexpected_keys"])
    if extra:
        raise ArtifactError(f"{name}: unexpected weights: {first_five(extra)}")
    return model_architecture(config.to_dict(), name).encoder, encoder_tensors(model.state_dict())


def new_network(
    architecture: ModelArchitecture, encoder_state: Mapping[str, Tensor], seed: int
) -> SpeakerNetwork:
    """Return a network of the given encoder and a head that is drawn with `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SpeakerNetwork(architecture)
    load_into(network.encoder, encoder_state, "encoder")
    return network
