"""Write all boards as one HTML file that needs no server; equal runs give equal bytes."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from steelyard.leaderboards.boards import factorial, profile_tables, tables
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.boards.summary import OVERALL_RULE, Summary, absences, overall_sheet
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.output.sheet import Sheet
from steelyard.leaderboards.page import cards
from steelyard.leaderboards.page.details import command_html, detail
from steelyard.leaderboards.page.markup import esc, figure, inline, markdown
from steelyard.leaderboards.page.tables import Name, draw_intervals, plain, table
from steelyard.tasks import NOTHING

HERE = Path(__file__).parent
FINDINGS = "findings.md"
"""Markdown file in a folder of records, shown at the top of the page."""
KINDS = ("csv", "json", "tex")


@dataclass(frozen=True, slots=True)
class Section:
    key: str
    title: str
    body: str


def page(
    folders: Sequence[Path],
    runs: Runs,
    summary: Summary,
    designs: Mapping[str, Sequence[factorial.Factorial]],
    files: Mapping[str, bytes],
) -> bytes:
    """Return the page of everything published from ``folders``.

    ``designs`` are the factorials of each profile by the task it was trained on.
    ``files`` are the published files by name: figures are shown, tables offered for download.
    """
    boards, profiles, paths = summary.boards, summary.profiles, _run_paths(folders, runs)
    stems = [board.stem for board in boards] + [profile.stem for profile in profiles]
    figures = _figures(files, stems)
    sections = []
    findings = [folder / FINDINGS for folder in folders if (folder / FINDINGS).is_file()]
    if findings:
        body = "\n".join(markdown(path.read_text(encoding="utf-8"), 2) for path in findings)
        sections.append(Section("findings", "Findings", body))
    if len(boards) > 1 or figures.get(""):
        sections.append(_summary(summary, figures.get("", "")))
    for board in boards:
        sections.append(_board(runs, board, paths, figures.get(board.stem, "")))
    for profile in profiles:
        profile_figures = figures.get(profile.stem, "")
        profile_designs = designs[profile.trained_on]
        sections.append(_profile(runs, profile, profile_designs, paths, profile_figures))
    sections += _about(runs, boards, profiles, folders)
    return _fill(runs, sections, _downloads(files, ["overall", *stems])).encode()


def _fill(runs: Runs, sections: Sequence[Section], downloads: str) -> str:
    script, style = _part("page.js"), _part("page.css")
    body = "\n".join(
        f'<section id="{part.key}"{" class=findings" if part.key == "findings" else ""}>'
        f"<h2>{esc(part.title)}</h2>\n{part.body}</section>"
        for part in sections
    )
    nav = "".join(f'<a href="#{part.key}">{esc(part.title)}</a>' for part in sections)
    # From the finished tables, so that the filter offers each kind that a row has.
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
        # The page's content security policy runs only a script and a style of these hashes.
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


def _run_paths(folders: Sequence[Path], runs: Runs) -> dict[str, str]:
    """Return folders by run id; of an absolute path only the last part of the root."""
    paths = {}
    for run in (*runs.runs, *runs.oracle):
        root = next(folder for folder in folders if run.folder.is_relative_to(folder))
        short_root = Path(root.resolve().name) if root.is_absolute() else root
        paths[run.record.id] = str(short_root / run.folder.relative_to(root))
    return paths


def _figures(files: Mapping[str, bytes], stems: Sequence[str]) -> dict[str, str]:
    """Return the figures of each board by its stem; all others under the empty name."""
    figures: dict[str, list[str]] = {}
    # Shortest first: of two tasks whose names both match, the last and longest wins.
    slugs = {name.partition("-")[2]: name for name in sorted(stems, key=len)}
    svg_files = [name for name in files if name.endswith(".svg")]
    for number, file in enumerate(svg_files):
        name = file.removesuffix(".svg")
        boards = ["", *(board for slug, board in slugs.items() if f"-{slug}-" in f"{name}-")]
        figures.setdefault(boards[-1], []).append(figure(files[file].decode(), number, name))
    return {name: f'<div class="plots">{"".join(group)}</div>' for name, group in figures.items()}


def _downloads(files: Mapping[str, bytes], names: Sequence[str]) -> str:
    """Return tables by name and kind as JSON that cannot end a script block."""
    content: dict[str, dict[str, Any]] = {}
    for name in names:
        for kind in KINDS:
            if (data := files.get(f"{name}.{kind}")) is not None:
                text = data.decode()
                content.setdefault(name, {})[kind] = json.loads(text) if kind == "json" else text
    text = json.dumps(content, separators=(",", ":"))
    # "</script>" in a label would end the block.
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _tools(file: str) -> str:
    return f'<div class="tools" data-file="{file}"></div>'


def _summary(summary: Summary, figures: str) -> Section:
    if len(summary.boards) < 2:
        return Section("all", "All tasks", figures)
    overall = summary.overall
    names = [Name(entry.label, entry.kind) for entry in overall.entries]
    names += [Name(blank.label, blank.kind) for blank in overall.blanks]
    body = _tools("overall") + table(overall_sheet(overall), names, "all")
    notes = _list([OVERALL_RULE, *absences(overall)])
    return Section("all", overall.title, body + notes + figures)


def _list(lines: Sequence[str]) -> str:
    rows = "".join(f"<li>{esc(line)}</li>" for line in lines)
    return f'<ul class="notes">{rows}</ul>' if rows else ""


def _board(runs: Runs, board: Board, paths: Mapping[str, str], figures: str) -> Section:
    groups = runs.groups(board.task)
    percent = board.percent
    names = []
    for entry in board.entries:
        differences = dict(entry.differences)
        differences |= entry.tradeoff.by_name if entry.tradeoff else {}
        entry_runs = groups[entry.label]
        details = detail(entry_runs, differences, entry.variants, entry.cost, percent, paths)
        names.append(Name(entry.label, entry.kind, details))
    for blank in board.blanks:
        details = detail(groups[blank.label], {}, {}, None, percent, paths)
        names.append(Name(blank.label, blank.kind, f"<p>{esc(blank.missing)}.</p>{details}"))
    key, name = f"b-{_slug(board.task)}", board.stem
    main, *rest = tables.sheets(board)
    balanced = [entry.scores["balanced"] for entry in board.entries]
    drawings = draw_intervals(balanced, higher_is_better=board.higher_is_better)
    whiskers = main.header.index("balanced"), drawings
    body = [f'<p class="about">{esc(tables.caption(board))}</p>', _tools(name)]
    body += [table(main, names, key, whiskers), _list(tables.remarks(board))]
    body += [_more(sheet, names, f"{key}-{n}") for n, sheet in enumerate(rest)]
    return Section(key, board.title, "".join([*body, figures]))


def _more(sheet: Sheet, names: Sequence[Name], key: str) -> str:
    # The details are in the main table; once more here they would double the page.
    plain_names = [replace(name, detail="") for name in names]
    return (
        f'<details class="more"><summary>{esc(sheet.title)}</summary>'
        f"{table(sheet, plain_names, key)}</details>"
    )


def _profile(
    runs: Runs,
    profile: Profile,
    designs: Sequence[factorial.Factorial],
    paths: Mapping[str, str],
    figures: str,
) -> Section:
    groups = runs.groups(profile.trained_on)
    names = [
        Name(row.label, row.kind, detail(
            groups[row.label], row.differences, {"composite": row.composite, **row.scores},
            row.cost, True, paths,
        ))
        for row in profile.rows
    ]  # fmt: skip
    for blank in profile.blanks:
        details = detail(groups[blank.label], {}, {}, None, True, paths)
        names.append(Name(blank.label, blank.kind, f"<p>{esc(blank.missing)}.</p>{details}"))
    key, name = f"p-{_slug(profile.trained_on)}", profile.stem
    # The composite is the third column of the overview.
    whiskers = 2, draw_intervals([row.composite for row in profile.rows])
    body = [f'<p class="about">{esc(profile_tables.caption(profile))}</p>', _tools(name)]
    body += [table(profile_tables.overview(profile, halves=True), names, key, whiskers)]
    body.append(_list(profile_tables.remarks(profile)))
    rest = profile_tables.sheets(profile)
    body += [_more(sheet, names, f"{key}-{n}") for n, sheet in enumerate(rest)]
    for sheet in factorial.sheets(designs):
        rows = [[esc(cell.text) for cell in row] for row in sheet.rows]
        content = f"<summary>{esc(sheet.title)}</summary>{plain(sheet.title, sheet.header, rows)}"
        body.append(f'<details class="more">{content}</details>')
    return Section(key, profile.title, "".join([*body, figures]))


def _slug(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", task)


def _about(
    runs: Runs, boards: Sequence[Board], profiles: Sequence[Profile], folders: Sequence[Path]
) -> Iterator[Section]:
    """Yield the sections on methods, tasks, reading, rules and reproduction."""
    methods = sorted({run.record.spec.method for run in runs.runs})
    yield Section("methods", "Methods", "\n".join(map(cards.method_card, methods)))
    tasks = {score.task for run in runs.runs for score in run.record.scores}
    tasks |= {task for task in runs.tasks() if task != NOTHING}
    yield Section("tasks", "Tasks", "\n".join(map(cards.task_card, sorted(tasks))))
    reading = [*(tables.RULES if boards else ()), *(profile_tables.RULES if profiles else ())]
    yield Section("reading", "How to read", "".join(f"<p>{esc(line)}</p>" for line in reading))
    _, _, rules = _part("RULES.md").partition("\n")
    title = '<summary><span class="title">All rules</span></summary>'
    body = f'<details class="card">{title}{markdown(rules, 1)}</details>'
    yield Section("rules", "Rules", body)
    roots = [Path(f.resolve().name) if f.is_absolute() else f for f in folders]
    yield Section("reproduce", "Reproduce", _reproduce(" ".join(map(str, roots))))


def _reproduce(roots: str) -> str:
    steps = (
        ("Check the records: hashes, ledgers, scores from items", f"steelyard validate {roots}"),
        ("Build this page and its boards again, with the same bytes",
         f"steelyard leaderboard {roots} --html --out board"),
    )  # fmt: skip
    commands = "".join(f"<p>{esc(title)}:</p>{command_html(command)}" for title, command in steps)
    return commands + inline("The command of each entry is in its row: click its name.")
