"""Plain data of a run: its spec, its budget and its record on disk."""
