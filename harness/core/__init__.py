"""Modules that everything else builds on; they import nothing of steelyard outside core."""
