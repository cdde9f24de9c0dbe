"""The generated world: its facts, its scenes and their pictures."""

import time
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from steelyard.tasks.world.prior import LanguagePrior, arrange
from steelyard.tasks.world.scenes import (
    COLOURS,
    FOODS,
    GLYPHS,
    KINDS,
    NEUTRAL,
    PLACES,
    SPLITS,
    Object,
    Scene,
    draw,
    split_of,
)


def prior(p_color: float, p_cooc: float) -> LanguagePrior:
    return LanguagePrior(p_color, p_cooc, p_neutral=0.0, yes=0.5, same_place=0.5)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_world_has_four_kinds_a_place_with_colours_of_their_own() -> None:
    assert len(KINDS) == 20 and len(FOODS) == 16 and len(NEUTRAL) == 4
    for place in PLACES:
        colours = [kind.colour for kind in KINDS.values() if kind.place == place]
        assert len(colours) == len(set(colours)) == 4
        assert set(colours) <= set(COLOURS)


def test_glyphs_differ_pairwise_and_stay_near_their_cell() -> None:
    axis = np.linspace(-1.5, 1.5, 96, dtype=np.float32)
    masks = {name: glyph(axis[None, :], axis[:, None]) for name, glyph in GLYPHS.items()}
    outside = (np.abs(axis)[None, :] > 1.02) | (np.abs(axis)[:, None] > 1.02)
    for mask in masks.values():
        assert mask.sum() > 0.04 * mask.size
        assert not (mask & outside).any()
    for first, second in combinations(masks, 2):
        a, b = masks[first], masks[second]
        assert (a & b).sum() < 0.85 * (a | b).sum(), (first, second)


def test_draw_repeats_with_the_generator_and_varies_without() -> None:
    scene = Scene("sea", (Object("fish", "blue", 0), Object("cup", "red", 3)))
    once, again, different = (draw(scene, generator(seed)) for seed in (0, 0, 1))
    assert once.shape == (48, 48, 3) and once.dtype == np.uint8
    assert np.array_equal(once, again)
    assert not np.array_equal(once, different)


@pytest.mark.parametrize("size", [48, 96, 128])
def test_draw_puts_each_object_in_its_cell_at_every_size(size: int) -> None:
    half = size // 2
    for cell in range(4):
        picture = draw(Scene("sea", (Object("ball", "red", cell),)), generator(cell), size)
        redness = picture[..., 0].astype(int) - picture[..., 2]
        quarters = [
            redness[row : row + half, column : column + half].mean()
            for row in (0, half)
            for column in (0, half)
        ]
        assert int(np.argmax(quarters)) == cell


def test_arrange_follows_the_priors_exactly_at_one_and_zero() -> None:
    rng = generator()
    for _ in range(50):
        usual = arrange(["banana", "fish"], prior(1, 1), rng)
        assert usual.place == "orchard"
        assert {(obj.kind, obj.colour) for obj in usual.objects} == {
            ("banana", "yellow"),
            ("fish", "blue"),
        }
        odd = arrange(["banana"], prior(0, 0), rng)
        assert odd.place != "orchard" and odd.objects[0].colour != "yellow"


def test_arrange_follows_the_priors_in_between() -> None:
    rng = generator()
    scenes = [arrange(["banana", "cup", "kite"], prior(0.8, 0.3), rng) for _ in range(2000)]
    bananas = [obj for s in scenes for obj in s.objects if obj.kind == "banana"]
    # Four standard errors: 4 sqrt(0.8 * 0.2 / 2000) = 0.036, 4 sqrt(0.3 * 0.7 / 2000) = 0.041.
    assert np.mean([obj.colour == "yellow" for obj in bananas]) == pytest.approx(0.8, abs=0.036)
    assert np.mean([s.place == "orchard" for s in scenes]) == pytest.approx(0.3, abs=0.041)
    assert {obj.colour for s in scenes for obj in s.objects if obj.kind == "cup"} == set(COLOURS)
    assert all(len({obj.cell for obj in s.objects}) == 3 for s in scenes)


def test_split_depends_on_the_symbol_alone_and_has_the_stated_shares() -> None:
    rng = generator()
    kinds = [FOODS[position % 16] for position in range(3000)]
    scenes = [arrange([kind, "cup", "box"], prior(0.5, 0.5), rng) for kind in kinds]
    symbols = {scene.symbol: split_of(scene) for scene in scenes}
    assert all(symbols[scene.symbol] == split_of(scene) for scene in scenes)
    counts = Counter(symbols.values())
    for split, share in SPLITS.items():
        assert counts[split] / len(symbols) == pytest.approx(share, abs=0.04)


def test_symbol_names_all_that_is_shown() -> None:
    scene = Scene("sea", (Object("fish", "blue", 0), Object("cup", "red", 3)))
    assert scene.symbol == "sea: blue fish@0, red cup@3"


def test_speed_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    rng = generator()
    scenes = [arrange([food, "cup"], prior(0.9, 0.9), rng) for food in FOODS for _ in range(20)]
    started = time.process_time()
    pictures = [draw(scene, rng) for scene in scenes]
    rate = len(pictures) / (time.process_time() - started)
    with capsys.disabled():
        print(f"\n{rate:.0f} pictures of 48 px a second")
    assert len(pictures) == len(scenes)
