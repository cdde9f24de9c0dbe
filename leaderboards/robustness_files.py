"""The files of robustness: a page, CSV, JSON and a fan a task, for a board or a profile."""

from collections.abc import Iterable, Iterator, Sequence

from steelyard.leaderboards import robustness_items
from steelyard.leaderboards.board import Board
from steelyard.leaderboards.escape import file_name
from steelyard.leaderboards.profile import Profile
from steelyard.leaderboards.robustness import Robustness, build
from steelyard.leaderboards.robustness_plots import fan
from steelyard.leaderboards.robustness_tables import as_csv, as_json, markdown


def of_board(board: Board, labels: Sequence[str]) -> dict[str, bytes]:
    """Files by name for a board with corruptions; ``labels`` are those of all boards."""
    measured = robustness_items.of_board(board)
    made = build(measured, board.control) if measured else None
    return dict(_files(board.task, [made], labels)) if made else {}


def of_profile(profile: Profile) -> dict[str, bytes]:
    """Files by name for a profile with corruptions."""
    columns = {column.name: column for column in profile.shown}
    main = {task: columns[name] for task, name in profile.main.items()}
    measured = robustness_items.of_profile(profile.groups, main)
    made = [found for each in measured if (found := build(each, profile.control)) is not None]
    return dict(_files(profile.trained_on, made, list(profile.groups))) if made else {}


def _files(
    title: str, found: Sequence[Robustness], labels: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    name = f"robustness-{file_name(title)}"
    pictures: dict[str, str] = {}
    for each in found:
        stem = name if each.task == title else f"{name}-{file_name(each.task)}"
        for kind, content in fan(each, labels).items():
            yield f"{stem}-fan.{kind}", content
        pictures[each.task] = f"{stem}-fan.svg"
    yield f"{name}.md", markdown(title, found, pictures).encode()
    yield f"{name}.csv", as_csv(found).encode()
    yield f"{name}.json", as_json(found).encode()


def links(names: Iterable[str]) -> list[str]:
    """A section of the front page with a link to each page among these files; none for none."""
    pages = [name for name in names if name.startswith("robustness-") and name.endswith(".md")]
    if not pages:
        return []
    titles = {page: page.removesuffix(".md").removeprefix("robustness-") for page in pages}
    listed = "\n".join(f"- [{title}]({page})" for page, title in titles.items())
    about = "What damage costs each entry: drops, areas, worst cases, unchanged answers."
    return [f"## Robustness\n\n{about}\n\n{listed}\n"]
