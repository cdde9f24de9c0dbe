"""Markup of the page: escaped text, a small part of Markdown, and figures fit to stand in it."""

import html
import re
import textwrap
from collections.abc import Iterator

_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<strong>.+?)\*\*|\*(?P<em>[^*]+)\*"
    r"|!?\[(?P<text>[^\]]*)\]\((?P<to>[^)\s]*)\)"
)
_ITEM = re.compile(r"- |\d+\. ")
_COLOURS = {
    "#ffffff": "var(--paper)",
    "#222222": "var(--ink)",
    "#000000": "var(--ink)",
    "#6e6e6e": "var(--soft)",
    "#c8c8c8": "var(--faint)",
    "#ececec": "var(--line)",
    "#eef4f1": "var(--tint)",
}
"""Greys of the figures, which follow the page into the dark."""


_DRAWN = re.compile(
    r"<!-- (?P<text>(?:(?!-->).)*) -->\s*<g(?P<attributes>[^>]*)>"
    r"(?P<letters>\s*(?:<defs>.*?</defs>)?(?:\s*<use [^>]*/>)*\s*)</g>",
    re.DOTALL,
)
"""A line of text as matplotlib draws it: the words in a comment, then each letter."""
_CIRCLE = re.compile(r"M [-\d. ]+\s(?:C [-\d. ]+\s){8}z")
LETTER = 60.0
"""Width of a line's last letter, of which only the start is told, in hundredths of the size."""


def esc(text: object) -> str:
    """Text that HTML shows as it is, also inside an attribute."""
    return html.escape(" ".join(str(text).split()))


def inline(text: str) -> str:
    """Code, bold, italic and links; all else is text. Only links to the web are followed."""
    parts, end = [], 0
    for found in _INLINE.finditer(text):
        parts.append(html.escape(text[end : found.start()]))
        parts.append(_span(found))
        end = found.end()
    return "".join([*parts, html.escape(text[end:])])


def _span(found: re.Match[str]) -> str:
    if found["code"]:
        return f"<code>{html.escape(found['code'])}</code>"
    if found["strong"]:
        return f"<strong>{inline(found['strong'])}</strong>"
    if found["em"]:
        return f"<em>{inline(found['em'])}</em>"
    shown = inline(found["text"])
    if re.match(r"https?://", found["to"]):
        return f'<a href="{html.escape(found["to"])}" rel="noopener noreferrer">{shown}</a>'
    return shown


def markdown(text: str, deeper: int) -> str:
    """Headings, paragraphs, lists, tables and code blocks; headings ``deeper`` levels down."""
    return "\n".join(_block(lines, deeper) for lines in _blocks(text))


def _blocks(text: str) -> Iterator[list[str]]:
    block: list[str] = []
    fenced = False
    for line in text.splitlines():
        fence = line.startswith("```")
        heading = line.startswith("#") and not fenced
        if not fenced and (fence or heading or not line.strip()):
            if block:
                yield block
            block = []
        if line.strip() or fenced:
            block.append(line)
        if heading or (fence and fenced):
            yield block
            block = []
        fenced ^= fence
    if block:
        yield block


def _block(lines: list[str], deeper: int) -> str:
    if lines[0].startswith("```"):
        code = "\n".join(line for line in lines if not line.startswith("```"))
        return f"<pre>{html.escape(code)}</pre>"
    if lines[0].startswith("#"):
        marks, _, words = lines[0].partition(" ")
        level = min(len(marks) + deeper, 6)
        return f"<h{level}>{inline(words)}</h{level}>"
    if lines[0].startswith("|"):
        return _table(lines)
    if _ITEM.match(lines[0]):
        items = re.split(r"\n(?:- |\d+\. )", "\n" + "\n".join(lines))[1:]
        name = "ul" if lines[0].startswith("- ") else "ol"
        rows = "".join(f"<li>{inline(' '.join(item.split()))}</li>" for item in items)
        return f"<{name}>{rows}</{name}>"
    return f"<p>{inline(' '.join(' '.join(lines).split()))}</p>"


def _table(lines: list[str]) -> str:
    cells = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines]
    head = "".join(f'<th scope="col">{inline(cell.strip())}</th>' for cell in cells[0])
    rows = ["".join(f"<td>{inline(cell.strip())}</td>" for cell in row) for row in cells[2:]]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table class="text"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def docstring(text: str) -> str:
    """A method's docstring: prose as paragraphs, lists as lists, formulas as they are laid out."""
    return "\n".join(_passage(block) for block in re.split(r"\n\s*\n", text.strip("\n")))


def _passage(block: str) -> str:
    lines = block.splitlines()
    lead = next((n for n, line in enumerate(lines) if line.startswith("- ")), None)
    if lead is not None:
        before = _passage("\n".join(lines[:lead])) if lead else ""
        return before + _block(lines[lead:], 0)
    if any(line.startswith(" ") or "  " in line.strip() for line in lines):
        return f"<pre>{html.escape(textwrap.dedent(block))}</pre>"
    return f"<p>{html.escape(' '.join(block.split()))}</p>"


def figure_texts(svg: str) -> list[str]:
    """The headline and sentences drawn in a figure; names of axes and points left out."""
    texts = [html.unescape(found) for found in re.findall(r"<!-- (.*?) -->", svg, re.DOTALL)]
    return [text for text in texts if re.search(r"\.$|^[\w ()-]+: \w", text)]


def figure(svg: str, number: int, alt: str) -> str:
    """A plot of ours as part of the page.

    Text drawn letter by letter becomes text again, which is read, found and small. Names get the
    figure's number, so that no two clash. Styles become attributes, which a strict policy allows.
    """
    found = re.search(r'viewBox="([^"]*)".*?>(.*)</svg>', svg, re.DOTALL)
    assert found is not None
    view, body = found.groups()
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'style="([^"]*)"', lambda f: _attributes(f[1]), body)
    body = _DRAWN.sub(_written, body)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bd="([^"]*)"', lambda f: f'd="{_shorter(_round(f[1]))}"', body)
    body = re.sub(r'(?<= )[xy]="[^"]*"|translate\([^)]*\)', lambda f: _rounded(f[0]), body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda f: _COLOURS.get(f[0], f[0]), body)
    body = _renamed(body, number)
    body = re.sub(r"<defs>\s*</defs>|<g>\s*</g>", "", body)
    body = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", body)).strip()
    wide = float(view.split()[2]) * 4 / 3  # points to pixels
    return (
        f'<svg viewBox="{view}" width="{wide:.0f}" role="img" aria-labelledby="figure-{number}">'
        f'<title id="figure-{number}">{esc(alt)}</title>{body}</svg>'
    )


def _written(found: re.Match[str]) -> str:
    """A text element as wide as the letters were, whatever font the reader has."""
    attributes, letters = found["attributes"], found["letters"]
    scale = re.search(r" ?scale\(([\d.]+) [^)]*\)", attributes)
    assert scale is not None
    size = 100 * float(scale[1])
    starts = [float(x) for x in re.findall(r"<use [^>]*translate\(([\d.]+)", letters)]
    fit = f' textLength="{(starts[-1] + LETTER) * size / 100:.1f}"' if starts else ""
    fit += ' lengthAdjust="spacingAndGlyphs"' if starts else ""
    bold = ' font-weight="700"' if "-Bold-" in letters else ""
    text = html.escape(html.unescape(found["text"]))
    placed = attributes.replace(scale[0], "")
    return f'<text{placed} font-size="{size:.3g}"{bold}{fit}>{text}</text>'


def _attributes(style: str) -> str:
    pairs = (part.split(":", 1) for part in style.split(";") if ":" in part)
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in pairs)


def _round(path: str) -> str:
    """A path whose circles of eight curves, of which a dotted area has thousands, are two arcs."""
    return _CIRCLE.sub(_arcs, path)


def _arcs(found: re.Match[str]) -> str:
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", found[0])]
    across, up = numbers[::2], numbers[1::2]
    low, high = min(up), max(up)
    if abs((max(across) - min(across)) - (high - low)) > 0.01 * (high - low):
        return found[0]
    middle, radius = (max(across) + min(across)) / 2, f"{(high - low) / 2:.4f}"
    half = f"A {radius} {radius} 0 1 0 {middle:.4f}"
    return f"M {middle:.4f} {low:.4f} {half} {high:.4f} {half} {low:.4f} z"


def _shorter(path: str) -> str:
    """A path with coordinates to a hundredth of a point."""
    return re.sub(r"([A-Za-z]) ", r"\1", " ".join(_rounded(path).split())).replace(" L", "L")


def _rounded(text: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda f: f"{float(f[0]):.2f}".rstrip("0").rstrip("."), text)


def _renamed(body: str, number: int) -> str:
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))

    def named(found: re.Match[str]) -> str:
        return f' id="f{number}-{found[1]}"' if found[1] in used else ""

    body = re.sub(r'\sid="([^"]*)"', named, body)
    return re.sub(r'(xlink:href="#|url\(#)([^")]+)', rf"\g<1>f{number}-\2", body)
