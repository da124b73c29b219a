"""Errors a user can cause, each with the exit code of its family.

A message is one clear line: what, where, expected and found, what to do. Lists of bad rows name at most the first
five and the count (`first_five`).
"""

from collections.abc import Sequence


class SvkitError(Exception):
    """Base of every error that is reported as one line instead of a traceback."""

    exit_code = 1


class ConfigError(SvkitError):
    """Bad flag, preset, key or value; also an output that is finished already (usage)."""

    exit_code = 2


class DataError(SvkitError):
    """Bad manifest, trial list or audio."""

    exit_code = 3


class ArtifactError(SvkitError):
    """Checkpoint, embeddings or scores missing, corrupt, of another version or shape."""

    exit_code = 4


class TrainingError(SvkitError):
    """Training cannot continue: non-finite loss, sparsity target missed."""

    exit_code = 5


def first_line(error: Exception) -> str:
    """Return the beginning of what a library says, for a message of ours: some quote what they found, line ends too."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def printable(text: str) -> str:
    """Return text that any terminal and any file can take: what cannot be shown becomes an escape."""
    escaped = text.encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in escaped)


def terminal_text(message: str, longest: int = 1000) -> str:
    """Return a message that any terminal can take: `printable` but for its line ends, and no line without end."""
    shown = "\n".join(map(printable, message.split("\n")))
    if len(shown) <= longest:
        return shown
    # The reason stands at the end: a name may be long.
    return f"{shown[: longest - 240]} ... {shown[-200:]} ({len(shown)} characters)"


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-60:]}"


def first_five(items: Sequence[object]) -> str:
    """Join the first five items of a list and say how many there are in all."""
    shown = ", ".join(_short(str(item)) for item in items[:5])
    return shown if len(items) <= 5 else f"{shown}, ... ({len(items)} in all)"
