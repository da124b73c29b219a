"""The published way to compute a training step, as a baseline for benchmarks; svkit does not use it.

Features come from transformers' extractor, utterance by utterance, inside the forward pass. The encoder is
transformers' `Wav2Vec2BertModel`, with its positional tensors of [T, T, head size]; it keeps all hidden states, and
hooks apply the gates. Heads, losses, gates and counts are svkit's, so that nothing else differs.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

from svkit.config.architecture import EncoderArchitecture
from svkit.nn.encoder import LayerGates


class StockEncoder(nn.Module):
    """Waveforms -> list of hidden states, with gates that the caller gives."""

    def __init__(self, architecture: EncoderArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.extractor = SeamlessM4TFeatureExtractor(feature_size=80)
        config = Wav2Vec2BertConfig(
            hidden_size=architecture.hidden_size,
            num_hidden_layers=architecture.num_layers,
            num_attention_heads=architecture.num_heads[0],
            intermediate_size=architecture.ffn1_dim[0],
            layerdrop=0.0,
            apply_spec_augment=False,
        )
        self.model = Wav2Vec2BertModel(config)
        self.gates: Sequence[LayerGates] = ()
        self._install_hooks()

    def forward(self, waveforms_BN: Tensor, gates: Sequence[LayerGates] = ()) -> tuple[Tensor, ...]:
        """Return the hidden states of a batch of waveforms of equal length."""
        self.gates = gates
        arrays = [waveform.cpu().numpy() for waveform in waveforms_BN]
        features = self.extractor(arrays, sampling_rate=16_000, return_tensors="pt")["input_features"]
        return self.model(features.to(waveforms_BN.device), output_hidden_states=True).hidden_states

    def _install_hooks(self) -> None:
        size = self.architecture.head_size

        def multiply(index: int, part: str, spread: int, channels_last: bool):  # type: ignore[no-untyped-def]
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
                gate = getattr(self.gates[index], part) if self.gates else None
                if gate is None:
                    return None
                gate = gate.repeat(spread) if part == "conv" else gate.repeat_interleave(spread)
                return (inputs[0] * (gate if channels_last else gate[:, None]), *inputs[1:])

            return hook

        for index, layer in enumerate(self.model.encoder.layers):
            for module, part, spread, channels_last in (
                (layer.ffn1.output_dense, "ffn1", 1, True),
                (layer.ffn2.output_dense, "ffn2", 1, True),
                (layer.self_attn.linear_out, "heads", size, True),
                (layer.conv_module.glu, "conv", 2, False),
                (layer.conv_module.depthwise_layer_norm, "conv", 1, True),
            ):
                module.register_forward_pre_hook(multiply(index, part, spread, channels_last))
