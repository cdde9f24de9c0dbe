"""Specification of a run: the choices that decide its weights, its folder name and its seeds."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from steelyard.harness.core.files import file_name
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.records.budget import Track

LATER: dict[str, object] = {
    "learning_rate": None,
    "track": "compute",
    "wall": None,
    "tuning": "",
    "trl": {},
    "folders": {},
}
"""Fields added after the first records, with the value that leaves the hash as it was."""
RESERVED = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
"""Characters that no file's name has on some system."""
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
    """Name of a backbone preset, ``image-encoder+text-encoder``, or a model's hub id or path."""
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
    folders: Mapping[str, str] = field(default_factory=dict)
    """``NAME#CONTENT`` of each model's folder that backbone and options name, by its path."""

    @property
    def hash(self) -> str:
        """Hash of the content, 8 hex digits; where models and method files are does not count."""
        # Fields added later count only if they are set: ids of older records stay the same.
        content = {k: v for k, v in asdict(self).items() if k not in LATER or v != LATER[k]}
        contents = {path: label.rpartition("#")[2] for path, label in self.folders.items()}
        content["backbone"] = _with_names(self.backbone, contents)
        options = self.model_options
        content["backbone_options"] = {
            key: contents.get(str(self.backbone_options[key]), value)
            for key, value in options.items()
        }
        content.pop("folders", None)
        if self.source:
            del content["method"]
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    @property
    def model_options(self) -> Mapping[str, str | int | float | bool]:
        """Options of the backbone that can change a result, without paths of this machine."""
        names = self._names
        options = {k: v for k, v in self.backbone_options.items() if k not in WITHOUT_EFFECT}
        return {k: names.get(str(v), v) for k, v in options.items()}

    @property
    def model(self) -> str:
        """Backbone as boards show it: a folder is ``NAME#CONTENT``, wherever it is."""
        return _with_names(self.backbone, self._names)

    @property
    def model_name(self) -> str:
        """Name of the backbone without path and content; of a hub id its last part."""
        names = {path: label.rpartition("#")[0] for path, label in self.folders.items()}
        parts = _with_names(self.backbone, names).split("+")
        return "+".join(part.rsplit("/", 1)[-1] for part in parts)

    @property
    def _names(self) -> Mapping[str, str]:
        return {path: label[: label.rindex("#") + 9] for path, label in self.folders.items()}

    @property
    def id(self) -> str:
        """Name of the run's folder, such as ``joint-food101-tiny-S-s0-3f9c2a1e``."""
        method = self.method.rsplit("/", 1)[-1].removesuffix(".py")
        budget = self.budget if self.track == "compute" else f"{self.budget}-{self.track}"
        name = f"{method}-{self.task}-{self.model_name}-{budget}-s{self.seed}"
        # The hash tells runs apart.
        if RESERVED.search(name) or len(name.encode(errors="replace")) > 150:
            name = file_name(name)
        return f"{name}-{self.hash}"

    def seed_for(self, *names: object) -> int:
        """Derive a named seed; methods with one seed share data order and initial weights."""
        return seed_for(self.seed, self.task, *names)


def _with_names(backbone: str, names: Mapping[str, str]) -> str:
    """Replace the paths in a backbone's name, which has one or, around a plus, two."""
    signs = [index for index, letter in enumerate(backbone) if letter == "+"]
    pairs = [(backbone[:index], backbone[index + 1 :]) for index in signs]
    # A path may have the sign in it.
    parts = max([(backbone,), *pairs], key=lambda parts: sum(part in names for part in parts))
    return "+".join(names.get(part, part) for part in parts)
