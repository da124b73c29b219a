"""Models: loaded, described, and run over recordings."""
