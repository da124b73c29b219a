"""Measure how much disk svkit takes, and how much less an installation for inference needs.

    python benchmarks/install_size.py CHECKPOINT FOLDER TRIALS [--json docs/results/install_size.json]

The size of a distribution is that of the files that pip recorded for it, so svkit must be installed. Then the commands
for inference run on the recordings of FOLDER, while everything that inference does not need is hidden from Python; the
script stops if one fails. docs/inference_install.md has the figures.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import measuring
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

INFERENCE = (
    "torch", "torchaudio", "accelerate", "huggingface-hub", "numpy", "pandas", "pyarrow", "pydantic", "regex", "rich",
    "safetensors", "scipy", "soundfile", "typer", "typing-extensions",
)  # fmt: skip
"""Requirements that loading, embedding, verifying, extracting and scoring import, or whose version they check."""
_CUDA = ("nvidia-", "cuda-", "triton")
_PROGRAM = """
import json, sys
hidden, commands = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(hidden))
import svkit
from svkit.cli.app import app
for name, words in commands.items():
    if name == "svkit.load":
        assert svkit.load(words[0]).embed(words[1]).ndim == 1
    else:
        app([name.split()[1], *words], standalone_mode=False)
"""


def closure(names: Iterable[str]) -> set[str]:
    """Return distributions with everything that they require on this machine, without extras."""
    found: set[str] = set()
    waiting = {canonicalize_name(name) for name in names}
    while waiting:
        name = waiting.pop()
        found.add(name)
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting |= {canonicalize_name(requirement.name)} - found
                for extra in requirement.extras:  # such as cuda-toolkit[cublas]
                    waiting |= _of_extra(requirement.name, extra) - found
    return found


def _of_extra(name: str, extra: str) -> set[str]:
    requirements = map(Requirement, metadata.requires(name) or ())
    return {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    }


def megabytes(name: str) -> float:
    """Return the size of the files of a distribution, in MB."""
    files = (metadata.distribution(name).locate_file(file) for file in metadata.files(name) or ())
    return sum(path.stat().st_size for path in map(Path, map(str, files)) if path.is_file()) / 1e6


def modules_of(distributions: set[str]) -> list[str]:
    """Return the modules that only these distributions provide."""
    providers = metadata.packages_distributions()
    return sorted(m for m, owners in providers.items() if {*map(canonicalize_name, owners)} <= distributions)


def try_without(hidden: list[str], checkpoint: Path, folder: Path, trials: Path) -> list[str]:
    """Run inference in a process that cannot import these modules; return its commands, or raise its error."""
    a, b = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac"))[:2]
    with tempfile.TemporaryDirectory() as exp:
        commands = {
            "svkit.load": [checkpoint, a],
            "svkit verify": [a, b, "--model", checkpoint],
            "svkit extract": [folder, "--model", checkpoint, "--exp", exp],
            "svkit score": [trials, "--exp", exp],
        }
        words = json.dumps([hidden, commands], default=str)
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, words], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    return list(commands)


def sizes(names: set[str]) -> Mapping[str, float]:
    """Return the size of each distribution in MB, the largest first."""
    found = {name: round(megabytes(name), 1) for name in names}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    """Measure, try, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("checkpoint", "folder", "trials"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    whole, kept = sizes(closure(["svkit"]) - {"svkit"}), closure(INFERENCE)
    left_out = {name: size for name, size in whole.items() if name not in kept}
    cuda = {name: size for name, size in whole.items() if name.startswith(_CUDA)}
    tried = try_without(modules_of(set(left_out)), arguments.checkpoint, arguments.folder, arguments.trials)
    cpu = {name: size for name, size in whole.items() if name not in cuda}
    groups = {
        "all that svkit requires": whole,
        "of it CUDA's libraries, which torch on PyPI requires": cuda,
        "of it what inference does not need": left_out,
        "all without CUDA's libraries": cpu,
        "inference without CUDA's libraries": {name: size for name, size in cpu.items() if name in kept},
    }
    rows = [
        {"what": name, "distributions": len(group), "mb": round(sum(group.values()))}
        for name, group in groups.items()
    ]
    print(measuring.table(["", "distributions", "MB"], [list(row.values()) for row in rows]))
    print(f"without {', '.join(left_out)}: {', '.join(tried)} work")
    measuring.save(
        arguments.json,
        1,
        rows=rows,
        torch_mb=whole["torch"],
        required=sorted(INFERENCE),
        left_out_mb=left_out,
        largest_mb=dict(list(whole.items())[:12]),
        works=tried,
    )


if __name__ == "__main__":
    main()
