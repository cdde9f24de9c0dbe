"""Generated data sets in the official layouts of the real ones, so one loader reads both.

``truth.jsonl`` beside the official files has the true facts of each item. ``world.json`` is part
of every finished folder, and folders appear only when finished::

    root = ensure(WorldSpec("food101", train=2000, test=400, seed=1), cache)
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.files import publish_folder
from steelyard.harness.core.readers import read_text
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks._shared import official
from steelyard.tasks.world.classification import CLASSIFICATION_SETS
from steelyard.tasks.world.prior import MAX_OBJECTS
from steelyard.tasks.world.questions import SCENE_SETS
from steelyard.tasks.world.scenes import GRID
from steelyard.tasks.world.source import JsonRow, SceneSource, WorldSet

GENERATOR = 1
"""Version of the content; raised whenever equal arguments would give other files."""
MARKER = "world.json"
TRUTH = "truth.jsonl"
VALIDATION = 300
"""Items of each development file, in the layouts that have one."""
SMALLEST = 16
"""Fewest training or test items: one for each class of food."""

SETS: Mapping[str, WorldSet] = {**CLASSIFICATION_SETS, **SCENE_SETS}
"""Data sets by the names of their tasks."""


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """Everything that decides the content of a generated data set.

    Raises:
        UserError: an unknown task or parameter, or a value that is not allowed.
    """

    task: str
    train: int = 2800
    """Training items."""
    test: int = 500
    """Test items."""
    seed: int = 0
    size: int = 48
    """Width and height of a picture in pixels."""
    grid: int = GRID
    """Cells per row and column of a scene; free in the question sets only."""
    objects: int = MAX_OBJECTS
    """Most objects of a scene; free in the question sets only."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Probabilities that replace defaults of ``SETS[task].parameters``."""

    def __post_init__(self) -> None:
        task, grid, objects = self.task, self.grid, self.objects
        check_known("generated data set", task, SETS)
        if min(self.train, self.test) < SMALLEST:
            raise UserError(
                f"train={self.train}, test={self.test}: both must be at least {SMALLEST}."
            )
        if not 24 <= self.size <= 512:
            raise UserError(f"size={self.size}: allowed are 24 to 512 pixels.")
        if task not in SCENE_SETS and (grid, objects) != (GRID, MAX_OBJECTS):
            raise UserError(f"grid={grid}, objects={objects}: {task} has {GRID} x {GRID} cells.")
        if not 2 <= grid <= 4 or not 2 <= objects <= grid**2:
            raise UserError(
                f"grid={grid}, objects={objects}: allowed are 2 to 4 cells per row, and 2 objects "
                "or more, at most one per cell."
            )
        for name, value in self.parameters.items():
            check_known(f"parameter of {task}", name, SETS[task].parameters)
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value}: a probability from 0 to 1 is needed.")

    @property
    def content(self) -> JsonRow:
        """Return the content of ``world.json``, which also names the folder in a cache."""
        values = asdict(self)
        parameters = {**SETS[self.task].parameters, **values.pop("parameters")}
        # Folder names hash the key ``knobs`` too: another word would generate all data again.
        return {"generator": GENERATOR, **values, "knobs": parameters}


def write(spec: WorldSpec, root: Path) -> None:
    """Generate a data set in the new folder ``root``, unless it is there already.

    ``root`` appears in one step when everything is written.

    Raises:
        UserError: ``root`` is another folder, or cannot be written.
    """
    if _is_finished(root, spec):
        return
    if root.exists():
        raise UserError(
            f"{root} exists and is not this generated data set; delete it or choose another folder."
        )
    counts = {"train": spec.train, "val": VALIDATION, "test": spec.test}
    sources = {}
    for split, count in counts.items():
        # One generator a split: more training items leave the test items as they are.
        rng = np.random.default_rng(seed_for(spec.seed, spec.task, split))
        parameters = spec.content["knobs"]
        scene = spec.grid, spec.objects
        sources[split] = SceneSource(split, spec.size, count, parameters, rng, *scene)
    with publish_folder(root, lambda: _is_finished(root, spec)) as folder:
        folder.mkdir()
        truth = SETS[spec.task].write(folder, sources)
        official.write_lines(folder / TRUTH, truth)
        # Last: the marker says that all other files are complete.
        official.write_text(folder / MARKER, _marker_text(spec))


def ensure(spec: WorldSpec, cache: Path) -> Path:
    """Return the folder of a generated data set below ``cache``; write it if absent."""
    text = json.dumps(spec.content, sort_keys=True)
    root = cache / f"{spec.task}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    write(spec, root)
    return root


def _is_finished(root: Path, spec: WorldSpec) -> bool:
    marker = root / MARKER
    return marker.is_file() and read_text(marker) == _marker_text(spec)


def _marker_text(spec: WorldSpec) -> str:
    return json.dumps(spec.content, indent=1, sort_keys=True) + "\n"
