"""Write the front page of several boards, and the table of oracle runs."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.evidence import sentence, titled
from steelyard.leaderboards.boards.overall import Overall, absences
from steelyard.leaderboards.boards.tables import (
    FORMATS,
    RULES,
    blank_rows,
    caption,
    ranking,
    remarks,
    with_kind,
)
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import csv_text, exact
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_markdown
from steelyard.leaderboards.stats.intervals import Interval
from steelyard.leaderboards.stats.ranking import FEWEST_BLOCKS, OverallRank
from steelyard.tasks.corruptions.variants import CLEAN

OVERALL_RULE = (
    "Ranks are among the entries complete on every task, by balanced score. Borda counts the "
    "entries beaten on each task, ties half, and orders as the mean rank does; the range is the "
    "middle 95 % of mean ranks when seeds and test items are resampled. The win rate is the "
    "fraction of the others beaten, by seed, with its 95 % interval; entries that share a letter "
    "under ties do not differ in it after Holm's correction over all pairs."
)
NO_DIAGRAM = (
    "No critical-difference diagram: it needs three entries complete on every task and "
    f"{FEWEST_BLOCKS} blocks; a block is one seed on one task."
)
ORACLE = (
    "Settings selected on the test items themselves: an upper bound on what selection can gain. "
    "Not ranked, not compared, and on no board."
)


def overall_sheet(overall: Overall) -> Sheet:
    """Build the table of Borda points, mean rank and mean win rate over tasks."""
    tasks = [
        titled(task, generated=task in overall.generated, preliminary="") for task in overall.tasks
    ]
    header = ("#", "entry", "ties", "Borda", "mean rank", "range", "win rate", *tasks)
    rows = []
    for position, entry in enumerate(overall.entries, start=1):
        texts = [str(position), with_kind(entry.label, entry.kind), *rank_texts(entry.rank)]
        texts += [f"{entry.rank.ranks[task]:g}" for task in overall.tasks]
        rows.append(tuple(map(Cell, texts)))
    return Sheet(overall.title, header, (*rows, *blank_rows(overall.blanks, len(header))))


def rank_texts(rank: OverallRank) -> tuple[str, ...]:
    """Return tie letters, Borda points, mean rank, its range, and win rate as text."""
    span = f"{rank.low:.3g}-{rank.high:.3g}"
    wins = _win_rate(rank.wins)
    return "".join(rank.ties), f"{rank.borda:g}", f"{rank.mean_rank:.2f}", span, wins


def _win_rate(rate: Interval | None) -> str:
    """Return a win rate with its interval clipped to 0-100 %; empty for None."""
    if rate is None:
        return ""
    low, high = max(100 * rate.low, 0.0), min(100 * rate.high, 100.0)
    return f"{100 * rate.mean:.0f}% ({low:.0f}-{high:.0f})"


def index(
    overall: Overall,
    boards: Sequence[Board],
    unfinished: Sequence[str],
    pictures: Sequence[str] = (),
) -> str:
    """Write the front page: the board over tasks, then each task's ranking and its files.

    Args:
        overall: the board over tasks, shown for two or more tasks.
        boards: boards of single tasks.
        unfinished: tasks without a finished run.
        pictures: files of figures about all tasks.
    """
    parts = ["# Leaderboards"]
    if len(boards) > 1:
        parts += [f"## {overall.title}\n\n{sheet_markdown(overall_sheet(overall))}"]
        parts.append(md(OVERALL_RULE + sentence(overall.preliminary)))
        parts += [f"- {md(line)}" for line in absences(overall)]
    parts += [f"![{name.rpartition('.')[0]}]({name})" for name in pictures]
    parts += [md(NO_DIAGRAM)] if boards and overall.critical is None else []
    for board in boards:
        links = [f"[{kind}]({board.stem}.{end})" for kind, end in FORMATS]
        parts.append(f"## {md(board.title)}\n\n{md(caption(board))}")
        parts += [sheet_markdown(ranking(board)), " · ".join(links)]
        parts += bullets("", remarks(board))
    parts += [f"No board for {md(task)}: none of its runs finished." for task in unfinished]
    parts += bullets("## How to read this\n\n", RULES if boards else ())
    return "\n\n".join(parts) + "\n"


class OracleScore(NamedTuple):
    """Clean main metric of one oracle entry on one task."""

    trained_on: str
    label: str
    metric: str
    mean: float
    seeds: int


def oracle_scores(runs: Sequence[Run]) -> list[OracleScore]:
    """Average the clean main metric of every oracle entry over seeds."""
    values: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for run in runs:
        for score in run.record.scores:
            if score.main and score.variant == CLEAN:
                key = (run.record.spec.task, run.record.label, f"{score.task} {score.metric}")
                values[key].append(score.value)
    return [OracleScore(*key, fmean(v), len(v)) for key, v in sorted(values.items())]


def oracle_files(runs: Sequence[Run]) -> dict[str, bytes]:
    """Write ``oracle.md``, grey where Markdown is shown with HTML, and ``oracle.csv``."""
    lines = ["# Oracle", "", ORACLE, "", "| trained on | entry | metric | mean | seeds |",
             "| --- | --- | --- | --: | --: |"]  # fmt: skip
    rows: list[Sequence[object]] = [OracleScore._fields]
    for score in oracle_scores(runs):
        texts = [*map(md, score[:3]), f"{100 * score.mean:.1f}", str(score.seeds)]
        grey = (f'<span style="color:#888">{text}</span>' for text in texts)
        lines.append(f"| {' | '.join(grey)} |")
        rows.append([*score[:3], exact(score.mean), score.seeds])
    page = "\n".join(lines) + "\n"
    return {"oracle.md": page.encode(), "oracle.csv": csv_text(rows).encode()}
