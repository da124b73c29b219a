"""Waveform to waveform and waveform to features, pure torch."""
