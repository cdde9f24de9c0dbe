"""``steelyard corruptions``: one picture of all corruptions, the same each time."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from steelyard import tasks
from steelyard.harness.cli import corruptions
from steelyard.harness.cli.corruptions import GAP, HEAD, MARGIN, SIZE
from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.tasks.corruptions import CORRUPTIONS

COMMITTED = Path(tasks.__file__).parent / "contact_sheet.png"
GRADED = [n for n, c in CORRUPTIONS.items() if c.modality == "image" and c.apply and c.severities]


def cell(page: Image.Image, row: int, column: int) -> Image.Image:
    """Return an image of the sheet; row 0 has no severities."""
    x = MARGIN + column * (SIZE + GAP)
    top = HEAD + row * (SIZE + GAP) + (HEAD if row else 0)
    return page.crop((x, top, x + SIZE, top + SIZE))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), float)


def test_the_sheet_shows_what_the_corruptions_do() -> None:
    clean = corruptions.draw_scene(*corruptions.SCENE)
    page = corruptions.draw_sheet(clean)
    assert np.array_equal(pixels(cell(page, 0, 0)), pixels(clean))
    for row, name in enumerate(GRADED, 1):
        for column in (0, 4):
            corrupted = corruptions.corrupt_image(name, column + 1, clean)
            assert corrupted is not None
            assert np.array_equal(pixels(cell(page, row, column)), pixels(corrupted)), (
                name,
                column,
            )


def test_the_committed_sheet_is_what_the_command_makes(tmp_path: Path) -> None:
    """Up to a few pixels, for fonts and JPEG differ between versions of libraries."""
    if not COMMITTED.is_file():
        pytest.skip("the picture is no part of an installed package")
    ran = CliRunner().invoke(cli, ["corruptions", "--out", str(tmp_path / "one" / "sheet.png")])
    assert ran.exit_code == 0 and "text-misleading" in ran.output
    sheet, committed = (Image.open(p) for p in (tmp_path / "one" / "sheet.png", COMMITTED))
    assert sheet.size == committed.size
    assert np.abs(pixels(sheet) - pixels(committed)).mean() < 2


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    Image.fromarray(
        np.arange(300 * 200 * 3, dtype=np.uint32).reshape(200, 300, 3).astype(np.uint8)
    ).save(photo)
    for name in ("a.png", "b.png"):
        corruptions.write_sheet(photo, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_table_has_every_text_corruption_at_every_severity() -> None:
    names = [name for name, _, _ in corruptions.text_rows()]
    rows = {n: len(c.severities) or 1 for n, c in CORRUPTIONS.items() if c.modality == "text"}
    assert {name: names.count(name) for name in rows} == rows
    assert names[0] == "clean" and len(names) == 1 + sum(rows.values())


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("not a picture")
    for image, out, message in (
        (tmp_path / "none.jpg", "a.png", "none.jpg: .*missing"),
        (page, "a.png", "page.txt: .*not an image"),
        (None, "a.jpg", "name that ends with .png"),
        (None, "page.txt/a.png", "Could not write"),
    ):
        with pytest.raises(UserError, match=message):
            corruptions.write_sheet(image, tmp_path / out)
