"""Text of strangers: characters that do not show, which steer a terminal or mislead, and markup."""

import json
import re
import unicodedata

INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories of control and format characters and line separators."""
# Underscores within a word and number signs within a line are plain text in Markdown.
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_+|_+(?!\w)|^#(?=.)")
BREAKS = dict.fromkeys(map(ord, "\n\t"))


def is_invisible(character: str) -> bool:
    """Test for ESC and other controls, marks of direction, lone surrogates and the like."""
    return unicodedata.category(character) in INVISIBLE


def visible(text: str) -> str:
    """Leave out characters that do not show, but for line ends and tabs."""
    if text.translate(BREAKS).isprintable():
        return text
    return "".join(sign for sign in text if ord(sign) in BREAKS or not is_invisible(sign))


def escaped(text: str) -> str:
    r"""Write characters that do not show as in JSON: ``\u001b``."""
    if text.isprintable():
        return text
    return "".join(json.dumps(sign)[1:-1] if is_invisible(sign) else sign for sign in text)


def one_line(text: str) -> str:
    """Replace line ends and other white space by spaces, and leave out what does not show."""
    return visible(" ".join(text.split()))


def md(text: str) -> str:
    """Escape text for Markdown, also inside a table."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(lambda match: "".join(f"\\{sign}" for sign in match[0]), text)
