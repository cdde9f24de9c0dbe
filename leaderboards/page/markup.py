"""Convert text, a part of Markdown, and figures to the page's HTML."""

import html
import re
import textwrap
from collections.abc import Container, Iterator, Mapping
from xml.etree import ElementTree

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
"""Greys of the figures, which follow the page's dark mode."""
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
NUMBER = re.compile(r"-?\d+\.\d+")
WIDE = 800
"""Pixels beyond which a figure fills a line of the page."""


def esc(text: object) -> str:
    """Escape text for HTML, also inside an attribute."""
    return html.escape(" ".join(str(text).split()))


def inline(text: str) -> str:
    """Convert code, bold, italic and links; only links to the web are active."""
    parts, end = [], 0
    for match in _INLINE.finditer(text):
        parts.append(html.escape(text[end : match.start()]))
        parts.append(_span(match))
        end = match.end()
    return "".join([*parts, html.escape(text[end:])])


def _span(match: re.Match[str]) -> str:
    if match["code"]:
        return f"<code>{html.escape(match['code'])}</code>"
    if match["strong"]:
        return f"<strong>{inline(match['strong'])}</strong>"
    if match["em"]:
        return f"<em>{inline(match['em'])}</em>"
    label = inline(match["text"])
    if re.match(r"https?://", match["to"]):
        return f'<a href="{html.escape(match["to"])}" rel="noopener noreferrer">{label}</a>'
    return label


def markdown(text: str, deeper: int) -> str:
    """Convert headings (``deeper`` levels down), paragraphs, lists, tables and code blocks."""
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
        # A heading or a closing fence ends its block, with or without a blank line below.
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
        level = min(len(marks) + deeper, 6)  # HTML has no h7
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
    # The second line is the rule below the header.
    rows = ["".join(f"<td>{inline(cell.strip())}</td>" for cell in row) for row in cells[2:]]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table class="text"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def docstring(text: str) -> str:
    """Convert a docstring: prose to paragraphs, lists to lists, formulas to preformatted text."""
    return "\n".join(_passage(block) for block in re.split(r"\n\s*\n", text.strip("\n")))


def _passage(block: str) -> str:
    lines = block.splitlines()
    lead = next((n for n, line in enumerate(lines) if line.startswith("- ")), None)
    if lead is not None:
        before = _passage("\n".join(lines[:lead])) if lead else ""
        return before + _block(lines[lead:], 0)
    # Indented or aligned by two spaces: an equation, whose spaces must stay.
    if any(line.startswith(" ") or "  " in line.strip() for line in lines):
        return f"<pre>{html.escape(textwrap.dedent(block))}</pre>"
    return f"<p>{html.escape(' '.join(block.split()))}</p>"


def figure(svg: str, number: int, name: str) -> str:
    """Fit a plot of ours into the page, with a description of its name and its sentences.

    Styles become attributes, which the page's strict policy allows; ids get the figure's number, so
    that no two are equal; coordinates are rounded to a hundredth of a point.
    """
    root = ElementTree.fromstring(svg)
    view_box = root.attrib["viewBox"]
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    sentences = [text for text in texts if re.search(r"\.$|^[\w ()-]+: \w", text)]
    # matplotlib gives an id to every group; only those that are used remain.
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    for element in list(root.iter()):
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style")):
                element.remove(child)
        element.tag = element.tag.removeprefix(SVG)
        element.attrib = dict(_attributes(element.attrib, references, f"f{number}-"))
        if element.tag != "text":
            element.text = None
        element.tail = None
    body = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    width = float(view_box.split()[2]) * 4 / 3  # points to pixels
    return (
        f'<figure class="{"plot wide" if width > WIDE else "plot"}" tabindex="0">'
        f'<svg viewBox="{view_box}" width="{width:.0f}" role="img" '
        f'aria-labelledby="figure-{number}"><title id="figure-{number}">'
        f"{esc(f'Plot: {name}. ' + ' '.join(sentences))}</title>{body}</svg></figure>"
    )


def _attributes(
    attributes: Mapping[str, str], references: Container[str], prefix: str
) -> Iterator[tuple[str, str]]:
    for name, value in attributes.items():
        if name == "style":
            pairs = (pair.split(": ", 1) for pair in value.split("; "))
            # The page's style sheet has the font.
            styles = {key: color for key, color in pairs if key != "font-family"}
            yield from _attributes(styles, references, prefix)
        elif name == "id":
            if value in references:
                yield name, prefix + value
        elif name == f"{XLINK}href":
            yield "href", f"#{prefix}{value.removeprefix('#')}"
        else:
            value = value.replace("url(#", f"url(#{prefix}")
            rounded = NUMBER.sub(
                lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value
            )
            yield name, _COLOURS.get(rounded, " ".join(rounded.split()))
