"""Speaker verification with w2v-BERT 2.0: fine-tune, prune, distill, and measure honestly.

In Python: `svkit.load("DIR or org/name").embed("a.wav")`, or `.embed([waveform, ...], sample_rate=16000)`: [N, D].
Importing `svkit` is cheap; torch is imported when a model is first loaded.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svkit.models.load import SpeakerModel

__all__ = ["SpeakerModel", "__version__", "load"]


def load(name: str | os.PathLike[str], file: str | None = None) -> "SpeakerModel":
    """Load a checkpoint, in evaluation mode on the CPU; see `SpeakerModel.from_pretrained`.

    Args:
        name: directory, or name on the Hugging Face hub: `org/name`, `org/name@revision`, `hub:org/name`.
        file: `.pth` file to use, where a repository on the hub has several.
    """
    from svkit.models.load import SpeakerModel
    from svkit.progress import SilentProgress
    from svkit.tools.convert import local_checkpoint

    return SpeakerModel.from_pretrained(local_checkpoint(name, file, SilentProgress()))


def __getattr__(name: str) -> Any:
    """Import the public names on first use (PEP 562)."""
    if name == "SpeakerModel":
        from svkit.models.load import SpeakerModel

        return SpeakerModel
    if name == "__version__":
        from importlib.metadata import version

        return version("svkit")
    raise AttributeError(f"module 'svkit' has no attribute {name!r}")
