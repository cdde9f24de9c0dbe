"""Boards over one task and over all of them."""
