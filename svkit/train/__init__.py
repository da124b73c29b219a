"""One training loop, three tasks, and functions of the step."""
