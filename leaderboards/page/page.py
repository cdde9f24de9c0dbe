"""Write all boards as one HTML file that needs no server; equal runs give equal bytes."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup

from steelyard import methods, tasks
from steelyard.harness.core.readers import read_text
from steelyard.leaderboards.boards import factorial, tables
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.entries import Blank
from steelyard.leaderboards.boards.sheets import main_sheet, more_sheets
from steelyard.leaderboards.boards.summary import OVERALL_RULE, Summary, absences, overall_sheet
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.output.sheet import Sheet
from steelyard.leaderboards.page.details import Detail
from steelyard.leaderboards.page.entries import Entry, EntryTable, whiskers
from steelyard.leaderboards.page.markup import HERE, Drawing, figure, fill, markdown
from steelyard.methods import Method
from steelyard.tasks import NOTHING, TaskInfo

FINDINGS = "findings.md"
"""Markdown file in a folder of records, shown at the top of the page."""
KINDS = ("csv", "json", "tex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Section of the page; its parts are shown in this order."""

    key: str
    title: str
    about: str = ""
    file: str = ""
    """Name without ending of the files offered for download."""
    table: EntryTable | None = None
    notes: Sequence[str] = ()
    more: Sequence[EntryTable] = ()
    """Folded tables."""
    sheets: Sequence[Sheet] = ()
    """Folded tables without entries."""
    figures: Sequence[Drawing] = ()
    methods: Mapping[str, Method | None] = field(default_factory=dict)
    """By name; None for a user's file."""
    tasks: Mapping[str, TaskInfo | None] = field(default_factory=dict)
    """By name; None for one of lmms-eval's own."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Shell commands by what they do."""
    paragraphs: Sequence[str] = ()
    rules: str = ""
    """Markup of the rules, folded."""
    body: str = ""


def page(
    folders: Sequence[Path],
    runs: Runs,
    summary: Summary,
    designs: Mapping[str, Sequence[factorial.Factorial]],
    files: Mapping[str, bytes],
) -> bytes:
    """Return the page of everything published from ``folders``.

    ``designs`` are the factorials of each board by the task it was trained on.
    ``files`` are the published files by name: figures are shown, tables offered for download.
    """
    boards, paths = summary.boards, _run_paths(folders, runs)
    stems = [board.stem for board in boards]
    figures = _figures(files, stems)
    sections = []
    findings = [folder / FINDINGS for folder in folders if (folder / FINDINGS).is_file()]
    if findings:
        texts = [read_text(path) for path in findings]
        body = markdown("\n\n".join(texts), deeper=2)
        sections.append(Section(key="findings", title="Findings", body=body))
    if len(summary.overall.tasks) > 1 or figures.get(""):
        sections.append(_summary(summary, figures.get("", [])))
    sections += [
        _board(runs, board, designs[board.task], paths, figures.get(board.stem, []))
        for board in boards
    ]
    sections += _about(runs, boards, folders)
    entry_tables = [
        table for section in sections for table in (section.table, *section.more) if table
    ]
    script, style = _part("page.js"), _part("page.css")
    values = {
        "lead": _lead(runs),
        "sections": sections,
        # The filter offers each kind that a row has.
        "kinds": sorted(
            {entry.kind or "other" for table in entry_tables for entry in table.entries}
        ),
        "files": _downloads(files, ["overall", *stems]),
        "script": Markup(script),
        "style": Markup(style),
        # The page's content security policy runs only a script and a style of these hashes.
        "script_hash": _policy_hash(script),
        "style_hash": _policy_hash(style),
    }
    return fill("page.html", values).encode()


def _part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _lead(runs: Runs) -> str:
    specs = [run.record.spec for run in runs.runs]
    entries = {run.record.label for run in runs.runs}
    rules = sorted({str(run.record.provenance.get("rules", 1)) for run in runs.runs})
    backbones = ", ".join(sorted({spec.model for spec in specs}))
    budgets = ", ".join(sorted({spec.budget for spec in specs}))
    trained = ", ".join("nothing" if task == NOTHING else task for task in runs.tasks())
    return (
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


def _figures(files: Mapping[str, bytes], stems: Sequence[str]) -> dict[str, list[Drawing]]:
    """Return the figures of each board by its stem; all others under the empty name."""
    figures: dict[str, list[Drawing]] = {}
    # Shortest first: of two tasks whose names both match, the last and longest wins.
    slugs = {name.partition("-")[2]: name for name in sorted(stems, key=len)}
    svg_files = [name for name in files if name.endswith(".svg")]
    for number, file in enumerate(svg_files):
        name = file.removesuffix(".svg")
        boards = ["", *(board for slug, board in slugs.items() if f"-{slug}-" in f"{name}-")]
        figures.setdefault(boards[-1], []).append(figure(files[file].decode(), number, name))
    return figures


def _downloads(files: Mapping[str, bytes], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the published tables by name and kind."""
    content: dict[str, dict[str, Any]] = {}
    for name in names:
        for kind in KINDS:
            if (data := files.get(f"{name}.{kind}")) is not None:
                text = data.decode()
                content.setdefault(name, {})[kind] = json.loads(text) if kind == "json" else text
    return content


def _summary(summary: Summary, figures: Sequence[Drawing]) -> Section:
    if len(summary.overall.tasks) < 2:
        return Section(key="all", title="All tasks", figures=figures)
    overall = summary.overall
    entries = [Entry(entry.label, entry.kind) for entry in overall.entries]
    entries += [Entry(blank.label, blank.kind) for blank in overall.blanks]
    return Section(
        key="all",
        title=overall.title,
        file="overall",
        table=EntryTable("all", overall_sheet(overall), entries),
        notes=[OVERALL_RULE, *absences(overall)],
        figures=figures,
    )


def _board(
    runs: Runs,
    board: Board,
    designs: Sequence[factorial.Factorial],
    paths: Mapping[str, str],
    figures: Sequence[Drawing],
) -> Section:
    groups = runs.groups(board.task)
    entries = []
    for row in board.rows:
        detail = Detail(
            runs=groups[row.label], paths=paths, percent=board.percent, cost=row.cost,
            variants=row.variants or row.scores,
            differences={**row.differences, **(row.tradeoff.by_name if row.tradeoff else {})},
        )  # fmt: skip
        entries.append(Entry(row.label, row.kind, detail))
    entries += _blanks(runs, board.task, board.blanks, paths)
    main = main_sheet(board, halves=True)
    scores = [row.scores[board.order_by] for row in board.rows]
    drawings = whiskers(scores, higher_is_better=board.higher_is_better)
    key = f"b-{_slug(board.task)}"
    return Section(
        key=key,
        title=board.title,
        about=tables.caption(board),
        file=board.stem,
        table=EntryTable(key, main, entries, main.header.index(board.order_by), drawings),
        notes=tables.remarks(board),
        more=_folded(key, more_sheets(board), entries),
        sheets=factorial.sheets(designs),
        figures=figures,
    )


def _blanks(
    runs: Runs, task: str, blanks: Sequence[Blank], paths: Mapping[str, str]
) -> Iterator[Entry]:
    """Yield the rows of incomplete entries."""
    groups = runs.groups(task)
    for blank in blanks:
        missing = Detail(runs=groups[blank.label], paths=paths, percent=True, missing=blank.missing)
        yield Entry(blank.label, blank.kind, missing)


def _folded(key: str, sheets: Sequence[Sheet], entries: Sequence[Entry]) -> list[EntryTable]:
    # The details are in the main table; once more here they would double the page.
    names = [replace(entry, detail=None) for entry in entries]
    return [EntryTable(f"{key}-{number}", sheet, names) for number, sheet in enumerate(sheets)]


def _slug(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", task)


def _about(runs: Runs, boards: Sequence[Board], folders: Sequence[Path]) -> Iterator[Section]:
    """Yield the sections on methods, tasks, reading, rules and reproduction."""
    names = sorted({run.record.spec.method for run in runs.runs})
    files = {PurePath(name).name: None for name in names if name not in methods.names()}
    modules = {name: methods.load(name) for name in names if name in methods.names()}
    yield Section(key="methods", title="Methods", methods={**modules, **files})
    scored = {score.task for run in runs.runs for score in run.record.scores}
    names = sorted(scored | {task for task in runs.tasks() if task != NOTHING})
    infos = {name: tasks.info(name) if name in tasks.names() else None for name in names}
    yield Section(key="tasks", title="Tasks", tasks=infos)
    reading = [*dict.fromkeys(rule for board in boards for rule in tables.rules_of(board))]
    yield Section(key="reading", title="How to read", paragraphs=reading)
    _, _, rules = _part("RULES.md").partition("\n")
    yield Section(key="rules", title="Rules", rules=markdown(rules, deeper=1))
    roots = shlex.join(str(Path(f.resolve().name) if f.is_absolute() else f) for f in folders)
    rebuild = f"steelyard leaderboard {roots} --html --out board"
    commands = {
        "Check the records: hashes, ledgers, scores from items": f"steelyard validate {roots}",
        "Build this page and its boards again, with the same bytes": rebuild,
    }
    hint = "The command of each entry is in its row: click its name."
    yield Section(key="reproduce", title="Reproduce", commands=commands, paragraphs=[hint])
