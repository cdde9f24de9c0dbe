"""What is run: a run's content, its folder name and its named seeds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from steelyard.harness.core.seeds import seed_for
from steelyard.harness.records.budget import Track

LATER = {"learning_rate": None, "track": "compute", "wall": None, "tuning": ""}
"""Fields that came after the first records, and the value that means what was meant before."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that decides a run's weights; two equal specs share one folder."""

    method: str
    """Name of a method, or the path of a user's method file."""
    task: str
    """The data set trained on, by the name of its task."""
    backbone: str
    """Name of a backbone preset, or ``image-encoder+text-encoder``."""
    budget: str
    """Name of a budget preset, or a number: of FLOPs, or of training items on the data track."""
    seed: int
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Method options that differ from the method's defaults."""
    backbone_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    """How the data is read: ``revision`` always, loader options such as ``plot`` where given."""
    source: str = ""
    """Hash of a user's method file; empty for a method of the package."""
    learning_rate: float | None = None
    """In place of the backbone's: one chosen for the method, among the same few as for all."""
    track: Track = "compute"
    """What is equal for all methods: executed FLOPs, or training items."""
    wall: float | None = None
    """Cap on device seconds, whichever is reached first."""
    tuning: str = ""
    """Hash of the trials that chose the options; empty where nobody tuned."""

    @property
    def hash(self) -> str:
        """Eight hex digits of the content."""
        # Ids from before a field existed stay what they were.
        content = {k: v for k, v in asdict(self).items() if k not in LATER or v != LATER[k]}
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    @property
    def id(self) -> str:
        """Readable name of the run's folder: ``joint-food101-tiny-S-s0-3f9c2a1e``."""
        method = self.method.rsplit("/", 1)[-1].removesuffix(".py")
        backbone = "+".join(part.rsplit("/", 1)[-1] for part in self.backbone.split("+"))
        budget = self.budget if self.track == "compute" else f"{self.budget}-{self.track}"
        return f"{method}-{self.task}-{backbone}-{budget}-s{self.seed}-{self.hash}"

    def seed_for(self, *names: object) -> int:
        """Sub-seed by name; methods of one seed share data order and initial weights."""
        return seed_for(self.seed, self.task, *names)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for the record."""
        return asdict(self)
