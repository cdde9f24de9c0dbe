"""Tables in five formats, and the style of figures."""
