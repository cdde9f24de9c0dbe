"""A board as Markdown, CSV, JSON, LaTeX or a terminal table, each escaped for its format."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.board import COMPARED, SIDES, Board, Difference, Entry
from steelyard.leaderboards.escape import md, tex
from steelyard.leaderboards.overall import Overall
from steelyard.leaderboards.stats import Interval

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
RULES = (
    "A side is averaged over the severities of each corruption, then over its corruptions; "
    "impaired is the mean of the two sides, balanced the mean of clean and impaired.",
    "Entries are ranked by balanced. ≈ marks those whose paired difference to the first has a "
    "95 % interval that contains 0. The range is the middle 95 % of ranks when seeds and test "
    "items are resampled; with few seeds it is somewhat too narrow.",
    "± is half of the 95 % interval over training seeds and test items. Differences to the "
    "control are paired by seed and item; ▲ is better and ▼ worse at 5 % after Holm's correction "
    "over the entries of the column.",
    "Worst is the worse of the two side averages and gap their distance: a small gap alone is no "
    "merit, both sides may be poor. † marks an impaired score that beats the clean one.",
)
OVERALL_RULE = (
    "Ranks are among the entries complete on every task, by balanced score; the win rate is the "
    "share of the others beaten, equals half, so it orders as the mean rank does. The range is "
    "the middle 95 % of mean ranks when seeds and test items are resampled."
)
FORMATS = (("all tables", "md"), ("CSV", "csv"), ("JSON", "json"), ("LaTeX", "tex"))
VERDICTS = {"better": " ▲", "worse": " ▼", "": ""}


@dataclass(frozen=True, slots=True)
class Cell:
    """Plain text of one cell; every format escapes it in its own way."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table ready for printing; columns after the second are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def sheets(board: Board) -> tuple[Sheet, ...]:
    """The ranking, the single impairments and the cost; blank cells where incomplete."""
    made = (_ranking(board), _impairments(board), _cost(board))
    return tuple(sheet for sheet in made if len(sheet.header) > 2)


def overall_sheet(overall: Overall) -> Sheet:
    """Mean rank and mean win rate over tasks."""
    header = ("#", "entry", "mean rank", "range", "win rate", *overall.tasks)
    rows = []
    for place, entry in enumerate(overall.entries, start=1):
        wins = "" if entry.win_rate is None else f"{100 * entry.win_rate:.0f}%"
        by_task = [f"{entry.ranks[task]:g}" for task in overall.tasks]
        span = f"{entry.low:.3g}-{entry.high:.3g}"
        texts = [str(place), _name(entry.label, entry.kind), f"{entry.mean_rank:.2f}", span, wins]
        rows.append(tuple(Cell(text) for text in (*texts, *by_task)))
    blanks = [_blank_row(blank.label, blank.kind, len(header)) for blank in overall.blanks]
    return Sheet("All tasks", header, (*rows, *blanks))


def markdown(board: Board, pictures: Sequence[str] = ()) -> str:
    """The whole board as one Markdown page, with the named picture files at its end."""
    parts = [f"# {md(board.task)}", md(caption(board))]
    parts += [f"## {sheet.title}\n\n{sheet_markdown(sheet)}" for sheet in sheets(board)]
    parts += bullets("## Notes\n\n", remarks(board))
    parts += bullets("## How to read this\n\n", RULES)
    parts += [f"![{Path(name).stem}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def sheet_markdown(sheet: Sheet) -> str:
    """One table in Markdown."""
    lines = [[md(name) for name in sheet.header]]
    lines.append(["---" if place == 1 else "--:" for place in range(len(sheet.header))])
    for row in sheet.rows:
        texts = [md(cell.text) for cell in row]
        lines.append(
            [f"**{text}**" if cell.best else text for cell, text in zip(row, texts, strict=True)]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def index(
    overall: Overall, boards: Sequence[Board], files: Mapping[str, str], unfinished: Sequence[str]
) -> str:
    """The front page: the board over tasks, then each task's ranking and its files.

    Args:
        overall: the board over tasks, shown where there are two or more.
        boards: those of single tasks.
        files: by task, the name of its files without ending.
        unfinished: tasks without a finished run.
    """
    parts = ["# Leaderboards"]
    if len(boards) > 1:
        parts += ["## All tasks\n\n" + sheet_markdown(overall_sheet(overall)), md(OVERALL_RULE)]
        parts += [f"- {md(blank.label)}: {md(blank.missing)}." for blank in overall.blanks]
    for board in boards:
        name = files[board.task]
        links = [f"[{kind}]({name}.{end})" for kind, end in FORMATS]
        parts.append(f"## {md(board.task)}\n\n{md(caption(board))}")
        parts += [sheet_markdown(_ranking(board)), " · ".join(links)]
        parts += bullets("", remarks(board))
    parts += [f"No board for {md(task)}: none of its runs finished." for task in unfinished]
    parts += bullets("## How to read this\n\n", RULES if boards else ())
    return "\n\n".join(parts) + "\n"


def latex(board: Board) -> str:
    """The board's tables with booktabs rules, to be included in a document."""
    return "\n".join(sheet_latex(sheet, caption(board)) for sheet in sheets(board))


def terminal(board: Board, width: int) -> "Table":
    """The ranking for a terminal ``width`` characters wide, notes below it.

    The whole ranking where it fits, else its main columns; names are cut if even those do not.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    whole = _ranking(board)
    sheet = whole if sum(_widths(whole)) <= width else _brief(board)
    widths = _widths(sheet)
    remark = Text("\n".join(remarks(board)))
    table = Table(
        title=Text(caption(board)), caption=remark, title_justify="left", caption_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False,
    )  # fmt: skip
    for place, name in enumerate(sheet.header):
        if place == 1:
            room = max(width - sum(widths) + widths[1], len(name))
            table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=room)
        else:
            table.add_column(Text(name), justify="right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    return table


def as_csv(board: Board) -> str:
    """One row an entry with every column, unrounded shares; blank where there is no value."""
    rows = [dict(_flat(board, entry)) for entry in board.entries]
    blanks = [
        {"label": blank.label, "kind": blank.kind, "missing": blank.missing}
        for blank in board.blanks
    ]
    names = list(dict.fromkeys(name for row in (*rows, *blanks) for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows + blanks)
    return out.getvalue()


def as_json(board: Board | Overall) -> str:
    """Everything on the board, machine-readable."""
    content = asdict(board)
    content.pop("samples", None)
    return json.dumps({"schema": SCHEMA, **_plain(content)}, indent=1, allow_nan=False) + "\n"


def caption(board: Board) -> str:
    """One line: what the figures are and what they were measured on."""
    unit = " in %" if board.percent else ""
    direction = "higher" if board.higher_is_better else "lower"
    seeds = ", ".join(map(str, board.seeds))
    clusters = f" in {board.clusters} clusters" if board.clusters < board.items else ""
    return (
        f"{board.task}: {board.metric}{unit}, {direction} is better. Backbone {board.backbone}, "
        f"budget {board.budget}, seeds {seeds}, {board.items} test items{clusters}. "
        f"Δ: difference to {board.control}."
    )


def remarks(board: Board) -> list[str]:
    """The board's notes, and what each blank entry lacks."""
    return [*board.notes, *(f"{blank.label}: {blank.missing}." for blank in board.blanks)]


def bullets(title: str, lines: Sequence[str]) -> list[str]:
    """A list under its title; nothing for no lines."""
    return [title + "\n".join(f"- {md(line)}" for line in lines)] if lines else []


def _ranking(board: Board) -> Sheet:
    columns = [name for name in ("balanced", "clean", "impaired") if name in board.columns]
    sided = [name for name in ("worst", "gap") if all(side in board.columns for side in SIDES)]
    compared = [name for name in COMPARED if name in board.columns]
    header = ("#", "entry", "range", *columns, *sided, *(f"Δ {name}" for name in compared))
    best = _best(board, columns)
    rows = []
    for entry in board.entries:
        span = f"{entry.standing.low:.0f}-{entry.standing.high:.0f}"
        cells = [_rank(entry), Cell(_name(entry.label, entry.kind)), Cell(span)]
        cells += [_score(board, entry, name, best) for name in columns]
        if sided:
            cells += [Cell(_number(board, entry.worst)), Cell(_number(board, entry.gap))]
        cells += [Cell(_difference(board, entry.differences.get(name))) for name in compared]
        rows.append(tuple(cells))
    return Sheet("Ranking", header, (*rows, *_blank_rows(board, len(header))))


def _brief(board: Board) -> Sheet:
    """The ranking for 80 characters: intervals only where entries are ordered or compared."""
    means = [name for name in ("clean", "impaired") if name in board.columns]
    worst = ["worst"] if all(side in board.columns for side in SIDES) else []
    best = _best(board, ["balanced", *means])
    rows = []
    for entry in board.entries:
        cells = [_rank(entry), Cell(entry.label), _score(board, entry, "balanced", best)]
        for name in means:
            number = _number(board, entry.scores[name].mean)
            cells.append(Cell(number, entry.label in best[name]))
        cells += [Cell(_number(board, entry.worst)) for _ in worst]
        cells.append(Cell(_difference(board, entry.differences.get(means[-1]))))
        rows.append(tuple(cells))
    header = ("#", "entry", "balanced", *means, *worst, f"Δ {means[-1]}")
    blanks = [_blank_row(blank.label, "", len(header)) for blank in board.blanks]
    return Sheet("Ranking", header, (*rows, *blanks))


def _rank(entry: Entry) -> Cell:
    return Cell(f"{'≈' if entry.standing.tied else ''}{entry.standing.rank}")


def _widths(sheet: Sheet) -> list[int]:
    """Characters that each column takes in a terminal, the space before the next included."""
    from rich.cells import cell_len

    lines = [sheet.header, *([cell.text for cell in row] for row in sheet.rows)]
    return [max(map(cell_len, column)) + 2 for column in zip(*lines, strict=True)]


def _impairments(board: Board) -> Sheet:
    sides = [side for side in SIDES if side in board.columns]
    names = [*board.corruptions, *sides]
    best = _best(board, names)
    rows = []
    for entry in board.entries:
        cells = [Cell(str(entry.standing.rank)), Cell(_name(entry.label, entry.kind))]
        for name in names:
            mark = " †" if name in entry.better_impaired else ""
            text = _number(board, entry.scores[name].mean) + mark
            cells.append(Cell(text, entry.label in best[name]))
        rows.append(tuple(cells))
    header = ("#", "entry", *board.corruptions, *(f"{side} impaired" for side in sides))
    return Sheet("Impairments", header, (*rows, *_blank_rows(board, len(header))))


def _cost(board: Board) -> Sheet:
    header = (
        "#",
        "entry",
        "FLOPs",
        f"FLOPs / {board.control}",
        "device s",
        "steps",
        "items",
        "peak MiB",
    )
    rows = []
    for entry in board.entries:
        cost = entry.cost
        texts = (
            str(entry.standing.rank),
            _name(entry.label, entry.kind),
            f"{cost.flops:.2e}",
            "" if cost.relative is None else f"{cost.relative:.2f}",
            f"{cost.seconds:.1f}",
            f"{cost.steps:.0f}",
            f"{cost.items:.0f}",
            f"{cost.peak_bytes / 2**20:.0f}",
        )
        rows.append(tuple(Cell(text) for text in texts))
    return Sheet("Training cost", header, (*rows, *_blank_rows(board, len(header))))


def _name(label: str, kind: str) -> str:
    return f"{label} ({kind})" if kind == "control" else label


def _blank_row(label: str, kind: str, width: int) -> tuple[Cell, ...]:
    return (Cell(""), Cell(_name(label, kind)), *(Cell("") for _ in range(width - 2)))


def _blank_rows(board: Board, width: int) -> list[tuple[Cell, ...]]:
    return [_blank_row(blank.label, blank.kind, width) for blank in board.blanks]


def _best(board: Board, names: Sequence[str]) -> dict[str, set[str]]:
    """Labels with the best mean of each column."""
    pick = max if board.higher_is_better else min
    found: dict[str, set[str]] = {}
    for name in names:
        means = {entry.label: entry.scores[name].mean for entry in board.entries}
        top = pick(means.values(), default=None)
        found[name] = {label for label, mean in means.items() if mean == top}
    return found


def _score(board: Board, entry: Entry, name: str, best: Mapping[str, set[str]]) -> Cell:
    return Cell(_with_half(board, entry.scores[name]), entry.label in best[name])


def _number(board: Board, value: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{100 * value:{sign}.1f}" if board.percent else f"{value:{sign}.4g}"


def _with_half(board: Board, interval: Interval, sign: str = "") -> str:
    return f"{_number(board, interval.mean, sign)} ± {_number(board, interval.half)}"


def _difference(board: Board, difference: Difference | None) -> str:
    if difference is None:
        return ""
    return _with_half(board, difference.interval, "+") + VERDICTS[difference.verdict]


def _flat(board: Board, entry: Entry) -> Iterator[tuple[str, str]]:
    """One entry's columns for the CSV, in order."""
    standing, cost = entry.standing, entry.cost
    yield from (("rank", str(standing.rank)), ("tied_with_first", str(standing.tied).lower()))
    yield from (("rank_low", f"{standing.low:g}"), ("rank_high", f"{standing.high:g}"))
    yield from (("label", entry.label), ("kind", entry.kind), ("missing", ""))
    for name in board.columns:
        yield from _ends(name, entry.scores[name])
    yield from (("worst", _exact(entry.worst)), ("gap", _exact(entry.gap)))
    yield "better_impaired", " ".join(entry.better_impaired)
    for name, difference in entry.differences.items():
        yield from _ends(f"difference_{name}", difference.interval)
        yield f"difference_{name}_p", _exact(difference.interval.p)
        yield f"difference_{name}_p_holm", _exact(difference.adjusted)
    yield from (("flops", _exact(cost.flops)), ("flops_relative", _exact(cost.relative)))
    yield from (("seconds", _exact(cost.seconds)), ("steps", _exact(cost.steps)))
    yield from (("items", _exact(cost.items)), ("peak_bytes", _exact(cost.peak_bytes)))
    for phase, flops in cost.phases.items():
        yield f"flops_{phase}", _exact(flops)


def _ends(name: str, interval: Interval) -> Iterator[tuple[str, str]]:
    yield name, _exact(interval.mean)
    yield f"{name}_low", _exact(interval.low)
    yield f"{name}_high", _exact(interval.high)


def _exact(value: float | None) -> str:
    """Ten significant digits: more than any figure holds, fewer than two machines differ in."""
    return "" if value is None else f"{value:.10g}"


def _plain(value: Any) -> Any:
    """The same content with floats at ten significant digits."""
    if isinstance(value, float):
        return float(_exact(value))
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def sheet_latex(sheet: Sheet, about: str) -> str:
    """A table environment; needs the packages booktabs and textcomp."""
    columns = "rl" + "r" * (len(sheet.header) - 2)
    rows = [
        [rf"\textbf{{{tex(cell.text)}}}" if cell.best else tex(cell.text) for cell in row]
        for row in sheet.rows
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(sheet.title)}. {tex(about)}}}",
    ]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(tex, sheet.header)) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"
