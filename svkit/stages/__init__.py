"""One file a command: orders the steps of the command."""
