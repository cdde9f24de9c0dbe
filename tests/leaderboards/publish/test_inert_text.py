"""Names, notes and errors of strangers' records do nothing in Markdown, LaTeX and spreadsheets."""

import csv
import io
import re

import pytest
from markdown_it import MarkdownIt

from steelyard.harness.core.characters import is_invisible, md
from steelyard.harness.datacheck.card_page import _cell
from steelyard.leaderboards.output.escape import tex
from steelyard.leaderboards.output.files import csv_text
from steelyard.leaderboards.output.report import Report
from steelyard.leaderboards.output.sheet import sheet_latex, sheet_markdown, text_sheet

HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))",
    "![a](https://x.org/a.png)", "a | b | c", "`a` ``b``", "# a", "~~a~~ $x$ *b* __c__", "a\n\n# b",
    "a\n| b | c |\n|---|---|", "- a\n- b", "&lt;script&gt; &#60;b&#62;", "\\| \\<b>",
    r"\input{/etc/passwd}", r"\write18{rm -rf /} $\def\x{}$ %", r"}\end{tabular}", "[4pt]", "* a",
    "a & b \\\\ c", "^^5cinput a", "#1 ~a~ ^b_c {d}",
    "=cmd|' /C calc'!A0", "+1+cmd()", "-1-cmd()", "@SUM(1+1)", "\t=1+1", "\r=1+1", "a\n=1+1",
    "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\u202egnp.exe\u202c", "\u2066a\u2069",
    "a\u2028b", "\ud800",
)  # fmt: skip
PARSER = MarkdownIt("gfm-like", {"linkify": False})


def invisible(text: str) -> list[str]:
    return [sign for sign in text if sign not in "\n\t" and is_invisible(sign)]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_is_one_line_of_plain_text(text: str) -> None:
    words = md(text)
    assert "\n" not in words and not invisible(words)
    plain = "".join(sign for sign in " ".join(text.split()) if not is_invisible(sign))
    # Behind words a hyphen or a star begins no list, as in every line of a report.
    (_, inline, _) = PARSER.parse(f"x {words}")
    assert all(token.type in ("text", "text_special") for token in inline.children or ())
    assert "".join(token.content for token in inline.children or ()) == f"x {plain}".rstrip()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_keeps_its_cells(text: str) -> None:
    page = sheet_markdown(text_sheet("t", ("#", text, "n"), [("1", text, "2"), ("2", text, text)]))
    tags = [token.type for token in PARSER.parse(page)]
    assert tags.count("tr_open") == 3 and tags.count("th_open") == 3 and tags.count("td_open") == 6
    card = f"| a | b |\n| --- | --- |\n| {_cell('label', text)} | 1 |"
    tags = [token.type for token in PARSER.parse(card)]
    assert tags.count("tr_open") == 2 and tags.count("td_open") == 2 and tags[-1] == "table_close"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_has_the_blocks_of_harmless_words(text: str) -> None:
    def blocks(words: str) -> list[str]:
        sheet = text_sheet(words, ("#", words), [("1", words)])
        report = Report(stem="r", title=words, about=f"About {words}", sheets=[sheet],
                        notes=[f"Of {words}"], rows=[{words: words}], content={})  # fmt: skip
        page = report.markdown()
        assert not invisible(page)
        return [token.type for token in PARSER.parse(page)]

    assert blocks(text) == blocks("words") or not md(text)


LATEX_COMMANDS = re.compile(r"\\([a-z]+|.)", re.IGNORECASE)
HARMLESS = {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater",
            "textbar", "&", "%", "$", "#", "_", "{", "}"}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_has_no_command_of_the_text(text: str) -> None:
    words = tex(text)
    assert set(LATEX_COMMANDS.findall(words)) <= HARMLESS
    assert not invisible(words) and "\n" not in words
    bare = re.sub(r"\\(textbackslash|[a-z]+)\{\}|\\.|\$-\$|\{[\[*]\}", "", words)
    assert not set(bare) & set("\\{}$&#^_%~")
    assert not words.startswith(("[", "*"))
    table = sheet_latex(text_sheet(text, (text, text, text), [(text, text, text)] * 2), text)
    assert len(re.findall(r"(?<!\\)&", table)) == 3 * 2
    assert len(re.findall(r"\\\\\n", table)) == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_of_a_spreadsheet_is_no_formula(text: str) -> None:
    content = csv_text([(text, "n"), (text, 1.5), ("a", text)])
    assert not invisible(content.replace("\n", ""))
    rows = list(csv.reader(io.StringIO(content, newline="")))
    assert [len(row) for row in rows] == [2, 2, 2]
    for cell in (rows[0][0], rows[1][0], rows[2][1]):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
