"""Arithmetic and training steps shared by several methods."""
