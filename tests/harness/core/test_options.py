"""Values are read as what their field is, not as what they look like."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from command import Command

from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.options import apply, parse_pairs, parse_seeds, read_values
from steelyard.harness.runs.options import RunOptions, parse_loader_options, parse_roots

LOOKS = ("123", "1e5", "true", "null", "none", "0x10", "01", "a=b", "", "[x]", "~")


@dataclass(frozen=True)
class Settings:
    text: str = ""
    maybe: str | None = None
    count: int = 0
    rate: float = 0.0
    limit: int | None = 3
    flag: bool = False
    size: Literal["4", "none"] = "4"
    bits: Literal[4, 8] = 4
    items: tuple[str, ...] = ()
    weights: list[float] | None = None


@pytest.mark.parametrize("value", LOOKS)
def test_a_text_stays_one_whatever_it_looks_like(value: str) -> None:
    pairs = parse_pairs([f"text={value}", f"maybe={value}"])
    assert read_values(Settings, pairs) == {"text": value, "maybe": value}
    assert parse_loader_options([f"pope.source={value}"], ["pope"]) == {"pope": {"source": value}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("count=07", 7),
        ("rate=3", 3),
        ("rate=1e-3", 0.001),
        ("limit=none", None),
        ("limit=5", 5),
        ("flag=True", True),
        ("size=none", "none"),
        ("bits=8", 8),
        ("items=01,true", ["01", "true"]),
        ("weights=1,0.5", [1, 0.5]),
    ],
)
def test_a_value_has_the_type_of_its_field(text: str, value: Any) -> None:
    (read,) = read_values(Settings, parse_pairs([text])).values()
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["count=1.5", "count=0x10", "rate=fast", "flag=1", "bits=16"])
def test_what_does_not_fit_is_refused_as_typed(text: str) -> None:
    with pytest.raises(UserError, match=text.partition("=")[2]):
        apply(Settings(), parse_pairs([text]), "option")


@pytest.mark.parametrize("text", ["4-0", "", "0-1-2", "a", "1,,2"])
def test_no_seed_is_a_mistake(text: str) -> None:
    with pytest.raises(UserError, match="0,1,2"):
        parse_seeds(text)


def test_a_seed_that_is_given_twice_is_one_run() -> None:
    assert parse_seeds("0,1,0") == (0, 1)


def test_names_in_a_suite_are_texts(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "tasks: [food101]\nseeds: [007]\nbudget: 5e10\nlimit: null\nmethods:\n"
        "  - {method: joint, label: 1e5}\n  - {method: joint, label: true}\n"
        "  - {method: joint, label: null}\n  - {method: joint, label: 010}\n"
        "  - {method: modality_dropout, label: x, options: {rate: 3e-1}, learning_rate: 4e-4}\n",
        encoding="utf-8",
    )
    (suite,) = suites_from(str(tmp_path / "s.yaml"), RunOptions())
    assert [entry.name for entry in suite.entries] == ["1e5", "true", "null", "010", "x"]
    assert (suite.seeds, suite.budget, suite.limit) == ((7,), "5e10", None)
    assert (suite.entries[-1].options, suite.entries[-1].learning_rate) == ({"rate": 0.3}, 4e-4)


def test_options_of_a_command_are_read_by_their_fields() -> None:
    options = RunOptions(
        backbone="org/model",
        backbone_set=("adapter=20240101", "batch_size=4", "tune=full", "lora_modules_to_save=1e5"),
        trl=("label_smoothing=0", "loss_type=sigmoid,sft", "loss_weights=1,0.5"),
        tasks=("instruct",),
    )
    (suite,) = suites_from("dpo", options)
    assert suite.backbone_options == {
        "adapter": "20240101", "batch_size": 4, "tune": "full", "lora_modules_to_save": "1e5",
    }  # fmt: skip
    settings = {"label_smoothing": 0, "loss_type": "sigmoid,sft", "loss_weights": "1,0.5"}
    assert suite.entries[0].trl == settings


@pytest.mark.parametrize("name", ["split=full", "food101=x", "a=b=c", "123", "[x] #1,%20"])
def test_a_data_folder_is_taken_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name / "food"
    folder.mkdir(parents=True)
    assert parse_roots([str(folder)], ["food101"]) == {"food101": folder}
    pairs = [f"food101={folder}", f"pope={tmp_path}"]
    assert parse_roots(pairs, ["food101", "pope"]) == {"food101": folder, "pope": tmp_path}
    monkeypatch.chdir(tmp_path)
    assert parse_roots([name], ["food101"]) == {"food101": Path(name)}


def test_an_absent_data_folder_is_named_in_full(steelyard: Command) -> None:
    done = steelyard("check", "food101", "--data-root", "nowhere/split=full/food")
    assert done.code == 2 and "nowhere/split=full/food" in done.stderr
