"""Speaker verification with w2v-BERT 2.0: fine-tune, prune, distill, and measure honestly.

In Python: `svkit.SpeakerModel.from_pretrained(DIR).embed(waveforms, sample_rate=16000) -> float32 [N, D]`.
Importing `svkit` is cheap; torch is imported when `SpeakerModel` is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svkit.stages.models import SpeakerModel

__all__ = ["SpeakerModel", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use (PEP 562)."""
    if name == "SpeakerModel":
        from svkit.stages.models import SpeakerModel

        return SpeakerModel
    if name == "__version__":
        from importlib.metadata import version

        return version("svkit")
    raise AttributeError(f"module 'svkit' has no attribute {name!r}")
