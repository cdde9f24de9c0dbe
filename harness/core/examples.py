"""What a data set is once it has been read: one record type for all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Example:
    """One item: an image and its evidence text, either of which may be absent."""

    id: str
    """Unique within the data set; leading zeros are kept."""
    image: Path | None
    text: str | None
    """Evidence (title, meme caption, plot, question); never the instruction."""
    labels: tuple[int, ...]
    """Class indices: exactly one unless the data set is multi-label; none for an open question."""
    answers: tuple[str, ...] = ()
    """Reference answers of a question; the first is the one to train on."""
    choices: tuple[str, ...] = ()
    """All answers a closed question allows."""
    subset: str = ""
    """Part of the data set that is also scored apart: ``popular``, or ``attribute: state`` in one
    that is a part itself."""
    cluster: str = ""
    """What makes items dependent, such as their image; empty where the item stands alone."""
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """What else scoring needs: objects in the picture, the usual answer."""


def enclosing(subset: str) -> tuple[str, ...]:
    """The subset and those it lies in, widest first: ``attribute``, ``attribute: state``."""
    words = subset.split(": ") if subset else []
    return tuple(": ".join(words[:size]) for size in range(1, len(words) + 1))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be used, kept so that it can be counted and listed."""

    id: str
    split: str
    reason: str
    image: Path | None = None
    """Its picture, where it names one."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A data set read from disk."""

    name: str
    root: Path
    classes: tuple[str, ...]
    multi_label: bool
    splits: Mapping[str, tuple[Example, ...]]
    """``train``, ``val`` and ``test``, and others such as ``test_unseen`` where they exist; a set
    made for evaluation may have only ``test``."""
    revision: str
    """Hash of ids, texts, labels and image sizes on disk: the same data gives the same string."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """How the data was read: layout found, how validation was carved, which plot was taken."""
    skipped: tuple[Skipped, ...] = ()
    content: str = ""
    """Hash of the images' bytes in the order of the items; empty where there is no image."""
    at_once: int = 1
    """Most images that an item shows."""


Modality = Literal["image", "text"]


MODALITIES: tuple[Modality, Modality] = ("image", "text")


Kind = Literal["classifier", "vlm"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """One item as a person sees it; a corruption edits this and nothing else."""

    image: "Image | None"
    text: str | None
    """Title, caption, plot or question. The instruction is not here, so no corruption can touch
    it."""
    prompt: str = ""
    """The whole user turn, evidence and instruction together; a classifier does not read it."""
    more: "tuple[Image, ...]" = ()
    """The other images of an item that shows several, in their order."""

    @property
    def images(self) -> "tuple[Image, ...]":
        """All that is shown."""
        return () if self.image is None else (self.image, *self.more)

    def only(self, place: int) -> Self:
        """With one image of those there are, counted round."""
        image = self.images[place % len(self.images)] if self.images else None
        return replace(self, image=image, more=())


@dataclass(frozen=True, slots=True)
class Turn:
    """One training example as a conversation."""

    inputs: Inputs
    answer: str
    choices: tuple[str, ...]
    """All answers a closed question allows; empty where the question is open."""


Donor = Callable[[], Inputs]
"""Draws the inputs of another item; each call draws anew."""
