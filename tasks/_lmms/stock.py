"""Index of lmms-eval's tasks, built without importing it, so that a wrong name fails at once.

Their names begin with ``stock/``: ``pope`` is ours, ``stock/pope`` lmms-eval's. Folders with a
user's task files are listed in ``STEELYARD_TASKS``; their tasks take precedence over those of
lmms-eval with the same name, and a name that two of their files define is refused.
"""

import functools
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from steelyard.harness.core import folders, readers
from steelyard.harness.core.errors import UserError, unknown

PREFIX = "stock/"
FOLDERS_VARIABLE = "STEELYARD_TASKS"
SUPPORTED_OUTPUT = "generate_until"
JUDGE = "gpt_eval_model_name"
JUDGE_KEYS = ("OPENAI_API_KEY", "AZURE_API_KEY")
SKIPPED = {"__pycache__"}


@dataclass(frozen=True, slots=True)
class Definition:
    """Task, group or tag of lmms-eval."""

    kind: Literal["task", "group", "tag"]
    file: Path | None
    """Its YAML; None for a tag, which the files of its members name."""
    members: tuple[Any, ...] = ()
    """Members of a group or tag: names, or mappings that describe one."""


def include(folders: Iterable[Path]) -> None:
    """Add folders with task files to the index, in this process and in those it starts."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--include-path: no folder at {folder}.")
        if not any(_files(folder)):
            raise UserError(f"--include-path: no task file (*.yaml) under {folder}.")
        included, path = list(map(str, _included())), str(folder.resolve())
        if path not in included:
            os.environ[FOLDERS_VARIABLE] = os.pathsep.join([*included, path])


def definition(name: str) -> Path:
    entry = index(_included()).get(name.removeprefix(PREFIX))
    if entry is None or entry.kind != "task" or entry.file is None:
        raise UserError(f"lmms-eval and {FOLDERS_VARIABLE} have no task '{name}'.")
    return entry.file


def check(name: str) -> None:
    """Raise a UserError unless a task asks about images and takes answers in words."""
    config = _merged(definition(name))
    # lmms-eval's default output type.
    kind, extra = config.get("output_type", SUPPORTED_OUTPUT), config.get("dataset_kwargs") or {}
    metadata = config.get("metadata")
    judge = metadata.get(JUDGE) if isinstance(metadata, dict) else None
    if config.get("doc_to_visual") is None and "class" not in config:
        raise UserError(f"{name} has no images: it asks about text only.")
    if extra.get("video") or "From_YouTube" in extra:
        raise UserError(f"{name} is about video; steelyard runs tasks about images.")
    if kind != SUPPORTED_OUTPUT:
        likelihoods = kind in ("multiple_choice", "loglikelihood")
        reason = "; lmms-eval 0.7.3 scores likelihoods wrongly" if likelihoods else ""
        raise UserError(f"{name} needs {kind}, and only {SUPPORTED_OUTPUT} is supported{reason}.")
    # Only the first filter's answers are scored; a class may change prompts and scoring in code.
    if "class" in config or len(config.get("filter_list") or ()) > 1:
        raise UserError(
            f"{name} is not supported: it has a class or several filters; use a plain YAML task."
        )
    if judge and not any(os.environ.get(key) for key in JUDGE_KEYS):
        raise UserError(
            f"{name} needs {judge} over the network to judge its answers: set "
            f"{' or '.join(JUDGE_KEYS)}, or choose another task."
        )


def files(name: str) -> list[Path]:
    """List the files that define a task: its YAML, files it includes, and code in their folders."""
    chain = list(_chain(definition(name)))
    # A dict keeps the order, so that the hash of the files is stable.
    folders = dict.fromkeys(path.parent for path in chain)
    return chain + [code for folder in folders for code in sorted(folder.glob("*.py"))]


def leaves(name: str, ours: Iterable[str] = ()) -> list[str]:
    """List the tasks under a name of lmms-eval as ``stock/...``: itself, or a group's members.

    A UserError for an unknown name lists ``ours`` too.
    """
    entries = index(_included())
    short = name.removeprefix(PREFIX)
    if short not in entries:
        raise _unknown(name, entries, ours)
    if entries[short].kind == "task":
        return [PREFIX + short]
    names = [leaf for member in entries[short].members for leaf in _of_member(short, member)]
    return list(dict.fromkeys(names))


def _of_member(group: str, member: Any) -> list[str]:
    if isinstance(member, str) and member not in index(_included()):
        raise UserError(f"The group {group} names '{member}', which is no task.")
    if isinstance(member, str):
        return leaves(PREFIX + member)
    if isinstance(member, dict) and isinstance(member.get("task"), list):
        return [leaf for inner in member["task"] for leaf in _of_member(group, inner)]
    label = member.get("task", member) if isinstance(member, dict) else member
    raise UserError(f"The group {group} changes its member {label}: name the tasks one by one.")


def _unknown(name: str, entries: Mapping[str, Definition], ours: Iterable[str]) -> UserError:
    prefix = PREFIX if name.startswith(PREFIX) else ""
    our_names = [] if prefix else sorted(ours)
    error = unknown("task", name, [prefix + allowed for allowed in (*our_names, *entries)])
    hint = str(error).partition(" Known: ")[0]
    listed = f"{', '.join(our_names)}, and " if our_names else ""
    return UserError(
        f"{hint} Known: {listed}{len(entries)} names of lmms-eval and of the folders in "
        f"{FOLDERS_VARIABLE} (--include-path)."
    )


def _included() -> tuple[Path, ...]:
    folders = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return tuple(Path(folder) for folder in folders if folder)


@functools.cache
def index(folders: tuple[Path, ...]) -> Mapping[str, Definition]:
    """Index lmms-eval's task folder and ``folders``, which take precedence.

    Raises:
        UserError: two files of ``folders`` define a task or group of one name.
    """
    # A folder and one inside it have some files in common.
    files = dict.fromkeys(path for folder in folders for path in _files(folder))
    return {**_shipped(), **_of_files(files, is_unique=True)}


@functools.cache
def _shipped() -> Mapping[str, Definition]:
    # Finds the folder without running the package.
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None and spec.submodule_search_locations is not None
    return _of_files(_files(Path(spec.submodule_search_locations[0]) / "tasks"))


def _of_files(files: Iterable[Path], *, is_unique: bool = False) -> dict[str, Definition]:
    entries: dict[str, Definition] = {}
    tagged: dict[str, list[str]] = {}
    for path in files:
        raw = _merged(path)
        task, group = raw.get("task"), raw.get("group")
        # As in lmms-eval: with a list of tasks ``group`` is its name, with one task it is a tag.
        if isinstance(task, list) and isinstance(group, str):
            name, entry = group, Definition("group", path, tuple(task))
        elif isinstance(task, str):
            name, entry = task, Definition("task", path)
            for tag in (*_listed(raw.get("tag")), *_listed(group)):
                tagged.setdefault(tag, []).append(task)
        else:
            continue
        if is_unique and name in entries:
            raise UserError(
                f"Two files of --include-path define '{name}': {entries[name].file} and {path}. "
                "Rename one of them."
            )
        entries[name] = entry
    # A task or group takes precedence over a tag of the same name.
    for tag, members in tagged.items():
        entries.setdefault(tag, Definition("tag", None, tuple(members)))
    return entries


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _files(folder: Path) -> Iterator[Path]:
    """Yield task files in name order, which is the same on every machine."""
    return (path for path in folders.find(folder, ".yaml") if not SKIPPED.intersection(path.parts))


def _merged(path: Path) -> dict[str, Any]:
    """Read a file and its includes, merged as lmms-eval does: the file wins."""
    merged: dict[str, Any] = {}
    for part in reversed(list(_chain(path))):
        merged |= read_yaml(part)
    return merged


def _chain(path: Path) -> Iterator[Path]:
    """Yield a file, then its includes, nearest first."""
    yield path
    for name in _listed(read_yaml(path).get("include")):
        # lmms-eval looks in the working directory first.
        yield from _chain(Path(name) if Path(name).is_file() else path.parent / name)


@functools.cache
def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a task's YAML with ``!function a.b`` as the string ``a.b``, without importing it."""
    # Not the loader of suites: some tasks of lmms-eval have a key twice.
    raw = readers.read_yaml(path, NamesOnly)
    # An included file may be empty.
    return raw if isinstance(raw, dict) else {}


class NamesOnly(yaml.CSafeLoader):  # compiled, for speed
    pass


# Importing task functions would need each task's optional packages.
NamesOnly.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))
