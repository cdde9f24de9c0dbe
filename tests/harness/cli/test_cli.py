"""Commands as a person types them: help is quick, mistakes are one line and exit code 2."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from board_factory import make_run, profile
from command import Command

from steelyard.harness.cli.run import suites_from
from steelyard.harness.records import record
from steelyard.harness.runs.options import RunOptions


@pytest.mark.parametrize(
    "words",
    [(), ("run",), ("train",), ("evaluate",), ("leaderboard",), ("list",), ("show",), ("demo",)],
)
def test_help_has_an_example(words: tuple[str, ...], steelyard: Command) -> None:
    done = steelyard(*words, "--help")
    assert done.code == 0
    assert "steelyard" in done.stdout
    assert "Example" in done.stdout


def test_no_help_imports_anything_heavy() -> None:
    script = (
        "import sys; from steelyard.harness.cli.main import cli\n"
        "for words in [], *([name] for name in cli.commands):\n"
        "    cli([*words, '--help'], standalone_mode=False)\n"
        "    heavy = {'torch', 'transformers', 'lmms_eval', 'pandas', 'matplotlib', 'numpy', 'PIL'}"
        "    & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_boards_are_made_without_torch(tmp_path: Path) -> None:
    for label, right in (("joint", 5), ("other", 7)):
        make_run(tmp_path / "runs", label, profile(right, right, 5))
    script = (
        "import sys; from steelyard.harness.cli.main import main;"
        "sys.argv[1:] = ['leaderboard', *sys.argv[1:], '--jobs', '1']; main();"
        "assert 'torch' not in sys.modules"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    subprocess.run(words, check=True, capture_output=True)
    assert (tmp_path / "out" / "board.md").is_file()


def test_the_installed_command_ends_a_mistake_with_one_line() -> None:
    command = [str(Path(sys.executable).with_name("steelyard")), "run", "jiont"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rnu",), "Did you mean 'run'"),
        (("run", "jiont"), "Did you mean 'joint'"),
        (("run", "demoo"), "Did you mean 'demo'"),
        (("run", "none.yaml"), "No suite file at none.yaml"),
        (("run", "joint", "--task", "food"), "Did you mean 'food101'"),
        (("run", "joint", "--corruption", "image-nois"), "Did you mean 'image-noise'"),
        (("run", "joint", "--budget", "tiny"), "Unknown budget 'tiny'"),
        (("run", "joint", "--backbone", "tny"), "Did you mean 'tiny'"),
        (("run", "joint", "--backbone-set", "widht=3"), "Did you mean 'width'"),
        (("run", "modality_dropout", "--set", "rat=0.1"), "Did you mean 'rate'"),
        (("run", "modality_dropout", "--set", "rate"), "write KEY=VALUE"),
        (("run", "demo", "--set", "rate=0.1"), "--set goes with a single method"),
        (("run", "joint", "--seeds", "a"), "write 0,1,2 or 0-4"),
        (("run", "joint", "--data-root", "/nowhere"), "no folder at /nowhere"),
        (("run", "joint", "--method", "mine.py"), "No method file at mine.py"),
        (("list", "method"), "Did you mean 'methods'"),
        (("show", "nowhere"), "No record at"),
        (("leaderboard", "nowhere"), "No folder of runs at nowhere"),
        (("run", "joint", "--jobs", "many"), "not a valid integer"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    words: tuple[str, ...], message: str, steelyard: Command
) -> None:
    done = steelyard(*words)
    assert done.code == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1 or done.stderr.startswith("Usage: "), done.stderr
    assert not done.stdout


def test_a_data_root_without_the_files_says_what_was_looked_for(
    tmp_path: Path, steelyard: Command
) -> None:
    done = steelyard("run", "joint", "--data-root", str(tmp_path))
    assert done.code == 2
    assert "train_titles.csv" in done.stderr and str(tmp_path) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "kind", ["methods", "tasks", "corruptions", "backbones", "budgets", "suites"]
)
def test_lists(kind: str, steelyard: Command) -> None:
    done = steelyard("list", kind)
    assert done.code == 0 and len(done.stdout.splitlines()) > 4


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    root = str(world / "food101")
    done = steelyard("run", "joint", "--data-root", root, "--seeds", "0-2", "--dry-run")
    assert done.code == 0, done.stderr
    assert "3 of 3 runs to do" in done.stdout and "6e+11 FLOPs" in done.stdout
    assert "hours on cpu" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "values", "corruptions"),
    [
        ("joint", (), ()),
        ("joint", ("text-blank",), ("text-blank",)),
        ("sft", (), ()),
        ("quick", (), ("image-blank", "text-blank")),
        ("quick", ("none",), ()),
    ],
)
def test_only_what_is_asked_for_is_scored(
    target: str, values: tuple[str, ...], corruptions: tuple[str, ...]
) -> None:
    (suite,) = suites_from(target, RunOptions(corruptions=values))
    assert suite.corruptions == corruptions


def test_no_corruption_goes_with_no_other(steelyard: Command) -> None:
    words = ("--corruption", "none", "--corruption", "text-blank", "--dry-run")
    assert "give no other" in steelyard("run", "joint", *words).stderr
    assert "no corruption" in steelyard("run", "joint", "--dry-run").stdout


def test_train_evaluate_show_and_leaderboard(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    root = str(world / "food101")
    done = steelyard("train", "joint", "--data-root", root, "--budget", "4e9")
    assert done.code == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    words = ("evaluate", str(folder), "food101", "food101@image-blank", "--data-root", root)
    done = steelyard(*words)
    assert done.code == 0, done.stderr
    assert "image-blank" in done.stdout
    assert "food101" in steelyard("show", str(folder)).stdout
    done = steelyard("leaderboard")
    assert done.code == 0, done.stderr
    assert (tmp_path / "board" / "board.md").is_file()
    # The wrong data is noticed before anything is evaluated on it.
    mistake = steelyard("evaluate", str(folder), "food101@text-blank")
    assert mistake.code == 2 and "does not match" in mistake.stderr


def test_a_finished_run_gets_another_name_and_keeps_all_else(
    steelyard: Command, world: Path, tmp_path: Path
) -> None:
    data, runs = ("--data-root", str(world / "food101")), ("--runs", str(tmp_path))
    words = ("run", "majority", "--task", "food101", *data, *runs, "--jobs", "1", "--limit", "8")
    assert steelyard(*words, "--device", "cpu").code == 0
    (folder,) = record.find(tmp_path)
    before = record.read(folder)
    assert steelyard("evaluate", str(folder), *data, "--limit", "8", "--label", "ours").code == 0
    after = record.read(folder)
    assert after.label == "ours" and replace(after, label="majority", seal=before.seal) == before
    refused = steelyard("evaluate", str(folder), *data, "--cost", "3e9")
    assert refused.code == 2 and "is a run and keeps its own" in refused.stderr
