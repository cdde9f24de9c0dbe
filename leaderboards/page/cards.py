"""Collect what the page says of methods and tasks, from their files."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath

from markupsafe import Markup

from steelyard import methods, tasks
from steelyard.leaderboards.page.markup import cited, docstring, inline

DIRECTIONS = {True: "higher is better", False: "lower is better", None: "only describes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Folded description; text that is not ``Markup`` is escaped."""

    ident: str
    title: str
    kind: str = ""
    summary: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    table: str = ""
    """Title of the table."""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    body: str = ""
    """Markup of the description."""
    layout: str = ""
    """Layout of a task's files."""


def method_card(name: str) -> Card:
    """Describe a method: paper, defaults, equations and choices left open by the paper.

    Of a user's method file only the name is shown: a page must not run it.
    """
    if name not in methods.names():
        file_name = PurePath(name).name
        about = Markup("A user's method file.")
        return Card(ident=f"method-{file_name}", title=file_name, summary=about)
    method = methods.load(name)
    properties = {
        "paper": cited(method.ABOUT.paper) or "none: a control",
        "trains": ", ".join(method.ABOUT.backbones),
        "learning rate": f"{method.ABOUT.learning_rate:g} x the backbone's on a vlm",
    }
    if method.ABOUT.adapted:
        properties["ours on a vlm"] = method.ABOUT.adapted
    on_vlm = method.ABOUT.on_vlm
    options = asdict(method.Config()).items()
    return Card(
        ident=f"method-{name}",
        title=method.ABOUT.title,
        kind=method.ABOUT.kind,
        summary=inline(method.ABOUT.summary),
        facts=properties,
        table="Defaults",
        header=("option", "default", "on a vlm"),
        rows=[(key, _value(value), _value(on_vlm.get(key, value))) for key, value in options],
        body=docstring(inspect.getdoc(method) or ""),
    )


def task_card(name: str) -> Card:
    """Describe a task: source, metrics and file layout; of an lmms-eval task only its name."""
    if name not in tasks.names():
        summary = Markup("One of lmms-eval's own tasks.")
        return Card(ident=f"task-{name}", title=name, summary=summary)
    about = tasks.info(name)
    properties = {
        "main metric": about.main,
        "text": about.text or "none",
        "answered": "in words" if about.generative else "by class probabilities",
        "dependent items": "none" if about.cluster == "id" else f"same {about.cluster}",
        "judge": about.judge,
        "licence": about.licence,
        "source": about.source or "generated here",
        "citation": cited(about.citation),
        "version": str(about.version),
    }
    return Card(
        ident=f"task-{name}",
        title=name,
        summary=inline(f"{about.main}, {about.text or 'no text'}"),
        facts=properties,
        table="Metrics",
        header=("metric", "direction"),
        rows=[(metric, DIRECTIONS[higher]) for metric, higher in about.metrics.items()],
        layout=about.layout.strip(),
    )


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
