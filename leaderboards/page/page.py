"""The boards as one HTML file: no server, no request, the same bytes for the same runs."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from steelyard.leaderboards.boards import factorial, front_page, profile_tables, tables
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.overall import absences
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.boards.summary import Summary
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.output.escape import escape_formulas
from steelyard.leaderboards.output.sheet import Cell, Sheet
from steelyard.leaderboards.page import cards
from steelyard.leaderboards.page.details import command_html, detail
from steelyard.leaderboards.page.markup import esc, figure, inline, markdown
from steelyard.leaderboards.page.tables import Name, pictures, plain, table
from steelyard.tasks import NOTHING

HERE = Path(__file__).parent
FINDINGS = "findings.md"
"""A file of this name in a folder of records is shown at the top of its page."""
KINDS = ("csv", "json", "tex")


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page with a heading of its own."""

    key: str
    title: str
    body: str


def page(
    folders: Sequence[Path],
    runs: Runs,
    whole: Summary,
    designs: Mapping[str, Sequence[factorial.Factorial]],
    files: Mapping[str, bytes],
) -> bytes:
    """The page of everything published from ``folders``.

    ``designs`` are the factorials of each profile by the task it was trained on.
    ``files`` are the published files by name: figures are shown, tables offered for download.
    """
    boards, profiles, places = whole.boards, whole.profiles, dict(_places(folders, runs))
    named = {f"board-{b.task}": b.stem for b in boards}
    named |= {f"profile-{p.trained_on}": p.stem for p in profiles}
    figures = _figures(files, list(named.values()))
    sections = [*_findings(folders)]
    if len(boards) > 1 or figures.get(""):
        sections.append(_together(whole, figures.get("", "")))
    for board in boards:
        sections.append(_board(runs, board, places, figures.get(board.stem, "")))
    for made in profiles:
        drawn = figures.get(made.stem, "")
        sections.append(_profile(runs, made, designs[made.trained_on], places, drawn))
    sections += _about(runs, boards, profiles, folders)
    downloads = _downloads(files, ["overall", *named.values()])
    return _filled(runs, sections, downloads).encode()


def _filled(runs: Runs, sections: Sequence[Section], downloads: str) -> str:
    script, style = _part("page.js"), _part("page.css")
    body = "\n".join(
        f'<section id="{part.key}"{" class=findings" if part.key == "findings" else ""}>'
        f"<h2>{esc(part.title)}</h2>\n{part.body}</section>"
        for part in sections
    )
    nav = "".join(f'<a href="#{part.key}">{esc(part.title)}</a>' for part in sections)
    kinds = sorted(set(re.findall(r'data-kind="([^"]*)"', body)))
    return Template(_part("page.html")).substitute(
        title="Leaderboards",
        lead=_lead(runs),
        nav=nav,
        kinds="".join(f"<option>{kind}</option>" for kind in kinds),
        body=body,
        files=downloads,
        script=script,
        style=style,
        script_hash=_policy_hash(script),
        style_hash=_policy_hash(style),
    )


def _part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _lead(runs: Runs) -> str:
    specs = [run.record.spec for run in runs.runs]
    entries = {run.record.label for run in runs.runs}
    rules = sorted({str(run.record.provenance.get("rules", 1)) for run in runs.runs})
    backbones = ", ".join(sorted({spec.backbone for spec in specs}))
    budgets = ", ".join(sorted({spec.budget for spec in specs}))
    trained = ", ".join("nothing" if task == NOTHING else task for task in runs.tasks())
    return esc(
        f"{len(entries)} entries, {len(specs)} runs, {len({s.seed for s in specs})} seeds. "
        f"Trained on {trained}; backbone {backbones}; budget {budgets}; "
        f"rules version {' and '.join(rules)}."
    )


def _places(folders: Sequence[Path], runs: Runs) -> Iterator[tuple[str, str]]:
    """By run id the folder that a reader names; of a machine's path only the last part."""
    for run in (*runs.runs, *runs.oracle):
        root = next(folder for folder in folders if run.folder.is_relative_to(folder))
        shown = Path(root.resolve().name) if root.is_absolute() else root
        yield run.record.id, str(shown / run.folder.relative_to(root))


def _figures(files: Mapping[str, bytes], stems: Sequence[str]) -> dict[str, str]:
    """The figures of each board by its stem, those of none under the empty name."""
    found: dict[str, list[str]] = {}
    slugs = {name.partition("-")[2]: name for name in sorted(stems, key=len)}
    pictures = [name for name in files if name.endswith(".svg")]
    for number, name in enumerate(pictures):
        words = name.removesuffix(".svg")
        own = [board for slug, board in slugs.items() if f"-{slug}-" in f"{words}-"]
        shown = figure(files[name].decode(), number, words)
        found.setdefault(own[-1] if own else "", []).append(shown)
    return {name: f'<div class="plots">{"".join(each)}</div>' for name, each in found.items()}


def _downloads(files: Mapping[str, bytes], names: Sequence[str]) -> str:
    """Tables by name and kind as JSON that no script block can be ended by."""
    content: dict[str, dict[str, Any]] = {}
    for name in names:
        for kind in KINDS:
            if (made := files.get(f"{name}.{kind}")) is not None:
                text = (escape_formulas(made) if kind == "csv" else made).decode()
                content.setdefault(name, {})[kind] = json.loads(text) if kind == "json" else text
    text = json.dumps(content, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _findings(folders: Sequence[Path]) -> Iterator[Section]:
    texts = [folder / FINDINGS for folder in folders if (folder / FINDINGS).is_file()]
    if texts:
        body = "\n".join(markdown(path.read_text(encoding="utf-8"), 2) for path in texts)
        yield Section("findings", "Findings", body)


def _tools(file: str) -> str:
    return f'<div class="tools" data-file="{file}"></div>'


def _together(whole: Summary, figures: str) -> Section:
    if len(whole.boards) < 2:
        return Section("all", "All tasks", figures)
    made = whole.overall
    ranked = [Name(entry.label, entry.kind) for entry in made.entries]
    names = [*ranked, *(Name(blank.label, blank.kind) for blank in made.blanks)]
    body = _tools("overall") + table(front_page.overall_sheet(made), names, "all")
    lacking = absences(made)
    return Section("all", made.title, body + _list([front_page.OVERALL_RULE, *lacking]) + figures)


def _list(lines: Sequence[str]) -> str:
    rows = "".join(f"<li>{esc(line)}</li>" for line in lines)
    return f'<ul class="notes">{rows}</ul>' if rows else ""


def _board(runs: Runs, board: Board, places: Mapping[str, str], figures: str) -> Section:
    groups = runs.groups(board.task)
    percent = board.percent
    names = []
    for entry in board.entries:
        compared = dict(entry.differences)
        compared |= entry.tradeoff.by_name if entry.tradeoff else {}
        below = detail(groups[entry.label], compared, entry.variants, entry.cost, percent, places)
        names.append(Name(entry.label, entry.kind, below))
    for blank in board.blanks:
        below = detail(groups[blank.label], {}, {}, None, percent, places)
        names.append(Name(blank.label, blank.kind, f"<p>{esc(blank.missing)}.</p>{below}"))
    key, name = f"b-{_slug(board.task)}", board.stem
    main, *rest = tables.sheets(board)
    at = main.header.index("balanced")
    balanced = [entry.scores["balanced"] for entry in board.entries]
    drawn = at, pictures(balanced, higher_is_better=board.higher_is_better)
    body = [f'<p class="about">{esc(tables.caption(board))}</p>', _tools(name)]
    body += [table(main, names, key, drawn), _list(tables.remarks(board))]
    body += [_more(sheet, names, f"{key}-{n}") for n, sheet in enumerate(rest)]
    return Section(key, board.title, "".join([*body, figures]))


def _more(sheet: Sheet, names: Sequence[Name], key: str) -> str:
    bare = [replace(name, detail="") for name in names]
    return (
        f'<details class="more"><summary>{esc(sheet.title)}</summary>'
        f"{table(sheet, bare, key)}</details>"
    )


def _profile(
    runs: Runs,
    profile: Profile,
    designs: Sequence[factorial.Factorial],
    places: Mapping[str, str],
    figures: str,
) -> Section:
    groups = runs.groups(profile.trained_on)
    names = [
        Name(row.label, row.kind, detail(
            groups[row.label], row.differences, {"composite": row.composite, **row.scores},
            row.cost, True, places,
        ))
        for row in profile.rows
    ]  # fmt: skip
    for blank in profile.blanks:
        below = detail(groups[blank.label], {}, {}, None, True, places)
        names.append(Name(blank.label, blank.kind, f"<p>{esc(blank.missing)}.</p>{below}"))
    key, name = f"p-{_slug(profile.trained_on)}", profile.stem
    drawn = 2, pictures([row.composite for row in profile.rows])
    body = [f'<p class="about">{esc(profile_tables.caption(profile))}</p>', _tools(name)]
    body += [table(_side_by_side(profile), names, key, drawn)]
    body.append(_list(profile_tables.remarks(profile)))
    rest = profile_tables.sheets(profile)
    body += [_more(sheet, names, f"{key}-{n}") for n, sheet in enumerate(rest)]
    for sheet in (sheet for each in designs for sheet in factorial.sheets(each)):
        rows = [[esc(cell.text) for cell in row] for row in sheet.rows]
        shown = plain(sheet.title, sheet.header, rows)
        body.append(f'<details class="more"><summary>{esc(sheet.title)}</summary>{shown}</details>')
    return Section(key, profile.title, "".join([*body, figures]))


def _side_by_side(profile: Profile) -> Sheet:
    """Every clean number with half its interval."""
    made = profile_tables.overview(profile)
    rows = []
    for row, cells in zip(profile.rows, made.rows, strict=False):
        found = [row.composite, *(row.scores[column.name] for column in profile.clean)]
        shown = [Cell(f"{'≈' if row.tied else ''}{cells[0].text}"), cells[1]]
        for cell, each in zip(cells[2:], found, strict=True):
            mean, _, mark = cell.text.partition(" ")
            shown.append(Cell(f"{mean} ± {100 * each.half:.1f} {mark}".strip(), cell.best))
        rows.append(tuple(shown))
    return replace(made, rows=(*rows, *made.rows[len(profile.rows) :]))


def _slug(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", task)


def _about(
    runs: Runs, boards: Sequence[Board], profiles: Sequence[Profile], folders: Sequence[Path]
) -> Iterator[Section]:
    """Methods, tasks, rules, how to read and how to reproduce."""
    methods = sorted({run.record.spec.method for run in runs.runs})
    yield Section("methods", "Methods", "\n".join(map(cards.method_card, methods)))
    tasks = {score.task for run in runs.runs for score in run.record.scores}
    tasks |= {task for task in runs.tasks() if task != NOTHING}
    yield Section("tasks", "Tasks", "\n".join(map(cards.task_card, sorted(tasks))))
    reading = [*(tables.RULES if boards else ()), *(profile_tables.RULES if profiles else ())]
    yield Section("reading", "How to read", "".join(f"<p>{esc(line)}</p>" for line in reading))
    _, _, rules = _part("RULES.md").partition("\n")
    shown = markdown(rules, 1)
    body = f'<details class="card"><summary><span class="title">All rules</span></summary>{shown}'
    yield Section("rules", "Rules", f"{body}</details>")
    roots = [Path(f.resolve().name) if f.is_absolute() else f for f in folders]
    yield Section("reproduce", "Reproduce", _reproduce(" ".join(map(str, roots))))


def _reproduce(roots: str) -> str:
    steps = (
        ("Check the records: hashes, ledgers, scores from items", f"steelyard validate {roots}"),
        ("Make this page and its boards again, byte for byte",
         f"steelyard leaderboard {roots} --html --out board"),
    )  # fmt: skip
    shown = "".join(f"<p>{esc(what)}:</p>{command_html(command)}" for what, command in steps)
    return shown + inline("Each entry's own command stands in its row: open it by its name.")
