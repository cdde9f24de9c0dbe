"""Where a command writes is tried first, and its exit code says whether all is done."""

from pathlib import Path

import click
import pytest
from command import Command

from steelyard.harness.cli.main import cli
from steelyard.harness.cli.options import output_file, output_folder

SPENDING = {
    "run": ("joint", "--runs"),
    "train": ("joint", "--runs"),
    "demo": ("--out",),
    "tune": ("joint", "--runs"),
    "plan": ("joint", "--json"),
    "evaluate": ("tiny-vlm", "pope", "--out"),
    "score": ("answers.jsonl", "pope", "--out"),
    "items": ("pope", "--out"),
    "leaderboard": ("runs", "--out"),
    "diagnose": ("tiny-vlm", "--out"),
    "factors": ("data", "--out"),
    "reproduce": ("runs/r", "--out"),
    "check": ("food101", "--out"),
    "data": ("pope", "--from", "x", "--to"),
    "answers": ("runs/r", "pope", "--out"),
    "corruptions": ("--out",),
    "pack": ("runs", "--out"),
}


def test_every_option_that_names_an_output_is_tried() -> None:
    tried = {
        (name, option)
        for name, command in cli.commands.items()
        for parameter in command.params
        if parameter.callback in (output_file, output_folder)
        for option in parameter.opts
    }
    assert tried >= {(name, words[-1]) for name, words in SPENDING.items()} | {("demo", "--runs")}
    named = {
        (name, parameter.opts[0])
        for name, command in cli.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        and not parameter.is_flag
        and parameter.opts[0] in ("--out", "--to", "--json")
    }
    assert named <= tried


@pytest.mark.parametrize(("name", "words"), SPENDING.items())
def test_an_output_that_cannot_be_written_is_one_line_at_once(
    name: str, words: tuple[str, ...], tmp_path: Path, steelyard: Command
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    done = steelyard(name, *words, str(out))
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == f"error: {out} cannot be written: {tmp_path / 'file'} is no folder.\n"


def test_a_failed_trial_is_exit_code_one_and_the_next_command_can_be_copied(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    # Raises in the trials that have another learning rate than the backbone's.
    Path("picky.py").write_text(
        "from steelyard.harness.training.fit import fit\n"
        "from steelyard.methods import About, NoOptions as Config\n"
        "ABOUT = About(title='Picky', kind='objective', summary='')\n"
        "def train(backbone, data, meter, config, seed):\n"
        "    if backbone.recipe.learning_rate != 2e-3: raise RuntimeError('no')\n"
        "    fit(backbone, data, meter,\n"
        "        lambda batch: (backbone.loss(backbone.predict(batch), batch).mean(), {}),\n"
        "        seed=seed)\n"
    )
    root = ("--data-root", str(world / "food101"))
    words = ("--trials", "2", "--budget", "1e9", "--runs", "runs [x]", "--jobs", "1")
    done = steelyard("tune", "picky.py", *root, *words)
    assert done.code == 1, done.stderr
    (file,) = Path("runs [x]").glob("tuning-picky-*-1e9/tuning.json")
    assert f"--tuned '{file}'" in done.stdout
