"""Signatures of the commands, printing and exit codes."""
