"""Run the decide.py of a folder in this process: in one of its own, scipy and onnxruntime take seconds to import."""

import contextlib
import io
import sys
from pathlib import Path

import pytest

from svkit.store.exported import DECIDE_NAME


def run_script(folder: Path, *words: object) -> tuple[int, str]:
    """Return the exit code and all that is said; assertions are off, as with `python -O`: no refusal may be one."""
    path = folder / DECIDE_NAME
    script = compile(path.read_text(encoding="utf-8"), str(path), "exec", optimize=1)
    code, said = 0, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [str(path), *map(str, words)])
        try:
            exec(script, {"__name__": "__main__", "__file__": str(path)})
        except SystemExit as end:
            code = 1
            said.write(f"{end.code}\n")
    return code, said.getvalue()
