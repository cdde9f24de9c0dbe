"""``steelyard list KIND NAME``: every option is found without a mistake, and nothing is cut."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command import Done

from steelyard import methods
from steelyard.harness.cli import list as list_command
from steelyard.harness.core import progress
from steelyard.harness.core.options import describe
from steelyard.harness.models import registry

Command = Callable[..., Done]
OWN = '''
from dataclasses import dataclass
from steelyard.methods import About
ABOUT = About(title="Mine", kind="objective", summary="Does this.")
@dataclass(frozen=True, slots=True)
class Config:
    amount: float = 0.25
    """Of what it does."""
def train(backbone, data, meter, config, seed): pass
'''


@pytest.mark.parametrize("name", methods.names())
def test_every_option_of_a_method_has_a_meaning(name: str) -> None:
    assert [o.name for o in describe(methods.load(name).Config()) if not o.meaning] == []


@pytest.mark.parametrize("name", ["tiny", "tiny-vlm", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_every_option_of_a_backbone_is_listed_with_its_meaning(
    name: str, steelyard: Command
) -> None:
    printed = steelyard("list", "backbones", name).stdout
    for option in [o for _, options in list_command.backbone_options(name) for o in options]:
        line = f"\n{option.name}={option.default}  ({option.values})"
        assert option.meaning and f"{line}\n    {option.meaning[:20]}" in printed
    config = registry.configure(name, {})
    assert f"learning_rate={config.learning_rate:g}  (number)" in printed
    assert "source=" not in printed


def test_choices_and_defaults_of_each_kind_of_model_are_listed(steelyard: Command) -> None:
    printed = steelyard("list", "methods", "mcr").stdout
    classifier, vlm = printed.split("on a vlm")
    assert "game=greedy  (greedy, independent, collaborative)" in classifier
    assert "unimodal=0.01  (number)" in classifier and "unimodal=0  (number)" in vlm


def test_a_file_of_a_users_method_is_listed_too(
    steelyard: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_method.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert "amount=0.25  (number)\n    Of what it does." in (
        steelyard("list", "methods", "my_own_method.py").stdout
    )
    assert "Did you mean 'my_own_method.py'?" in steelyard("run", "my_own_method").stderr


def test_keys_of_a_suite_are_listed_with_its_values(steelyard: Command) -> None:
    printed = steelyard("list", "suites", "quick").stdout
    assert "budget=XS  (text)" in printed and "track=compute  (compute, data, anytime)" in printed
    assert "\nmethod=  (text)" in printed


def test_a_name_is_never_cut(steelyard: Command, capsys: pytest.CaptureFixture[str]) -> None:
    width, progress.console.width = progress.console.width, 40
    try:
        progress.print_table(("a", "b"), [("x" * 50, "y" * 50)])
    finally:
        progress.console.width = width
    printed = capsys.readouterr().out
    assert (printed.count("x"), printed.count("y"), printed.count("…")) == (50, 50, 0)


def test_what_has_no_options_is_said(steelyard: Command) -> None:
    done = steelyard("list", "budgets", "XS")
    assert (done.code, done.stderr) == (2, "error: budgets have no options: leave out 'XS'.\n")
    assert "Joint has no options" in steelyard("list", "methods", "joint").stdout
    done = steelyard("run", "joint", "--set", "amount=1", "--dry-run")
    assert "There is no option of" in done.stderr and "leave out 'amount'" in done.stderr
