"""Search spaces of methods: accepted by their options, drawn alike everywhere."""

from pathlib import Path

import pytest

from steelyard import methods
from steelyard.harness.core.errors import UserError
from steelyard.harness.training.search import Choice, LogUniform, Uniform, draw, learning_rate

SHARES = (0.0, 0.25, 0.5, 0.75, 0.999999)


def test_ranges_by_hand() -> None:
    assert [Choice(("a", "b", "c")).at(share) for share in (0, 0.34, 0.99)] == ["a", "b", "c"]
    assert Uniform(1.0, 3.0).at(0.25) == 1.5
    assert [LogUniform(0.01, 1.0).at(share) for share in (0, 0.5)] == [0.01, 0.1]
    assert Uniform(0.0, 1.0).at(1 / 3) == 0.333  # three digits


@pytest.mark.parametrize("name", methods.names())
def test_every_value_that_may_be_drawn_is_accepted(name: str) -> None:
    method = methods.load(name)
    space = methods.search_space(method)
    for kind in method.ABOUT.backbones:
        for fraction in SHARES:
            options = {o: values.at(fraction) for o, values in space.items() if kind in values.on}
            methods.configure(method, options, kind)
            for option, value in options.items():
                methods.configure(method, {option: value}, kind)


def test_draws_have_names() -> None:
    space = {"a": Uniform(0.0, 1.0), "b": LogUniform(0.1, 10.0, on=("vlm",))}
    first = draw(space, "vlm", 0, "entry", 1)
    assert first == {"a": 0.6, "b": 4.36}  # the same on every machine
    assert (
        draw({"b": space["b"], "z": Choice((1, 2)), "a": space["a"]}, "vlm", 0, "entry", 1)["a"]
        == first["a"]
    )  # a range more changes no other draw
    assert draw(space, "classifier", 0, "entry", 1) == {"a": first["a"]}
    assert draw(space, "vlm", 1, "entry", 1) != first != draw(space, "vlm", 0, "entry", 2)
    rates = [learning_rate(4e-4, 0, "entry", trial) for trial in range(200)]
    assert 1e-4 <= min(rates) < 1.2e-4 and 1.4e-3 < max(rates) <= 1.6e-3


METHOD = """
from dataclasses import dataclass
from steelyard.harness.training.search import Uniform
from steelyard.methods import About
ABOUT = About(title="Mine", kind="control", summary="None.")
SEARCH = {search}
@dataclass(frozen=True, slots=True)
class Config:
    amount: float = 0.1
def train(backbone, data, meter, config, seed):
    pass
"""


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ('{"amont": Uniform(0.0, 1.0)}', "Did you mean 'amount'"),
        ('{"amount": (0.0, 1.0)}', "amount must be a Choice, Uniform or LogUniform"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tmp_path: Path, search: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(METHOD.format(search=search))
    with pytest.raises(UserError, match=message):
        methods.load(str(path))
