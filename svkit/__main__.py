"""The `svkit` script, and `python -m svkit`, the form that torchrun starts."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported also prints one line instead of a traceback."""
    try:
        from svkit.cli import app
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    app.main()


if __name__ == "__main__":
    main()
