"""Scores to numbers: back-ends, metrics and figures' data."""
