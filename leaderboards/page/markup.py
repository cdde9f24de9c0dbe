"""Convert Markdown, docstrings and figures to the page's HTML, and fill its templates."""

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from steelyard.leaderboards.boards.cells import number, with_half, with_verdict

HERE = Path(__file__).parent
WEB = ("https://", "http://")
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
WIDE = 800
"""Pixels beyond which a figure fills a line of the page."""
MARKS = {
    "▲": ("better", "better than the control after Holm's correction"),
    "▼": ("worse", "worse than the control after Holm's correction"),
    "≈": ("tied", "not distinguishable from the first"),
    "†": ("odd", "better corrupted than clean"),
    "‡": ("odd", "balance traded for performance of the strong modality or clean inputs"),
}
"""Class and tooltip of the marks of numbers."""
LINK = Markup('<a href="{}" rel="noopener noreferrer">{}</a>')
MARK = Markup('<abbr class="mark {}" title="{}">{}</abbr>')
CITATION = re.compile(r"arXiv:? (?P<arxiv>\d{4}\.\d{4,5})|doi:(?P<doi>10\.[\w./-]*\w)")


@dataclass(frozen=True, slots=True)
class Drawing:
    """Figure as the content of an ``svg`` element."""

    number: int
    title: str
    view_box: str
    width: float
    """Pixels."""
    content: Markup

    @property
    def is_wide(self) -> bool:
        return self.width > WIDE


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Fill one of the page's templates; everything that is not ``Markup`` is escaped."""
    environment = Environment(
        autoescape=True, loader=FileSystemLoader(HERE), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "marked": marked, "cited": cited, "inline": inline, "docstring": docstring,
    }  # fmt: skip
    environment.globals |= {
        "value": number, "with_half": with_half, "with_verdict": with_verdict, "asdict": asdict,
    }  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # in their own order
    return environment.get_template(template).render(values)


def marked(text: str) -> Markup:
    """Return a number with a tooltip for each of its marks."""
    markup = escape(text)
    for sign, (kind, meaning) in MARKS.items():
        markup = markup.replace(sign, MARK.format(kind, meaning, sign))
    return markup


def cited(text: str) -> Markup:
    """Return a citation with its arXiv number or DOI as a link."""
    parts, end = [], 0
    for match in CITATION.finditer(text):
        number = match["arxiv"]
        name = f"arXiv {number}" if number else match[0]
        site = f"https://arxiv.org/abs/{number}" if number else f"https://doi.org/{match['doi']}"
        parts += [text[end : match.start()], LINK.format(site, name)]
        end = match.end()
    return Markup().join([*parts, text[end:]])


# --- Markdown ----------------------------------------------------------------------------------


def markdown(text: str, deeper: int = 0) -> Markup:
    """Convert Markdown without raw HTML; headings move ``deeper`` levels down."""
    tokens = _MARKDOWN.parse(text)
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{min(int(token.tag[1]) + deeper, 6)}"  # HTML has no h7
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


def inline(text: str) -> Markup:
    """Convert one line of Markdown."""
    return Markup(_MARKDOWN.renderInline(text))


def docstring(module: object) -> Markup:
    """Convert a docstring: Markdown, but for equations, indented or aligned by two spaces."""
    blocks = re.split(r"\n\s*\n", inspect.getdoc(module) or "")
    for index, block in enumerate(blocks):
        is_list = any(line.startswith("- ") for line in block.splitlines())
        if not is_list and re.search(r"(?m)^ |\S  +\S", block):
            blocks[index] = f"```\n{textwrap.dedent(block)}\n```"
    return markdown("\n\n".join(blocks))


class PageRenderer(RendererHTML):
    """Renderer for a page that is a single file: only links to the web lead anywhere."""

    def link_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        link = tokens[index]
        is_web = str(link.attrs["href"]).startswith(WEB)
        link.attrs = link.attrs | {"rel": "noopener noreferrer"} if is_web else {}
        return self.renderToken(tokens, index, options, env)

    def image(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return str(escape(tokens[index].content))  # ``Markup`` would escape what it is joined to

    def table_open(self, *_: Any) -> str:
        return '<div class="scroll" tabindex="0"><table class="text">'

    def table_close(self, *_: Any) -> str:
        return "</table></div>"


_MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=PageRenderer).enable("table")
# Every link is parsed as one, so that a target that leads nowhere is not shown as text.
_MARKDOWN.validateLink = lambda url: True  # type: ignore[method-assign]


# --- figures -----------------------------------------------------------------------------------


def figure(svg: str, number: int, name: str) -> Drawing:
    """Fit a plot of ours into the page, with a description of its name and its sentences.

    Styles become attributes, which the page's strict policy allows; ids get the figure's number, so
    that no two are equal. The page's style sheet has the font, and the greys of the dark mode.
    """
    root = ElementTree.fromstring(svg)
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    sentences = [text for text in texts if text.endswith(".") or ": " in text]
    for element in list(root.iter()):
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style")):
                element.remove(child)
        element.tag = element.tag.removeprefix(SVG)
        _flatten(element, f"f{number}-")
    content = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    view_box = root.attrib["viewBox"]
    return Drawing(
        number=number,
        title=" ".join([f"Plot: {name}.", *sentences]),
        view_box=view_box,
        width=float(view_box.split()[2]) * 4 / 3,  # points to pixels
        content=Markup(content),
    )


def _flatten(element: ElementTree.Element, prefix: str) -> None:
    """Turn styles into attributes, put the prefix before ids, and drop white space."""
    attributes = element.attrib
    style = attributes.pop("style", "")
    attributes |= dict(pair.split(": ", 1) for pair in style.split("; ") if pair)
    attributes.pop("font-family", None)
    if target := attributes.pop(f"{XLINK}href", ""):
        attributes["href"] = f"#{prefix}{target[1:]}"
    # Nothing refers to the groups, of which matplotlib names every one.
    name = attributes.pop("id", "")
    if element.tag != "g" and name:
        attributes["id"] = prefix + name
    for key, value in attributes.items():
        attributes[key] = " ".join(value.replace("url(#", f"url(#{prefix}").split())
    if element.tag != "text":
        element.text = None
    element.tail = None
