"""Scores over corruption severities."""
