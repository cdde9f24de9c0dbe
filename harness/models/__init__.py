"""Backbones: classifiers from two encoders, and vision-language models."""
