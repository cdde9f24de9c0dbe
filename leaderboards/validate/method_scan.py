"""A submitted method file, read without running its training: is it the one that made the records?

Reading code cannot prove that it is honest. This names the lines that a reviewer has to look at.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from steelyard import methods
from steelyard.harness.core.files import file_hash
from steelyard.leaderboards.loading.collect import Run

READS = (
    "open", "read_text", "read_bytes", "read_csv", "read_parquet", "read_json", "load_file",
    "load_dataset", "from_pretrained", "urlopen", "Popen", "find_root", "load_corpora",
)  # fmt: skip
"""Calls that fetch what a method was not handed."""
REACHES = ("_getframe", "get_objects", "get_referrers", "currentframe", "stack")
"""Ways to the objects of the code that called it."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "audit", "budget")
"""Parts of modules and of the meter that are not a method's to touch."""
MODULES = ("gc", "inspect", "subprocess", "socket", "ctypes", "requests", "urllib")


def check(path: Path, runs: Sequence[Run]) -> Iterator[str]:
    """What is wrong with the file, or has to be looked at.

    Raises:
        UserError: there is no such file, or it is not a method.
    """
    methods.load(str(path))
    own = [run for run in runs if Path(run.record.spec.method).name == path.name]
    if not own:
        yield "no record was made by a method file of this name"
    others = sorted({run.record.spec.source for run in own} - {file_hash(path)})
    if others:
        yield f"its hash is {file_hash(path)}, records were made by {', '.join(others)}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for what in _suspicious(node):
            yield f"line {vars(node)['lineno']}: {what}"


def _suspicious(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        named = [alias.name for alias in node.names]
        roots = [node.module or ""] if isinstance(node, ast.ImportFrom) else named
        for name in {root.partition(".")[0] for root in roots} & set(MODULES):
            yield f"imports {name}"
    elif isinstance(node, ast.Call):
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else _name(called)
        if name in READS:
            yield f"calls {name}: a method is handed all it may see"
        if name in REACHES:
            yield f"calls {name}: a method uses what it is handed"
        if name == "forward":
            yield "calls forward, past the meter's hooks: call the module itself"
    elif isinstance(node, ast.Attribute) and node.attr in HOOKS:
        yield f"touches {node.attr}"
    elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and _name(node.value) in (
        "meter", "data",
    ):  # fmt: skip
        yield f"touches {_name(node.value)}.{node.attr}"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""
