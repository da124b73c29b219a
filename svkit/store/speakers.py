"""`speakers.tsv` of a checkpoint: the speakers its classifier was trained on, read without torch."""

from pathlib import Path

from svkit.store.tables import read_artifact_table

FILE_NAME = "speakers.tsv"


def read_class_speakers(directory: Path) -> set[str]:
    """Return the speakers that the rows of a checkpoint's classifier stand for.

    Raises:
        ArtifactError: there is no classifier, or its list cannot be read.
    """
    return set(read_artifact_table(directory / FILE_NAME, ("speaker_id",))["speaker_id"])
