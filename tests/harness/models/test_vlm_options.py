"""End tokens of a checkpoint, and bounds on the pixels of an image, on every family."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vlm_toys
from PIL import Image

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_resolution import limit_pixels
from steelyard.methods._preference import negatives, online
from steelyard.methods._preference.row_trainer import RowTrainer

PHOTO = Image.effect_noise((400, 300), 60).convert("RGB")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("options")


def image_tokens(model: Vlm, image: Image.Image) -> int:
    batch = model.collate([Inputs(image, "what ?", "what ?")], ["yes"])
    with torch.no_grad():
        logits = model.model(**model.prompts.plain(batch, answers=True)).logits
        expected = logits[:, batch.tokens.shape[1] - 1 : -1][batch.targets != -100]
        torch.testing.assert_close(model.predict(batch), expected, rtol=0, atol=1e-4)
    return int(batch.extra["slots"].sum())


@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_any_of_a_checkpoints_end_tokens_ends_an_answer(
    family: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vlm_toys.build(family, root).eval()
    batch, end = vlm_toys.batch(model, 4), model.prompts.eos_id
    before = model.continuations(batch, 8)
    row = next(n for n, ids in enumerate(before) if len(set(ids[:2])) == 2 and len(ids) > 3)
    other = before[row][1]
    for listed in ([other, end], other):
        folder = root / f"{family}-{listed}"
        shutil.copytree(root / family, folder, dirs_exist_ok=True)
        settings = json.loads((folder / "generation_config.json").read_text())
        text = json.dumps(settings | {"eos_token_id": listed})
        (folder / "generation_config.json").write_text(text)
        model = vlm_toys.build(folder.name, root).eval()
        assert model.eos_ids == sorted([other, end])
        after = model.continuations(batch, 8)[row]
        assert after == before[row][:2]
        assert model.decode(before[row]) == model.decode(after) == model.decode(after[:1])
        assert model.prompts.answer_ids("red")[-1] == end, "training keeps the template's"
    trainer = RowTrainer()
    trainer.source = SimpleNamespace(  # type: ignore[assignment]
        backbone=model,
        config=online.Sampling(),
        rows=[online.StreamRow(0)],
        turn_at=lambda position: ("x", ()),
    )
    assert trainer.rewards(0, after)["form"] == 1.0, "the reward takes it for finished"
    monkeypatch.setattr(negatives, "corrupted_inputs", lambda inputs, *_: inputs)
    data, options = vlm_toys.train_data(model, 4), negatives.PairOptions("no_image")
    mined = negatives.mined_answers(model, data, vlm_toys.watched(model, 1e12), [row], options)
    assert mined == [model.decode(after)], "and so does mining"


@pytest.mark.parametrize(
    ("family", "options", "tokens"),
    [
        ("qwen3_vl", {"max_pixels": 32 * 32}, 4),  # a token of 16 x 16, rounded down to 2 x 1
        ("qwen2_vl", {"max_pixels": 48 * 48}, 9),
        ("internvl", {"max_pixels": 2 * 32 * 32}, 12),
        ("idefics3", {"max_pixels": 40 * 40}, 4),
        ("llava_next", {"max_pixels": 32 * 32}, 0),
        ("llava_onevision", {"max_pixels": 32 * 32}, 0),
    ],
)
def test_a_photo_takes_no_more_tokens_than_its_bound(
    family: str, options: dict[str, Any], tokens: int, root: Path
) -> None:
    free, bound = (image_tokens(vlm_toys.build(family, root, **o), PHOTO) for o in ({}, options))
    assert 0 < bound < free
    assert bound <= tokens or not tokens


def test_a_small_image_takes_no_fewer_tokens_than_its_bound(root: Path) -> None:
    small = PHOTO.resize((16, 16))
    free, bound = (
        image_tokens(vlm_toys.build("qwen3_vl", root, min_pixels=pixels), small)
        for pixels in (0, 32 * 32)
    )
    assert (free, bound) == (1, 4)


def test_a_photo_of_a_phone_fits_by_default() -> None:
    from transformers import Qwen2VLImageProcessor

    images = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 12845056})
    photo = torch.zeros(3, 3024, 4032, dtype=torch.uint8)
    config = SimpleNamespace(model_type="qwen2_vl")
    limit_pixels(SimpleNamespace(image_processor=images), config, 0, 0)
    grid = images(photo, return_tensors="pt")["image_grid_thw"]
    assert 1200 <= int(grid.prod()) // 4 <= 1280


def test_bounds_without_effect_are_refused(root: Path) -> None:
    def refused(family: str, message: str, **options: int) -> None:
        with pytest.raises(UserError, match=message) as caught:
            vlm_toys.build(family, root, **options)
        assert "\n" not in str(caught.value)

    refused("llava", "resize every image to one size: leave out max_pixels", max_pixels=100)
    refused("gemma3", "resize every image to one size", max_pixels=100)
    refused("internvl", "less than one tile: give at least 1024", max_pixels=1000)
    refused("llava_next", "less than one tile: give at least 1024", max_pixels=1000)
    refused("smolvlm", "no least size", min_pixels=1000)
    refused(
        "qwen2_vl", "min_pixels=2000 is above max_pixels=1000", min_pixels=2000, max_pixels=1000
    )
