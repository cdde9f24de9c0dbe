"""Characters that do not show, by which a stranger's text could steer a terminal or mislead."""

import json
import unicodedata

INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories of control and format characters and line separators."""


def is_invisible(character: str) -> bool:
    """Test for ESC and other controls, marks of direction, lone surrogates and the like."""
    return unicodedata.category(character) in INVISIBLE


def visible(text: str) -> str:
    """Leave out characters that do not show, but for line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(sign for sign in text if sign in "\n\t" or not is_invisible(sign))


def escaped(text: str) -> str:
    r"""Write characters that do not show as in JSON: ``\u001b``."""
    if text.isprintable():
        return text
    return "".join(json.dumps(sign)[1:-1] if is_invisible(sign) else sign for sign in text)
