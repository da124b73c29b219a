"""Turns corpora on disk into manifests and trial lists."""
