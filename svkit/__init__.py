"""Speaker verification with w2v-BERT 2.0: fine-tune, prune, distill, and measure honestly.

In Python: `svkit.load(DIR).embed("a.wav")`, or `.embed([waveform, ...], sample_rate=16000) -> float32 [N, D]`.
Importing `svkit` is cheap; torch is imported when a model is first loaded.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svkit.models.load import SpeakerModel

__all__ = ["SpeakerModel", "__version__", "load"]


def load(directory: str | os.PathLike[str]) -> "SpeakerModel":
    """Load a checkpoint directory, in evaluation mode on the CPU; see `SpeakerModel.from_pretrained`."""
    from svkit.models.load import SpeakerModel

    return SpeakerModel.from_pretrained(directory)


def __getattr__(name: str) -> Any:
    """Import the public names on first use (PEP 562)."""
    if name == "SpeakerModel":
        from svkit.models.load import SpeakerModel

        return SpeakerModel
    if name == "__version__":
        from importlib.metadata import version

        return version("svkit")
    raise AttributeError(f"module 'svkit' has no attribute {name!r}")
