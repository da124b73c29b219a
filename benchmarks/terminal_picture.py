"""Record docs/terminal.svg: real commands on a finished experiment, and what they print on a terminal.

    python benchmarks/terminal_picture.py EXP [--people LIST]

The commands run in a copy of EXP. They score the dense and the pruned model, calibrate on the people
of LIST (by default the validation speakers), and compare two recordings of one speaker. Progress bars and the tables
of thresholds are left out.
"""

import argparse
import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

from svkit.store.manifest import read_manifest

COLUMNS = 108
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "terminal.svg"
SCORE_ENDS_AT = "Thresholds of "


def on_a_terminal(command: str, home: Path) -> str:
    """Run a command on a pseudo-terminal; return what it prints on stdout."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    words = [sys.executable, "-m", *shlex.split(command)]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    with subprocess.Popen(
        words, cwd=home, env=environment, stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        printed = b""
        try:
            while block := os.read(ours, 65536):
                printed += block
        except OSError:  # on Linux, the other end has been closed
            pass
        _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{command}: {errors.decode()}")
    return printed.decode().replace("\r\n", "\n").strip("\n")


def main() -> None:
    """Run the commands and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exp", type=Path)
    parser.add_argument(
        "--people",
        default="exp/data/valid.tsv",
        help="path as seen from the directory that has the copy, `exp`",
    )
    options = parser.parse_args()
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        left_out = shutil.ignore_patterns("scores", "resume", "calibration.json", "report", ".make")
        shutil.copytree(options.exp, home / "exp", ignore=left_out)
        (trials,) = (home / "exp" / "data" / "trials").glob("*.txt")
        recordings = read_manifest(home / "exp" / "data" / "eval.tsv").table
        first = recordings[recordings["speaker_id"] == recordings["speaker_id"].iloc[0]]
        names = []
        for name, path in zip(
            ("monday", "tuesday"), (first["path"].iloc[0], first["path"].iloc[-1]), strict=True
        ):
            source = home / "exp" / "data" / path  # an absolute path stays as it is
            names.append(f"{name}{source.suffix}")
            shutil.copy(source, home / names[-1])
        for command in (
            f"svkit score exp/data/trials/{trials.name}",
            f"svkit calibrate {options.people}",
            f"svkit verify {' '.join(names)}",
        ):
            console.print(Text(f"$ {command}", style="bold cyan"))
            printed = on_a_terminal(command, home)
            console.print(Text.from_ansi(printed.partition(SCORE_ENDS_AT)[0].rstrip("\n")))
            console.print()
    picture = console.export_svg(title="svkit", unique_id="svkit")
    # Fonts would be fetched from another server.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    PICTURE.write_text(picture, encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
