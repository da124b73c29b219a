"""`svkit doctor`: what this machine and environment have, what is missing, and how to get it.

Every check stands alone and survives a broken package, because the doctor is for environments that do not work.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from svkit.cores import available_cores
from svkit.errors import SvkitError, first_line
from svkit.torch_pair import PAIR, check_torch_pair

OK, NOTE, ERROR = "ok", "note", "error"
"""It works; it works, but something optional is missing; svkit cannot work."""

ENCODER = "facebook/w2v-bert-2.0"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    status: str
    """`OK`, `NOTE` or `ERROR`."""
    found: str
    remedy: str | None = None
    """What to do; None if there is nothing to do."""


def run(exp: Path) -> list[Check]:
    """Examine the environment and the place of an experiment; never raises for what it examines."""
    examinations: list[Callable[[Path], Iterator[Check]]] = [
        _python, _packages, _torch_pair, _devices, _bf16, _memory, _disk, _ffmpeg, _audio_formats, _encoder, _export,
        _experiment,
    ]  # fmt: skip
    checks = []
    for examine in examinations:
        try:
            checks += list(examine(exp))
        except Exception as error:  # a broken package may raise anything at import
            name = examine.__name__.strip("_").replace("_", " ")
            checks.append(Check(name, ERROR, _said(error), "see the message"))
    return checks


def _judge(name: str, is_fine: bool, found: str, remedy: str, otherwise: str = NOTE) -> Check:
    """Return a finding, with its remedy only if something is wrong."""
    return Check(name, OK, found) if is_fine else Check(name, otherwise, found, remedy)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _python(exp: Path) -> Iterator[Check]:
    low, high = (3, 10), (3, 13)
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    remedy = f"make a virtual environment with Python {low[0]}.{low[1]} to {high[0]}.{high[1]}"
    yield _judge("python", low <= sys.version_info[:2] <= high, found, remedy, ERROR)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages(exp: Path) -> Iterator[Check]:
    """Compare every requirement of svkit with what is installed: one line if all is well, else one per fault."""
    from packaging.requirements import Requirement

    yield Check("svkit", OK, importlib.metadata.version("svkit"))
    requirements = [Requirement(text) for text in importlib.metadata.requires("svkit") or []]
    required = [item for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""})]
    faults = []
    for item in required:
        version = _version(item.name)
        if version is None or not item.specifier.contains(version, prereleases=True):
            found = f"{version or 'not installed'}, needs {item.specifier}"
            faults.append(Check(item.name, ERROR, found, f"pip install '{item.name}{item.specifier}'"))
    main = ", ".join(f"{name} {version}" for name in ("torch", "transformers") if (version := _version(name)))
    if not faults:
        yield Check("packages", OK, f"{len(required)} required packages in their ranges ({main})")
    yield from faults


def _torch_pair(exp: Path) -> Iterator[Check]:
    """Import both: torchaudio refuses a torch of another version or build."""
    try:
        found = check_torch_pair()
        importlib.import_module("torch")
        importlib.import_module("torchaudio")
    except Exception as error:
        remedy = f"pip install --force-reinstall {PAIR} from the same index"
        yield Check("torch pair", ERROR, _said(error), remedy)
        return
    yield Check("torch pair", OK, found)


def _devices(exp: Path) -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            yield Check(f"GPU {index}", OK, f"{facts.name}, {facts.total_memory / 2**30:.0f} GB")
    elif shutil.which("nvidia-smi") and _runs(["nvidia-smi", "-L"]):
        found = f"there is one, but torch {torch.__version__} cannot use it"
        remedy = "install a torch build for the driver's CUDA version (pytorch.org), torchaudio with it"
        yield Check("GPU", ERROR, found, remedy)
    else:
        remedy = "enough for the demo, scoring and small encoders; the full-size recipes need a GPU"
        yield Check("GPU", NOTE, "none", remedy)


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _bf16(exp: Path) -> Iterator[Check]:
    import torch

    from svkit.nn.precision import resolve_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = resolve_precision("auto", device)
    found = (
        f"{device.type} multiplies bfloat16 natively"
        if chosen == "bf16"
        else f"not native on this {device.type}"
    )
    yield Check("bf16", OK, f"{found}; precision auto means {chosen}")


def _memory(exp: Path) -> Iterator[Check]:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    threads = os.environ.get("OMP_NUM_THREADS")
    limit = f", OMP_NUM_THREADS={threads}" if threads else ""
    yield Check("CPU and memory", OK, f"{available_cores()} cores, {total:.0f} GB{limit}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / 2**30
        remedy = "start the container with --shm-size=8g, or --set data.num_workers=0"
        yield _judge("shared memory", size >= 1, f"{size:.1f} GB", remedy)


def _disk(exp: Path) -> Iterator[Check]:
    above = (exp.absolute(), *exp.absolute().parents)
    place = next(path for path in above if path.exists() or path.is_symlink())
    if not place.is_dir() or not os.access(place, os.W_OK):
        fault = "cannot be written" if place.is_dir() else "is no directory"
        yield Check("disk", ERROR, f"{place} {fault}", "choose another with --exp")
        return
    free = shutil.disk_usage(place).free / 2**30
    remedy = "enough for small encoders; a full-size stage with its resume state takes about 15 GB"
    yield _judge("disk", free >= 20, f"{free:,.0f} GB free at {place}", remedy)


def _ffmpeg(exp: Path) -> Iterator[Check]:
    path = shutil.which("ffmpeg")
    if path is None and importlib.util.find_spec("imageio_ffmpeg") is not None:
        path = "the binary of the package imageio-ffmpeg"
    remedy = "only for .m4a (VoxCeleb2 as distributed): apt-get install ffmpeg, or pip install imageio-ffmpeg"
    yield _judge("ffmpeg", path is not None, path or "not found", remedy)


def _audio_formats(exp: Path) -> Iterator[Check]:
    import soundfile

    wanted, known = ("wav", "flac", "ogg", "mp3"), soundfile.available_formats()
    missing = [name for name in wanted if name.upper() not in known]
    read = ", ".join(name for name in wanted if name not in missing)
    remedy = f"no {', '.join(missing)}: pip install --force-reinstall soundfile (its wheel has them)"
    yield _judge(
        "audio formats", not missing, f"libsndfile {soundfile.__libsndfile_version__}: {read}", remedy
    )


def _encoder(exp: Path) -> Iterator[Check]:
    """Look for the published encoder in the hub's cache; no connection is made."""
    from huggingface_hub import try_to_load_from_cache

    is_cached = isinstance(try_to_load_from_cache(ENCODER, "model.safetensors"), str)
    found = f"{ENCODER} is {'in' if is_cached else 'not in'} the hub's cache"
    is_offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "ON", "YES")
    if is_offline and not is_cached:
        found += ", and HF_HUB_OFFLINE is set"
    remedy = (
        f"downloaded at first use (2.3 GB); without a network here, run `hf download {ENCODER} "
        "--local-dir DIR`"
        " elsewhere, copy DIR and pass --encoder DIR"
    )
    yield _judge("encoder", is_cached, found, remedy)


def _export(exp: Path) -> Iterator[Check]:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if _version(name) is None]
    found = f"without {', '.join(missing)}" if missing else "installed"
    yield _judge("export extra", not missing, found, "only for svkit export: pip install 'svkit[export]'")


def _experiment(exp: Path) -> Iterator[Check]:
    from svkit.store.experiment import FILE_NAME, read_experiment

    if not (exp / FILE_NAME).exists():
        yield Check("experiment", OK, f"none yet in {exp}", "svkit prepare demo, to try it")
        return
    try:
        settings = read_experiment(exp)
    except SvkitError as error:
        yield Check("experiment", ERROR, str(error), f"correct {exp / FILE_NAME}")
        return
    found = f"{exp}: preset {settings.preset}, encoder {settings.encoder or 'of the preset'}"
    yield Check("experiment", OK, found)
