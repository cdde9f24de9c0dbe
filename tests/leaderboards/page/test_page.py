"""Check the page as text: well formed, without requests, everything escaped."""

import base64
import csv
import hashlib
import html
import io
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from board_factory import make_answered, make_run, profile
from paths import ROOT

from steelyard.harness.cli.options import pass_options
from steelyard.harness.cli.run import suites_from
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.options import RunOptions
from steelyard.leaderboards.output.escape import escape_formulas
from steelyard.leaderboards.page import markup
from steelyard.leaderboards.page.details import from_nothing, reproduce
from steelyard.leaderboards.page.entries import whiskers
from steelyard.leaderboards.publish import publish
from steelyard.leaderboards.stats.intervals import Interval

HOSTILE = (
    """=cmd|' /C calc'!A0</script><script>alert("x")</script>"""
    "<img src=x onerror=alert(1)> & -->"
)
VOID = {"meta", "link", "input", "br", "img", "hr"}
LOADED = {"src", "srcset", "poster", "data", "action", "formaction", "background"}
"""Attributes that make a browser ask for something."""


class Reader(HTMLParser):
    """Elements in order, with a check that each is closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a hostile entry, an incomplete one and their control on two tasks, and a page."""
    root = tmp_path_factory.mktemp("page")
    runs = root / "records"
    for seed in (0, 1):
        for task in ("toy", "toys"):
            make_run(runs, "joint", profile(6, 5, 4 + seed), seed=seed, task=task)
            make_run(runs, HOSTILE, profile(8, 5, 5), seed=seed, task=task, method="mcr")
    make_run(runs, "late", profile(8, 5, 5), seed=0, method="majority")
    (runs / "findings.md").write_text(
        "# What holds\n\n- **mcr** wins <b>nothing</b>\n\n[evil](javascript:alert(1)) `a<b`\n"
    )
    publish([runs], root / "board", kinds={"joint": "control"}, html=True)
    return root


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "board" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_ids_are_unique_and_references_lead_somewhere(read: Reader) -> None:
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 20
    for tag, attrs in read.elements:
        for name in ("href", "xlink:href", "aria-controls", "aria-labelledby"):
            to = attrs.get(name) or ""
            if to.startswith("#") or name.startswith("aria"):
                assert not to or to.removeprefix("#") in ids, (tag, name, to)
        for to in re.findall(r"url\(#([^)]*)\)", " ".join(map(str, attrs.values()))):
            assert to in ids


def test_nothing_is_loaded_from_anywhere(read: Reader) -> None:
    for tag, attrs in read.elements:
        assert not LOADED.intersection(attrs), (tag, attrs)
        assert tag not in ("iframe", "object", "embed", "img", "audio", "video", "base")
        if tag == "link":
            assert attrs["href"] == "data:,"
        for name, value in attrs.items():
            assert not name.startswith("on") and name != "style", (tag, name)
            if (value or "").startswith("http"):
                assert tag == "a" and name == "href"


def test_the_policy_allows_the_page_s_own_script_and_style_alone(text: str, read: Reader) -> None:
    policy = next(a["content"] for t, a in read.elements if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    for content in (read.scripts[-1], style[1]):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "url(" not in style[1] and "@import" not in style[1]


def test_a_hostile_name_is_shown_and_does_nothing(read: Reader) -> None:
    assert len(read.scripts) == 2
    names = [attrs["data-name"] for _, attrs in read.elements if "data-name" in attrs]
    assert HOSTILE in names
    assert any(HOSTILE in piece for piece in read.text)
    files = json.loads(read.scripts[0])
    labels = [entry["label"] for entry in files["board-toy"]["json"]["rows"]]
    assert HOSTILE in labels


def test_formulas_in_csv_files_are_inert(folder: Path, read: Reader) -> None:
    embedded = json.loads(read.scripts[0])["board-toy"]["csv"]
    assert embedded == (folder / "board" / "board-toy.csv").read_text(encoding="utf-8")
    for name in ("board-toy.csv", "scores.csv"):
        rows = list(csv.reader(io.StringIO((folder / "board" / name).read_text(encoding="utf-8"))))
        cells = [cell for row in rows for cell in row]
        assert f"'{HOSTILE}" in cells and HOSTILE not in cells


def test_escaping_leaves_numbers_and_plain_files_alone() -> None:
    assert escape_formulas(b"a,-1.5\n") == b"a,-1.5\n"
    assert escape_formulas(b"=1,-1.5,-x,+2e3\n@a,b-c,,\n") == b"'=1,-1.5,'-x,+2e3\n'@a,b-c,,\n"
    assert escape_formulas(b'"=a,b",1\n') == b'"\'=a,b",1\n'


def test_findings_beside_the_runs_are_shown_escaped(text: str) -> None:
    assert "<strong>mcr</strong> wins &lt;b&gt;nothing&lt;/b&gt;" in text
    assert "javascript:" not in text
    assert "<code>a&lt;b</code>" in text


def rows_of(text: str, board: str) -> dict[str, str]:
    """Everything of each entry's row by label."""
    section = text[text.index(f'<section id="{board}">') :]
    table = section[: section.index('<ul class="notes">')]
    parts = table.split("<tbody data-name=")[1:]
    return {html.unescape(part.split('"')[1]): html.unescape(part) for part in parts}


def test_rows_open_to_their_differences_costs_and_provenance(folder: Path, text: str) -> None:
    rows = rows_of(text, "b-toy")
    assert list(rows) == [HOSTILE, "joint", "late"]
    for words in ("Difference to the control", "image-blank", "Cost by phase", "mcr", "device"):
        assert words in rows[HOSTILE]
    assert "+20.0 <span" in rows[HOSTILE] and "Difference" not in rows["joint"]
    command = re.sub("<.*?>", "", rows["joint"])
    assert "for run in records/0000 records/0004; do steelyard reproduce" in command
    assert str(folder) not in text


def test_an_incomplete_entry_says_what_it_lacks(text: str) -> None:
    late = rows_of(text, "b-toy")["late"]
    assert "seed 1" in late and "Cost by phase" not in late and "records/0008" in late


def test_cards_hold_equations_defaults_rules_and_tasks(text: str) -> None:
    assert 'id="method-joint"' in text and 'id="method-majority"' in text
    card = text[text.index('id="method-mcr"') :]
    assert "arXiv 2411.07335</a>" in card and "J_m = E JSD" in card and "<code>mipd</code>" in card
    rules = (ROOT / "RULES.md").read_text(encoding="utf-8")
    for heading in re.findall(r"^## (.*)$", rules, re.MULTILINE):
        assert f"<h3>{heading}</h3>" in text


def test_equal_records_give_an_equal_page(folder: Path, text: str) -> None:
    again = publish([folder / "records"], folder / "again", kinds={"joint": "control"}, html=True)
    assert folder / "again" / "index.html" in again.files
    assert (folder / "again" / "index.html").read_text(encoding="utf-8") == text


def test_a_profile_has_a_page_too(tmp_path: Path) -> None:
    yes, no = (True, True), (True, False)
    for seed in (0, 1):
        for label, items in (("sft", [yes, no, yes, yes]), (HOSTILE, [yes, no, no, yes])):
            make_answered(tmp_path, label.replace("/", "-"), {"quiz": {"clean": items}}, seed=seed)
    publish([tmp_path], tmp_path / "board", html=True)
    read = Reader((tmp_path / "board" / "index.html").read_text(encoding="utf-8"))
    assert any("quiz f1" in piece for piece in read.text)


def test_no_page_unless_asked(folder: Path, tmp_path: Path) -> None:
    publish([folder / "records"], tmp_path)
    assert not (tmp_path / "index.html").exists() and (tmp_path / "board.md").exists()


def parsed(command: str) -> tuple[str, RunOptions]:
    """Return the target and options of a ``steelyard run`` as the command line reads them."""
    calls: list[tuple[str, RunOptions]] = []

    @click.command()
    @click.argument("target")
    @pass_options(RunOptions)
    def run(target: str, options: RunOptions) -> None:
        calls.append((target, options))

    words = shlex.split(command)
    assert words[:2] == ["steelyard", "run"]
    run(words[2:], standalone_mode=False)
    return calls[0]


@pytest.mark.parametrize(("track", "wall"), [("data", None), ("compute", 60.0)])
def test_the_command_of_a_row_makes_the_same_runs(track: str, wall: float | None) -> None:
    options = {"game": "independent", "mipd": 0.05, "draws": 4}
    specs = [
        RunSpec("mcr", "mm_imdb", "tiny", "S", seed, options, {"fusion": "concat"},
                {"revision": "r", "plot": "first"}, track=track, wall=wall)
        for seed in (0, 3)
    ]  # fmt: skip
    variants = ["mm_imdb", *(f"mm_imdb@image-noise:{level}" for level in range(1, 6)),
                "mm_imdb@text-blank", "mm_imdb@text-missing:70"]  # fmt: skip
    command = from_nothing(specs, variants)
    assert "--corruption image-noise:1-5" in command
    (suite,) = suites_from(*parsed(command))
    assert suite.entries[0].method == "mcr" and suite.entries[0].options == options
    assert suite.tasks == ("mm_imdb",) and suite.seeds == (0, 3)
    assert (suite.backbone, suite.budget, suite.wall) == ("tiny", "S", wall)
    assert suite.backbone_options == {"fusion": "concat"} and suite.run_track == track
    assert suite.data_options == {"mm_imdb": {"plot": "first"}}
    assert suite.corruptions == ("image-noise:1-5", "text-blank", "text-missing:70")


def test_what_options_cannot_say_is_left_to_reproduce() -> None:
    spec = RunSpec("mcr", "mm_imdb", "tiny", "S", 0, learning_rate=1e-3)
    assert from_nothing([spec], ["mm_imdb"]) == ""
    assert reproduce(["a b", "c"]) == (
        "for run in 'a b' c; do steelyard reproduce \"$run\" || break; done"
    )
    assert reproduce(["a b"]) == "steelyard reproduce 'a b'"


def test_a_figure_is_fit_for_the_strict_policy_of_the_page() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'viewBox="0 0 90 60"><metadata>x</metadata><defs><style>*{}</style></defs>'
        '<g id="text_1"><!-- a --><text style="font-size: 9px; font-family: \'DejaVu Sans\', '
        'sans-serif; fill: #6e6e6e" transform="rotate(-0 1.2 2)">a&lt;b: it.</text></g>'
        '<g id="a"><use xlink:href="#m1" x="1.2" y="2" clip-path="url(#m1)"/></g>\n'
        '<path id="m1" d="M 1.2 2 \nL 3 4" style="fill: #ffffff"/></svg>'
    )
    drawing = markup.figure(svg, 7, "name")
    content = drawing.content
    assert '<text transform="rotate(-0 1.2 2)" font-size="9px" fill="#6e6e6e">a&lt;b' in content
    assert '<path d="M 1.2 2 L 3 4" fill="#ffffff" id="f7-m1" />' in content
    assert '<use x="1.2" y="2" clip-path="url(#f7-m1)" href="#f7-m1" />' in content
    assert drawing.width == 120 and drawing.title == "Plot: name. a<b: it."
    assert "style" not in content and "metadata" not in content and "text_1" not in content


def test_whiskers_share_a_scale_and_one_far_behind_is_an_arrow() -> None:
    def each(low: float, high: float) -> Interval:
        return Interval((low + high) / 2, low, high, 1.0, (), 1)

    best, next_, last = whiskers([each(0.8, 0.9), each(0.7, 0.8), each(0.0, 0.1)])
    assert best[:3] == pytest.approx((50, 73, 96)) and next_[:3] == pytest.approx((4, 27, 50))
    assert last.is_behind and not best.is_behind
    assert whiskers([]) == []


def test_markdown_has_no_html_and_only_links_to_the_web() -> None:
    table = "| x | y |\n|---|---|\n| 1 | *2* |"
    converted = markup.markdown(f"## A `b`\n\n{table}\n\n1. one\n   more\n2. <i>two</i>", 1)
    assert "<h3>A <code>b</code></h3>" in converted and "<td><em>2</em></td>" in converted
    assert "<li>one\nmore</li>\n<li>&lt;i&gt;two&lt;/i&gt;</li>" in converted
    links = markup.inline("[a](https://a.b) [c](c.md) [d](javascript:d) ![e](e.png)")
    assert links == (
        '<a href="https://a.b" rel="noopener noreferrer">a</a> <a>c</a> <a>d</a> e'
    )  # fmt: skip


def test_equations_of_a_docstring_keep_their_spaces() -> None:
    module = ModuleType("method", "Of x < y,\nthen\n\n    a  = b\n    c  = d\n\n- one\n  more")
    converted = markup.docstring(module)
    assert "<p>Of x &lt; y,\nthen</p>" in converted
    assert "a  = b\nc  = d\n</code></pre>" in converted and "<li>one\nmore</li>" in converted


def test_a_citation_links_its_number_and_escapes_the_rest() -> None:
    cited = markup.cited("A & B, arXiv 2401.00001, doi:10.1/x.y.")
    assert cited == (
        'A &amp; B, <a href="https://arxiv.org/abs/2401.00001" rel="noopener noreferrer">arXiv '
        '2401.00001</a>, <a href="https://doi.org/10.1/x.y" rel="noopener noreferrer">'
        "doi:10.1/x.y</a>."
    )
