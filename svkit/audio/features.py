"""Log-mel features of w2v-BERT 2.0, for a padded batch at once, on the device of the waveforms.

The numbers equal those of transformers' `SeamlessM4TFeatureExtractor` (to 1e-3), without a loop over frames or
utterances. The steps are: 16 kHz waveform scaled by 2^15, 25 ms povey window every 10 ms, mean of each frame removed,
pre-emphasis, 80 mel bands of the power spectrum from 20 Hz to 8 kHz, log, mean and variance normalised per utterance
and band. Two frames are stacked, so one output frame is 20 ms. An odd last frame counts in the statistics and is then
dropped.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.errors import DataError

FRAME_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SAMPLES = 512
NUM_MELS = 80
STACK = 2
FEATURE_DIM = NUM_MELS * STACK
MIN_SAMPLES = FRAME_SAMPLES + (STACK - 1) * HOP_SAMPLES
"""Shortest waveform that gives one output frame: 560 samples, 35 ms."""
MEL_FLOOR = 1.192092955078125e-07
PREEMPHASIS = 0.97
Samples = int | NDArray[np.int64]
_CHUNK_FRAMES = 16_384
"""Frames transformed at once: bounds the memory of the spectra to 34 MB."""
_BAND_MELS = 16
_CPU_CHUNK_FRAMES = 512
"""The same on a CPU, where frames and spectra stay in the second-level cache (1 MB each)."""


def num_frames(num_samples: int | Tensor) -> int | Tensor:
    """Output frames (20 ms) of a waveform of `num_samples` samples."""
    return ((num_samples - FRAME_SAMPLES) // HOP_SAMPLES + 1) // STACK


def is_too_short(num_samples: Samples, sample_rate_hz: Samples = SAMPLE_RATE_HZ) -> Any:
    """Say whether recordings are too short to give a frame; takes numbers or arrays."""
    return num_samples * SAMPLE_RATE_HZ < MIN_SAMPLES * sample_rate_hz


def refuse_short(where: str, num_samples: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Raise DataError for a recording that gives no frame at all."""
    if is_too_short(num_samples, sample_rate_hz):
        found = f"{1000 * num_samples / sample_rate_hz:.0f} ms"
        raise DataError(f"{where}: expected at least 35 ms of audio, found {found}")


def is_padding(lengths_B: Tensor, size: int) -> Tensor:
    """Return where a padded batch has padding, bool [B, size]."""
    return torch.arange(size, device=lengths_B.device) >= lengths_B[:, None]


def normalise_and_stack(mels_BMF: Tensor, num_samples_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Bring each band of each utterance to mean 0 and variance 1, and stack frames in pairs.

    Args:
        mels_BMF: log-mel energies, one row every 10 ms.
        num_samples_B: real samples of each waveform; None when none is padded.

    Returns:
        features [B, T, 160], zeros after the end of an utterance, and the number of real frames [B] (None when none is
        padded).
    """
    batch, total, _ = mels_BMF.shape
    counts: Tensor | None = None
    divisor: Tensor | int = total
    if num_samples_B is not None:
        counts = torch.div(num_samples_B - FRAME_SAMPLES, HOP_SAMPLES, rounding_mode="floor") + 1
        padded = is_padding(counts, total)[..., None]
        divisor = counts[:, None, None].to(mels_BMF.dtype)
        mels_BMF = mels_BMF.masked_fill(padded, 0)
    centred = mels_BMF - mels_BMF.sum(1, keepdim=True) / divisor
    if counts is not None:
        centred = centred.masked_fill(padded, 0)
    variance = centred.square().sum(1, keepdim=True) / (divisor - 1)
    normalised = centred * torch.rsqrt(variance + 1e-7)
    features = normalised[:, : total // STACK * STACK].reshape(batch, total // STACK, FEATURE_DIM)
    if counts is None:
        return features, None
    # The odd last frame of a shorter utterance is dropped too, so that nothing of it remains before the padding.
    num_frames_B = torch.div(counts, STACK, rounding_mode="floor")
    return features.masked_fill(is_padding(num_frames_B, total // STACK)[..., None], 0), num_frames_B


def povey_window() -> Tensor:
    """Hann window to the power of 0.85, [400] float64."""
    positions = torch.arange(FRAME_SAMPLES, dtype=torch.float64)
    return (0.5 - 0.5 * torch.cos(2 * math.pi * positions / (FRAME_SAMPLES - 1))).pow(0.85)


def mel_filters() -> Tensor:
    """Triangles in mel space, [257, 80] float64 (Kaldi's mel scale, 20 Hz to 8 kHz)."""

    def mel(frequency_hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(frequency_hz / 700.0)

    limits = mel(torch.tensor([20.0, SAMPLE_RATE_HZ / 2], dtype=torch.float64))
    corners = torch.linspace(0, 1, NUM_MELS + 2, dtype=torch.float64) * (limits[1] - limits[0]) + limits[0]
    bins = mel(torch.arange(FFT_SAMPLES // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / FFT_SAMPLES)[
        :, None
    ]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0.0)


class FeatureExtractor(nn.Module):
    """Waveforms -> stacked, normalised log-mel features."""

    window: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Constants have values even in a module that is built on the meta device (to be counted, or filled later).
        with torch.device("cpu"):
            # Zeros up to the length of the transform, so that what a frame reads beyond its 400 samples has no effect.
            window = functional.pad(povey_window()[1:] * 2**15, (0, FFT_SAMPLES - FRAME_SAMPLES + 1)).float()
            filters = mel_filters().float()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("mel", filters, persistent=False)
        # The filters are narrow, so neighbouring ones are applied together, only to the bins that they reach.
        self._bands: list[tuple[slice, slice]] = []
        for first in range(0, NUM_MELS, _BAND_MELS):
            reached = filters[:, first : first + _BAND_MELS].any(1).nonzero().flatten().tolist()
            bins = slice(reached[0], reached[-1] + 1)
            self._bands.append((bins, slice(first, first + _BAND_MELS)))

    def log_mel(self, waveforms_BN: Tensor) -> Tensor:
        """Log mel energies, [B, M, 80] float32, one row every 10 ms.

        The utterances are laid end to end, each padded to whole hops, and framed as one signal; the few frames that
        span two utterances are dropped. The window is 0 at the first sample of a frame, the only one without a
        predecessor. So the pre-emphasised frame is taken from its second sample on, which does not change the power.
        """
        batch, num_samples = waveforms_BN.shape
        count = (num_samples - FRAME_SAMPLES) // HOP_SAMPLES + 1
        hops = -(-(FRAME_SAMPLES + FFT_SAMPLES) // HOP_SAMPLES) + count
        kept = waveforms_BN[:, : (count - 1) * HOP_SAMPLES + FRAME_SAMPLES].float()
        signal = functional.pad(kept, (0, hops * HOP_SAMPLES - kept.shape[1])).flatten()
        # A frame is five blocks of half a hop, so the sums of its blocks give its mean.
        block = HOP_SAMPLES // 2
        means = signal.view(-1, block).sum(1).unfold(0, FRAME_SAMPLES // block, 2).sum(1) / FRAME_SAMPLES
        frames = signal.unfold(0, 1 + FFT_SAMPLES, HOP_SAMPLES)
        size = _CPU_CHUNK_FRAMES if signal.device.type == "cpu" else _CHUNK_FRAMES
        chunks = zip(frames.split(size), means[: len(frames)].split(size), strict=True)
        mels = torch.cat([self._log_mel(chunk, mean) for chunk, mean in chunks])
        mels = functional.pad(mels, (0, 0, 0, batch * hops - len(mels)))
        return mels.view(batch, hops, NUM_MELS)[:, :count]

    def _log_mel(self, frames_XN: Tensor, means_X: Tensor) -> Tensor:
        # The mean is removed before the pre-emphasis; afterwards, a constant frame would lose its last digits.
        centred = frames_XN - means_X[:, None]
        emphasised = torch.sub(centred[:, 1:], centred[:, :-1], alpha=PREEMPHASIS)
        spectrum = torch.fft.rfft(emphasised.mul_(self.window))
        power = torch.addcmul(spectrum.real * spectrum.real, spectrum.imag, spectrum.imag)
        mels = torch.cat([power[:, bins] @ self.mel[bins, band] for bins, band in self._bands], dim=1)
        return mels.clamp_(min=MEL_FLOOR).log_()

    @torch.no_grad()
    def forward(
        self, waveforms_BN: Tensor, num_samples_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the features of a batch of 16 kHz audio in [-1, 1], padded on the right with anything finite.

        Returns:
            The result of `normalise_and_stack`, float32.

        Raises:
            ValueError: a waveform is shorter than 560 samples.
        """
        shortest = waveforms_BN.shape[1] if num_samples_B is None else int(num_samples_B.min())
        if is_too_short(shortest):
            raise ValueError(
                f"audio of {shortest} samples is too short: expected at least {MIN_SAMPLES} (35 ms at 16 kHz)"
            )
        # bf16 autocast must not touch the power spectrum, which spans far more than 8 bits.
        with torch.autocast(device_type=waveforms_BN.device.type, enabled=False):
            return normalise_and_stack(self.log_mel(waveforms_BN), num_samples_B)


def spec_augment(
    features_BTF: Tensor,
    *,
    time_masks: int,
    time_frames: int,
    frequency_masks: int,
    frequency_bins: int,
) -> Tensor:
    """Set random spans of time and of mel bands to 0, their mean (Park et al. 2019, without time warping).

    Draws come from torch's global CPU generator, which the training loop seeds per step. Spans are at most
    `time_frames` of 20 ms long and `frequency_bins` mel bands wide; a band is masked in both stacked frames.
    """
    batch, frames, _ = features_BTF.shape

    def spans(size: int, widest: int, count: int) -> Tensor:
        width = torch.randint(0, min(widest, size) + 1, (batch, count, 1))
        start = (torch.rand((batch, count, 1)) * (size - width + 1)).long()
        positions = torch.arange(size)
        return ((positions >= start) & (positions < start + width)).any(1).to(features_BTF.device)

    if time_masks:
        features_BTF = features_BTF.masked_fill(spans(frames, time_frames, time_masks)[:, :, None], 0)
    if frequency_masks:
        bands = spans(NUM_MELS, frequency_bins, frequency_masks)
        features_BTF = features_BTF.masked_fill(bands.repeat(1, STACK)[:, None, :], 0)
    return features_BTF
