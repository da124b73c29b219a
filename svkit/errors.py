"""Errors a user can cause, each with the exit code of its family.

A message is one clear line: what, where, expected and found, what to do. Lists of bad rows name at most the first
five and the count (`first_five`).
"""

from collections.abc import Sequence


class SvkitError(Exception):
    """Base of every error that is reported as one line instead of a traceback."""

    exit_code = 1


class ConfigError(SvkitError):
    """Bad flag, preset, key or value, or an output that is already finished."""

    exit_code = 2


class FinishedError(ConfigError):
    """What a command would make is finished, with equal inputs and settings, and neither to be kept nor replaced."""

    def __init__(self, message: str, final: str = "") -> None:
        """Keep the path of the command's last output, for those who know what follows it."""
        super().__init__(message)
        self.final = final  # has a default, because pickle makes the error from its message alone


class OutdatedError(ConfigError):
    """What a command would make is finished, and its inputs have changed since."""


class DataError(SvkitError):
    """Bad manifest, trial list or audio."""

    exit_code = 3


class ArtifactError(SvkitError):
    """Checkpoint, embeddings or scores that are missing or corrupt, or have another version or shape."""

    exit_code = 4


class TrainingError(SvkitError):
    """Training cannot continue: non-finite loss, sparsity target missed."""

    exit_code = 5


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, at most 200 characters, to be quoted in a one-line message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def printable(text: str) -> str:
    """Escape the characters that cannot be printed, so that any terminal or file can take the text."""
    escaped = text.encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in escaped)


def terminal_text(message: str, longest: int = 1000) -> str:
    """Escape a message as `printable` does but keep its line ends; shorten it to about half of `longest` if longer."""
    shown = "\n".join(map(printable, message.split("\n")))
    if len(shown) <= longest:
        return shown
    # The end stays, because the reason comes last, after a name that may be long.
    return f"{shown[: longest - 240]} ... {shown[-200:]} ({len(shown)} characters)"


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-60:]}"


def first_five(items: Sequence[object]) -> str:
    """Join the first five items of a list and say how many there are in all."""
    shown = ", ".join(_short(str(item)) for item in items[:5])
    return shown if len(items) <= 5 else f"{shown}, ... ({len(items)} in all)"
