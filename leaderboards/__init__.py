"""Boards are pure functions of records: collect, compare, print, plot."""
