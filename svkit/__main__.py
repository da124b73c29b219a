"""The `svkit` script, and `python -m svkit`, the form that torchrun starts."""

import sys


def main() -> None:
    """Run a command; Ctrl-C while the commands are still being imported is one line too."""
    try:
        from svkit.cli import app
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    app.main()


if __name__ == "__main__":
    main()
