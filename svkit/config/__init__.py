"""Recipes as frozen dataclasses, presets and overrides."""
