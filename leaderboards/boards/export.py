"""A board as CSV and JSON: every number, none of it rounded to what a table shows."""

import csv
import io
from collections.abc import Iterator

from steelyard.leaderboards.boards.board import Board, BoardEntry
from steelyard.leaderboards.boards.overall import Overall
from steelyard.leaderboards.output.files import exact, json_text, members
from steelyard.leaderboards.stats.intervals import Interval

SCHEMA = 2


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
    content = {k: v for k, v in members(board).items() if k not in ("samples", "entry_scores")}
    return json_text({"schema": SCHEMA, **content})


def _flat(board: Board, entry: BoardEntry) -> Iterator[tuple[str, str]]:
    """One entry's columns for the CSV, in order."""
    rank, cost = entry.rank, entry.cost
    yield from (("rank", str(rank.position)), ("tied_with_first", str(rank.tied).lower()))
    yield from (("rank_low", f"{rank.low:g}"), ("rank_high", f"{rank.high:g}"))
    yield "ties", " ".join(rank.ties)
    if rank.wins is not None:
        yield from _ends("win_rate", rank.wins)
    yield from (("label", entry.label), ("kind", entry.kind), ("missing", ""))
    for name in board.columns:
        yield from _ends(name, entry.scores[name])
    yield from (("worst", _exact(entry.worst)), ("gap", _exact(entry.gap)))
    yield "better_corrupted", " ".join(entry.better_corrupted)
    for name, difference in entry.differences.items():
        yield from _ends(f"difference_{name}", difference.interval)
        yield f"difference_{name}_p", _exact(difference.interval.p)
        yield f"difference_{name}_p_holm", _exact(difference.adjusted)
    if entry.tradeoff is not None:
        for name, found in entry.tradeoff.by_name.items():
            yield from _ends(f"difference_{name}", found.interval)
            yield f"difference_{name}_p_holm", _exact(found.adjusted)
        yield "balance_traded", str(entry.tradeoff.traded).lower()
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
    return "" if value is None else exact(value)
