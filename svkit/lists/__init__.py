"""Manifests merged, split, checked, counted and packed."""
