"""Figures of boards and profiles."""
