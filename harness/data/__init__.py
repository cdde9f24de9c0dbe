"""Read data sets in their official layouts and hash what was read."""
