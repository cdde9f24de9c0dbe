"""Statistics of boards: intervals, differences, ranks, power and resampled metrics."""
