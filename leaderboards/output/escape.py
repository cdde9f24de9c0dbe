"""Text made safe for Markdown, LaTeX, spreadsheets and names of files."""

import re

# Underscores within a word and number signs within a line mean nothing to Markdown.
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_+|_+(?!\w)|^#(?=.)")


def md(text: str) -> str:
    """Text that Markdown, also inside a table, shows as it is."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(lambda found: "".join(f"\\{sign}" for sign in found[0]), text)


def file_name(text: str) -> str:
    """Text as part of a file's name that any system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


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


_MINUS = re.compile(r"(?<!\w)-(?=\d)")


def tex(text: str) -> str:
    """Text that LaTeX prints as it is; needs the package textcomp."""
    return _MINUS.sub("$-$", " ".join(text.split()).translate(_LATEX))
