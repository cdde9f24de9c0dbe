"""One look at every image: faults, hashes, and a cache that may be stale, broken or absent."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from steelyard.harness.core.files import cache_folder
from steelyard.harness.data import image_scan
from steelyard.harness.datacheck import duplicates

RNG = np.random.default_rng(0)


def noise(path: Path, size: int = 64) -> Path:
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), np.uint8)).save(path)
    return path


def apart(one: Path, other: Path) -> int:
    """Bits in which the two pictures' difference hashes differ."""
    left, right = (int.from_bytes(image_scan.look_at(path).alike, "big") for path in (one, other))
    return (left ^ right).bit_count()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's file; every scan uses it, however few the images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_scan, "CACHED_FROM", 1)
    return cache_folder() / image_scan.DATABASE


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths that were read and decoded, in any order."""
    seen: list[Path] = []
    look_at = image_scan.look_at

    def spy(path: Path) -> image_scan.Look:
        seen.append(path)
        return look_at(path)

    monkeypatch.setattr(image_scan, "look_at", spy)
    return seen


# --- Looks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_truncation_is_found_whatever_the_global_switch(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole, cut = noise(tmp_path / f"whole.{suffix}"), tmp_path / f"cut.{suffix}"
    content = whole.read_bytes()
    cut.write_bytes(content[: int(0.9 * len(content))])
    looks = image_scan.scan([whole, cut])
    assert looks[whole].fault == "" and looks[cut].fault
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_fault_is_said_without_paths_or_addresses(tmp_path: Path) -> None:
    page, empty, none = (tmp_path / name for name in ("page.jpg", "empty.jpg", "none.jpg"))
    page.write_text("<html>not found</html>", encoding="utf-8")
    empty.touch()
    looks = image_scan.scan([page, empty, none, tmp_path])
    faults = {path.name: look.fault for path, look in looks.items()}
    assert faults == {
        "page.jpg": "not an image",
        "empty.jpg": "empty file",
        "none.jpg": image_scan.MISSING,
        tmp_path.name: "cannot be read: Is a directory",
    }


def test_a_look_says_size_and_content(tmp_path: Path) -> None:
    one = noise(tmp_path / "one.png", 40)
    same = tmp_path / "same.png"
    same.write_bytes(one.read_bytes())
    look = image_scan.look_at(one)
    assert (look.width, look.height, len(look.content), len(look.alike)) == (40, 40, 16, 16)
    assert image_scan.look_at(same) == look
    assert image_scan.look_at(noise(tmp_path / "other.png", 40)).content != look.content


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16"])
def test_every_mode_is_looked_at(tmp_path: Path, mode: str) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    source = Image.new("L", (24, 24)) if mode == "I;16" else Image.effect_noise((24, 24), 80)
    path = tmp_path / f"picture.{suffix}"
    source.convert(mode).save(path)
    assert image_scan.look_at(path).fault == ""


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
    picture.putdata([10 * (place % image_scan.GRID) for place in range(image_scan.GRID**2)])
    assert image_scan.difference_hash(picture) == b"\xff" * 8 + b"\x00" * 8
    down = picture.transpose(Image.Transpose.TRANSPOSE)
    assert image_scan.difference_hash(down) == b"\x00" * 8 + b"\xff" * 8
    faint = picture.point(lambda value: value // 5)  # two levels a column: as good as flat
    assert image_scan.difference_hash(faint) == b"\x00" * 16


# --- The cache -------------------------------------------------------------------------------


def test_only_what_is_new_or_changed_is_decoded(
    tmp_path: Path, cached: Path, decoded: list[Path]
) -> None:
    paths = [noise(tmp_path / f"{number}.png") for number in range(5)]
    before = image_scan.scan(paths)
    assert sorted(decoded) == paths and cached.is_file()
    decoded.clear()
    assert image_scan.scan(paths) == before
    assert decoded == []
    noise(paths[1])
    noise(tmp_path / "5.png")
    after = image_scan.scan([*paths, tmp_path / "5.png"])
    assert sorted(decoded) == [paths[1], tmp_path / "5.png"]
    assert after[paths[1]].content != before[paths[1]].content
    assert after[paths[2]] == before[paths[2]]


def test_faults_are_kept_but_not_what_could_not_be_read(
    tmp_path: Path, cached: Path, decoded: list[Path]
) -> None:
    broken, folder, none = tmp_path / "broken.jpg", tmp_path / "folder.jpg", tmp_path / "none.jpg"
    broken.write_text("no image", encoding="utf-8")
    folder.mkdir()
    first = image_scan.scan([broken, folder, none])
    decoded.clear()
    assert image_scan.scan([broken, folder, none]) == first
    assert decoded == [folder]
    folder.rmdir()
    assert image_scan.scan([noise(folder), noise(none)])[none].fault == ""


def test_small_sets_leave_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_scan.scan([noise(tmp_path / "one.png")])
    assert not (tmp_path / "cache").exists()


def spoil(path: Path) -> None:
    path.write_bytes(b"not a database, not at all" * 100)


def spoil_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:] = b"\x99" * (len(content) - 100)  # the header stays
    path.write_bytes(content)


@pytest.mark.parametrize("corruption", [spoil, spoil_inside, Path.unlink])
def test_a_broken_cache_is_begun_anew(
    tmp_path: Path, cached: Path, decoded: list[Path], corruption: Callable[[Path], None]
) -> None:
    paths = [noise(tmp_path / f"{number}.png") for number in range(3)]
    before = image_scan.scan(paths)
    corruption(cached)
    assert image_scan.scan(paths) == before
    decoded.clear()
    assert image_scan.scan(paths) == before
    assert decoded == []


def test_without_a_place_for_the_cache_images_are_read(
    tmp_path: Path, cached: Path, decoded: list[Path]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    path = noise(tmp_path / "one.png")
    assert image_scan.scan([path])[path].fault == ""
    assert image_scan.scan([path])[path].fault == ""
    assert decoded == [path, path]


def test_a_cache_in_use_or_full_is_done_without(
    tmp_path: Path, cached: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise(tmp_path / "one.png")
    look = image_scan.scan([path])[path]

    def refuse(*args: object, **kwargs: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert image_scan.scan([path])[path] == look
    assert decoded == [path, path]


def test_two_may_write_at_once(tmp_path: Path, cached: Path) -> None:
    folders = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        folders.append(folder)
        for number in range(300):
            noise(folder / f"{number}.png", 8)
    script = (
        "import sys; from pathlib import Path; from steelyard.harness.data import image_scan as s;"
        "s.CACHED_FROM, s.CHUNK = 1, 5; s.scan(sorted(Path(sys.argv[1]).iterdir()))"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, str(folder)]) for folder in folders]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    with sqlite3.connect(cached) as database:
        assert database.execute(f"SELECT count(*) FROM {image_scan.TABLE}").fetchone() == (600,)


def test_progress_is_told_by_the_chunk(
    tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_scan, "CHUNK", 2)
    paths = [noise(tmp_path / f"{number}.png", 8) for number in range(5)]
    told: list[tuple[int, int]] = []
    with image_scan.reported(lambda done, total: told.append((done, total))):
        image_scan.scan(paths)
    assert told == [(2, 5), (4, 5), (5, 5)]
    image_scan.scan([noise(tmp_path / "more.png", 8)])
    assert len(told) == 3
