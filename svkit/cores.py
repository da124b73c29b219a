"""How many processor cores this process may use."""

import os


def available_cores() -> int:
    """Count the cores this process may run on; in a container or under a scheduler, they may be fewer than exist."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
