"""Says how many damaged files this run has tried."""

import pytest

from tests.hostile.mutations import outcomes


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts that docs/reliability.md states."""
    if outcomes:
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items()))
        terminalreporter.write_line(f"damaged files: {sum(outcomes.values()):,} ({counts})")
