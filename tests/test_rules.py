"""Rules of the source that neither ruff nor mypy nor the import contract checks."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

from steelyard import methods, tasks

PACKAGES = ("harness", "methods", "tasks", "leaderboards")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

VAGUE_NAMES = """
found made given known shown told said asked seen kept wanted named left drawn own each one other
others whole place taken held brought chosen judged used lost heard here there what thing things
"""
"""Participles and pronouns that say nothing about a variable's value."""
MOST_VAGUE_NAMES = 0.05
"""Fraction of functions that bind one of them."""
LEADS = """
What Whether How Where When Which Who Why The A An One All Each Every Both No Some Any This That
These Those Their Its It
"""
MOST_LEADS = 0.09
"""Fraction of docstrings that begin with an article, a pronoun or a question word."""

ORDINARY_WORDS = {"joint", "sft", "majority", "image_only", "text_only"}
"""Methods whose name is also a word, which identifiers and comments may contain."""
MENTIONS = {
    "harness/cli": {"joint", "sft"},  # examples and the default control in help texts
    "harness/records": {"joint"},  # a folder's name in an example
    "harness/datacheck": {"majority", "text_only"},  # keys of the text-only baseline
    "leaderboards/boards": {"joint", "sft"},  # a board's default controls
    "leaderboards/reliance": {"text_only"},  # kind of conflicting items
    "leaderboards/publish": {"joint"},  # the default control in an example
}
"""Methods that string literals of a folder may name."""


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports."""
    names = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports_of(path: Path, package: str, names: list[str]) -> list[str]:
    """Imports of these modules of a package, or of something in them."""
    # A folder _NAME belongs to the method NAME, and takes the types of its options from it.
    own = {path.stem, path.parent.name.removeprefix("_")}
    modules = {f"steelyard.{package}.{name}" for name in names if name not in own}
    return [
        name
        for name in imported(path)
        if name in modules or any(name.startswith(f"{module}.") for module in modules)
    ]


@pytest.mark.parametrize("package", ["methods", "tasks"])
def test_no_method_imports_a_method_and_no_task_a_task(package: str) -> None:
    names = methods.names() if package == "methods" else tasks.names()
    for path in FILES:
        if path.is_relative_to(ROOT / package):
            assert not imports_of(path, package, names), path


def test_the_harness_and_the_boards_name_no_method() -> None:
    """Training, scoring and ranking have to treat all methods alike."""
    names = [re.escape(name) for name in methods.names() if name not in ORDINARY_WORDS]
    pattern = re.compile(rf"\b({'|'.join(names)})\b", re.IGNORECASE)
    ordinary = re.compile(rf"\b({'|'.join(ORDINARY_WORDS)})\b")
    for path in FILES:
        if path.is_relative_to(ROOT / "harness") or path.is_relative_to(ROOT / "leaderboards"):
            assert not pattern.search(path.read_text(encoding="utf-8")), path
            folder = path.parent.relative_to(ROOT).as_posix()
            strings = " ".join(literals(TREES[path]))
            assert set(ordinary.findall(strings)) <= MENTIONS.get(folder, set()), path


def literals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_variables_are_nouns() -> None:
    functions, vague, names = 0, [], set(VAGUE_NAMES.split())
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions += 1
                if names & bound_names(node):
                    vague.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert len(vague) <= MOST_VAGUE_NAMES * functions, "\n".join(vague)


def bound_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Parameters and variables of a function, those of functions inside it included."""
    variables = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return variables | {arg.arg for arg in (*function.args.args, *function.args.kwonlyargs)}


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    total, led, leads = 0, [], set(LEADS.split())
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text:
                total += 1
                if text.split()[0].strip("`.,:;") in leads:
                    led.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert len(led) <= MOST_LEADS * total, "\n".join(led)


def test_one_module_opens_images() -> None:
    """Elsewhere a mode would be clipped, alpha dropped, or a file taken that ``check`` refuses."""
    for path in FILES:
        if path == ROOT / "harness" / "data" / "images.py":
            continue
        for name in ("PIL.open", "PIL.Image.open", "PIL.ImageOps.exif_transpose"):
            assert name not in imported(path), path
        for call in (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)):
            function, arguments = ast.unparse(call.func), [ast.unparse(a) for a in call.args]
            opens = re.search(r"\b(Image\.open|imread|exif_transpose|decode_image)$", function)
            converts = function.endswith(".convert") and arguments == ["'RGB'"]
            assert not opens and not converts, f"{path}:{call.lineno}"


def test_no_device_defaults_to_the_cpu() -> None:
    """A device left out on the way would move a run from the GPU without a word."""
    defaults = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in FILES
        for node in ast.walk(TREES[path])
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults))
        if isinstance(default, ast.Constant) and default.value == "cpu"
    ]
    assert not defaults


READERS = {
    ".read_text", ".iterdir", ".glob", ".rglob", "json.load", "json.loads", "csv.reader",
    "csv.DictReader", "yaml.load", "yaml.safe_load", "os.walk", "os.listdir", "os.scandir",
    "zipfile.ZipFile", "tarfile.open",
}  # fmt: skip
"""Calls that read files or list folders without naming the place of a fault, or with litter."""
OWN_FILES = {
    "harness/budget/checkpoints.py": {"json.loads"},
    "harness/core/readers.py": {"csv.reader", "yaml.load"},
    "harness/core/folders.py": {"os.walk", "os.listdir"},
    "harness/core/files.py": {"os.scandir"},  # temporary files of its own
    "harness/data/archives.py": {"zipfile.ZipFile", "tarfile.open"},
    "harness/core/environment.py": {".rglob"},  # the hash of the code itself
    "harness/cli/score.py": {".iterdir"},  # is the output folder empty?
    "harness/datacheck/convert.py": {".iterdir"},
    "harness/models/assembled/dinov2_smollm2.py": {".glob"},  # an installed package
    "harness/models/assembled/encoders.py": {".glob"},
    "harness/reliance/ask.py": {"json.loads"},  # a model's answer
    "harness/runs/estimate.py": {".rglob"},  # a folder of its own
    "harness/runs/suite.py": {".glob"},  # the package's suites, tasks, methods and pages
    "tasks/__init__.py": {".glob"},
    "tasks/_lmms/stock.py": {".glob"},
    "tasks/metrics.py": {"json.loads"},
    "methods/__init__.py": {".read_text"},
    "leaderboards/loading/collect.py": {"json.loads"},  # texts that were verified
    "leaderboards/output/escape.py": {"csv.reader"},
    "leaderboards/page/page.py": {".read_text", "json.loads"},
}
"""Files that may call them, on files of the package or of the run itself."""


def test_files_of_users_are_read_by_one_reader() -> None:
    for path, tree in TREES.items():
        calls = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            for name in (f".{node.func.attr}", ast.unparse(node.func))
            if not ast.unparse(node.func).startswith("readers.")
        }
        allowed = OWN_FILES.get(path.relative_to(ROOT).as_posix(), set())
        assert calls & READERS == allowed, path


# --- Calls that strangers' files could misuse --------------------------------------------------

ANYWHERE_ELSE = {
    "extractall": ("harness/data/archives.py",),
    "unpack_archive": ("harness/data/archives.py",),
    "print": ("harness/core/progress.py",),
    "click.echo": ("harness/core/progress.py",),
    "click.secho": ("harness/core/progress.py",),
    "Console": ("harness/core/progress.py",),
    "Markup": ("leaderboards/page/markup.py", "leaderboards/page/page.py"),
    # Files that the user names as code: a method, and the modules that it adds.
    "import_file": ("methods/__init__.py", "harness/models/extension.py"),
    "exec_module": ("harness/core/files.py",),
    **dict.fromkeys(
        ("eval", "exec", "os.system", "os.popen", "read_pickle", "yaml.unsafe_load",
         "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all"), (),
    ),
}  # fmt: skip
"""Calls by name, and the files that may make them: what they do is safe there."""
SAFE_ARGUMENTS = {
    "torch.load": ("weights_only", True),
    "from_pretrained": ("trust_remote_code", False),
    "from_config": ("trust_remote_code", False),
    "Environment": ("autoescape", True),
}
"""Calls that need an argument in so many words."""
UNSAFE_ARGUMENTS = (("allow_pickle", True), ("shell", True), ("trust_remote_code", True))
BUILTINS = ("print", "eval", "exec")
"""Names that are calls of other objects too: ``console.print``, ``model.eval``."""
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
"""Packages for objects that act when they are read; a process sends them to its own workers."""
WITHOUT_CODE = ("PeftConfig.from_pretrained",)
"""Calls that read JSON alone."""


def unsafe_calls(tree: ast.AST, file: str) -> Iterator[str]:
    """Yield calls and imports by which the content of a file could act."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = vars(node).get("module") or node.names[0].name
            if module.partition(".")[0] in PICKLES and file != "harness/core/processes.py":
                yield f"{file}:{node.lineno}: imports {module}"
        if not isinstance(node, ast.Call):
            continue
        name, place = ast.unparse(node.func), f"{file}:{node.lineno}"
        last = name.rpartition(".")[2]
        words = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        for call, files in ANYWHERE_ELSE.items():
            # Names without a point are also those of methods: ``archive.extractall``.
            is_call = name == call or (last == call and call not in BUILTINS)
            if is_call and file not in files:
                yield f"{place}: calls {name}"
        for call, (argument, value) in SAFE_ARGUMENTS.items():
            is_call = call in (name, last) and name not in WITHOUT_CODE
            if is_call and words.get(argument) is not value:
                yield f"{place}: calls {name} without {argument}={value}"
        for argument, value in UNSAFE_ARGUMENTS:
            if words.get(argument) is value:
                yield f"{place}: calls {name} with {argument}={value}"


def test_files_of_strangers_cannot_act() -> None:
    """No pickles, no code of checkpoints, no tags, no archives or printing but in one place."""
    calls = [
        call
        for path, tree in TREES.items()
        for call in unsafe_calls(tree, path.relative_to(ROOT).as_posix())
    ]
    assert not calls, "\n".join(calls)


@pytest.mark.parametrize(
    "line",
    [
        "tar.extractall(to)", "shutil.unpack_archive(path)", "import pickle",
        "from joblib import load", "pd.read_pickle(path)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(p, allow_pickle=True)",
        "AutoModel.from_pretrained(name)", "t.AutoConfig.from_pretrained(n, trust_remote_code=x)",
        "AutoModel.from_config(config)", "load_dataset(name, trust_remote_code=True)",
        "yaml.unsafe_load(text)", "eval(text)", "exec(text)", "os.system(line)",
        "subprocess.run(line, shell=True)", "Environment(loader=loader)", "Markup(label)",
        "print(label)", "click.echo(label)", "Console().print(label)", "import_file(path)",
    ],
)  # fmt: skip
def test_each_of_these_calls_would_be_met(line: str) -> None:
    assert list(unsafe_calls(ast.parse(line), "harness/core/examples.py"))


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()", "torch.load(path, weights_only=True)", "yaml.safe_load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)", "console.print(label)",
        "PeftConfig.from_pretrained(folder)", "Environment(autoescape=True)",
        "subprocess.run(words)", "spec.loader.load(path)", "path.open()",
    ],
)  # fmt: skip
def test_none_of_these_is(line: str) -> None:
    assert not list(unsafe_calls(ast.parse(line), "harness/core/examples.py"))
