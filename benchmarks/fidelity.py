"""Measure how svkit differs from the published recipe: noise mixes, seams, class weights, rates, rooms, speeds.

    python benchmarks/fidelity.py ../shared/voices --json docs/results/fidelity.json

The directory holds `wav/SPEAKER/*.flac` and `music/`. The published way is computed here from its description, and
docs/fidelity.md states the figures. The filter for changes of speed is compared with that of sox if the library `soxr`
is installed.
"""

import argparse
import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch
from data_loading import list_audio
from scipy.signal import fftconvolve
from torch.nn import functional

from svkit.audio.augment import SILENCE, add_noise, mean_power, reverberate
from svkit.audio.crop import repeat_to
from svkit.audio.features import FeatureExtractor
from svkit.audio.resample import SAMPLE_RATE_HZ, change_speed
from svkit.audio.rooms import RoomBank
from svkit.config.load import load_recipe
from svkit.config.schema import MarginConfig
from svkit.data.audio_source import AudioBank
from svkit.nn.margin import arcface_logits, make_classifier
from svkit.training.schedule import learning_rate

NUM_DRAWS, CROP = 2000, 3 * SAMPLE_RATE_HZ
EMBEDDING_DIM, NUM_CLASSES = 256, 17_982
VOXCELEB2_CROPS = 1_092_009
Draw = Callable[[], np.ndarray]


def mixes(draw_speech: Draw, draw_music: Draw, rng: np.random.Generator) -> dict[str, Any]:
    """Return the share of the power of the speech in speech with music, and of the loudest voice in babble."""
    shares: dict[str, list[float]] = {}
    for _ in range(NUM_DRAWS):
        voices = [mean_power(draw_speech()) for _ in range(rng.integers(3, 9))]
        for name, powers in (("speech", [voices[0], mean_power(draw_music())]), ("loudest_voice", voices)):
            equal = [float(power > SILENCE) for power in powers]
            for how, parts in (("published", powers), ("equal_power", equal)):
                share = parts[0] if name == "speech" else max(parts)
                shares.setdefault(f"{name}_{how}", []).append(share / max(sum(parts), 1e-30))
    return {
        name: {"mean": float(np.mean(values)), "middle_80_percent": np.quantile(values, (0.1, 0.9)).tolist()}
        for name, values in shares.items()
    }


def seams(rng: np.random.Generator) -> dict[str, int]:
    """Return where the seam lies in a crop of 2 s at speed 1.1, in samples."""
    length = len(change_speed(np.zeros(2 * SAMPLE_RATE_HZ, np.float32), 1.1))
    ramp = np.arange(length, dtype=np.float32)
    found = [length - int(repeat_to(ramp, 2 * SAMPLE_RATE_HZ, rng)[0]) for _ in range(NUM_DRAWS)]
    return {"first": min(found), "last": max(found), "fixed": length}


def class_norms() -> dict[str, float]:
    """Return the mean norm of new class vectors, for VoxCeleb2's number of classes."""
    norms = {}
    for name, is_uniform in (("published", True), ("xavier", False)):
        torch.manual_seed(0)
        config = MarginConfig(uniform_start=is_uniform)
        weight = make_classifier(EMBEDDING_DIM, NUM_CLASSES, config, batch_size=64, seed=0).weight
        norms[name] = float(weight.detach().norm(dim=1).mean())
    return norms


def rates() -> dict[str, float]:
    """Return the largest relative difference to the published learning rate, whose cosine begins one step later."""
    dense = load_recipe("w2v-bert-2.0").dense
    largest = {}
    for name, crops in (("joint", 3 * VOXCELEB2_CROPS), ("lmft", VOXCELEB2_CROPS)):
        stage = getattr(dense, name)
        per_epoch = crops // (8 * stage.data.batch_size)
        steps = int(stage.epochs * per_epoch)
        ours = np.array([learning_rate(stage.optim, step, per_epoch, steps) for step in range(steps)])
        largest[name] = float(np.max(np.abs(ours[1:] - ours[:-1]) / ours[:-1]))
    return largest


def arcface_in_bf16() -> dict[str, float]:
    """Return how far computing cosines in bfloat16 changes any logit, and the loss of a batch of 64."""
    torch.manual_seed(0)
    weight = functional.normalize(torch.randn(NUM_CLASSES, EMBEDDING_DIM))
    labels = torch.randint(0, NUM_CLASSES, (64,))
    embeddings = functional.normalize(weight[labels] + 0.1 * torch.randn(64, EMBEDDING_DIM))
    logits = [
        arcface_logits(functional.linear(embeddings.to(dtype), weight.to(dtype)).float(), labels, 32.0, 0.2)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    exact, rounded = (float(functional.cross_entropy(each, labels)) for each in logits)
    return {
        "logit": float((logits[1] - logits[0]).abs().max()),
        "loss": exact,
        "loss_relative": abs(rounded / exact - 1),
    }


def features(waveform: np.ndarray) -> torch.Tensor:
    """Compute the features of one waveform, [T, 160]."""
    return FeatureExtractor()(torch.from_numpy(waveform.astype(np.float32))[None])[0][0]


def spread(differences: list[torch.Tensor]) -> dict[str, float]:
    """Return the mean and the 99.9 % quantile of absolute differences of features."""
    values = torch.cat([each.abs().flatten() for each in differences]).numpy()
    return {"mean": float(values.mean()), "quantile_99.9_percent": float(np.quantile(values, 0.999))}


def rooms(draw_speech: Draw, count: int = 100) -> dict[str, float]:
    """Compare features of reverberated speech, the published way and ours, aligned by the delay of the direct path."""
    differences, delays, bank = [], [], RoomBank(24)
    for index in range(count):
        response, speech = bank[index], draw_speech()
        delay = int(np.argmax(np.abs(response)))
        published = fftconvolve(speech, response - response.mean())[delay:CROP]
        ours = reverberate(speech, response)[: CROP - delay]
        differences.append(features(published) - features(ours))
        delays.append(1000 * delay / SAMPLE_RATE_HZ)
    return {
        **spread(differences),
        "delay_ms_median": float(np.median(delays)),
        "delay_ms_largest": max(delays),
    }


def levels(draw_speech: Draw, draw_music: Draw, count: int = 100) -> dict[str, float]:
    """Compare features of speech with music at 10 dB, with and without bringing the mix to mean 0 and variance 1."""
    crops = [add_noise(draw_speech(), draw_music(), 10.0) for _ in range(count)]
    return spread([features((crop - crop.mean()) / crop.std()) - features(crop) for crop in crops])


def speed_filter(draw_speech: Draw, count: int = 100) -> dict[str, Any] | None:
    """Compare the features of speech at another speed, by sox's filter and ours; None: `soxr` is not installed."""
    if importlib.util.find_spec("soxr") is None:
        return None
    soxr = importlib.import_module("soxr")
    found = {}
    for speed in (0.9, 1.1):
        differences = []
        for _ in range(count):
            speech = draw_speech()
            ours, theirs = change_speed(speech, speed), soxr.resample(speech, speed, 1.0, quality="HQ")
            length = min(len(ours), len(theirs))
            differences.append(features(theirs[:length]) - features(ours[:length]))
        found[str(speed)] = spread(differences)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(1)
    rng = np.random.default_rng(24)

    def drawn_from(pattern: str) -> Draw:
        listed = list_audio(options.root, options.root.glob(pattern))
        bank = AudioBank(listed, np.arange(len(listed)), 2**40)
        return lambda: bank.crop(int(rng.integers(len(bank))), CROP, rng, random_seam=True)

    speech, music = drawn_from("wav/*/*.flac"), drawn_from("music/*.flac")

    def audible_speech() -> np.ndarray:
        """Draw crops until one is not silent."""
        crop = speech()
        return crop if mean_power(crop) > 1e3 * SILENCE else audible_speech()

    facts = {
        "mixes": mixes(speech, music, rng),
        "seams": seams(rng),
        "class_norms": class_norms(),
        "rates": rates(),
        "arcface_in_bf16": arcface_in_bf16(),
        "rooms": rooms(audible_speech),
        "levels": levels(audible_speech, music),
        "speed_filter": speed_filter(audible_speech),
    }
    print(json.dumps(facts, indent=1))
    measuring.save(options.json, 1, **facts)


if __name__ == "__main__":
    main()
