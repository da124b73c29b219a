"""Time `make all` for the demo, from `svkit prepare demo` to the report, in an environment that is already there.

    python benchmarks/demo_time.py [--json FILE]

The machine must be idle: wall time is what a user waits. The CPU time of all processes and the load before the start
are recorded beside it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring

CLONE = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 600


def main() -> None:
    """Run the chain, print and save its times by command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    environment = Path(sys.executable).parents[1]
    with tempfile.TemporaryDirectory() as exp:
        command = ["make", "all", f"EXP={exp}", f"VENV={environment}", "PRESET=tiny"]
        began, commands = time.perf_counter(), []
        # make prints every command before it runs it; what svkit says goes to stderr.
        with subprocess.Popen(command, cwd=CLONE, stdout=subprocess.PIPE, text=True) as job:
            assert job.stdout is not None
            for line in job.stdout:
                if "bin/svkit " in line:
                    words = line.split("bin/svkit ", 1)[1].split()
                    commands.append(
                        (" ".join(words[: 2 if words[0] == "prepare" else 1]), time.perf_counter())
                    )
        seconds = time.perf_counter() - began
    if job.returncode:
        raise SystemExit(job.returncode)
    ends = [start for _, start in commands[1:]] + [began + seconds]
    rows = [(name, end - start) for (name, start), end in zip(commands, ends, strict=True)]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(measuring.table(("command", "seconds"), [*rows, ("all", seconds)]))
    print(
        "within" if seconds <= LIMIT_SECONDS else "beyond", f"ten minutes; load before the start: {load:.2f}"
    )
    measuring.save(
        options.json,
        os.cpu_count() or 1,
        seconds=seconds,
        minutes=seconds / 60,
        cpu_seconds=used.ru_utime + used.ru_stime,
        load_before=load,
        commands=[{"command": name, "seconds": taken} for name, taken in rows],
    )


if __name__ == "__main__":
    main()
