"""The files of robustness: a page, CSV, JSON and a fan a task, for a board or a profile."""

import re
from collections.abc import Iterable, Iterator, Sequence

from steelyard.leaderboards.board import Board
from steelyard.leaderboards.collect import Runs
from steelyard.leaderboards.profile import Profile
from steelyard.leaderboards.robustness import Robustness, build
from steelyard.leaderboards.robustness_items import of_board, of_profile
from steelyard.leaderboards.robustness_plots import fan
from steelyard.leaderboards.robustness_tables import as_csv, as_json, markdown
from steelyard.leaderboards.steps import Steps


def files(
    runs: Runs, boards: Sequence[Board], profiles: Sequence[Profile], steps: Steps
) -> Iterator[tuple[str, bytes]]:
    """Names and contents for everything that was scored under corruptions."""
    doing = "robustness"
    yield from of_boards(runs, steps.of(doing, boards, lambda board: board.task))
    yield from of_profiles(steps.of(doing, profiles, lambda profile: profile.trained_on))


def of_boards(runs: Runs, boards: Iterable[Board]) -> Iterator[tuple[str, bytes]]:
    """Names and contents for every board that has corruptions."""
    labels = sorted({run.record.label for run in runs.runs})
    for board in boards:
        complete = {entry.label for entry in board.entries}
        groups = {k: own for k, own in runs.groups(board.task).items() if k in complete}
        measured = of_board(groups, board.task, board.measured)
        made = build(measured, board.control) if measured else None
        if made:
            yield from _files(board.task, [made], labels)


def of_profiles(profiles: Iterable[Profile]) -> Iterator[tuple[str, bytes]]:
    """Names and contents for every profile that has corruptions."""
    for profile in profiles:
        columns = {column.name: column for column in profile.shown}
        main = {task: columns[name] for task, name in profile.main.items()}
        built = [build(each, profile.control) for each in of_profile(profile.groups, main)]
        made = [each for each in built if each is not None]
        if made:
            yield from _files(profile.trained_on, made, list(profile.groups))


def _files(
    title: str, found: Sequence[Robustness], labels: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    name = f"robustness-{_safe(title)}"
    pictures: dict[str, str] = {}
    for each in found:
        stem = name if each.task == title else f"{name}-{_safe(each.task)}"
        for kind, content in fan(each, labels).items():
            yield f"{stem}-fan.{kind}", content
        pictures[each.task] = f"{stem}-fan.svg"
    yield f"{name}.md", markdown(title, found, pictures).encode()
    yield f"{name}.csv", as_csv(found).encode()
    yield f"{name}.json", as_json(found).encode()


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def links(names: Iterable[str]) -> list[str]:
    """A section of the front page with a link to each page among these files; none for none."""
    pages = [name for name in names if name.startswith("robustness-") and name.endswith(".md")]
    if not pages:
        return []
    titles = {page: page.removesuffix(".md").removeprefix("robustness-") for page in pages}
    listed = "\n".join(f"- [{title}]({page})" for page, title in titles.items())
    about = "What damage costs each entry: drops, areas, worst cases, unchanged answers."
    return [f"## Robustness\n\n{about}\n\n{listed}\n"]
