"""`svkit doctor`."""

from dataclasses import asdict
from pathlib import Path

import typer

from svkit.cli import console, options


def doctor(exp: options.Exp = Path("exp"), json: options.Json = False) -> None:
    """Examine the installation: versions, devices, disk, formats; what is missing and how to get it.

    Exit code 0: svkit can work here, with or without notes; 2: something has to be fixed.

    Example: svkit doctor
    """
    from svkit.reports.tables import Table
    from svkit.store.provenance import describe_code
    from svkit.tools.doctor import ERROR, run

    checks = run(exp)
    num_errors = sum(check.status == ERROR for check in checks)
    if json:
        found = [asdict(check) for check in checks]
        answer = {"is_ready": not num_errors, "checks": found, "versions": describe_code()}
        console.result(answer, as_json=True)
    else:
        rows = [[check.name, check.status, check.found] for check in checks]
        remedies = [f"{check.name}: {check.remedy}" for check in checks if check.remedy]
        verdict = f"{num_errors} to fix" if num_errors else "svkit can work here"
        title = f"svkit doctor: {verdict}"
        console.table(
            Table(title=title, headings=["", "", "found"], rows=rows, left=(0, 1, 2), notes=remedies)
        )
    if num_errors:
        raise typer.Exit(2)
