"""Parse option values typed by a user and apply them to a configuration dataclass."""

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from steelyard.harness.core.errors import UserError, check_known, did_you_mean

Option = str | int | float | bool
Options = Mapping[str, Option]
ConfigT = TypeVar("ConfigT")

_TYPE_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Help:
    """Help of a command's option, in the ``Annotated`` type of a field; without a final period."""

    text: str
    unset: str = ""
    """Meaning of no value."""
    metavar: str | None = None
    flag: str = ""
    """Name on the command line where it is not the field's."""
    is_output: bool = False
    """Whether it is a folder to write to."""


class OptionHelp(NamedTuple):
    """Option of a configuration as it is listed."""

    name: str
    values: str
    """Type, or all choices."""
    default: str
    meaning: str


def describe(config: Any, names: Collection[str] = ()) -> list[OptionHelp]:
    """Return the options of a dataclass instance, whose values are the defaults.

    ``names`` are the fields that are options, by default all. A meaning is the text below its field
    in the source.
    """
    types, meanings = get_type_hints(type(config)), _meanings(type(config))
    return [
        OptionHelp(
            name, _name_of(types[name]), _shown(getattr(config, name)), meanings.get(name, "")
        )
        for name in names or [field.name for field in fields(config)]
    ]


def _meanings(kind: type) -> dict[str, str]:
    """Read the texts below the fields of a dataclass and its bases: Python does not keep them."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        source = textwrap.dedent(inspect.getsource(base))
        (tree,) = ast.parse(source).body
        for before, statement in pairwise(getattr(tree, "body", [])):
            match before, statement:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    meanings[name] = " ".join(text.replace("``", "").split())
    return meanings


def _shown(value: Any) -> str:
    """Return a default as a user types it; empty if there is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, float):
        return "" if value is None else f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items())
    return str(value)


def apply(
    config: ConfigT, values: Mapping[str, Any], kind: str, names: Collection[str] = ()
) -> ConfigT:
    """Return a copy of a dataclass instance with some fields replaced.

    Texts are read as the types of the fields; lists become tuples.

    ``kind`` says in errors what the names are, such as "backbone option". ``names`` are the fields
    that may be set, by default all.

    Raises:
        UserError: a field is unknown or a value does not have the field's declared type.
    """
    names = names or [field.name for field in fields(config)]  # type: ignore[arg-type]
    values = read_values(type(config), values)
    check_values(type(config), values, kind, names)
    changes = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    return replace(config, **changes)  # type: ignore[type-var]


def check_values(
    config_class: type, values: Mapping[str, Any], kind: str, names: Collection[str]
) -> None:
    """Raise UserError for a value whose name is not in ``names`` or that its field cannot have."""
    types = get_type_hints(config_class)
    for name, value in values.items():
        check_known(kind, str(name), names)
        if get_origin(types[name]) is Literal and value not in get_args(types[name]):
            choices = [str(choice) for choice in get_args(types[name])]
            hint = did_you_mean(str(value), choices)
            raise UserError(f"{name}={value!r}: allowed are {', '.join(choices)}.{hint}")
        if not fits(value, types[name]):
            raise UserError(f"{name}={value!r}: expected {_name_of(types[name])}.")


def require(config: object, name: str, valid: bool, allowed: str) -> None:
    """Refuse the value of an option unless it is valid; ``allowed`` says what to give."""
    if not valid:
        raise UserError(f"{name}={getattr(config, name)}: give {allowed}.")


def fits(value: Any, declared: Any) -> bool:
    """Return whether a value has a declared type; a whole number is also a float."""
    origin, parts = _parts_of(declared)
    if declared is Any:
        return True
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin in (tuple, list):
        return isinstance(value, list | tuple) and all(fits(item, parts[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(fits(v, parts[1]) for v in value.values())
    # Not isinstance: a bool is an int.
    return type(value) is declared or (declared is float and type(value) is int)


@cache  # for tens of thousands of records
def _parts_of(declared: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(declared), get_args(declared)


def _name_of(declared: Any) -> str:
    origin, parts = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        return " or ".join(_name_of(part) for part in parts if part is not NoneType)
    if origin in (tuple, list):
        return f"a list, each item a {_name_of(parts[0])}"
    if origin is Literal:
        return ", ".join(map(str, parts))
    return "a mapping" if origin is Mapping else _TYPE_NAMES.get(declared, str(declared))


def parse_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Read ``KEY=VALUE``; what a value is depends on its field, see ``read_values``."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"'{pair}': write KEY=VALUE.")
        values[key] = value
    return values


def read_values(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with texts read as the types of their fields, whatever they look like.

    What fits no type, or has no field, is unchanged.
    """
    types = get_type_hints(config_class)
    return {name: _read(value, types.get(name, str)) for name, value in values.items()}


def _read(value: Any, declared: Any) -> Any:
    origin, parts = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        # A text stays one if it may be; else the first type that it fits.
        readings = [value, *(_read(value, part) for part in parts)]
        return next((reading for reading in readings if fits(reading, declared)), value)
    if origin is Literal:
        return next((choice for choice in parts if str(choice) == value), value)
    if origin in (tuple, list):
        items = value.split(",") if isinstance(value, str) else value
        return [_read(item, parts[0]) for item in items] if isinstance(items, list) else value
    if not isinstance(value, str):
        return value
    if declared is NoneType and value.lower() in ("", "none", "null", "~"):
        return None
    if declared is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    # A whole number stays one as a float, because a run's id depends on it.
    for kind in {int: (int,), float: (int, float)}.get(declared, ()):
        with suppress(ValueError):
            return kind(value)
    return value


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read ``0,1,2`` or ``0-4``, each seed once."""
    try:
        if "-" in text:
            low, high = map(int, text.split("-"))
            seeds: Iterable[int] = range(low, high + 1)
        else:
            seeds = map(int, text.split(","))
        if seeds := tuple(dict.fromkeys(seeds)):
            return seeds
    except ValueError:
        pass
    raise UserError(f"Seeds '{text}': write 0,1,2 or 0-4.")
