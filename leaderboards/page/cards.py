"""Build the page's cards of methods and tasks from their files."""

import html
import inspect
import re
from dataclasses import asdict
from pathlib import PurePath

from steelyard import methods, tasks
from steelyard.leaderboards.page.markup import docstring, esc, inline
from steelyard.leaderboards.page.tables import facts, plain

DIRECTIONS = {True: "higher is better", False: "lower is better", None: "only describes"}


def method_card(name: str) -> str:
    """Return title, paper, defaults, equations and choices left open by the paper.

    Of a user's method file only the name is shown: a page must not run it.
    """
    if name not in methods.names():
        file_name = PurePath(name).name
        return _card("method", file_name, file_name, "", "A user's method file.", "")
    method = methods.load(name)
    about = method.ABOUT
    properties = {
        "paper": _linked(about.paper) if about.paper else "none: a control",
        "trains": esc(", ".join(about.backbones)),
    }
    options = asdict(method.Config())
    vlm_options = about.on_vlm
    rows = [
        (f"<code>{esc(key)}</code>", esc(_value(value)), esc(_value(vlm_options.get(key, value))))
        for key, value in options.items()
    ]
    defaults = plain("Defaults", ("option", "default", "on a vlm"), rows) if rows else ""
    body = facts(properties) + defaults + docstring(inspect.getdoc(method) or "")
    return _card("method", name, about.title, about.kind, about.summary, body)


def task_card(name: str) -> str:
    """Return a task's source, metrics and file layout; of an lmms-eval task only its name."""
    if name not in tasks.names():
        return _card("task", name, name, "", "One of lmms-eval's own tasks.", "")
    about = tasks.info(name)
    properties = {
        "main metric": esc(about.main),
        "text": esc(about.text or "none"),
        "answered": "in words" if about.generative else "by class probabilities",
        "dependent items": "none" if about.cluster == "id" else f"same {esc(about.cluster)}",
        "judge": esc(about.judge),
        "licence": esc(about.licence),
        "source": esc(about.source or "generated here"),
        "citation": _linked(about.citation),
        "version": str(about.version),
    }
    rows = [
        (f"<code>{esc(metric)}</code>", DIRECTIONS[higher])
        for metric, higher in about.metrics.items()
    ]
    body = facts(properties) + plain("Metrics", ("metric", "direction"), rows)
    if about.layout:
        body += f"<h4>Files</h4><pre>{html.escape(about.layout.strip())}</pre>"
    return _card("task", name, name, "", f"{about.main}, {about.text or 'no text'}", body)


def _card(prefix: str, name: str, title: str, kind: str, summary: str, body: str) -> str:
    chip = f' <span class="kind">{esc(kind)}</span>' if kind else ""
    text = f'<span class="summary">{inline(summary)}</span>'
    head = f'<span class="title">{esc(title)}</span>{chip} {text}'
    ident = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    return (
        f'<details class="card" id="{prefix}-{ident}"><summary>{head}</summary>'
        f'<div class="inside">{body}</div></details>'
    )


def _linked(text: str) -> str:
    """Return a citation with its arXiv number or DOI as a link."""
    markup = esc(text)
    markup = re.sub(r"arXiv:? (\d{4}\.\d{4,5})",
                   r'<a href="https://arxiv.org/abs/\1" rel="noopener noreferrer">arXiv \1</a>',
                   markup)  # fmt: skip
    return re.sub(r"doi:(10\.[\w./-]*\w)",
                  r'<a href="https://doi.org/\1" rel="noopener noreferrer">doi:\1</a>',
                  markup)  # fmt: skip


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
