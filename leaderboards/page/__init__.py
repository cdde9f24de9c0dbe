"""One self-contained HTML page of all boards."""
