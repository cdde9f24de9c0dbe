"""Scan a submitted method file for suspicious lines, and compare its hash with the records.

A scan cannot prove that code is honest. It names the lines that a reviewer should read, and runs
none of them.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import file_hash
from steelyard.harness.core.readers import read_bytes
from steelyard.leaderboards.loading.collect import Run

PARTS = ("ABOUT", "Config", "train")
READS = (
    "open", "read_text", "read_bytes", "read_csv", "read_parquet", "read_json", "load_file",
    "load_dataset", "from_pretrained", "urlopen", "Popen", "find_root", "load_corpora",
)  # fmt: skip
"""Calls that read data from outside."""
REACHES = ("_getframe", "get_objects", "get_referrers", "currentframe")
"""Calls that reach objects of the caller."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "audit", "budget")
"""Attributes of modules and of the meter that a method must not use."""
MODULES = ("gc", "inspect", "subprocess", "socket", "ctypes", "requests", "urllib")
UNCOUNTED = ("compile", "_python_dispatch", "CUDAGraph", "make_graphed_callables", "vllm")
"""Ways to compute that neither the meter nor torch's counter sees in full, or that detect it."""
OPTIMISERS = (
    "optim", "Optimizer", "optimizer", "new_optimiser", "set_rate", "lr_scheduler", "LRScheduler",
    "param_groups", "SGD", "Adam", "AdamW", "Adagrad", "Adafactor", "RMSprop", "LBFGS", "Muon",
    "bitsandbytes",
)  # fmt: skip
"""Names by which a method gets at an optimiser, its rate or its schedule."""
LOOPS = ("backward", "step", "zero_grad", "batches", "positions")
"""Methods of tensors, optimisers, the meter and the data that a training loop calls."""
OTHER_FILES = (
    "import_module", "__import__", "exec", "eval", "run_path", "exec_module", "import_file",
    "spec_from_file_location",
)  # fmt: skip
"""Calls that run code of another file."""


def check(path: Path, runs: Sequence[Run]) -> Iterator[str]:
    """Yield errors and lines to review.

    Raises:
        UserError: there is no such file, or it is not a method.
    """
    try:
        tree = ast.parse(read_bytes(path))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a method: {error}.") from None
    names = {
        vars(node).get("asname") or vars(node).get("name") or vars(node).get("id")
        for statement in tree.body
        for node in (statement, *ast.iter_child_nodes(statement))
    }
    if missing := [part for part in PARTS if part not in names]:
        raise UserError(f"{path} is not a method: it lacks {', '.join(missing)}.")
    method_runs = [run for run in runs if Path(run.record.spec.method).name == path.name]
    if not method_runs:
        yield "no record has a method file of this name"
    hashes = sorted({run.record.spec.source for run in method_runs} - {file_hash(path)})
    if hashes:
        yield f"its hash is {file_hash(path)}, the records have {', '.join(hashes)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            messages = [*_imports(node, path.parent)]
        elif isinstance(node, ast.Call):
            messages = [*_calls(node)]
        elif isinstance(node, ast.Attribute):
            messages = [*_attributes(node)]
        else:
            messages = [*_passes(node)]
        # ``ast.AST`` declares no line, but all of these nodes have one.
        yield from (f"line {vars(node)['lineno']}: {message}" for message in messages)


def _imports(node: ast.Import | ast.ImportFrom, folder: Path) -> Iterator[str]:
    names = [alias.name for alias in node.names]
    # A relative import may have no module.
    roots = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
    for root in {root.partition(".")[0] for root in roots}:
        if root in MODULES:
            yield f"imports {root}"
        file = folder / root
        # The record has the hash of the method's file alone.
        if vars(node).get("level") or file.is_dir() or file.with_suffix(".py").is_file():
            yield f"imports {root or names[0]}, a file beside it, which the hash does not cover"
    parts = {part for root in (*roots, *names) for part in root.split(".")}
    for name in sorted(parts & set(UNCOUNTED)) if roots != ["re"] else ():
        yield f"imports {name}, whose work the meter cannot see"
    for name in sorted(parts & set(OPTIMISERS)):
        yield f"imports {name}: optimiser, rate and schedule belong to the backbone"


def _calls(node: ast.Call) -> Iterator[str]:
    name = _called(node)
    if name in READS:
        yield f"calls {name}: a method gets all its data as arguments"
    if name in REACHES:
        yield f"calls {name}: a method uses only its arguments"
    if name in OTHER_FILES:
        yield f"calls {name}: code of another file, which the hash does not cover"
    if name == "forward":
        yield "calls forward, which skips the meter's hooks: call the module itself"
    if name in LOOPS and isinstance(node.func, ast.Attribute):
        yield f"calls {name}: a training loop of its own, in place of fit"


def _attributes(node: ast.Attribute) -> Iterator[str]:
    owner = _name(node.value)
    # Regular expressions are compiled as well.
    if node.attr in UNCOUNTED and owner != "re":
        yield f"uses {node.attr}, whose work the meter cannot see"
    elif node.attr in HOOKS:
        yield f"uses {node.attr}"
    elif node.attr in OPTIMISERS:
        yield f"uses {node.attr}: optimiser, rate and schedule belong to the backbone"
    elif node.attr.startswith("_") and owner in ("meter", "data"):
        yield f"uses {owner}.{node.attr}"


def _passes(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.For | ast.While):
        calls = {ast.unparse(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
        if any(call.endswith("data.gather") for call in calls):
            yield "loops over the data, beside fit"


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else _name(node.func)


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""
