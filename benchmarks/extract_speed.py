"""Compare `svkit extract` with the published loop, as whole processes: wall time, CPU time and embeddings.

    python benchmarks/extract_speed.py --manifest exp-folder/data/eval.tsv [--model exp-folder/finetune/lmft]
        [--limit 120] [--dtypes bfloat16 int8] [--threads 1] [--json FILE]

The published loop embeds one utterance at a time: transformers' feature extractor and `Wav2Vec2BertModel`, all hidden
states kept, then the head, in fp32. Without --model, both use a full-size model with random weights, and evenly spaced
rows of the manifest. With --trials, the EER of each is computed too. GMAC/s can be compared with what square products
reach, which is printed; the multiply-adds are counted as `svkit info` counts them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from svkit.store.embeddings import read_embeddings

TARGET = 3.0
TARGET_INT8 = 1.5
TARGET_COSINE = {"int8": 0.999, "bfloat16": 0.999, "float32": 0.99999}


def published_loop(model_directory: Path, manifest_path: Path, out: Path) -> None:
    """Embed a manifest as the published script does, and save the matrix of embeddings."""
    import soundfile
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    from svkit.models.load import load_model
    from svkit.store.manifest import read_manifest

    network = load_model(model_directory)
    encoder = network.architecture.encoder
    stock = Wav2Vec2BertModel(
        Wav2Vec2BertConfig(
            hidden_size=encoder.hidden_size,
            num_hidden_layers=encoder.num_layers,
            num_attention_heads=encoder.num_heads[0],
            intermediate_size=encoder.ffn1_dim[0],
        )
    ).eval()
    state = {
        name: tensor[..., None] if "pointwise_conv" in name else tensor
        for name, tensor in network.encoder.state_dict().items()
    }
    missing, unexpected = stock.load_state_dict(state, strict=False)
    assert missing in ([], ["masked_spec_embed"]) and not unexpected, (missing, unexpected)
    network.encoder = torch.nn.Module()  # only its head is used
    extractor = SeamlessM4TFeatureExtractor(feature_size=80)
    manifest = read_manifest(manifest_path)
    embeddings = []
    with torch.inference_mode():
        for row in range(len(manifest)):
            waveform, rate = soundfile.read(manifest.audio_path(row), dtype="float32")
            features = extractor(waveform, sampling_rate=rate, return_tensors="pt")["input_features"]
            states = stock(features, output_hidden_states=True).hidden_states
            embeddings.append(network.head(states, None)[0].numpy())
    np.save(out, np.stack(embeddings))


def make_random_model(directory: Path) -> None:
    """Write a full-size checkpoint with random weights, scaled so that every part has an effect."""
    from encoder_speed import make_pair

    from svkit.config.architecture import W2V_BERT_2, ModelArchitecture
    from svkit.config.schema import HeadConfig
    from svkit.nn.speaker import SpeakerNetwork
    from svkit.store import checkpoint as store

    _, encoder = make_pair()
    network = SpeakerNetwork(ModelArchitecture(encoder=W2V_BERT_2, head=HeadConfig()))
    network.encoder.load_state_dict(encoder.state_dict())
    store.write_model(directory, network.architecture, network.state_dict())


def whole_process(command: list[str], threads: int) -> measuring.Timing:
    """Run a command and return its wall and CPU time, including start-up and loading."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return measuring.Timing(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each row with its counterpart."""
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def eer(embeddings: NDArray[np.float32], table: pd.DataFrame, trials_path: Path) -> float:
    """Return the EER of cosine scores, in per cent, on a list of `label enroll test`."""
    from svkit.eval import metrics, scoring

    rows = {name: row for row, name in enumerate(table["utterance_id"])}
    trials = [line.split() for line in trials_path.read_text(encoding="utf-8").splitlines()]
    left, right = (np.array([rows[trial[side]] for trial in trials]) for side in (1, 2))
    scores = scoring.cosine_scores(embeddings, embeddings, left, right)
    labels = np.array([trial[0] == "1" for trial in trials])
    return 100 * metrics.equal_error_rate(metrics.error_curve(scores, labels))


def work_of(model: Path, table: pd.DataFrame) -> float:
    """Count the multiply-adds for all utterances, each at its own length without padding."""
    from svkit.pruning.counting import macs
    from svkit.store.checkpoint import read_architecture

    architecture = read_architecture(model)
    seconds = table["num_samples"].astype(int) / table["sample_rate_hz"].astype(int)
    return float(sum(macs(architecture, int(50 * min(length, 60))).total for length in seconds))


def subset(options: argparse.Namespace) -> pd.DataFrame:
    """Return the manifest, or evenly spaced rows of it, with absolute paths."""
    table = pd.read_csv(options.manifest, sep="\t", dtype=str, keep_default_na=False)
    table["path"] = [str((options.manifest.parent / path).resolve()) for path in table["path"]]
    limit = options.limit or (len(table) if options.model else 120)
    return table.iloc[np.linspace(0, len(table) - 1, min(limit, len(table))).astype(int)]


def make_commands(options: argparse.Namespace, model: Path, work: Path) -> dict[str, list[str]]:
    """Return the command of each process, by label."""
    return {
        "published loop, fp32": [
            *(sys.executable, __file__, "--manifest", str(options.manifest)),
            *("--threads", str(options.threads)),
            *("--inside", str(model), str(work / "subset.tsv"), str(work / "published.npy")),
        ],
        **{
            f"svkit extract, {dtype}": [
                *(sys.executable, "-m", "svkit", "extract", "--model", str(model)),
                *("--exp", str(work / "exp"), "--manifest", str(work / "subset.tsv"), "--preset", "tiny"),
                *("--dtype", dtype, "--out", str(work / dtype)),
            ]
            for dtype in options.dtypes
        },
    }


def main() -> None:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a dense checkpoint (default: full size, random weights)")
    parser.add_argument("--trials", type=Path)
    parser.add_argument(
        "--limit", type=int, help="number of utterances (default: 120 at full size, else all)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=TARGET_COSINE, default=["float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        measuring.start(options.threads)
        published_loop(*options.inside)
        return
    # Not `measuring.start`, which keeps freed memory: the random model is large.
    torch.set_num_threads(options.threads)
    table = subset(options)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        table.to_csv(work / "subset.tsv", sep="\t", index=False)
        model = options.model or work / "model"
        if options.model is None:
            make_random_model(model)
        commands = make_commands(options, model, work)
        times = {label: whole_process(command, options.threads) for label, command in commands.items()}
        own = [read_embeddings(work / dtype) for dtype in options.dtypes]
        matrices = [np.load(work / "published.npy"), *(embeddings.matrix for embeddings in own)]
        loops = ["-", *(embeddings.meta["cpu_seconds"] for embeddings in own)]
        multiply_adds = work_of(model, table)
    baseline = times["published loop, fp32"]
    audio = float((table["num_samples"].astype(int) / table["sample_rate_hz"].astype(int)).sum())
    lowest = [float(cosines(matrices[0], matrix).min()) for matrix in matrices]
    rows = [
        (
            label,
            taken.wall,
            taken.cpu,
            baseline.cpu / taken.cpu,
            baseline.wall / taken.wall,
            audio / taken.cpu,
        )
        for label, taken in times.items()
    ]
    rows = [
        (*row, cosine, multiply_adds / row[2] / 1e9, loop)
        for row, cosine, loop in zip(rows, lowest, loops, strict=True)
    ]
    columns = (
        "whole process",
        "wall s",
        "cpu s",
        "x, cpu",
        "x, wall",
        "audio s / cpu s",
        "lowest cosine",
        "GMAC/s",
        "its loop, cpu s",
    )
    print(measuring.table(columns, rows))
    peaks = {name: measuring.matmul_peak(getattr(torch, name)) / 1e9 for name in ("float32", "bfloat16")}
    print(
        f"{len(table)} utterances, {audio:.0f} s, {multiply_adds / 1e9:,.0f} GMAC; square products reach "
        + ", ".join(f"{peak:.0f} GMAC/s in {name}" for name, peak in peaks.items())
    )
    rates = [eer(matrix, table, options.trials) for matrix in matrices] if options.trials else None
    print("EER of each:", json.dumps(rates))
    measuring.save(
        options.json,
        options.threads,
        model="trained" if options.model else "full size, random weights",
        matmul_peak_gmacs=peaks,
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
        utterances=len(table),
        audio_seconds=audio,
        eer_percent=rates,
    )
    for dtype, cosine in zip(options.dtypes, lowest[1:], strict=True):
        assert cosine >= TARGET_COSINE[dtype], (dtype, cosine)
    missed = [baseline.cpu / times[f"svkit extract, {dtype}"].cpu < TARGET for dtype in options.dtypes]
    if {"bfloat16", "int8"} <= set(options.dtypes):
        gain = times["svkit extract, bfloat16"].cpu / times["svkit extract, int8"].cpu
        loop = loops[1 + options.dtypes.index("bfloat16")] / loops[1 + options.dtypes.index("int8")]
        print(
            f"int8 over bfloat16: {gain:.2f} x (target {TARGET_INT8}); without start-up and loading {loop:.2f} x"
        )
        missed.append(gain < TARGET_INT8)
    sys.exit(any(missed))


if __name__ == "__main__":
    main()
