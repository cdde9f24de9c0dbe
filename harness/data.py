"""What a data set is once it has been read: one record type for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Example:
    """One item: an image and its evidence text, either of which may be absent."""

    id: str
    """Unique within the data set; leading zeros are kept."""
    image: Path | None
    text: str | None
    """Evidence (title, meme caption, plot); never the instruction."""
    labels: tuple[int, ...]
    """Class indices: exactly one unless the data set is multi-label."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be used, kept so that it can be counted and listed."""

    id: str
    split: str
    reason: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """A data set read from disk."""

    name: str
    root: Path
    classes: tuple[str, ...]
    multi_label: bool
    splits: Mapping[str, tuple[Example, ...]]
    """Always ``train``, ``val`` and ``test``; others, such as ``test_unseen``, where they exist."""
    revision: str
    """Hash of ids, texts, labels and image sizes on disk: the same data gives the same string."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """How the data was read: layout found, how validation was carved, which plot was taken."""
    skipped: tuple[Skipped, ...] = ()
