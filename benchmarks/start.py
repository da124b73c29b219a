"""Measure what one decision costs: the CPU time of `svkit verify` with a tiny model, and memory at full size.

    python benchmarks/start.py [--rounds N] [--full-size] [--json FILE]

The CPU time is that of whole processes, which take turns. It is compared with `import torch` alone, the least that any
command with a model takes. With `--full-size`, the peak of memory of `verify` and `export` on the dense model of full
size (random weights, 580 million parameters) is given as a multiple of the weights. This needs 8 GB of memory and of
disk.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import measuring
import numpy as np
import soundfile
import torch

from svkit.config.architecture import W2V_BERT_2, EncoderArchitecture, ModelArchitecture, tiny_architecture
from svkit.config.load import load_recipe
from svkit.nn.speaker import SpeakerNetwork
from svkit.store import checkpoint


def write_model(place: Path, encoder: EncoderArchitecture) -> float:
    """Write a checkpoint with random weights; return their size in GB."""
    torch.manual_seed(0)
    network = SpeakerNetwork(ModelArchitecture(encoder=encoder, head=load_recipe("tiny").head))
    place.mkdir()
    checkpoint.write_model(place, network.architecture, network.state_dict())
    return (place / checkpoint.MODEL_NAME).stat().st_size / 2**30


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--work", type=Path, help="directory for temporary files")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        home = Path(folder)
        rng, paths = np.random.default_rng(0), [home / "a.wav", home / "b.wav"]
        for path in paths:
            soundfile.write(path, 0.1 * rng.standard_normal(64_000), 16_000)
        write_model(home / "tiny", tiny_architecture(load_recipe("tiny").encoder_overrides))
        commands = {
            "import torch": ("-c", "import torch"),
            "svkit --help": ("-m", "svkit", "--help"),
            "svkit verify": ("-m", "svkit", "verify", *paths, "--model", home / "tiny"),
        }
        times = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                times[name].append(measuring.run_alone(*command).taken.cpu)
        seconds = {name: statistics.median(values) for name, values in times.items()}
        result = {
            "cpu_seconds": seconds,
            "verify_to_torch": seconds["svkit verify"] / seconds["import torch"],
        }
        if options.full_size:
            weights_gb = write_model(home / "dense", W2V_BERT_2)
            verify = "-m", "svkit", "verify", *paths, "--model", home / "dense"
            export = "-m", "svkit", "export", home / "dense", "--out", home / "onnx"
            verify_gb, export_gb = (measuring.run_alone(*command).peak_gb for command in (verify, export))
            result["full_size"] = {
                "weights_gb": weights_gb,
                "verify_peak_gb": verify_gb,
                "verify_to_weights": verify_gb / weights_gb,
                "export_peak_gb": export_gb,
                "export_to_weights": export_gb / weights_gb,
            }
    print(measuring.table(("process", "CPU seconds"), [*seconds.items()]))
    print(f"verify / import torch: {result['verify_to_torch']:.2f}")
    if options.full_size:
        print(measuring.table(("full size", "figure"), [*result["full_size"].items()]))
    measuring.save(options.json, 1, **result)


if __name__ == "__main__":
    main()
