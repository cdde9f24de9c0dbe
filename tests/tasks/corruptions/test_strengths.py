"""Strengths of the corruptions: measured, growing with severity, alike for all kinds of image."""

import colorsys
import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFilter

from steelyard.harness.core.examples import Inputs
from steelyard.tasks.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from steelyard.tasks.corruptions.image import (
    BLUR_SIGMA,
    BRIGHTNESS_ADDED,
    CONTRAST,
    OCCLUDED_AREA,
    PIXEL_SCALE,
    ROTATION_DEGREES,
)
from steelyard.tasks.corruptions.text import NEIGHBOURS, WORD_FRACTIONS
from steelyard.tasks.world import scenes

GRADED = [n for n, c in CORRUPTIONS.items() if c.modality == "image" and c.apply and c.severities]
TEXT = " ".join(f"word{number} and something{number}" for number in range(20))
SCENE = scenes.Scene("garden", (scenes.Object("apple", "red", 0), scenes.Object("fish", "blue", 3)))


def corrupted(
    name: str, severity: int | None, image: Image.Image, key: str = "item"
) -> Image.Image:
    def other(rng: np.random.Generator) -> Inputs:
        return Inputs(Image.new("RGB", (4, 4)), None)

    result = corrupt(name, severity, key, Inputs(image, None), other).image
    assert result is not None
    return result


def misspelt(text: str, severity: int | None, key: str = "item", name: str = "text-typo") -> str:
    result = corrupt(name, severity, key, Inputs(None, text), lambda rng: Inputs(None, "else"))
    return result.text or ""


def scene(size: int, seed: int) -> Image.Image:
    return Image.fromarray(scenes.draw(SCENE, np.random.default_rng(seed), size))


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours over the whole range and some detail, like a photograph."""
    rng = np.random.default_rng(seed)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for size in (5, 40)
    )
    return Image.blend(coarse, fine, 0.25)


def psnr(first: Image.Image, second: Image.Image) -> float:
    error = np.asarray(first, float) - np.asarray(second.convert("RGB"), float)
    return float(10 * np.log10(255**2 / (error**2).mean()))


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize("size", [(24, 24), (48, 48), (224, 160), (640, 480)])
def test_each_severity_is_further_from_the_clean_image(name: str, size: tuple[int, int]) -> None:
    clean = [photo(*size, seed) for seed in range(4)]
    distances = [
        np.mean(
            [psnr(corrupted(name, severity, image, str(i)), image) for i, image in enumerate(clean)]
        )
        for severity in SEVERITIES
    ]
    assert all(np.diff(distances) < 0), distances
    assert 4 < distances[4] < distances[0] < 45, distances


@pytest.mark.parametrize("name", [name for name in GRADED if name != "image-brightness"])
def test_also_on_the_generated_world(name: str) -> None:
    """Brightness is left out: its two highest severities both bring every colour there to white."""
    clean = [scene(48, seed) for seed in range(6)]
    distances = [
        np.mean(
            [psnr(corrupted(name, severity, image, str(i)), image) for i, image in enumerate(clean)]
        )
        for severity in SEVERITIES
    ]
    assert all(np.diff(distances) < 0), distances


@pytest.mark.parametrize(
    "name", [n for n in GRADED if n not in ("image-contrast", "image-rotation")]
)
def test_corruption_of_a_large_photo_survives_an_encoders_shrinking(name: str) -> None:
    """As far from the clean image after both are shrunk to 224 pixels as at that size, within 3 dB.

    Contrast and rotation do not depend on size.
    """
    large = photo(1344, 1008, 0)
    small = large.resize((224, 168), Image.Resampling.BOX)
    shrunk = corrupted(name, 3, large).resize(small.size, Image.Resampling.BOX)
    assert psnr(shrunk, small) == pytest.approx(psnr(corrupted(name, 3, small), small), abs=3)


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_kind_of_image_is_corrupted_as_its_rgb(name: str, mode: str) -> None:
    image = photo(30, 20, 1).convert(mode)
    result = corrupted(name, 3, image)
    assert result.mode == "RGB" and result.size == (30, 20)
    assert result.tobytes() == corrupted(name, 3, image.convert("RGB")).tobytes()


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 3), (2, 2)])
def test_odd_shapes_keep_their_size(name: str, size: tuple[int, int]) -> None:
    assert corrupted(name, 5, Image.new("RGB", size, (90, 30, 10))).size == size


@pytest.mark.parametrize("name", GRADED)
def test_the_image_given_stays_as_it_was(name: str) -> None:
    image = photo(40, 30, 2)
    before = image.tobytes()
    assert corrupted(name, 5, image).tobytes() != before
    assert image.tobytes() == before


def test_contrast_by_hand() -> None:
    """Red 0 and 200 have the mean 100; at 0.2 they come to 80 and 120."""
    image = Image.fromarray(np.array([[[0, 7, 50], [200, 7, 150]]], np.uint8))
    assert CONTRAST[2] == 0.2
    assert np.asarray(corrupted("image-contrast", 3, image)).tolist() == [
        [[80, 7, 90], [120, 7, 110]]
    ]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_is_that_of_hsv(severity: int) -> None:
    image = photo(12, 10, 3)
    result = np.asarray(corrupted("image-brightness", severity, image), float)
    for clean, bright in zip(np.asarray(image).reshape(-1, 3), result.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*clean / 255)
        value = min(1.0, value + BRIGHTNESS_ADDED[severity - 1])
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        assert np.abs(expected - bright).max() <= 0.5 + 1e-6
    black = corrupted("image-brightness", severity, Image.new("RGB", (1, 1)))
    assert black.getpixel((0, 0)) == (round(255 * BRIGHTNESS_ADDED[severity - 1]),) * 3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_occlusion_covers_the_stated_fraction(severity: int) -> None:
    share = OCCLUDED_AREA[severity - 1]
    for key in range(5):
        result = corrupted("image-occlusion", severity, Image.new("RGB", (200, 150)), str(key))
        covered = (np.asarray(result) == 128).all(axis=2).mean()
        assert share <= covered < share + 0.045


def test_pixelate_leaves_the_stated_number_of_values() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    for severity, fraction in enumerate(PIXEL_SCALE, 1):
        row = np.asarray(corrupted("image-pixelate", severity, Image.fromarray(ramp.copy())))[
            0, :, 0
        ]
        assert len(set(row.tolist())) == int(200 * fraction)


def test_rotation_turns_by_the_stated_angle_to_either_side() -> None:
    """Rotate a bar from the middle to the right edge: it points along the angle."""
    pixels = np.zeros((101, 101, 3), np.uint8)
    pixels[49:52, 50:] = 255
    for severity, degrees in enumerate(ROTATION_DEGREES, 1):
        angles = []
        for key in range(8):
            turned = np.asarray(
                corrupted("image-rotation", severity, Image.fromarray(pixels), str(key))
            )
            rows, columns = np.nonzero(turned[..., 0] > 128)
            angles.append(np.degrees(np.arctan2(50 - rows.mean(), columns.mean() - 50)))
        assert np.abs(angles) == pytest.approx([degrees] * 8, abs=1)
        assert min(angles) < 0 < max(angles)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [(48, 48), (224, 224), (640, 480), (1000, 600)])
def test_a_blur_done_on_a_smaller_image_is_the_blur(size: tuple[int, int], severity: int) -> None:
    """Within 45 dB of Pillow's own at full size, where the corruption itself is at 15 to 35."""
    image = photo(*size, 4)
    sigma = np.hypot(BLUR_SIGMA[severity - 1] * max(size) / 224, 0.4)
    exact = image.filter(ImageFilter.GaussianBlur(float(sigma)))
    result = corrupted("image-blur", severity, image)
    assert result.tobytes() == exact.tobytes() or psnr(result, exact) > 45


def test_blur_keeps_the_mean_and_spreads_a_point_by_the_stated_width() -> None:
    """Sigma at severity 5: 6 pixels of 224, with the least blur in quadrature sqrt(36.16)."""
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[92:132, 92:132] = 250
    result = np.asarray(corrupted("image-blur", 5, Image.fromarray(pixels)), float)[..., 0]
    assert result.mean() == pytest.approx(pixels[..., 0].mean(), rel=0.01)
    columns = np.arange(224)
    profile = result.sum(axis=0)
    spread = (profile * (columns - 111.5) ** 2).sum() / profile.sum()
    assert spread == pytest.approx(6**2 + 0.4**2 + (40**2 - 1) / 12, rel=0.03)


# --- the text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_typing_errors_hit_exactly_the_stated_fraction_of_words(severity: int) -> None:
    words = TEXT.split()
    assert len(words) == 60
    for key in range(5):
        result = misspelt(TEXT, severity, str(key)).split()
        wrong = sum(a != b for a, b in zip(words, result, strict=True))
        assert wrong == round(WORD_FRACTIONS[severity - 1] * 60)


def edits(word: str, typed: str) -> int:
    """Levenshtein distance in which a swap of neighbours counts once."""
    rows = [list(range(len(typed) + 1))]
    for i, letter in enumerate(word, 1):
        row = [i]
        for j, second in enumerate(typed, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != second))
            if i > 1 and j > 1 and letter == typed[j - 2] and word[i - 2] == second:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


@pytest.mark.parametrize("word", ["pie", "Apple", "a", "ee", "&", "7", "naïve", "蛋糕", "x-ray"])
def test_a_typing_error_is_one_edit_and_all_kinds_occur(word: str) -> None:
    typed = {misspelt(word, 5, str(key)) for key in range(200)}
    assert word not in typed and "" not in typed
    assert {edits(word, second) for second in typed} == {1}
    lengths = {len(second) - len(word) for second in typed}
    assert 1 in lengths
    assert (-1 in lengths) == (len(word) > 1)


def test_neighbours_are_those_of_a_keyboard_and_keep_the_case() -> None:
    assert set(NEIGHBOURS["s"]) == set("weadzx")
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert all(a in NEIGHBOURS[b] for a, near in NEIGHBOURS.items() for b in near)
    one_key = {t for k in range(300) if len(t := misspelt("SS", 5, str(k))) == 2}
    assert one_key and all(set(second) <= set("SWEADZX") for second in one_key)


def test_the_shortest_text_is_not_spared_and_an_empty_one_is() -> None:
    assert misspelt("pie", 1) != "pie"
    assert misspelt("", 5) == misspelt("   ", 5) == ""


def test_more_words_change_with_severity() -> None:
    def changed(name: str) -> Sequence[float]:
        words = TEXT.split()
        return [
            np.mean(
                [
                    a != b
                    for key in range(10)
                    for a, b in zip(words, misspelt(TEXT, s, str(key), name).split(), strict=True)
                ]
            )
            for s in SEVERITIES
        ]

    for name in ("text-typo", "text-noise"):
        assert changed(name) == pytest.approx(WORD_FRACTIONS, abs=0.05)


# --- what published records rest on ------------------------------------------------------------


def test_corruption_of_published_records_is_still_the_same() -> None:
    image = Image.fromarray(
        np.arange(40 * 50 * 3, dtype=np.uint32).reshape(40, 50, 3).astype(np.uint8)
    )
    large = image.resize((400, 320), Image.Resampling.NEAREST)
    result = {
        "noise": corrupted("image-noise", 3, image).tobytes(),
        "large": corrupted("image-noise", 5, large).tobytes(),
        "words": misspelt(TEXT, 3, name="text-noise").encode(),
        "order": misspelt(TEXT, None, name="text-wordshuffle").encode(),
    }
    hashes = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in result.items()}
    assert hashes == {
        "noise": "feea512b3a871195",
        "large": "3e767a0a10275e8a",
        "words": "e9b41b3d24f85b8e",
        "order": "ee27127734e0d37d",
    }
