"""Decide whether two recordings are of one speaker, with the model beside this file.

Usage: python decide.py A.wav B.wav [PRIOR]. Needs onnxruntime, numpy, scipy and soundfile, but neither torch nor svkit.
"""

import json
import sys
from math import ceil, gcd, isfinite, log
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
from scipy.signal import resample_poly

if len(sys.argv) < 3:
    sys.exit("usage: decide.py A.wav B.wav [PRIOR]")
try:
    prior = float(sys.argv[3]) if len(sys.argv) > 3 else 0.5
except ValueError:
    prior = 0.0
if not 0 < prior < 1:
    sys.exit(f"PRIOR: expected a number above 0 and below 1, found {sys.argv[3]!r}")
folder = Path(__file__).parent
try:
    graph = min(folder.glob("model*.onnx"), key=lambda path: len(path.name))  # float32, if it was exported
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
except Exception as error:  # onnxruntime has types of its own
    sys.exit(f"{folder}: expected model.onnx, whole, beside this script; export it again: {error}")


def embed(path: str) -> tuple[Any, float]:
    """Embed the first 60 s of channel 0, at 16 kHz: [D], and the seconds of the file."""
    # A WAV begins with RIFF and its size, of which some leave out a byte; from a pipe, with nearly the largest number.
    head, size = np.fromfile(path, "<u4", 2).tolist(), Path(path).stat().st_size
    if head[:1] == [0x46464952] and size < head[-1] + 7 < 2**31 - 2**16:  # it would be read as far as it goes
        raise ValueError("truncated: shorter than its header says; copy it again")
    info = soundfile.info(path)
    wave = soundfile.read(path, 60 * info.samplerate, dtype="float32", always_2d=True)[0][:, 0]
    if info.samplerate != 16_000:  # by the windowed sinc with which the model was calibrated
        up, down = (rate // gcd(info.samplerate, 16_000) for rate in (16_000, info.samplerate))
        cutoff = 0.99 * min(1, up / down)
        phase = np.arange(-ceil(6 * up / cutoff), ceil(6 * up / cutoff) + 1) * cutoff / up
        window = np.cos(np.pi * phase / 12) ** 2 * (abs(phase) < 6)
        wave = resample_poly(wave, up, down, window=(np.sinc(phase) * window * cutoff / up).astype("float32"))
    if len(wave) < 560 or not np.isfinite(wave).all():  # the score would be no number, as if rejected
        raise ValueError("shorter than 35 ms, or with samples that are not finite numbers")
    (embeddings,) = session.run(
        None, {"waveforms": wave[None], "num_samples": np.array([len(wave)], "int64")}
    )
    if not np.isfinite(embeddings).all() or not embeddings.any():
        raise ValueError("the model gives no usable embedding; check the audio")
    return embeddings[0].astype("float64"), info.duration


sides = []
for path in sys.argv[1:3]:
    try:
        sides.append(embed(path))
    except (OSError, ValueError, soundfile.SoundFileError) as error:
        advice = "; copy or convert it again" if isinstance(error, soundfile.SoundFileError) else ""
        sys.exit(f"undecided: {path}: {getattr(error, 'strerror', None) or error}{advice}")
(left, seconds), (right, more_seconds) = sides
norms = float(np.linalg.norm(left)), float(np.linalg.norm(right))
score = left @ right / norms[0] / norms[1]
print(f"score {score:.5f}")
if not (folder / "calibration.json").exists():
    sys.exit("undecided: no calibration.json beside the model")
try:
    learnt = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    if learnt["checkpoint_sha256"] != session.get_modelmeta().custom_metadata_map["checkpoint_sha256"]:
        sys.exit("undecided: calibration.json is of another model")
    features = [score, *sorted(map(log, norms)), *sorted(map(log, (seconds, more_seconds)))]
    unbounded = learnt["offset"] + np.dot(learnt["weights"], features[: len(learnt["features"])])
    llr, decision = np.clip(unbounded, *learnt["bounds"]), learnt["decision"]
    if len(sys.argv) > 3 or not decision:
        ratio, needed = llr, log((1 - prior) / prior)
    else:  # the decision that `svkit calibrate` was asked for
        ratio, needed = unbounded if decision.get("false_accepts") else llr, decision["point"]["threshold"]
    if not isfinite(ratio - needed):
        raise ValueError("a number that is not finite")
except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
    sys.exit(f"undecided: calibration.json is damaged; export it again: {type(error).__name__}: {error}")
print(f"log-likelihood ratio {'<= ' if llr > unbounded else '>= ' if llr < unbounded else ''}{llr:+.4f}")
for kind in ("warnings", "limits", "misses")[: 1 if len(sys.argv) > 3 else 2 + (ratio < needed)]:
    print(end=session.get_modelmeta().custom_metadata_map.get(f"calibration_{kind}", ""), file=sys.stderr)
print("accept" if ratio >= needed else "reject", f"(from a ratio of {needed:+.2f} on)")
