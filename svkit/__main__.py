"""`python -m svkit`, the form that torchrun starts."""

from svkit.cli.app import main

if __name__ == "__main__":
    main()
