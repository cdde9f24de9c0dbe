"""Check a data set folder and convert other copies into the official layout."""
