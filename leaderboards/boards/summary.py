"""Summarise all tasks: the board over tasks, its figure, every score, oracle runs, front page."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from steelyard.harness.core.characters import md, visible
from steelyard.leaderboards.boards import cells, tables
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.entries import Blank
from steelyard.leaderboards.boards.evidence import joined, sentence, titled
from steelyard.leaderboards.boards.plots.ranks import critical_figure
from steelyard.leaderboards.boards.sheets import main_sheet
from steelyard.leaderboards.loading.collect import Run, Runs
from steelyard.leaderboards.output.escape import escape_formulas
from steelyard.leaderboards.output.files import json_text, members
from steelyard.leaderboards.output.report import SCHEMA, Report, file_links, image
from steelyard.leaderboards.output.sheet import Sheet, bullets, sheet_markdown, text_sheet
from steelyard.leaderboards.output.style import Figures, marks
from steelyard.leaderboards.stats import ranking
from steelyard.leaderboards.stats.ranking import CriticalDifference, OverallRank
from steelyard.tasks.corruptions.variants import CLEAN

OVERALL_RULE = (
    "Ranks are among the entries complete on every task, by balanced score. Borda counts the "
    "entries beaten on each task, ties half, and orders as the mean rank does; the range is the "
    "middle 95 % of mean ranks when seeds and test items are resampled. The win rate is the "
    "fraction of the others beaten, by seed, with its 95 % interval; entries that share a letter "
    "under ties do not differ in it after Holm's correction over all pairs."
)
ORACLE = (
    "Settings selected on the test items themselves: an upper bound on what selection can gain. "
    "Not ranked, not compared, and on no board."
)


@dataclass(frozen=True, slots=True)
class OverallEntry:
    label: str
    kind: str
    rank: OverallRank


@dataclass(frozen=True, slots=True)
class Overall:
    """Ranking over all tasks."""

    tasks: tuple[str, ...]
    generated: tuple[str, ...]
    """Tasks of generated data."""
    preliminary: str
    """Why the ranking cannot carry a conclusion; empty if it can."""
    entries: tuple[OverallEntry, ...]
    """Entries complete on every task, by mean rank."""
    blanks: tuple[Blank, ...]
    """Entries that lack a task: a missing task is never a vote."""
    critical: CriticalDifference | None
    """None with too few blocks or entries."""

    @property
    def title(self) -> str:
        """Heading with the mark *preliminary*; the tasks say themselves what is generated."""
        return titled("All tasks", generated=False, preliminary=self.preliminary)


def overall(boards: Sequence[Board]) -> Overall:
    """Combine the boards of several tasks."""
    ranked = {entry.label: entry.kind for board in boards for entry in board.rows}
    kinds = ranked | {blank.label: blank.kind for board in boards for blank in board.blanks}
    # All entries of all tasks: one that no board ranks is still listed, with its reason.
    absent = {
        label: [board.task for board in boards if label not in board.samples] for label in kinds
    }
    complete = sorted(label for label in kinds if not absent[label])
    blanks = tuple(
        Blank(label, kinds[label], f"not ranked on {', '.join(absent[label])}")
        for label in sorted(kinds)
        if absent[label]
    )
    task_scores = [board.task_scores for board in boards]
    ranks = ranking.overall_ranks(task_scores, complete) if complete else {}
    return Overall(
        tasks=tuple(board.task for board in boards),
        generated=tuple(board.task for board in boards if board.generated),
        preliminary=joined({board.task: board.preliminary for board in boards}),
        entries=tuple(OverallEntry(label, kinds[label], rank) for label, rank in ranks.items()),
        blanks=blanks,
        critical=ranking.critical(ranking.block_ranks(task_scores, complete)) if ranks else None,
    )


def absences(overall: Overall) -> list[str]:
    """Return which entries are not ranked, one line per reason."""
    by_reason: dict[str, list[str]] = {}
    for blank in overall.blanks:
        by_reason.setdefault(blank.missing, []).append(blank.label)
    return [f"{', '.join(labels)}: {reason}." for reason, labels in by_reason.items()]


@dataclass(frozen=True, slots=True)
class Summary:
    """Boards of all tasks, with their common files."""

    boards: tuple[Board, ...]
    overall: Overall
    """Over the boards of one score."""
    files: Mapping[str, bytes]
    """By name; without figures and without the front page, which links the files of all tasks."""
    figures: Figures
    """By stem."""


def build(
    runs: Runs, boards: Sequence[Board], progress: Callable[[], None] = lambda: None
) -> Summary:
    """Summarise the boards of all tasks; ``progress`` is called several times a second."""
    single = [board for board in boards if not board.several]
    table = runs.scores
    progress()
    # Ten digits: the last ones of a double vary by machine.
    scores = table.to_csv(index=False, float_format="%.10g")
    progress()
    combined = overall(single)
    progress()
    files = {"scores.csv": escape_formulas(visible(scores).encode())}
    if runs.oracle:
        files |= oracle_report(runs.oracle).files()
    figures: Figures = {}
    if single:
        files["overall.json"] = json_text({"schema": SCHEMA, **members(combined)}).encode()
    if combined.critical is not None:
        look = marks([run.record.label for run in runs.runs], single[0].control)
        draw = partial(critical_figure, combined.critical, combined.title, look)
        figures = {"overall-critical": draw}
    return Summary(tuple(boards), combined, files, figures)


def front_page(runs: Runs, summary: Summary, sections: Sequence[str]) -> bytes:
    """Write the front page: the board over tasks, then the main table and files of each board.

    ``sections`` are appended, such as links to other reports.
    """
    overall = summary.overall
    parts = ["# Leaderboards"]
    if len(overall.tasks) > 1:
        parts += [f"## {overall.title}\n\n{sheet_markdown(overall_sheet(overall))}"]
        parts.append(md(OVERALL_RULE + sentence(overall.preliminary)))
        parts += [f"- {md(line)}" for line in absences(overall)]
    parts += [image(stem) for stem in summary.figures]
    parts += [md(cells.NO_DIAGRAM)] if overall.tasks and overall.critical is None else []
    for board in summary.boards:
        links = {name: f"{board.stem}.{kind}" for name, kind in cells.FORMATS.items()}
        parts += [f"## {md(board.title)}", md(tables.caption(board))]
        parts += [sheet_markdown(main_sheet(board)), file_links(links)]
        parts += bullets("", tables.remarks(board))
    parts += [
        f"No board for {md(task)}: none of its runs finished."
        for task in runs.tasks()
        if task not in {board.task for board in summary.boards}
    ]
    # Once for all boards of a kind.
    rules = dict.fromkeys(rule for board in summary.boards for rule in tables.rules_of(board))
    parts += bullets("## How to read this\n\n", [*rules])
    return ("\n\n".join([*parts, *sections]) + "\n").encode()


def overall_sheet(overall: Overall) -> Sheet:
    """Build the table of Borda points, mean rank and mean win rate over tasks."""

    def rank(task: str, entry: OverallEntry) -> str:
        return f"{entry.rank.ranks[task]:g}"

    columns: list[cells.SheetColumn[OverallEntry]] = [
        ("ties", lambda entry: "".join(entry.rank.ties))
    ]
    columns += cells.rank_columns(lambda entry: entry.rank)
    for task in overall.tasks:
        title = titled(task, generated=task in overall.generated, preliminary="")
        columns.append((title, partial(rank, task)))
    blanks = [cells.with_kind(blank.label, blank.kind) for blank in overall.blanks]
    return cells.entry_sheet(
        overall.title, overall.entries, lambda e: cells.with_kind(e.label, e.kind), columns, blanks
    )


def oracle_report(runs: Sequence[Run]) -> Report:
    """Report the clean main metric of every oracle entry, averaged over seeds."""
    values: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for run in runs:
        for score in run.record.scores:
            if score.main and score.variant == CLEAN:
                key = (run.record.label, run.record.spec.task, f"{score.task} {score.metric}")
                values[key].append(score.value)
    names = ("seeds", "label", "trained_on", "metric", "mean")
    means = [(len(scores), *key, fmean(scores)) for key, scores in sorted(values.items())]
    texts = [(str(seeds), *key, cells.number(mean)) for seeds, *key, mean in means]
    rows = [dict(zip(names, row, strict=True)) for row in means]
    return Report(
        stem="oracle",
        title="Oracle",
        about=ORACLE,
        sheets=[text_sheet("Scores on test items", map(cells.words, names), texts)],
        rows=rows,
        content={"rows": rows},
    )
