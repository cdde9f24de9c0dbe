"""Build the report of a board, and its tables for the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steelyard.leaderboards.boards import factorial
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.cells import NO_DIAGRAM, number
from steelyard.leaderboards.boards.columns import COMPOSITE
from steelyard.leaderboards.boards.evidence import sentence, titled
from steelyard.leaderboards.boards.factorial import Factorial
from steelyard.leaderboards.boards.sheets import main_sheet, more_sheets
from steelyard.leaderboards.output.files import members
from steelyard.leaderboards.output.report import Report
from steelyard.leaderboards.output.sheet import terminal_tables
from steelyard.leaderboards.output.style import Figures
from steelyard.tasks import NOTHING

if TYPE_CHECKING:
    from rich.console import RenderableType

RULES = (
    "A modality is averaged over the severities of each corruption, then over its corruptions; "
    "corrupted is the mean of the two modalities, balanced the mean of clean and corrupted.",
    "Entries are ranked by balanced. Entries that share a letter under ties do not differ: their "
    "paired difference is not significant at 5 % after Holm's correction over all pairs. "
    "≈ marks ties with the first. The range is the middle 95 % of ranks when seeds and test items "
    "are resampled.",
    "± is half of the 95 % interval over training seeds and test items, [low, high] are the ends "
    "of one that reaches 0 or 100. Differences to the control are paired by seed and item; ▲ is "
    "better and ▼ worse at 5 % after Holm's correction over the entries of the column.",
    "Worst is the lower of the two modality averages and gap their distance: a small gap alone is "
    "no merit, both modalities may be poor. † marks a corrupted score above the clean one.",
    "The strong modality is the one that scores higher in the control when the other is corrupted. "
    "‡ marks balance traded for performance: the gap closes while the strong modality or the clean "
    "score falls, each significant at 5 % after Holm's correction.",
    "A board is preliminary if a trained entry took fewer than 300 optimiser steps: it then "
    "supports no conclusion. Generated data is drawn by steelyard, not collected.",
)
SEVERAL_RULES = (
    "All numbers are percentages on clean items unless the column says otherwise; ± is half of the "
    "95 % interval over training seeds and test items, [low, high] are the ends of one that "
    "reaches 0 or 100, differences are paired by seed and item, and ▲ is better and ▼ worse than "
    "the control at 5 % after Holm's correction over the entries of the column. Columns without an "
    "arrow only describe.",
    "The composite is the mean over tasks of the mean of a task's clean numbers, those where lower "
    "is better taken as 100 - x. It orders the rows and nothing more: an entry can lead one column "
    "and ruin another, so read them side by side. Entries that share a letter under ties do not "
    "differ in it at 5 % after Holm's correction over all pairs; ≈ marks ties with the first.",
    "Borda, ranks and win rates use the tasks' parts of the composite, one vote per task: Borda "
    "counts the entries beaten, the range is the middle 95 % of mean ranks when seeds and items "
    "are resampled, the win rate is the fraction of the others beaten, by seed, with its interval.",
    "No image is the main metric with every image removed: the rest is language prior. Reliance "
    "is how much the metric falls by that, paired by seed and item. Corrupted is its mean over "
    "the scored corruptions of that modality, each averaged over its severities first.",
    "A board is preliminary if a trained entry took fewer than 300 optimiser steps: it then "
    "supports no conclusion. Generated data is drawn by steelyard, not collected.",
)
TERMINAL_ROWS = 50
"""Rows of a printed table at most: hundreds take a second, and the files have them."""
INTERNAL = ("samples", "variants", "groups", "measured")
"""Fields of a board that are not exported."""


def report(
    board: Board, factorials: Sequence[Factorial] = (), figures: Figures | None = None
) -> Report:
    """Build the report with the board's factorials and these figures."""
    content = {name: value for name, value in members(board).items() if name not in INTERNAL}
    return Report(
        stem=board.stem,
        title=board.title,
        about=caption(board),
        sheets=[main_sheet(board), *more_sheets(board), *factorial.sheets(factorials)],
        notes=remarks(board),
        rules=rules_of(board),
        figures=figures or {},
        rows=[*(_long_rows if board.several else _wide_rows)(board)],
        content=content | {"factorials": factorials},
        latex_about=caption(board),
    )


def rules_of(board: Board) -> tuple[str, ...]:
    """Return how to read the tables of a board."""
    return SEVERAL_RULES if board.several else RULES


def caption(board: Board) -> str:
    """Describe the numbers, what they were measured on, and whether they are preliminary."""
    if board.several:
        seeds = "1 seed" if len(board.seeds) == 1 else f"{len(board.seeds)} seeds"
        if board.task == NOTHING:
            return (
                "Models as they are, models trained elsewhere and answers from files, in the order "
                f"of their scores alone: no budget was equal, and costs are not verified, {seeds}."
            )
        end = f"{seeds}, control {board.control}.{sentence(board.preliminary)}"
        data = titled(board.task, generated=board.generated, preliminary="")
        return f"Trained on {data}, backbone {board.backbone}, budget {board.budget}, {end}"
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
        # One for all of several columns, each of which has its own.
        if not board.several or name == COMPOSITE
    ]
    power = [
        f"A difference to {board.control} of {' and '.join(limits)} is detected with 80 % power on "
        "these seeds and items; most smaller ones are not."
    ]
    blanks = [f"{blank.label}: {blank.missing}." for blank in board.blanks]
    diagram = [NO_DIAGRAM] if board.several and board.critical is None else []
    return [*board.notes, *(power if limits else []), *blanks, *diagram]


def _wide_rows(board: Board) -> Iterator[dict[str, object]]:
    """Yield a CSV row per entry of a board of one score."""
    for position, row in enumerate(board.rows, start=1):
        fields: dict[str, object] = {
            "rank": position,
            "tied_with_first": row.tied,
            "rank_low": row.rank.first,
            "rank_high": row.rank.last,
            "ties": " ".join(row.ties),
            "win_rate": row.rank.wins,
            "label": row.label,
            "kind": row.kind,
            "missing": "",
            "preliminary": board.preliminary,
            **{name: row.scores[name] for name in board.names},
            "worst": "" if row.worst is None else row.worst,
            "gap": "" if row.gap is None else row.gap,
            "better_corrupted": " ".join(row.better_corrupted),
        }
        for name, difference in row.differences.items():
            fields[f"difference_{name}"] = difference.interval
            fields[f"difference_{name}_p"] = difference.interval.p
            fields[f"difference_{name}_p_holm"] = difference.adjusted
        if row.tradeoff is not None:
            for name, difference in row.tradeoff.by_name.items():
                fields[f"difference_{name}"] = difference.interval
                fields[f"difference_{name}_p_holm"] = difference.adjusted
            fields["balance_traded"] = row.tradeoff.traded
        costs = members(row.cost)
        relative = "" if row.cost.relative is None else row.cost.relative
        flops = "" if row.cost.flops is None else row.cost.flops
        fields |= {"flops": flops, "flops_relative": relative}
        if row.cost.source != "metered":
            fields["flops_source"] = row.cost.source
        fields |= {name: costs[name] for name in ("seconds", "steps", "items", "peak_bytes")}
        yield fields | {f"flops_{phase}": flops for phase, flops in row.cost.phases.items()}
    for blank in board.blanks:
        yield members(blank) | {"preliminary": board.preliminary}


def _long_rows(board: Board) -> Iterator[dict[str, object]]:
    """Yield a CSV row per entry and column; one with what it lacks for an incomplete entry."""
    names = ("difference", "difference_low", "difference_high", "p_holm")
    for row in board.rows:
        reliance = {f"{task} reliance": interval for task, interval in row.reliance.items()}
        # The column that orders the rows comes first.
        for name, interval in {COMPOSITE: row.scores[COMPOSITE], **row.scores, **reliance}.items():
            fields: dict[str, object] = {"entry": row.label, "column": name}
            fields |= _rounded(("mean", "low", "high"), interval.ends)
            fields["seeds"] = " ".join(f"{value:.6g}" for value in interval.values)
            fields |= dict.fromkeys((*names, "verdict"), "")
            if change := row.differences.get(name):
                fields |= _rounded(names, (*change.interval.ends, change.adjusted))
                fields["verdict"] = change.verdict
            yield {**fields, "missing": "", "preliminary": board.preliminary}
    for blank in board.blanks:
        yield {"entry": blank.label, "missing": blank.missing, "preliminary": board.preliminary}


def _rounded(names: Sequence[str], values: Sequence[float]) -> dict[str, object]:
    return {name: f"{value:.6g}" for name, value in zip(names, values, strict=True)}


def terminal(board: Board, width: int) -> "RenderableType":
    """Draw the board in as many tables as ``width`` characters need, with its notes below.

    Of more than ``TERMINAL_ROWS`` rows these are the first.
    """
    from rich.console import Group
    from rich.text import Text

    sheets = [main_sheet(board, halves=True)]
    if board.several:
        sheets += more_sheets(board)[-2 if board.corrupted else -1 :]
    first_rows = [replace(sheet, rows=sheet.rows[:TERMINAL_ROWS]) for sheet in sheets]
    tables = [table for sheet in first_rows for table in terminal_tables(sheet, width)]
    lines = [f"{board.title}: {caption(board)}" if board.several else caption(board)]
    lines += [*remarks(board), *(rules_of(board) if board.several else ())]
    if (more := len(sheets[0].rows) - TERMINAL_ROWS) > 0:
        lines.insert(0, f"{more} more rows in {board.stem}.md")
    return Group(*tables, *(Text(line, style="dim") for line in lines))
