"""Escape text for LaTeX and spreadsheets."""

import csv
import io
import re

from steelyard.harness.core.characters import one_line

_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "≈": r"$\approx$",
        "†": r"\textdagger{}",
        "▲": r"$\uparrow$",
        "▼": r"$\downarrow$",
    }
)


# A sign before a number, not the hyphen of a name.
_MINUS = re.compile(r"(?<!\w)-(?=\d)")


def tex(text: str) -> str:
    """Escape text for LaTeX with the package textcomp."""
    text = _MINUS.sub("$-$", one_line(text).translate(_LATEX))
    # Behind the end of a row these would be read as its argument and its star.
    return f"{{{text[0]}}}{text[1:]}" if text.startswith(("[", "*")) else text


_FORMULA = re.compile(rb'(?m)(?:^|,)"?(?:[=+@\t\r]|-(?![\d.]+(?:e[+-]?\d+)?(?:,|$)))')
"""Cell that may begin like a formula, and is no negative number."""


def escape_formulas(content: bytes) -> bytes:
    """Put an apostrophe before text in a CSV file that a spreadsheet would run as a formula."""
    # Most files have no such cell, and a search is far faster than reading all cells.
    if not _FORMULA.search(content):
        return content
    out = io.StringIO()
    rows = csv.reader(io.StringIO(content.decode(), newline=""))
    csv.writer(out, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)
    return out.getvalue().encode()


def _cell(text: str) -> str:
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    # "-1.5" and "+2" are numbers; an apostrophe would make them text.
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
