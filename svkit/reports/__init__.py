"""Report, figures and model cards, from what an experiment holds."""
