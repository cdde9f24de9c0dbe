"""Training loop, training data, and search spaces of tuning."""
