"""Compare the tracks: equal compute, equal data, and scores over budgets."""
