"""Boards as pure functions of records: collect, compare, print, plot."""
