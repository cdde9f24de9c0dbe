"""Scan a submitted method file for suspicious lines, and compare its hash with the records.

A scan cannot prove that code is honest. It names the lines that a reviewer should read.
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
"""Calls that read data from outside."""
REACHES = ("_getframe", "get_objects", "get_referrers", "currentframe", "stack")
"""Calls that reach objects of the caller."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "audit", "budget")
"""Attributes of modules and of the meter that a method must not use."""
MODULES = ("gc", "inspect", "subprocess", "socket", "ctypes", "requests", "urllib")
UNCOUNTED = ("compile", "_python_dispatch", "CUDAGraph", "make_graphed_callables", "vllm")
"""Ways to compute that neither the meter nor torch's counter sees in full, or that detect it."""


def check(path: Path, runs: Sequence[Run]) -> Iterator[str]:
    """Yield errors and lines to review.

    Raises:
        UserError: there is no such file, or it is not a method.
    """
    methods.load(str(path))
    method_runs = [run for run in runs if Path(run.record.spec.method).name == path.name]
    if not method_runs:
        yield "no record has a method file of this name"
    hashes = sorted({run.record.spec.source for run in method_runs} - {file_hash(path)})
    if hashes:
        yield f"its hash is {file_hash(path)}, the records have {', '.join(hashes)}"
    for node in ast.walk(ast.parse(path.read_bytes())):
        for message in _suspicious(node):
            # ``ast.AST`` declares no line, but all suspicious nodes have one.
            yield f"line {vars(node)['lineno']}: {message}"


def _suspicious(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [alias.name for alias in node.names]
        # A relative import has no module.
        roots = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        for name in {root.partition(".")[0] for root in roots} & set(MODULES):
            yield f"imports {name}"
        parts = {part for root in (*roots, *names) for part in root.split(".")}
        for name in sorted(parts & set(UNCOUNTED)) if roots != ["re"] else ():
            yield f"imports {name}, whose work the meter cannot see"
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else _name(node.func)
        if name in READS:
            yield f"calls {name}: a method gets all its data as arguments"
        if name in REACHES:
            yield f"calls {name}: a method uses only its arguments"
        if name == "forward":
            yield "calls forward, which skips the meter's hooks: call the module itself"
    # Regular expressions are compiled as well.
    elif isinstance(node, ast.Attribute) and node.attr in UNCOUNTED and _name(node.value) != "re":
        yield f"uses {node.attr}, whose work the meter cannot see"
    elif isinstance(node, ast.Attribute) and node.attr in HOOKS:
        yield f"uses {node.attr}"
    elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and _name(node.value) in (
        "meter", "data",
    ):  # fmt: skip
        yield f"uses {_name(node.value)}.{node.attr}"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""
