"""The speaker model: pure torch modules."""
