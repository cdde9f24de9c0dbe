"""Build the report of a board, and its table for the terminal."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from steelyard.leaderboards.boards import cells
from steelyard.leaderboards.boards.board import COMPARED, MODALITIES, Blank, Board, BoardEntry
from steelyard.leaderboards.boards.cells import number, with_half
from steelyard.leaderboards.boards.evidence import sentence
from steelyard.leaderboards.boards.tradeoff import OTHER
from steelyard.leaderboards.output.files import exact, members
from steelyard.leaderboards.output.report import Report
from steelyard.leaderboards.output.sheet import Cell, Sheet, sheet_terminal
from steelyard.leaderboards.output.style import Figures

if TYPE_CHECKING:
    from rich.table import Table

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


def report(board: Board, figures: Figures | None = None) -> Report:
    """Build the report with these figures."""
    rows: list[dict[str, object]] = [dict(_fields(board, entry)) for entry in board.entries]
    rows += [members(blank) | {"preliminary": board.preliminary} for blank in board.blanks]
    return Report(
        stem=board.stem,
        title=board.title,
        about=caption(board),
        sheets=sheets(board),
        notes=remarks(board),
        rules=RULES,
        figures=figures or {},
        rows=rows,
        content={k: v for k, v in members(board).items() if k not in ("samples", "entry_scores")},
        latex_about=caption(board),
    )


def sheets(board: Board) -> tuple[Sheet, ...]:
    """Return the ranking, corruptions, modalities and cost; cells are blank where incomplete."""
    costs = {_name(entry): entry.cost for entry in board.entries}
    cost = cells.cost_sheet(costs, board.control, map(_name, board.blanks))
    tables = (ranking(board), _corruptions(board), *_modalities(board), cost)
    # Rank and entry alone are no table.
    return tuple(sheet for sheet in tables if len(sheet.header) > 2)


def terminal(board: Board, width: int) -> "Table":
    """Draw the ranking for a terminal ``width`` characters wide, with notes below.

    If the full ranking does not fit, only its main columns; long names are cut.
    """
    from rich.text import Text

    sheet = ranking(board)
    # rich would break the cells of a table that is too wide.
    if sum(_widths(sheet)) > width:
        sheet = _brief(board)
    widths = _widths(sheet)
    room = max(width - sum(widths) + widths[1], len("entry"))
    notes = Text("\n".join(remarks(board)))
    return sheet_terminal(sheet, widest=room, title=Text(caption(board)), caption=notes)


def _widths(sheet: Sheet) -> list[int]:
    """Return the terminal width of each column, with the space before the next."""
    from rich.cells import cell_len

    lines = [sheet.header, *([cell.text for cell in row] for row in sheet.rows)]
    return [max(map(cell_len, column)) + 2 for column in zip(*lines, strict=True)]


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
        f"{number(limit.alone, board.percent)} in {name} "
        f"({number(limit.corrected, board.percent)} after Holm's correction)"
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
    columns: list[cells.Column[BoardEntry]] = [
        ("ties", lambda entry: "".join(entry.rank.ties)),
        ("range", lambda entry: f"{entry.rank.low:.0f}-{entry.rank.high:.0f}"),
    ]
    for name in ("balanced", "clean", "corrupted"):
        if name in board.columns:
            columns.append(_scores(board, name, halves=True))
    if _has_both(board):
        columns += [_worst(board), ("gap", partial(_gap, board))]
    columns += [_differences(board, name) for name in COMPARED if name in board.columns]
    blanks = map(_name, board.blanks)
    return cells.entry_sheet("Ranking", board.entries, _name, columns, blanks, _tie_mark)


def _brief(board: Board) -> Sheet:
    """Build the ranking for 80 characters: few columns, intervals on balanced and Δ only."""
    means = [name for name in ("clean", "corrupted") if name in board.columns]
    columns = [_scores(board, "balanced", halves=True), *(_scores(board, name) for name in means)]
    columns += [_worst(board)] if _has_both(board) else []
    # Corrupted if there is any: it is what the board is about.
    columns.append(_differences(board, means[-1]))
    blanks = [blank.label for blank in board.blanks]
    entries = board.entries
    return cells.entry_sheet("Ranking", entries, lambda e: e.label, columns, blanks, _tie_mark)


def _tie_mark(entry: BoardEntry) -> str:
    return "≈" if entry.rank.tied else ""


def _has_both(board: Board) -> bool:
    return all(modality in board.columns for modality in MODALITIES)


def _scores(
    board: Board, name: str, *, heading: str = "", halves: bool = False
) -> cells.Column[BoardEntry]:
    """Return the column of scores, the best in bold, a corrupted one above clean with †."""
    pick = max if board.higher_is_better else min
    best = pick((entry.scores[name].mean for entry in board.entries), default=None)

    def cell(entry: BoardEntry) -> Cell:
        score = entry.scores[name]
        text = with_half(score, board.percent) if halves else number(score.mean, board.percent)
        mark = " †" if name in entry.better_corrupted else ""
        return Cell(text + mark, score.mean == best)

    return heading or name, cell


def _worst(board: Board) -> cells.Column[BoardEntry]:
    return "worst", lambda entry: number(entry.worst, board.percent)


def _differences(board: Board, name: str) -> cells.Column[BoardEntry]:
    return f"Δ {name}", lambda entry: cells.with_verdict(entry.differences.get(name), board.percent)


def _gap(board: Board, entry: BoardEntry) -> str:
    traded = entry.tradeoff is not None and entry.tradeoff.traded
    return number(entry.gap, board.percent) + (" ‡" if traded else "")


def _corruptions(board: Board) -> Sheet:
    columns = [_scores(board, name) for name in board.corruptions]
    for name in MODALITIES:
        if name in board.columns:
            columns.append(_scores(board, name, heading=f"{name} corrupted"))
    return cells.entry_sheet("Corruptions", board.entries, _name, columns, map(_name, board.blanks))


def _modalities(board: Board) -> list[Sheet]:
    """Build the table of strong and weak modality; none without a control or with one modality."""
    if not any(entry.tradeoff for entry in board.entries):
        return []

    def score(corrupted: str, entry: BoardEntry) -> str:
        return with_half(entry.scores[corrupted], board.percent)

    def difference(name: str, entry: BoardEntry) -> str:
        change = entry.tradeoff.by_name[name] if entry.tradeoff else None
        return cells.with_verdict(change, board.percent)

    # The score of a modality is the one with the other corrupted.
    strong, weak = board.strong_modality, OTHER[board.strong_modality]
    columns: list[cells.Column[BoardEntry]] = [
        (f"{strong} (strong)", partial(score, weak)),
        (f"{weak} (weak)", partial(score, strong)),
        ("gap", partial(_gap, board)),
        *((f"Δ {name}", partial(difference, name)) for name in ("strong", "weak", "gap")),
    ]
    blanks = map(_name, board.blanks)
    return [cells.entry_sheet("Strong and weak modality", board.entries, _name, columns, blanks)]


def _name(entry: Blank | BoardEntry) -> str:
    return cells.with_kind(entry.label, entry.kind)


def _fields(board: Board, entry: BoardEntry) -> Iterator[tuple[str, str]]:
    """Yield one entry's fields for the CSV, in order."""
    rank, cost = entry.rank, entry.cost
    yield from (("rank", str(rank.position)), ("tied_with_first", str(rank.tied).lower()))
    yield from (("rank_low", f"{rank.low:g}"), ("rank_high", f"{rank.high:g}"))
    yield "ties", " ".join(rank.ties)
    if rank.wins is not None:
        yield from cells.interval_fields("win_rate", rank.wins)
    yield from (("label", entry.label), ("kind", entry.kind), ("missing", ""))
    yield "preliminary", board.preliminary
    for name in board.columns:
        yield from cells.interval_fields(name, entry.scores[name])
    for name in ("worst", "gap"):
        value = getattr(entry, name)
        yield name, "" if value is None else exact(value)
    yield "better_corrupted", " ".join(entry.better_corrupted)
    for name, difference in entry.differences.items():
        yield from cells.interval_fields(f"difference_{name}", difference.interval)
        yield f"difference_{name}_p", exact(difference.interval.p)
        yield f"difference_{name}_p_holm", exact(difference.adjusted)
    if entry.tradeoff is not None:
        for name, difference in entry.tradeoff.by_name.items():
            yield from cells.interval_fields(f"difference_{name}", difference.interval)
            yield f"difference_{name}_p_holm", exact(difference.adjusted)
        yield "balance_traded", str(entry.tradeoff.traded).lower()
    yield "flops", exact(cost.flops)
    yield "flops_relative", "" if cost.relative is None else exact(cost.relative)
    for name in ("seconds", "steps", "items", "peak_bytes"):
        yield name, exact(getattr(cost, name))
    for phase, flops in cost.phases.items():
        yield f"flops_{phase}", exact(flops)
