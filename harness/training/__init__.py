"""The training loop, its data, and the search spaces of tuning."""
