"""Command corruptions: a picture of every image corruption and a table of those of a text.

Corruptions are applied at the displayed size: no later resampling hides them.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.files import explain_write_errors
from steelyard.harness.core.progress import console
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks._shared.images import open_image
from steelyard.tasks.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from steelyard.tasks.world import scenes

SIZE = 80
"""Longest edge of an image in pixels; noise makes large files."""
GAP, MARGIN, HEAD, LETTER = 4, 74, 20, 12
INK, PAPER = (40, 40, 40), (255, 255, 255)
SCENE = scenes.Scene(
    "orchard", (scenes.Object("apple", "red", 0), scenes.Object("pear", "green", 3))
)
DONOR_SCENE = scenes.Scene(
    "sea", (scenes.Object("fish", "blue", 1), scenes.Object("cup", "orange", 2))
)
TEXT = "Grandma's easy apple pie with cinnamon, brown sugar and a buttery crust"
DONOR_TEXT = "Blue fish in an orange cup: a light supper by the sea in twenty minutes"


@click.command()
@click.option("--image", type=Path, help="Image to corrupt [default: a generated scene].")
@click.option("--out", type=Path, default="contact_sheet.png", show_default=True,
              help="Picture to write.")  # fmt: skip
def corruptions(image: Path | None, out: Path) -> None:
    """Draw every image corruption at every severity.

    Also prints all corruptions of a text.

    \b
    Example:
      steelyard corruptions --image photo.jpg --out sheet.png
    """
    console.print(write_sheet(image, out), highlight=False)
    click.echo(f"Pictures in {out}, without image-adversarial: it needs the model under test.")


def write_sheet(image: Path | None, out: Path) -> Table:
    """Write the sheet of an image, or of a generated scene; return the table of texts.

    Raises:
        UserError: the image cannot be read, or the sheet cannot be written.
    """
    if out.suffix != ".png":
        raise UserError(f"--out {out}: the sheet is a picture, give a name that ends with .png.")
    page = draw_sheet(read_image(image) if image else draw_scene(SCENE))
    with explain_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        page.save(out, optimize=True)
    return text_table()


def draw_scene(scene: scenes.Scene) -> Image.Image:
    """Draw a scene of the generated world; equal calls give equal pixels."""
    rng = np.random.default_rng(seed_for("contact sheet", scene.symbol))
    return Image.fromarray(scenes.draw(scene, rng, SIZE))


def read_image(path: Path) -> Image.Image:
    """Read an image and shrink it to ``SIZE``.

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


def draw_sheet(image: Image.Image) -> Image.Image:
    """Draw corruptions without severities in the first row, then one row per other corruption."""
    corrupted = {
        name.removeprefix("image-"): [
            corrupt_image(name, severity, image) for severity in corruption.severities or (None,)
        ]
        for name, corruption in CORRUPTIONS.items()
        if corruption.modality == "image" and corruption.apply is not None
    }
    # A corruption without severities has one cell.
    plain: dict[str, Image.Image | None] = {"clean": image}
    plain |= {name: cells[0] for name, cells in corrupted.items() if len(cells) == 1}
    graded = {name: cells for name, cells in corrupted.items() if len(cells) > 1}
    step_x, step_y = image.width + GAP, image.height + GAP
    height = 2 * HEAD + (1 + len(graded)) * step_y
    page = Image.new("RGB", (MARGIN + len(SEVERITIES) * step_x, height), PAPER)
    _draw_heads(page, 0, step_x, list(plain))
    _draw_cells(page, HEAD, list(plain.values()), image.size)
    heads = [f"severity {severity}" for severity in SEVERITIES]
    _draw_heads(page, HEAD + step_y, step_x, heads)
    for row, (name, cells) in enumerate(graded.items(), 1):
        top = 2 * HEAD + row * step_y
        corner = (GAP, top + (image.height - LETTER) // 2)
        ImageDraw.Draw(page).text(corner, name, INK, _font())
        _draw_cells(page, top, cells, image.size)
    return page


def _draw_heads(page: Image.Image, top: int, step: int, names: Sequence[str]) -> None:
    for column, name in enumerate(names):
        corner = (MARGIN + column * step, top + GAP)
        ImageDraw.Draw(page).text(corner, name, INK, _font())


def _draw_cells(
    page: Image.Image, top: int, cells: Sequence[Image.Image | None], size: tuple[int, int]
) -> None:
    """Draw images in a row; an empty frame stands for no image."""
    for column, cell in enumerate(cells):
        x = MARGIN + column * (size[0] + GAP)
        if cell is None:
            corners = ((x, top), (x + size[0] - 1, top + size[1] - 1))
            ImageDraw.Draw(page).rectangle(corners, outline=INK)
        else:
            page.paste(cell, (x, top))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LETTER)


def corrupt_image(name: str, severity: int | None, image: Image.Image) -> Image.Image | None:
    """Return the corrupted image; None if the corruption removes it."""
    donor = draw_scene(DONOR_SCENE).resize(image.size, Image.Resampling.BOX)
    inputs = Inputs(image, TEXT)
    return corrupt(name, severity, "contact sheet", inputs, lambda rng: Inputs(donor, None)).image


def text_table() -> Table:
    """Return all corruptions of a text, one row per severity."""
    table = Table("corruption", "severity", "text")
    table.add_row("clean", "", TEXT)
    for name, corruption in CORRUPTIONS.items():
        if corruption.modality == "text":
            for severity in corruption.severities or (None,):
                inputs = corrupt(
                    name,
                    severity,
                    "contact sheet",
                    Inputs(None, TEXT),
                    lambda rng: Inputs(None, DONOR_TEXT),
                )
                table.add_row(name, str(severity or ""), inputs.text or "(none)")
    return table
