"""Collect the input of robustness: scores of every variant, and unchanged answers."""

from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.robustness.numbers import VariantScores


def of_board(board: Board) -> list[VariantScores]:
    """Return the scores of each task of a board that has corruptions, in the order of tasks."""
    result = []
    for task in dict.fromkeys(column.task for column in board.variants):
        columns = [column for column in board.variants if column.task == task]
        if not board.measured or all(column.is_clean for column in columns):
            continue
        entries = {label: scores[task] for label, scores in board.measured.items()}
        result.append(
            VariantScores(
                task=task,
                metric=columns[0].metric,
                higher_is_better=columns[0].higher_is_better is not False,
                percent=board.percent,
                scores={
                    label: {column.name: entry.column(column) for column in columns}
                    for label, entry in entries.items()
                },
                same={
                    label: {name: entry.unchanged(name) for name in entry.corrupted}
                    for label, entry in entries.items()
                },
            )
        )
    return result
