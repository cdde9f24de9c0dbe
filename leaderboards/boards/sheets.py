"""Build the tables of a board."""

from collections.abc import Sequence
from functools import partial

from steelyard.harness.core.examples import MODALITIES
from steelyard.leaderboards.boards import cells
from steelyard.leaderboards.boards.board import Board, BoardRow
from steelyard.leaderboards.boards.cells import (
    DIRECTIONS,
    VERDICTS,
    SheetColumn,
    number,
    with_half,
    words,
)
from steelyard.leaderboards.boards.columns import COMPARED, COMPOSITE, NO_IMAGE, Column
from steelyard.leaderboards.boards.entries import Blank
from steelyard.leaderboards.boards.tradeoff import OTHER
from steelyard.leaderboards.output.sheet import Cell, Sheet

RowColumn = SheetColumn[BoardRow]


def main_sheet(board: Board, *, halves: bool = False) -> Sheet:
    """Build the ranking by one score, or several side by side, with intervals if ``halves``."""
    if board.several:
        columns = [_score(board, COMPOSITE, COMPOSITE, halves=halves, verdicts=True)]
        for column in board.clean:
            title = heading(column)
            columns.append(_score(board, column.name, title, halves=halves, verdicts=True))
        return _sheet(board, "Side by side", columns)
    columns = [
        ("ties", lambda row: "".join(row.ties)),
        ("range", lambda row: f"{row.rank.first:.0f}-{row.rank.last:.0f}"),
    ]
    compared = [name for name in COMPARED if name in board.names]
    columns += [_score(board, name, name) for name in (board.order_by, *compared)]
    if set(MODALITIES) <= {*board.names}:
        columns.append(("worst", lambda row: number(row.worst, board.percent)))
        columns.append(("gap", partial(_gap, board)))
    columns += [_difference(board, name, f"Δ {name}") for name in compared]
    return _sheet(board, "Ranking", columns)


def more_sheets(board: Board) -> list[Sheet]:
    """Build the other tables: scores in detail, then under corruption, then training cost."""
    costs = {_name(row): row.cost for row in board.rows}
    cost = cells.cost_sheet(costs, board.control, map(_name, board.blanks))
    if not board.several:
        tables = [_corruptions(board), *_modalities(board), cost]
        # Rank and entry alone are no table.
        return [sheet for sheet in tables if len(sheet.header) > 2]
    tables = [_composites(board)]
    for task in dict.fromkeys(column.task for column in board.clean):
        columns = [column for column in board.clean if column.task == task]
        scores = [_score(board, column.name, _short(column)) for column in columns]
        tables.append(_sheet(board, words(task), scores))
        differences = [
            _difference(board, column.name, _short(column)) for column in columns if column.compared
        ]
        if _is_compared(board) and differences:
            title = f"{words(task)}, difference to {board.control}"
            tables.append(_sheet(board, title, differences))
    return [*tables, *([_corrupted(board)] if board.corrupted else []), cost]


def _composites(board: Board) -> Sheet:
    def p_value(row: BoardRow) -> str:
        return f"{row.differences[COMPOSITE].adjusted:.3f}" if row.differences else ""

    columns: list[RowColumn] = [
        ("ties", lambda row: "".join(row.ties)),
        _score(board, COMPOSITE, COMPOSITE),
    ]
    if _is_compared(board):
        columns.append(_difference(board, COMPOSITE, f"minus {board.control}"))
        columns.append(("p (Holm)", p_value))
    columns += cells.rank_columns(lambda row: row.rank)
    if any(row.rank.ties for row in board.rows):
        columns.append(("ties by wins", lambda row: "".join(row.rank.ties)))
    return _sheet(board, "Composite", columns)


def _corrupted(board: Board) -> Sheet:
    def reliance(task: str, row: BoardRow) -> str:
        return with_half(row.reliance[task], sign="+")

    columns: list[RowColumn] = []
    for column in board.corrupted:
        columns.append(_score(board, column.name, heading(column)))
        if column.name.endswith(NO_IMAGE):
            columns.append((f"{words(column.task)}, reliance", partial(reliance, column.task)))
    return _sheet(board, "Without images and with corrupted inputs", columns)


def _corruptions(board: Board) -> Sheet:
    titles = {column.name: column.name for column in board.columns if column.is_corruption}
    titles |= {name: f"{name} corrupted" for name in MODALITIES if name in board.names}
    columns = [_score(board, name, title, halves=False) for name, title in titles.items()]
    return _sheet(board, "Corruptions", columns)


def _modalities(board: Board) -> list[Sheet]:
    """Build the table of strong and weak modality; none without a control or with one modality."""
    if not any(row.tradeoff for row in board.rows):
        return []

    def difference(name: str, row: BoardRow) -> str:
        change = row.tradeoff.by_name[name] if row.tradeoff else None
        return cells.with_verdict(change, board.percent)

    strong, weak = board.strong_modality, OTHER[board.strong_modality]
    columns: list[RowColumn] = [
        # The score of a modality is the one with the other corrupted.
        _score(board, weak, f"{strong} (strong)"),
        _score(board, strong, f"{weak} (weak)"),
        ("gap", partial(_gap, board)),
        *((f"Δ {name}", partial(difference, name)) for name in ("strong", "weak", "gap")),
    ]
    return [_sheet(board, "Strong and weak modality", columns)]


def heading(column: Column) -> str:
    """Return a column's name with an arrow in the direction that is better."""
    return words(column.name) + DIRECTIONS[column.higher_is_better]


def _short(column: Column) -> str:
    """Return a column's heading without its task, for a sheet about that task."""
    return heading(column).removeprefix(words(column.task) + " ")


def _sheet(board: Board, title: str, columns: Sequence[RowColumn]) -> Sheet:
    blanks = map(_name, board.blanks)
    return cells.entry_sheet(
        title, board.rows, _name, columns, blanks, lambda row: "≈" if row.tied else ""
    )


def _name(entry: Blank | BoardRow) -> str:
    return cells.with_kind(entry.label, entry.kind)


def _is_compared(board: Board) -> bool:
    return any(row.differences for row in board.rows)


def _score(
    board: Board, name: str, title: str, *, halves: bool = True, verdicts: bool = False
) -> RowColumn:
    """Return the column of scores, the best in bold, a corrupted one above clean with †.

    ``verdicts`` marks significant differences to the control.
    """
    # No best composite: it orders the rows and nothing more.
    higher = next((c.higher_is_better for c in board.columns if c.name == name), None)
    means = [row.scores[name].mean for row in board.rows]
    best = None if higher is None else (max if higher else min)(means, default=None)

    def cell(row: BoardRow) -> Cell:
        score = row.scores[name]
        text = with_half(score, board.percent) if halves else number(score.mean, board.percent)
        text += " †" if name in row.better_corrupted else ""
        if verdicts and name in row.differences:
            text += VERDICTS[row.differences[name].verdict]
        return Cell(text, score.mean == best)

    return title, cell


def _difference(board: Board, name: str, title: str) -> RowColumn:
    return title, lambda row: cells.with_verdict(row.differences.get(name), board.percent)


def _gap(board: Board, row: BoardRow) -> str:
    traded = row.tradeoff is not None and row.tradeoff.traded
    return number(row.gap, board.percent) + (" ‡" if traded else "")
