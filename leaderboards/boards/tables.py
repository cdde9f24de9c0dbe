"""A board as Markdown, LaTeX or a terminal table, each escaped for its format."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.leaderboards.boards.board import COMPARED, MODALITIES, Board, BoardEntry
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_latex, sheet_markdown
from steelyard.leaderboards.stats.differences import ControlDifference
from steelyard.leaderboards.stats.intervals import Interval

if TYPE_CHECKING:
    from rich.table import Table

RULES = (
    "A side is averaged over the severities of each corruption, then over its corruptions; "
    "impaired is the mean of the two sides, balanced the mean of clean and impaired.",
    "Entries are ranked by balanced. Those that share a letter under ties are not told apart: "
    "their paired difference is not significant at 5 % after Holm's correction over all pairs. "
    "≈ marks ties with the first. The range is the middle 95 % of ranks when seeds and test items "
    "are resampled.",
    "± is half of the 95 % interval over training seeds and test items. Differences to the "
    "control are paired by seed and item; ▲ is better and ▼ worse at 5 % after Holm's correction "
    "over the entries of the column.",
    "Worst is the worse of the two side averages and gap their distance: a small gap alone is no "
    "merit, both sides may be poor. † marks an impaired score that beats the clean one.",
    "The strong side is the one that, left alone, scores higher in the control. ‡ marks balance "
    "bought by hurting it: the gap closes while the strong side or the clean score falls, each "
    "significant at 5 % after Holm's correction.",
)
FORMATS = (("all tables", "md"), ("CSV", "csv"), ("JSON", "json"), ("LaTeX", "tex"))
VERDICTS = {"better": " ▲", "worse": " ▼", "": ""}


def sheets(board: Board) -> tuple[Sheet, ...]:
    """The ranking, the single impairments and the cost; blank cells where incomplete."""
    made = (ranking(board), _corrupted_table(board), *_modalities(board), _cost(board))
    return tuple(sheet for sheet in made if len(sheet.header) > 2)


def markdown(board: Board, pictures: Sequence[str] = ()) -> str:
    """The whole board as one Markdown page, with the named picture files at its end."""
    parts = [f"# {md(board.task)}", md(caption(board))]
    parts += [f"## {sheet.title}\n\n{sheet_markdown(sheet)}" for sheet in sheets(board)]
    parts += bullets("## Notes\n\n", remarks(board))
    parts += bullets("## How to read this\n\n", RULES)
    parts += [f"![{Path(name).stem}]({name})" for name in pictures]
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

    whole = ranking(board)
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
    """The board's notes, what it can see, and what each blank entry lacks."""
    lacks = [f"{blank.label}: {blank.missing}." for blank in board.blanks]
    return [*board.notes, *_power(board), *lacks]


def _power(board: Board) -> list[str]:
    seen = [
        f"{_number(board, each.alone)} in {name} ({_number(board, each.corrected)} after Holm's "
        "correction)"
        for name, each in board.detectable.items()
    ]
    if not seen:
        return []
    return [
        f"A difference to {board.control} of {' and '.join(seen)} is found with 80 % chance on "
        "these seeds and items; smaller ones mostly stay unseen."
    ]


def ranking(board: Board) -> Sheet:
    """The entries by rank: scores with intervals and differences to the control."""
    columns = [name for name in ("balanced", "clean", "corrupted") if name in board.columns]
    sided = [
        name
        for name in ("worst", "gap")
        if all(modality in board.columns for modality in MODALITIES)
    ]
    compared = [name for name in COMPARED if name in board.columns]
    header = ("#", "entry", "ties", "range", *columns, *sided, *(f"Δ {name}" for name in compared))
    best = _best(board, columns)
    rows = []
    for entry in board.entries:
        span = f"{entry.rank.low:.0f}-{entry.rank.high:.0f}"
        ties = "".join(entry.rank.ties)
        cells = [_rank(entry), Cell(name_of(entry.label, entry.kind)), Cell(ties), Cell(span)]
        cells += [_score(board, entry, name, best) for name in columns]
        if sided:
            cells += [Cell(_number(board, entry.worst)), Cell(_gap(board, entry))]
        cells += [Cell(_difference(board, entry.differences.get(name))) for name in compared]
        rows.append(tuple(cells))
    return Sheet("Ranking", header, (*rows, *_blank_rows(board, len(header))))


def _gap(board: Board, entry: BoardEntry) -> str:
    bought = entry.tradeoff is not None and entry.tradeoff.traded
    return _number(board, entry.gap) + (" ‡" if bought else "")


def _brief(board: Board) -> Sheet:
    """The ranking for 80 characters: intervals only where entries are ordered or compared."""
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
    blanks = [blank_row(blank.label, "", len(header)) for blank in board.blanks]
    return Sheet("Ranking", header, (*rows, *blanks))


def _rank(entry: BoardEntry) -> Cell:
    return Cell(f"{'≈' if entry.rank.tied else ''}{entry.rank.position}")


def _widths(sheet: Sheet) -> list[int]:
    """Characters that each column takes in a terminal, the space before the next included."""
    from rich.cells import cell_len

    lines = [sheet.header, *([cell.text for cell in row] for row in sheet.rows)]
    return [max(map(cell_len, column)) + 2 for column in zip(*lines, strict=True)]


def _corrupted_table(board: Board) -> Sheet:
    modalities = [modality for modality in MODALITIES if modality in board.columns]
    names = [*board.corruptions, *modalities]
    best = _best(board, names)
    rows = []
    for entry in board.entries:
        cells = [Cell(str(entry.rank.position)), Cell(name_of(entry.label, entry.kind))]
        for name in names:
            mark = " †" if name in entry.better_corrupted else ""
            text = _number(board, entry.scores[name].mean) + mark
            cells.append(Cell(text, entry.label in best[name]))
        rows.append(tuple(cells))
    header = (
        "#",
        "entry",
        *board.corruptions,
        *(f"{modality} corrupted" for modality in modalities),
    )
    return Sheet("Impairments", header, (*rows, *_blank_rows(board, len(header))))


def _modalities(board: Board) -> list[Sheet]:
    """What is left of each side when the other is impaired, and how that differs from the control;
    none where a side is missing or nothing is compared."""
    if not any(entry.tradeoff for entry in board.entries):
        return []
    left = {"text": "image", "image": "text"}
    strong, weak = board.strong_modality, left[board.strong_modality]
    modalities = strong, weak
    deltas = ("Δ strong", "Δ weak", "Δ gap")
    header = ("#", "entry", f"{strong} (strong)", f"{weak} (weak)", "gap", *deltas)
    rows = []
    for entry in board.entries:
        texts = [str(entry.rank.position), name_of(entry.label, entry.kind)]
        texts += [_with_half(board, entry.scores[left[modality]]) for modality in modalities]
        texts.append(_gap(board, entry))
        made = entry.tradeoff.by_name.values() if entry.tradeoff else (None, None, None)
        texts += [_difference(board, each) for each in made]
        rows.append(tuple(map(Cell, texts)))
    return [Sheet("Strong and weak side", header, (*rows, *_blank_rows(board, len(header))))]


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
            str(entry.rank.position),
            name_of(entry.label, entry.kind),
            f"{cost.flops:.2e}",
            "" if cost.relative is None else f"{cost.relative:.2f}",
            f"{cost.seconds:.1f}",
            f"{cost.steps:.0f}",
            f"{cost.items:.0f}",
            f"{cost.peak_bytes / 2**20:.0f}",
        )
        rows.append(tuple(Cell(text) for text in texts))
    return Sheet("Training cost", header, (*rows, *_blank_rows(board, len(header))))


def name_of(label: str, kind: str) -> str:
    """A label with its kind where that is worth telling."""
    return f"{label} ({kind})" if kind == "control" else label


def blank_row(label: str, kind: str, width: int) -> tuple[Cell, ...]:
    """The row of an entry without a rank."""
    return (Cell(""), Cell(name_of(label, kind)), *(Cell("") for _ in range(width - 2)))


def _blank_rows(board: Board, width: int) -> list[tuple[Cell, ...]]:
    return [blank_row(blank.label, blank.kind, width) for blank in board.blanks]


def _best(board: Board, names: Sequence[str]) -> dict[str, set[str]]:
    """Labels with the best mean of each column."""
    pick = max if board.higher_is_better else min
    found: dict[str, set[str]] = {}
    for name in names:
        means = {entry.label: entry.scores[name].mean for entry in board.entries}
        top = pick(means.values(), default=None)
        found[name] = {label for label, mean in means.items() if mean == top}
    return found


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
