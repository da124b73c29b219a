"""The features of `svkit.audio.features` in operations that any inference runtime has, for `svkit export`.

Framing is an index, and everything between a frame and its spectrum (pre-emphasis, window, 512-point Fourier
transform) is one matrix, since all of it is linear: exported graphs need no FFT. Every shape may be symbolic.
"""

import torch
from torch import Tensor, nn

from svkit.audio import features
from svkit.audio.features import FFT_SAMPLES, FRAME_SAMPLES, HOP_SAMPLES

NUM_BINS = FFT_SAMPLES // 2 + 1


def spectrum_matrix() -> Tensor:
    """Frame without its mean -> real and imaginary parts of its spectrum, [400, 514] float64."""
    emphasis = torch.eye(FRAME_SAMPLES, dtype=torch.float64)
    emphasis -= features.PREEMPHASIS * torch.diag(torch.ones(FRAME_SAMPLES - 1, dtype=torch.float64), 1)
    emphasis[0, 0] = 1 - features.PREEMPHASIS
    windowed = emphasis * (features.povey_window() * 2**15)
    spectrum = torch.fft.rfft(windowed, n=FFT_SAMPLES)
    return torch.cat([spectrum.real, spectrum.imag], dim=1)


class GraphFeatures(nn.Module):
    """Padded waveforms -> stacked, normalised log-mel features; always float32, whatever the model's type."""

    spectrum: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spectrum", spectrum_matrix().float(), persistent=False)
        self.register_buffer("mel", features.mel_filters().float(), persistent=False)

    def forward(self, waveforms_BN: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what `FeatureExtractor.forward` computes, without its checks.

        Args:
            waveforms_BN: 16 kHz audio in [-1, 1] float32, padded on the right, at least 560 samples wide.
            num_samples_B: real samples of each, int64, at least 560.
        """
        total = (waveforms_BN.shape[1] - FRAME_SAMPLES) // HOP_SAMPLES + 1
        rows = torch.arange(total, device=waveforms_BN.device)
        index_MS = rows[:, None] * HOP_SAMPLES + torch.arange(FRAME_SAMPLES, device=waveforms_BN.device)
        frames_BMS = waveforms_BN[:, index_MS]
        spectrum = (frames_BMS - frames_BMS.mean(-1, keepdim=True)) @ self.spectrum
        power = spectrum[..., :NUM_BINS].square() + spectrum[..., NUM_BINS:].square()
        mels = (power @ self.mel).clamp(min=features.MEL_FLOOR).log()
        features_BTF, num_frames_B = features.normalise_and_stack(mels, num_samples_B)
        assert num_frames_B is not None
        return features_BTF, num_frames_B
