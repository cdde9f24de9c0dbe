"""Load records and their items into frames."""
