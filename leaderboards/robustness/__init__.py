"""Measure and report robustness: scores over corruption severities."""
