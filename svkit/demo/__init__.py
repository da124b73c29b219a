"""The embedded corpus of synthetic voices."""
