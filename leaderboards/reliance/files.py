"""The files of a reliance profile."""

from pathlib import Path

from steelyard.leaderboards.output.files import write_files
from steelyard.leaderboards.reliance.numbers import Diagnosis
from steelyard.leaderboards.reliance.plots import picture
from steelyard.leaderboards.reliance.tables import as_csv, as_json, markdown

NAME = "diagnosis"


def write(found: Diagnosis, out: Path) -> list[Path]:
    """Write page, tables and picture into ``out``; the page comes first in what is returned."""
    pictures = {f"{NAME}.{kind}": content for kind, content in picture(found).items()}
    content = {
        f"{NAME}.md": markdown(found, f"{NAME}.svg" if pictures else "").encode(),
        f"{NAME}.csv": as_csv(found).encode(),
        f"{NAME}.json": as_json(found).encode(),
        **pictures,
    }
    return write_files(out, content)
