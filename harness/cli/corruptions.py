"""The ``corruptions`` command: every corruption of a picture on one sheet, those of a text as rows.

Damage is done at the size shown, so no resampling afterwards hides any of it.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.files import write_atomic
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks._shared.images import open_image
from steelyard.tasks.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from steelyard.tasks.world import scenes

SIZE = 80
"""Longest side of a picture, in pixels; noise makes large files."""
GAP, MARGIN, HEAD, LETTER = 4, 74, 20, 12
INK, PAPER = (40, 40, 40), (255, 255, 255)
SHOWN = scenes.Scene(
    "orchard", (scenes.Object("apple", "red", 0), scenes.Object("pear", "green", 3))
)
OTHER = scenes.Scene("sea", (scenes.Object("fish", "blue", 1), scenes.Object("cup", "orange", 2)))
TEXT = "Grandma's easy apple pie with cinnamon, brown sugar and a buttery crust"
OTHER_TEXT = "Blue fish in an orange cup: a light supper by the sea in twenty minutes"


def scene(shown: scenes.Scene, size: int = SIZE) -> Image.Image:
    """A picture of the generated world; equal calls give equal pixels."""
    rng = np.random.default_rng(seed_for("contact sheet", shown.symbol))
    return Image.fromarray(scenes.draw(shown, rng, size))


def read(path: Path) -> Image.Image:
    """A user's picture at the size shown.

    Raises:
        UserError: it cannot be read.
    """
    try:
        image = open_image(path)
    except OSError as error:
        raise UserError(f"Could not read {path}: {error.strerror or error}.") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"Could not read {path}: {error}") from error
    image.thumbnail((SIZE, SIZE), Image.Resampling.BOX)
    return image


def sheet(image: Image.Image) -> Image.Image:
    """Above what has no severities, below the other corruptions by rows, severities by columns."""
    own = {
        name.removeprefix("image-"): [
            _corrupted(name, severity, image) for severity in corruption.severities or (None,)
        ]
        for name, corruption in CORRUPTIONS.items()
        if corruption.modality == "image" and corruption.apply is not None
    }
    plain = {"clean": image, **{name: cells[0] for name, cells in own.items() if len(cells) == 1}}
    graded = {name: cells for name, cells in own.items() if len(cells) > 1}
    step_x, step_y = image.width + GAP, image.height + GAP
    high = 2 * HEAD + (1 + len(graded)) * step_y
    page = Image.new("RGB", (MARGIN + len(SEVERITIES) * step_x, high), PAPER)
    _heads(page, 0, step_x, list(plain))
    _cells(page, HEAD, list(plain.values()), image.size)
    _heads(page, HEAD + step_y, step_x, [f"severity {severity}" for severity in SEVERITIES])
    for row, (name, cells) in enumerate(graded.items(), 1):
        top = 2 * HEAD + row * step_y
        place = (GAP, top + (image.height - LETTER) // 2)
        ImageDraw.Draw(page).text(place, name, INK, _font())
        _cells(page, top, cells, image.size)
    return page


def _heads(page: Image.Image, top: int, step: int, names: Sequence[str]) -> None:
    for column, name in enumerate(names):
        place = (MARGIN + column * step, top + GAP)
        ImageDraw.Draw(page).text(place, name, INK, _font())


def _cells(
    page: Image.Image, top: int, cells: Sequence[Image.Image | None], size: tuple[int, int]
) -> None:
    """Pictures side by side; an empty frame for no image."""
    for column, cell in enumerate(cells):
        left = MARGIN + column * (size[0] + GAP)
        if cell is None:
            corners = ((left, top), (left + size[0] - 1, top + size[1] - 1))
            ImageDraw.Draw(page).rectangle(corners, outline=INK)
        else:
            page.paste(cell, (left, top))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LETTER)


def _corrupted(name: str, severity: int | None, image: Image.Image) -> Image.Image | None:
    other = scene(OTHER).resize(image.size, Image.Resampling.BOX)
    inputs = Inputs(image, TEXT)
    return corrupt(name, severity, "contact sheet", inputs, lambda rng: Inputs(other, None)).image


def texts() -> Table:
    """All corruptions of a text, one row a severity."""
    table = Table("corruption", "severity", "text")
    table.add_row("clean", "", TEXT)
    for name, corruption in CORRUPTIONS.items():
        if corruption.modality == "text":
            for severity in corruption.severities or (None,):
                found = corrupt(
                    name,
                    severity,
                    "contact sheet",
                    Inputs(None, TEXT),
                    lambda rng: Inputs(None, OTHER_TEXT),
                )
                table.add_row(name, str(severity or ""), found.text or "(none)")
    return table


def make(image: Path | None, out: Path) -> Table:
    """Write the sheet of the user's image, or of a generated scene, and return the table of texts.

    Raises:
        UserError: the image cannot be read, or the sheet cannot be written.
    """
    if out.suffix != ".png":
        raise UserError(f"--out {out}: the sheet is a picture, name it with .png at the end.")
    page = sheet(read(image) if image else scene(SHOWN))
    content = io.BytesIO()
    page.save(content, "png", optimize=True)
    write_atomic(out, content.getvalue())
    return texts()
