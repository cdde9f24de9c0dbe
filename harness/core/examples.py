"""Types of a data set in memory: items, data sets, model inputs, training turns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Example:
    """Item of a data set: an image and a text, either of which may be absent."""

    id: str
    """Unique within the data set; leading zeros are kept."""
    image: Path | None
    text: str | None
    """Title, meme caption, plot or question; never the instruction."""
    labels: tuple[int, ...] = ()
    """Class indices: one, several in a multi-label data set, none for an open question."""
    answers: tuple[str, ...] = ()
    """Reference answers of a question; training uses the first."""
    choices: tuple[str, ...] = ()
    """Allowed answers of a closed question."""
    subset: str = ""
    """Subset that is also scored separately: ``popular``, or ``attribute: state`` if nested."""
    cluster: str = ""
    """Key of items that depend on each other, such as their image; empty if independent."""
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Further input of the metrics: objects in the image, the answer of the language prior."""
    rejected: str = ""
    """Wrong answer of a preference pair that came with the data; empty if there is none."""


def enclosing(subset: str) -> tuple[str, ...]:
    """Return a subset and its parents, widest first: ``attribute``, ``attribute: state``."""
    words = subset.split(": ") if subset else []
    return tuple(": ".join(words[:size]) for size in range(1, len(words) + 1))


@dataclass(frozen=True, slots=True)
class Skipped:
    """Row of the data that cannot be used."""

    id: str
    split: str
    reason: str
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """Data set read from disk."""

    name: str
    root: Path
    classes: tuple[str, ...]
    multi_label: bool
    splits: Mapping[str, tuple[Example, ...]]
    """Items by split: ``train``, ``val``, ``test`` and others; ``test`` alone for evaluation."""
    revision: str
    """Hash of ids, texts, labels and image sizes on disk."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Choices of the loader: files read, how validation was carved, which plot was used."""
    skipped: tuple[Skipped, ...] = ()
    content: str = ""
    """Hash of the images' bytes in the order of the items; empty without images."""
    at_once: int = 1
    """Largest number of images per item."""
    split_revisions: Mapping[str, str] = field(default_factory=dict)
    """Hash of the classes and of each split alone."""
    converted: frozenset[Path] = frozenset()
    """Images that are no plain 8-bit pictures: the rules of reading decide their pixels."""

    def revision_of(self, split: str) -> str:
        """Return the hash of a split, or that of all data if there is none."""
        return self.split_revisions.get(split, self.revision)


Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, Modality] = ("image", "text")
ModelKind = Literal["classifier", "vlm"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Image and text of an item, as a person sees them; corruptions change nothing else."""

    image: "Image | None"
    text: str | None
    """Title, caption, plot or question, without the instruction, which is never corrupted."""
    prompt: str = ""
    """Full user turn of a generative model, text and instruction; no classifier reads it."""
    more: "tuple[Image, ...]" = ()
    """Second and later images of an item that has several."""

    @property
    def images(self) -> "tuple[Image, ...]":
        return () if self.image is None else (self.image, *self.more)

    def only(self, index: int) -> Self:
        """Keep one image, ``index`` modulo their number."""
        image = self.images[index % len(self.images)] if self.images else None
        return replace(self, image=image, more=())


@dataclass(frozen=True, slots=True)
class Turn:
    """Training example as a conversation of one user turn and its answer."""

    inputs: Inputs
    answer: str
    choices: tuple[str, ...]
    """Allowed answers of a closed question; empty if it is open."""


Donor = Callable[[], Inputs]
"""Draw the inputs of another item, a new one per call."""
