"""Check records without data or models."""
