"""The files of robustness: a page, CSV, JSON and a fan a task, for a board or a profile."""

from collections.abc import Iterable, Sequence
from functools import partial

from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.output.escape import file_name
from steelyard.leaderboards.output.style import Figures, marks
from steelyard.leaderboards.robustness import items
from steelyard.leaderboards.robustness.numbers import Robustness, build
from steelyard.leaderboards.robustness.plots import best_of, fan
from steelyard.leaderboards.robustness.tables import as_csv, as_json, markdown


def of_board(board: Board, labels: Sequence[str]) -> tuple[dict[str, bytes], Figures]:
    """Of a board with corruptions the files but figures by name, and the figures by stem.

    ``labels`` are those of all boards, for equal looks.
    """
    measured = items.of_board(board)
    made = build(measured, board.control) if measured else None
    return _files(board.task, [made] if made else [], labels)


def of_profile(profile: Profile) -> tuple[dict[str, bytes], Figures]:
    """Of a profile with corruptions the files but figures by name, and the figures by stem."""
    columns = {column.name: column for column in profile.shown}
    main = {task: columns[name] for task, name in profile.main.items()}
    measured = items.of_profile(profile.groups, main)
    made = [found for each in measured if (found := build(each, profile.control)) is not None]
    return _files(profile.trained_on, made, list(profile.groups))


def _files(
    title: str, found: Sequence[Robustness], labels: Sequence[str]
) -> tuple[dict[str, bytes], Figures]:
    if not found:
        return {}, {}
    name = f"robustness-{file_name(title)}"
    pictures, figures = {}, {}
    for each in found:
        stem = f"{name}-fan" if each.task == title else f"{name}-{file_name(each.task)}-fan"
        pictures[each.task] = f"{stem}.svg"
        figures[stem] = partial(fan, best_of(each), marks(labels, each.control))
    pages = {
        f"{name}.md": markdown(title, found, pictures).encode(),
        f"{name}.csv": as_csv(found).encode(),
        f"{name}.json": as_json(found).encode(),
    }
    return pages, figures


def links(names: Iterable[str]) -> list[str]:
    """A section of the front page with a link to each page among these files; none for none."""
    pages = [name for name in names if name.startswith("robustness-") and name.endswith(".md")]
    if not pages:
        return []
    titles = {page: page.removesuffix(".md").removeprefix("robustness-") for page in pages}
    listed = "\n".join(f"- [{title}]({page})" for page, title in titles.items())
    about = "What damage costs each entry: drops, areas, worst cases, unchanged answers."
    return [f"## Robustness\n\n{about}\n\n{listed}\n"]
