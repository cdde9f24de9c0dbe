"""Command corruptions: a picture of every image corruption and a table of those of a text.

Corruptions are applied at the displayed size: no later resampling hides them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steelyard.harness.cli.options import output_file
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.files import explain_write_errors, user_path
from steelyard.harness.core.progress import echo, print_table
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks.corruptions import CORRUPTIONS, SEVERITIES, corrupt

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 80
"""Longest edge of an image in pixels; noise makes large files."""
# Pixels: between cells, left of them for names, above them for headings, height of a letter.
GAP, MARGIN, HEAD, LETTER = 4, 74, 20, 12
INK, PAPER = (40, 40, 40), (255, 255, 255)
SCENE = ("orchard", ("apple", "red", 0), ("pear", "green", 3))
DONOR_SCENE = ("sea", ("fish", "blue", 1), ("cup", "orange", 2))
"""Place and objects: class, colour and position."""
TEXT = "Grandma's easy apple pie with cinnamon, brown sugar and a buttery crust"
DONOR_TEXT = "Blue fish in an orange cup: a light supper by the sea in twenty minutes"


@click.command()
@click.option("--image", type=user_path, metavar="PATH",
              help="Image to corrupt [default: a generated scene].")  # fmt: skip
@click.option("--out", type=user_path, metavar="PATH", callback=output_file,
              default="contact_sheet.png", show_default=True, help="Picture to write.")  # fmt: skip
def corruptions(image: Path | None, out: Path) -> None:
    """Draw every image corruption at every severity.

    Also prints all corruptions of a text.

    \b
    Example:
      steelyard corruptions --image photo.jpg --out sheet.png
    """
    write_sheet(image, out)
    print_table(("corruption", "severity", "text"), text_rows())
    echo(f"Pictures in {out}, without image-adversarial: it needs the model under test.")


def write_sheet(image: Path | None, out: Path) -> None:
    """Write the sheet of an image, or of a generated scene.

    Raises:
        UserError: the image cannot be read, or the sheet cannot be written.
    """
    if out.suffix != ".png":
        raise UserError(f"--out {out}: the sheet is a picture, give a name that ends with .png.")
    page = draw_sheet(read_image(image) if image else draw_scene(*SCENE))
    with explain_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        page.save(out, optimize=True)


def draw_scene(place: str, *objects: tuple[str, str, int]) -> "Image":
    """Draw a scene of the generated world; equal calls give equal pixels."""
    import numpy as np
    from PIL import Image

    from steelyard.tasks.world import scenes

    scene = scenes.Scene(place, tuple(scenes.Object(*parts) for parts in objects))
    rng = np.random.default_rng(seed_for("contact sheet", scene.symbol))
    return Image.fromarray(scenes.draw(scene, rng, SIZE))


def read_image(path: Path) -> "Image":
    """Read an image and shrink it to ``SIZE``.

    Raises:
        UserError: it cannot be read.
    """
    from PIL import Image

    from steelyard.harness.data.images import open_image

    image = open_image(path)
    image.thumbnail((SIZE, SIZE), Image.Resampling.BOX)
    return image


def draw_sheet(image: "Image") -> "Image":
    """Draw corruptions without severities in the first row, then one row per other corruption."""
    from PIL import Image, ImageDraw, ImageFont

    corrupted = {
        name.removeprefix("image-"): [
            corrupt_image(name, severity, image) for severity in corruption.severities or (None,)
        ]
        for name, corruption in CORRUPTIONS.items()
        if corruption.modality == "image" and corruption.apply is not None
    }
    # A corruption without severities has one cell.
    plain = {name: cells[0] for name, cells in corrupted.items() if len(cells) == 1}
    graded = {name: cells for name, cells in corrupted.items() if len(cells) > 1}
    rows = {"": [image, *plain.values()], **graded}
    heads = {0: ["clean", *plain], 1: [f"severity {severity}" for severity in SEVERITIES]}
    step_x, step_y = image.width + GAP, image.height + GAP
    size = (MARGIN + len(SEVERITIES) * step_x, len(heads) * HEAD + len(rows) * step_y)
    page = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(LETTER)
    for row, (name, cells) in enumerate(rows.items()):
        top = HEAD * min(row + 1, len(heads)) + row * step_y
        draw.text((GAP, top + (image.height - LETTER) // 2), name, INK, font)
        for column, head in enumerate(heads.get(row, ())):
            draw.text((MARGIN + column * step_x, top - HEAD + GAP), head, INK, font)
        for column, cell in enumerate(cells):
            x = MARGIN + column * step_x
            if cell is None:  # an empty frame
                corner = (x + image.width - 1, top + image.height - 1)
                draw.rectangle(((x, top), corner), outline=INK)
            else:
                page.paste(cell, (x, top))
    return page


def corrupt_image(name: str, severity: int | None, image: "Image") -> "Image | None":
    """Return the corrupted image; None if the corruption removes it."""
    from PIL import Image

    donor = draw_scene(*DONOR_SCENE).resize(image.size, Image.Resampling.BOX)
    inputs = Inputs(image, TEXT)
    return corrupt(name, severity, "contact sheet", inputs, lambda rng: Inputs(donor, None)).image


def text_rows() -> Iterator[tuple[str, str, str]]:
    """Yield all corruptions of a text: name, severity and text."""
    inputs, donor = Inputs(None, TEXT), Inputs(None, DONOR_TEXT)
    yield "clean", "", TEXT
    for name, corruption in CORRUPTIONS.items():
        if corruption.modality == "text":
            for severity in corruption.severities or (None,):
                result = corrupt(name, severity, "contact sheet", inputs, lambda rng: donor)
                yield name, str(severity or ""), result.text or "(none)"
