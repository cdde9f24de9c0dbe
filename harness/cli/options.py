"""Options of commands, made from the fields of a dataclass."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import click

from steelyard.harness.core.files import check_output, user_path

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def output_file(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Try whether the file of an option can be written, before anything is done for it."""
    if path is not None:
        check_output(path, is_file=True)
    return path


def output_folder(
    context: click.Context, option: click.Parameter, path: Path | None
) -> Path | None:
    """Try whether the folder of an option can be written, before anything is done for it."""
    if path is not None:
        check_output(path)
    return path


def pass_options(kind: type[Any], *names: str, into: str = "options") -> Decorator:
    """Declare an option per field of a dataclass, and pass them as one argument of this type.

    With ``names`` only these fields are options, and the others keep their defaults.
    """
    hints = get_type_hints(kind, include_extras=True)
    inherited = {f.name for base in kind.__mro__[1:] if is_dataclass(base) for f in fields(base)}
    # The help lists a command's options before those that it shares with others.
    all_names = sorted((field.name for field in fields(kind)), key=inherited.__contains__)
    defaults = kind()

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def call(**values: Any) -> None:
            options = kind(**{name: values.pop(name) for name in names or all_names})
            command(**values, **{into: options})

        declared: Callable[..., None] = wraps(command)(call)
        # A decorator puts its option before those of the decorators below it.
        for name in reversed(names or all_names):
            declared = _option(name, hints[name], getattr(defaults, name))(declared)
        return declared

    return decorate


def _option(name: str, annotated: Any, default: Any) -> Decorator:
    """Declare one option from a field's name, ``Annotated`` type with ``Help``, and default."""
    declared, about = get_args(annotated)
    parts = [part for part in get_args(declared) if part is not NoneType]
    kind = parts[0] if parts else declared
    choices = get_args(kind)  # of a Literal
    has_default = not (default is None or default is False or default == ())
    unset = f" [default: {about.unset}]" if about.unset and not has_default else ""
    return click.option(
        about.flag or f"--{name.replace('_', '-')}",
        name,
        type=click.Choice(choices) if choices else user_path if kind is Path else kind,
        default=default,
        multiple=get_origin(declared) is tuple,
        is_flag=kind is bool,
        show_default=has_default,
        metavar=about.metavar or ("PATH" if kind is Path else None),
        callback=output_folder if about.is_output else None,
        help=f"{about.text}{unset}.",
    )
