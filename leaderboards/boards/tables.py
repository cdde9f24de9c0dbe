"""Write a board as Markdown, LaTeX, CSV, JSON or a terminal table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from steelyard.leaderboards.boards.board import COMPARED, MODALITIES, Blank, Board, BoardEntry
from steelyard.leaderboards.boards.evidence import sentence
from steelyard.leaderboards.boards.overall import Overall
from steelyard.leaderboards.boards.tradeoff import OTHER
from steelyard.leaderboards.output.files import csv_text, exact, json_text, members
from steelyard.leaderboards.output.sheet import Cell, Sheet, page_markdown, sheet_latex
from steelyard.leaderboards.stats.differences import ControlDifference
from steelyard.leaderboards.stats.intervals import Interval

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 3
RULES = (
    "A modality is averaged over the severities of each corruption, then over its corruptions; "
    "corrupted is the mean of the two modalities, balanced the mean of clean and corrupted.",
    "Entries are ranked by balanced. Entries that share a letter under ties do not differ: their "
    "paired difference is not significant at 5 % after Holm's correction over all pairs. "
    "≈ marks ties with the first. The range is the middle 95 % of ranks when seeds and test items "
    "are resampled.",
    "± is half of the 95 % interval over training seeds and test items. Differences to the "
    "control are paired by seed and item; ▲ is better and ▼ worse at 5 % after Holm's correction "
    "over the entries of the column.",
    "Worst is the lower of the two modality averages and gap their distance: a small gap alone is "
    "no merit, both modalities may be poor. † marks a corrupted score above the clean one.",
    "The strong modality is the one that scores higher in the control when the other is corrupted. "
    "‡ marks balance traded for performance: the gap closes while the strong modality or the clean "
    "score falls, each significant at 5 % after Holm's correction.",
    "A board is preliminary if a trained entry took fewer than 300 optimiser steps: it then "
    "supports no conclusion. Generated data is drawn by steelyard, not collected.",
)
FORMATS = (("all tables", "md"), ("CSV", "csv"), ("JSON", "json"), ("LaTeX", "tex"))
VERDICTS = {"better": " ▲", "worse": " ▼", "": ""}


def sheets(board: Board) -> tuple[Sheet, ...]:
    """Return the ranking, corruptions, modalities and cost; cells are blank where incomplete."""
    tables = (ranking(board), _corruptions(board), *_modalities(board), _cost(board))
    return tuple(sheet for sheet in tables if len(sheet.header) > 2)


def markdown(board: Board, pictures: Sequence[str] = ()) -> str:
    """Write the board as one Markdown page, with the named picture files at its end."""
    return page_markdown(
        board.title, caption(board), sheets(board), remarks(board), RULES, pictures
    )


def latex(board: Board) -> str:
    """Write the board's tables with booktabs rules, for inclusion in a document."""
    return "\n".join(sheet_latex(sheet, caption(board)) for sheet in sheets(board))


def terminal(board: Board, width: int) -> "Table":
    """Draw the ranking for a terminal ``width`` characters wide, with notes below.

    If the full ranking does not fit, only its main columns; long names are cut.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    sheet = ranking(board)
    if sum(_widths(sheet)) > width:
        sheet = _brief(board)
    widths = _widths(sheet)
    notes = Text("\n".join(remarks(board)))
    table = Table(
        title=Text(caption(board)), caption=notes, title_justify="left", caption_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False,
    )  # fmt: skip
    for index, name in enumerate(sheet.header):
        if index == 1:
            room = max(width - sum(widths) + widths[1], len(name))
            table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=room)
        else:
            table.add_column(Text(name), justify="right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    return table


def caption(board: Board) -> str:
    """Describe the numbers, what they were measured on, and whether they are preliminary."""
    unit = " in %" if board.percent else ""
    direction = "higher" if board.higher_is_better else "lower"
    seeds = ", ".join(map(str, board.seeds))
    clusters = f" in {board.clusters} clusters" if board.clusters < board.items else ""
    return (
        f"{board.title}: {board.metric}{unit}, {direction} is better. Backbone {board.backbone}, "
        f"budget {board.budget}, seeds {seeds}, {board.items} test items{clusters}. "
        f"Δ: difference to {board.control}.{sentence(board.preliminary)}"
    )


def remarks(board: Board) -> list[str]:
    """Return the board's notes, its detectable differences, and what each blank entry lacks."""
    limits = [
        f"{_number(board, limit.alone)} in {name} ({_number(board, limit.corrected)} after Holm's "
        "correction)"
        for name, limit in board.detectable.items()
    ]
    power = [
        f"A difference to {board.control} of {' and '.join(limits)} is detected with 80 % power on "
        "these seeds and items; most smaller ones are not."
    ]
    blanks = [f"{blank.label}: {blank.missing}." for blank in board.blanks]
    return [*board.notes, *(power if limits else []), *blanks]


def ranking(board: Board) -> Sheet:
    """Build the table of entries by rank: scores with intervals, differences to the control."""
    columns = [name for name in ("balanced", "clean", "corrupted") if name in board.columns]
    both = all(modality in board.columns for modality in MODALITIES)
    compared = [name for name in COMPARED if name in board.columns]
    best = _best(board, columns)
    rows = []
    for entry in board.entries:
        span = f"{entry.rank.low:.0f}-{entry.rank.high:.0f}"
        cells = [_rank(entry), Cell(name_of(entry)), Cell("".join(entry.rank.ties)), Cell(span)]
        cells += [_score(board, entry, name, best) for name in columns]
        if both:
            cells += [Cell(_number(board, entry.worst)), Cell(_gap(board, entry))]
        cells += [Cell(_difference(board, entry.differences.get(name))) for name in compared]
        rows.append(tuple(cells))
    modalities = ("worst", "gap") if both else ()
    deltas = (f"Δ {name}" for name in compared)
    header = ("#", "entry", "ties", "range", *columns, *modalities, *deltas)
    return Sheet("Ranking", header, (*rows, *blank_rows(board.blanks, len(header))))


def _gap(board: Board, entry: BoardEntry) -> str:
    traded = entry.tradeoff is not None and entry.tradeoff.traded
    return _number(board, entry.gap) + (" ‡" if traded else "")


def _brief(board: Board) -> Sheet:
    """Build the ranking for 80 characters: few columns, intervals on balanced and Δ only."""
    means = [name for name in ("clean", "corrupted") if name in board.columns]
    worst = ["worst"] if all(modality in board.columns for modality in MODALITIES) else []
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
    blanks = [Blank(blank.label, "", "") for blank in board.blanks]
    return Sheet("Ranking", header, (*rows, *blank_rows(blanks, len(header))))


def _rank(entry: BoardEntry) -> Cell:
    return Cell(f"{'≈' if entry.rank.tied else ''}{entry.rank.position}")


def _widths(sheet: Sheet) -> list[int]:
    """Return the terminal width of each column, with the space before the next."""
    from rich.cells import cell_len

    lines = [sheet.header, *([cell.text for cell in row] for row in sheet.rows)]
    return [max(map(cell_len, column)) + 2 for column in zip(*lines, strict=True)]


def _corruptions(board: Board) -> Sheet:
    modalities = [modality for modality in MODALITIES if modality in board.columns]
    names = [*board.corruptions, *modalities]
    best = _best(board, names)
    rows = []
    for entry in board.entries:
        cells = [Cell(str(entry.rank.position)), Cell(name_of(entry))]
        for name in names:
            mark = " †" if name in entry.better_corrupted else ""
            text = _number(board, entry.scores[name].mean) + mark
            cells.append(Cell(text, entry.label in best[name]))
        rows.append(tuple(cells))
    averages = (f"{modality} corrupted" for modality in modalities)
    header = ("#", "entry", *board.corruptions, *averages)
    return Sheet("Corruptions", header, (*rows, *blank_rows(board.blanks, len(header))))


def _modalities(board: Board) -> list[Sheet]:
    """Build the table of strong and weak modality; none without a control or with one modality."""
    if not any(entry.tradeoff for entry in board.entries):
        return []
    modalities = board.strong_modality, OTHER[board.strong_modality]
    deltas = ("Δ strong", "Δ weak", "Δ gap")
    names = (f"{modalities[0]} (strong)", f"{modalities[1]} (weak)")
    header = ("#", "entry", *names, "gap", *deltas)
    rows = []
    for entry in board.entries:
        texts = [str(entry.rank.position), name_of(entry)]
        # The score of a modality is the one with the other corrupted.
        texts += [_with_half(board, entry.scores[OTHER[modality]]) for modality in modalities]
        texts.append(_gap(board, entry))
        changes = entry.tradeoff.by_name.values() if entry.tradeoff else (None, None, None)
        texts += [_difference(board, change) for change in changes]
        rows.append(tuple(map(Cell, texts)))
    blanks = blank_rows(board.blanks, len(header))
    return [Sheet("Strong and weak modality", header, (*rows, *blanks))]


def _cost(board: Board) -> Sheet:
    relative = f"FLOPs / {board.control}"
    header = ("#", "entry", "FLOPs", relative, "device s", "steps", "items", "peak MiB")
    rows = []
    for entry in board.entries:
        cost = entry.cost
        texts = (
            str(entry.rank.position),
            name_of(entry),
            f"{cost.flops:.2e}",
            "" if cost.relative is None else f"{cost.relative:.2f}",
            f"{cost.seconds:.1f}",
            f"{cost.steps:.0f}",
            f"{cost.items:.0f}",
            f"{cost.peak_bytes / 2**20:.0f}",
        )
        rows.append(tuple(map(Cell, texts)))
    return Sheet("Training cost", header, (*rows, *blank_rows(board.blanks, len(header))))


def name_of(entry: Blank | BoardEntry) -> str:
    """Return the label, with the kind of a control."""
    return with_kind(entry.label, entry.kind)


def with_kind(label: str, kind: str) -> str:
    return f"{label} ({kind})" if kind == "control" else label


def blank_rows(blanks: Sequence[Blank], width: int) -> list[tuple[Cell, ...]]:
    """Build the rows of entries without a rank."""
    empty = [Cell("")] * (width - 2)
    return [(Cell(""), Cell(name_of(blank)), *empty) for blank in blanks]


def _best(board: Board, names: Sequence[str]) -> dict[str, set[str]]:
    """Return the labels with the best mean of each column."""
    pick = max if board.higher_is_better else min
    best: dict[str, set[str]] = {}
    for name in names:
        means = {entry.label: entry.scores[name].mean for entry in board.entries}
        top = pick(means.values(), default=None)
        best[name] = {label for label, mean in means.items() if mean == top}
    return best


def _score(board: Board, entry: BoardEntry, name: str, best: Mapping[str, set[str]]) -> Cell:
    return Cell(_with_half(board, entry.scores[name]), entry.label in best[name])


def _number(board: Board, value: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{100 * value:{sign}.1f}" if board.percent else f"{value:{sign}.4g}"


def _with_half(board: Board, interval: Interval, sign: str = "") -> str:
    return f"{_number(board, interval.mean, sign)} ± {_number(board, interval.half)}"


def _difference(board: Board, difference: ControlDifference | None) -> str:
    if difference is None:
        return ""
    return _with_half(board, difference.interval, "+") + VERDICTS[difference.verdict]


def as_csv(board: Board) -> str:
    """Write one row an entry with every column, unrounded; blank where there is no value."""
    rows: list[Mapping[str, object]] = [dict(_flat(board, entry)) for entry in board.entries]
    rows += [members(blank) | {"preliminary": board.preliminary} for blank in board.blanks]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return csv_text([names, *([row.get(name, "") for name in names] for row in rows)])


def as_json(board: Board | Overall) -> str:
    """Write every number of the board."""
    content = {k: v for k, v in members(board).items() if k not in ("samples", "entry_scores")}
    return json_text({"schema": SCHEMA, **content})


def _flat(board: Board, entry: BoardEntry) -> Iterator[tuple[str, str]]:
    """Yield one entry's columns for the CSV, in order."""
    rank, cost = entry.rank, entry.cost
    yield from (("rank", str(rank.position)), ("tied_with_first", str(rank.tied).lower()))
    yield from (("rank_low", f"{rank.low:g}"), ("rank_high", f"{rank.high:g}"))
    yield "ties", " ".join(rank.ties)
    if rank.wins is not None:
        yield from _ends("win_rate", rank.wins)
    yield from (("label", entry.label), ("kind", entry.kind), ("missing", ""))
    yield "preliminary", board.preliminary
    for name in board.columns:
        yield from _ends(name, entry.scores[name])
    yield from (("worst", _exact(entry.worst)), ("gap", _exact(entry.gap)))
    yield "better_corrupted", " ".join(entry.better_corrupted)
    for name, difference in entry.differences.items():
        yield from _ends(f"difference_{name}", difference.interval)
        yield f"difference_{name}_p", exact(difference.interval.p)
        yield f"difference_{name}_p_holm", exact(difference.adjusted)
    if entry.tradeoff is not None:
        for name, difference in entry.tradeoff.by_name.items():
            yield from _ends(f"difference_{name}", difference.interval)
            yield f"difference_{name}_p_holm", exact(difference.adjusted)
        yield "balance_traded", str(entry.tradeoff.traded).lower()
    yield from (("flops", exact(cost.flops)), ("flops_relative", _exact(cost.relative)))
    for name in ("seconds", "steps", "items", "peak_bytes"):
        yield name, exact(getattr(cost, name))
    for phase, flops in cost.phases.items():
        yield f"flops_{phase}", exact(flops)


def _ends(name: str, interval: Interval) -> Iterator[tuple[str, str]]:
    names = (name, f"{name}_low", f"{name}_high")
    return zip(names, map(exact, interval.ends), strict=True)


def _exact(value: float | None) -> str:
    return "" if value is None else exact(value)
