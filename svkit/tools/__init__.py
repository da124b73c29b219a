"""Export, conversion, and checks of an installation or experiment."""
