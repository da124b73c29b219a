"""Which utterances, which crop, which augmentation, in which order."""
