"""Measure how much a model relies on each modality."""
