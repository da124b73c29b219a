"""The built-in corpus of synthetic voices."""
