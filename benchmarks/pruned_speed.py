"""Compare the published 80 % structure, also rounded, with the dense encoder, at full size with random weights.

    python benchmarks/pruned_speed.py [--seconds 3] [--batch-size 8] [--threads 1] [--rounds 5] [--json FILE]

Models take turns, and the median of the rounds is given, in CPU time and in wall time. With `round_to` k, every width
of FFN and convolution is rounded to a multiple of k. Then the widths that were rounded up furthest lose k units, until
the encoder has no more parameters than the published structure.
"""

import argparse
import copy
import functools
import sys
from collections.abc import Mapping
from pathlib import Path

import measuring
import torch
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from svkit.config.architecture import W2V_BERT_2, EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn import inference
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import encoder_parameters, macs

# Widths of the published pruned model (arXiv 2510.04213, published checkpoint).
PUBLISHED = {
    "num_heads": "13 11 12 9 8 2 8 5 5 3 1 1 2 3 5 4 5 6 5 3 2 4 1 0",
    "conv_dim": (
        "812 848 735 702 630 533 481 89 421 269 149 90 86 194 207 222 373 323 224 157 132 45 33 162"
    ),
    "ffn1_dim": (
        "1662 2417 2329 1847 1581 759 666 1005 1717 639 323 194 63 103 483 420 596 854 707 359 232 200 243 160"
    ),
    "ffn2_dim": (
        "1916 1982 1587 1189 679 330 828 55 518 328 118 40 94 218 182 441 669 795 509 370 297 331 224 16"
    ),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDINGS = (1, 8, 16, 32, 64)
TARGETS = {"fp32": 4.1, "bf16": 3.6}
"""Targets for the best rounding: times as fast as our own dense model."""


def published_structure() -> EncoderArchitecture:
    """Return the encoder of the published pruned model."""
    return W2V_BERT_2.with_widths({name: list(map(int, text.split())) for name, text in PUBLISHED.items()})


def rounded(published: EncoderArchitecture, step: int) -> EncoderArchitecture:
    """Round the widths to multiples of `step`, with no more parameters than `published`."""
    if step == 1:
        return published
    exact = published.widths()
    widths = {
        name: values if name == "num_heads" else [round(value / step) * step for value in values]
        for name, values in exact.items()
    }
    limit = encoder_parameters(published)
    while encoder_parameters(published.with_widths(widths)) > limit:
        excess, name, layer = max(
            (widths[name][layer] - exact[name][layer], name, layer)
            for name in ("conv_dim", "ffn1_dim", "ffn2_dim")
            for layer in range(published.num_layers)
            if widths[name][layer] >= step
        )
        widths[name][layer] -= step
    return published.with_widths(widths)


class StockModel(torch.nn.Module):
    """transformers' encoder with svkit's features and head."""

    def __init__(self, network: SpeakerNetwork) -> None:
        super().__init__()
        network = copy.deepcopy(network)
        self.features, self.head, self.architecture = network.features, network.head, network.architecture
        self.model = Wav2Vec2BertModel(Wav2Vec2BertConfig(layerdrop=0.0))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Embed a batch of waveforms of equal length."""
        states = self.model(self.features(waveforms)[0], output_hidden_states=True).hidden_states
        return self.head(states, None)


def make_models(
    structures: Mapping[str, EncoderArchitecture], dtype: torch.dtype
) -> dict[str, SpeakerNetwork | StockModel]:
    """Build every structure as `svkit extract` prepares it, and the stock model with its weights cast once."""
    models: dict[str, SpeakerNetwork | StockModel] = {
        name: SpeakerNetwork(ModelArchitecture(encoder=encoder, head=HeadConfig())).eval()
        for name, encoder in structures.items()
    }
    stock = StockModel(models["dense"]).eval()
    for model in models.values():
        inference.prepare(model, dtype)
    for module in stock.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(dtype)
    return {**models, "stock dense": stock}


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    published = published_structure()
    structures = {"dense": W2V_BERT_2} | {f"round_to {step}": rounded(published, step) for step in ROUNDINGS}
    torch.manual_seed(0)
    waveforms = 0.1 * torch.randn(options.batch_size, int(options.seconds * 16_000))
    rows = []
    columns = ("dtype", "structure", "parameters", "GMACs, 1 s", "cpu s", "wall s", "x dense", "x stock")
    for dtype in DTYPES:
        models = make_models(structures, DTYPES[dtype])

        def embed(model: torch.nn.Module, is_bf16: bool = dtype == "bf16") -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                assert torch.isfinite(model(waveforms)).all()

        calls = {name: functools.partial(embed, model) for name, model in models.items()}
        times = measuring.take_turns(calls, options.rounds)
        for name, taken in times.items():
            architecture = models[name].architecture
            size = (encoder_parameters(architecture.encoder), macs(architecture).total / 1e9)
            ratios = (times["dense"].cpu / taken.cpu, times["stock dense"].cpu / taken.cpu)
            rows.append((dtype, name, *size, taken.cpu, taken.wall, *ratios))
    print(measuring.table(columns, rows))
    best = {dtype: max(row[6] for row in rows if row[0] == dtype and "round" in row[1]) for dtype in TARGETS}
    measuring.save(
        options.json,
        options.threads,
        batch_size=options.batch_size,
        seconds=options.seconds,
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
    )
    sys.exit(any(best[dtype] < target for dtype, target in TARGETS.items()))


if __name__ == "__main__":
    main()
