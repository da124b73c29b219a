"""Corpora on disk to manifests and trial lists."""
