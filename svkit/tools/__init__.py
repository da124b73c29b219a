"""Export, conversion, checks of an installation or experiment, and the command that comes next in it."""
