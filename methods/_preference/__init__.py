"""Preference and online methods on TRL trainers."""
