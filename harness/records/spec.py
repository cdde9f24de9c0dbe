"""Specification of a run: the choices that decide its weights, its folder name and its seeds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from steelyard.harness.core.seeds import seed_for
from steelyard.harness.records.budget import Track

LATER: dict[str, object] = {
    "learning_rate": None,
    "track": "compute",
    "wall": None,
    "tuning": "",
    "trl": {},
}
"""Fields added after the first records, with the value that leaves the hash as it was."""
WITHOUT_EFFECT = ("eval_batch_size", "pixel_cache_gb", "workers")
"""Backbone options about time and memory alone: they are no part of a run's id or name."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Choices that decide a run's weights; equal specs share one folder."""

    method: str
    """Name of a method, or the path of a user's method file."""
    task: str
    """Name of the task whose data set is trained on."""
    backbone: str
    """Name of a backbone preset, or ``image-encoder+text-encoder``."""
    budget: str
    """Name of a budget preset, or a number: of FLOPs, or of training items on the data track."""
    seed: int
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Method options that differ from the method's defaults."""
    backbone_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    """``revision`` of the data, and loader options such as ``plot`` that were set."""
    source: str = ""
    """Hash of a user's method file; empty for a method of the package."""
    learning_rate: float | None = None
    """Learning rate tuned for the method, from the same few as for all; None: the backbone's."""
    track: Track = "compute"
    """Resource that is equal for all methods: executed FLOPs, or training items."""
    wall: float | None = None
    """Cap on device seconds, in addition to that on FLOPs."""
    trl: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Settings of the method's TRL trainer that differ from the method's."""
    tuning: str = ""
    """Hash of the trials that chose the options; empty if the method was not tuned."""

    @property
    def hash(self) -> str:
        """Hash of the content, 8 hex digits."""
        # Fields added later count only if they are set: ids of older records stay the same.
        content = {k: v for k, v in asdict(self).items() if k not in LATER or v != LATER[k]}
        content["backbone_options"] = dict(self.model_options)
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    @property
    def model_options(self) -> Mapping[str, str | int | float | bool]:
        """Options of the backbone that can change a result."""
        return {k: v for k, v in self.backbone_options.items() if k not in WITHOUT_EFFECT}

    @property
    def id(self) -> str:
        """Name of the run's folder, such as ``joint-food101-tiny-S-s0-3f9c2a1e``."""
        # Paths and hub ids have slashes, a folder's name must not.
        method = self.method.rsplit("/", 1)[-1].removesuffix(".py")
        backbone = "+".join(part.rsplit("/", 1)[-1] for part in self.backbone.split("+"))
        budget = self.budget if self.track == "compute" else f"{self.budget}-{self.track}"
        return f"{method}-{self.task}-{backbone}-{budget}-s{self.seed}-{self.hash}"

    def seed_for(self, *names: object) -> int:
        """Derive a named seed; methods with one seed share data order and initial weights."""
        return seed_for(self.seed, self.task, *names)
