"""lmms-eval's own tasks by name: found without importing it, so that a typing error is told soon.

Their names begin with ``stock/`` wherever a name is written down, for ``pope`` is ours and
``stock/pope`` theirs. Folders with a user's own task files stand in ``STEELYARD_TASKS``; a task of
theirs goes before one of lmms-eval with the same name.
"""

import functools
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from steelyard.harness.core.errors import UserError, unknown

PREFIX = "stock/"
FOLDERS_VARIABLE = "STEELYARD_TASKS"
ASKED = "generate_until"
JUDGE = "gpt_eval_model_name"
JUDGE_KEYS = ("OPENAI_API_KEY", "AZURE_API_KEY")
SKIPPED = {"__pycache__", ".ipynb_checkpoints"}

Kind = Literal["task", "group", "tag"]


@dataclass(frozen=True, slots=True)
class Definition:
    """What one name stands for."""

    kind: Kind
    file: Path | None
    """Its YAML; None for a tag, which stands in the files of its members."""
    members: tuple[Any, ...] = ()
    """Of a group or tag: names, or mappings that describe a member."""


def include(folders: Iterable[Path]) -> None:
    """Search these folders too, here and in the processes started from here.

    Raises:
        UserError: there is no such folder, or no task file in it.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--include-path: no folder at {folder}.")
        if not any(_files(folder)):
            raise UserError(f"--include-path: no task file (*.yaml) under {folder}.")
        known = list(map(str, _included()))
        if str(folder.resolve()) not in known:
            os.environ[FOLDERS_VARIABLE] = os.pathsep.join([str(folder.resolve()), *known])


def definition(name: str) -> Path:
    """The YAML file of a task."""
    found = index(_included()).get(name.removeprefix(PREFIX))
    if found is None or found.kind != "task" or found.file is None:
        raise UserError(f"lmms-eval and {FOLDERS_VARIABLE} have no task '{name}'.")
    return found.file


def check(name: str) -> None:
    """Refuse a task that cannot be asked about images in words.

    Raises:
        UserError: with the reason.
    """
    config = _merged(definition(name))
    kind, extra = config.get("output_type", ASKED), config.get("dataset_kwargs") or {}
    about = config.get("metadata")
    judge = about.get(JUDGE) if isinstance(about, dict) else None
    if config.get("doc_to_visual") is None and "class" not in config:
        raise UserError(f"{name} shows nothing: it asks about text alone.")
    if extra.get("video") or "From_YouTube" in extra:
        raise UserError(f"{name} is about video; models are asked about images here.")
    if kind != ASKED:
        spoilt = "; lmms-eval 0.7.3 spoils likelihoods on their way to the score"
        why = spoilt if kind in ("multiple_choice", "loglikelihood") else ""
        raise UserError(f"{name} wants {kind}, and only {ASKED} is asked here{why}.")
    if "class" in config or len(config.get("filter_list") or ()) > 1:
        raise UserError(f"{name} is no plain YAML with one way to read an answer; not asked here.")
    if judge and not any(os.environ.get(key) for key in JUDGE_KEYS):
        raise UserError(
            f"{name} has its answers judged by {judge} over the network: set "
            f"{' or '.join(JUDGE_KEYS)}, or choose another task."
        )


def files(name: str) -> list[Path]:
    """What defines a task: its YAML, the files this includes, and the code beside it."""
    chain = list(_chain(definition(name)))
    folders = dict.fromkeys(path.parent for path in chain)
    return chain + [code for folder in folders for code in sorted(folder.glob("*.py"))]


def leaves(name: str, ours: Iterable[str] = ()) -> list[str]:
    """The tasks that a name of lmms-eval stands for, as ``stock/...``: itself, or its members.

    Raises:
        UserError: there is no such name (``ours`` are named as well), or a group changes what its
            members are.
    """
    known = index(_included())
    short = name.removeprefix(PREFIX)
    if short not in known:
        raise _unknown(name, known, ours)
    found = known[short]
    if found.kind == "task":
        return [PREFIX + short]
    inner = [leaf for member in found.members for leaf in _of_member(short, member, ours)]
    return list(dict.fromkeys(inner))


def _of_member(group: str, member: Any, ours: Iterable[str]) -> list[str]:
    if isinstance(member, str) and member not in index(_included()):
        raise UserError(f"The group {group} names '{member}', and there is no such task.")
    if isinstance(member, str):
        return leaves(PREFIX + member, ours)
    if isinstance(member, dict) and isinstance(member.get("task"), list):
        return [leaf for inner in member["task"] for leaf in _of_member(group, inner, ours)]
    raise UserError(
        f"The group {group} changes its member {_label(member)}: name the tasks one by one."
    )


def _label(member: Any) -> str:
    return str(member.get("task", member)) if isinstance(member, dict) else str(member)


def _unknown(name: str, known: Mapping[str, Definition], ours: Iterable[str]) -> UserError:
    stock = name.startswith(PREFIX)
    own = [] if stock else sorted(ours)
    near = unknown("task", name, [PREFIX + other if stock else other for other in (*own, *known)])
    hint = str(near).partition(" Known: ")[0]
    listed = f"{', '.join(own)}, and " if own else ""
    return UserError(
        f"{hint} Known: {listed}{len(known)} names of lmms-eval and of the folders in "
        f"{FOLDERS_VARIABLE} (--include-path)."
    )


def _included() -> tuple[Path, ...]:
    given = os.environ.get(FOLDERS_VARIABLE, "")
    return tuple(Path(part) for part in given.split(os.pathsep) if part)


@functools.cache
def index(folders: tuple[Path, ...]) -> Mapping[str, Definition]:
    """Every name of lmms-eval's task folder and of ``folders``, of which the first go first."""
    found = dict(_shipped())
    for folder in reversed(folders):
        found |= _of_folder(folder)
    return found


@functools.cache
def _shipped() -> Mapping[str, Definition]:
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None and spec.submodule_search_locations is not None
    return _of_folder(Path(spec.submodule_search_locations[0]) / "tasks")


def _of_folder(folder: Path) -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    tagged: dict[str, list[str]] = {}
    for path in _files(folder):
        raw = _merged(path)
        task, group = raw.get("task"), raw.get("group")
        if isinstance(task, list) and isinstance(group, str):
            found[group] = Definition("group", path, tuple(task))
        elif isinstance(task, str):
            found[task] = Definition("task", path)
            for tag in (*_listed(raw.get("tag")), *_listed(group)):
                tagged.setdefault(tag, []).append(task)
    for tag, members in tagged.items():
        found.setdefault(tag, Definition("tag", None, tuple(members)))
    return found


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _files(folder: Path) -> Iterator[Path]:
    """Task files in name order, which is the same on every machine."""
    for path in sorted(folder.rglob("*.yaml")):
        if not SKIPPED.intersection(path.parts):
            yield path


def _merged(path: Path) -> dict[str, Any]:
    """A file over what it includes, as lmms-eval merges them."""
    merged: dict[str, Any] = {}
    for part in reversed(list(_chain(path))):
        merged |= _read(part)
    return merged


def _chain(path: Path) -> Iterator[Path]:
    """A file, then what it includes, nearest first."""
    yield path
    for name in _listed(_read(path).get("include")):
        other = Path(name) if Path(name).is_file() else path.parent / name
        yield from _chain(other)


@functools.cache
def _read(path: Path) -> Mapping[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _NamesOnly)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    return raw if isinstance(raw, dict) else {}


class _NamesOnly(yaml.CSafeLoader):
    """Reads ``!function a.b`` as the string ``a.b``, importing nothing; compiled, for speed."""


_NamesOnly.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))
