"""Tiny vision-language model of the generated world."""
