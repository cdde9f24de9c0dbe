"""Checkpoints of strangers run no code: neither files of their own nor pickled objects."""

import builtins
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scripted_vlm
import tiny_vlms
from scripted_vlm import edit

from steelyard.harness.core.errors import UserError
from steelyard.harness.models import encoders, registry, vlm_build
from steelyard.harness.models.vlm_config import VlmConfig


class Bomb:
    """Object that writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self.mark, "ran")


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that exists if code of a checkpoint ran; nobody may be asked to allow it."""

    def ask(*prompt: object) -> str:
        raise AssertionError(f"asked {prompt}")

    monkeypatch.setattr(builtins, "input", ask)
    return tmp_path / "ran.txt"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.make("llava", tmp_path_factory.mktemp("vlm") / "llava")


@pytest.fixture
def checkpoint(base: Path, tmp_path: Path, mark: Path) -> Path:
    """Return a checkpoint with a module of its own that leaves the mark."""
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    return folder


def of_model(folder: Path) -> None:
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForImageTextToText"), "own.Own")
    edit(folder / "config.json", lambda c: c.update(model_type="own", auto_map=classes))


def of_known_model(folder: Path) -> None:
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForImageTextToText"), "own.Own")
    edit(folder / "config.json", lambda c: c.update(auto_map=classes))


def of_processor(folder: Path) -> None:
    edit(
        folder / "processor_config.json",
        lambda c: c.update(processor_class="Own", auto_map={"AutoProcessor": "own.Own"}),
    )


def of_tokenizer(folder: Path) -> None:
    edit(
        folder / "tokenizer_config.json",
        lambda c: c.update(tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
    )


@pytest.mark.parametrize("change", [of_model, of_known_model, of_processor, of_tokenizer])
def test_code_beside_a_model_never_runs(
    checkpoint: Path, mark: Path, change: Callable[[Path], None]
) -> None:
    change(checkpoint)
    calls: list[Callable[[], object]] = [
        lambda: registry.open_model(str(checkpoint), {}, "cpu"),
        lambda: vlm_build.build_shapes(str(checkpoint), VlmConfig(source=str(checkpoint))),
        lambda: encoders.load_encoder(str(checkpoint), "image", 16),
        lambda: encoders.load_encoder(str(checkpoint), "text", 16),
    ]
    for call in calls:
        try:
            call()
        except UserError as error:
            assert "\n" not in str(error)
        assert not mark.exists()


def test_a_model_that_needs_its_own_code_is_refused_in_one_line(checkpoint: Path) -> None:
    of_model(checkpoint)
    with pytest.raises(UserError, match="Could not load") as error:
        registry.open_model(str(checkpoint), {}, "cpu")
    assert "\n" not in str(error.value)


def test_pickled_weights_run_nothing(checkpoint: Path, mark: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Bomb(mark)}))
    with pytest.raises(UserError, match="Could not load"):
        registry.open_model(str(checkpoint), {}, "cpu")
    assert not mark.exists()


def test_a_pickled_adapter_runs_nothing(base: Path, tmp_path: Path, mark: Path) -> None:
    adapter = scripted_vlm.adapter(base, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({"weight": Bomb(mark)}))
    with pytest.raises(UserError, match="does not fit"):
        registry.open_model(str(base), {"adapter": str(adapter)}, "cpu")
    assert not mark.exists()


def test_the_bomb_goes_off_where_pickles_are_trusted(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()
