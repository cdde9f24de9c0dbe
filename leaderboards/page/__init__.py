"""Write all boards as one self-contained HTML page."""
