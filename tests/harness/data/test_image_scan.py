"""Scans of image files: faults, content hashes and difference hashes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from steelyard.harness.data import image_scan, images
from steelyard.harness.datacheck import duplicates

RNG = np.random.default_rng(0)


def noise(path: Path, size: int = 64) -> Path:
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), np.uint8)).save(path)
    return path


def apart(first: Path, second: Path) -> int:
    """Bits in which the two pictures' difference hashes differ."""
    first_bits, second_bits = (
        int.from_bytes(image_scan.scan_image(path).fingerprint, "big") for path in (first, second)
    )
    return (first_bits ^ second_bits).bit_count()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_truncation_is_found_whatever_the_global_switch(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    complete, cut = noise(tmp_path / f"whole.{suffix}"), tmp_path / f"cut.{suffix}"
    content = complete.read_bytes()
    cut.write_bytes(content[: int(0.9 * len(content))])
    looks = image_scan.scan([complete, cut])
    assert looks[complete].fault == "" and looks[cut].fault


def test_a_fault_is_described_without_paths_or_addresses(tmp_path: Path) -> None:
    page, empty, none = (tmp_path / name for name in ("page.jpg", "empty.jpg", "none.jpg"))
    page.write_text("<html>not found</html>", encoding="utf-8")
    empty.touch()
    looks = image_scan.scan([page, empty, none, tmp_path])
    faults = {path.name: look.fault for path, look in looks.items()}
    assert faults == {
        "page.jpg": "not an image",
        "empty.jpg": "empty file",
        "none.jpg": images.MISSING,
        tmp_path.name: "not a file",
    }


def test_a_scan_has_size_and_content(tmp_path: Path) -> None:
    path = noise(tmp_path / "one.png", 40)
    same = tmp_path / "same.png"
    same.write_bytes(path.read_bytes())
    image = image_scan.scan_image(path)
    assert (image.width, image.height, len(image.content), len(image.fingerprint)) == (
        40,
        40,
        16,
        16,
    )
    assert image_scan.scan_image(same) == image
    assert image_scan.scan_image(noise(tmp_path / "other.png", 40)).content != image.content


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "LAB", "I;16"])
def test_every_mode_is_scanned(tmp_path: Path, mode: str) -> None:
    suffix = "tiff" if mode in ("CMYK", "LAB") else "png"
    source = Image.new("L", (24, 24)) if mode == "I;16" else Image.effect_noise((24, 24), 80)
    path = tmp_path / f"picture.{suffix}"
    source.convert(mode).save(path)
    assert image_scan.scan_image(path).fault == ""


def test_pictures_that_look_alike_are_near_and_others_far(tmp_path: Path) -> None:
    photo = noise(tmp_path / "photo.png", 6)
    with Image.open(photo) as image:
        large = image.resize((160, 120), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.png")
    large.save(tmp_path / "again.jpg", quality=70)
    large.resize((320, 240)).save(tmp_path / "larger.jpg", quality=90)
    assert apart(tmp_path / "large.png", tmp_path / "again.jpg") <= duplicates.NEAR
    assert apart(tmp_path / "large.png", tmp_path / "larger.jpg") <= duplicates.NEAR
    assert apart(photo, noise(tmp_path / "other.png", 6)) > 3 * duplicates.NEAR


def test_difference_hash_by_hand() -> None:
    # Brighter by ten grey levels with each column: every step to the right is one, none downwards.
    picture = Image.new("L", (image_scan.GRID, image_scan.GRID))
    picture.putdata([10 * (index % image_scan.GRID) for index in range(image_scan.GRID**2)])
    assert image_scan.difference_hash(picture) == b"\xff" * 8 + b"\x00" * 8
    down = picture.transpose(Image.Transpose.TRANSPOSE)
    assert image_scan.difference_hash(down) == b"\x00" * 8 + b"\xff" * 8
    faint = picture.point(lambda value: value // 5)  # two levels a column: as good as flat
    assert image_scan.difference_hash(faint) == b"\x00" * 16


def test_progress_is_reported_by_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_scan, "CHUNK", 2)
    paths = [noise(tmp_path / f"{number}.png", 8) for number in range(5)]
    counts: list[tuple[int, int]] = []
    with image_scan.report_images(lambda done, total: counts.append((done, total))):
        image_scan.scan(paths)
    assert counts == [(2, 5), (4, 5), (5, 5)]
    image_scan.scan([noise(tmp_path / "more.png", 8)])
    assert len(counts) == 3
