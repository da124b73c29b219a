"""Trials to scores and metrics, and a decision on two recordings."""
