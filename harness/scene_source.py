"""What the writers of generated question sets share: fresh scenes, and where each split lies.

Each evaluation set has its test items in the folder itself and items for choosing settings below
``val``; no scene of one is in the other.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from steelyard.harness.errors import UserError
from steelyard.harness.scenes import Habits, Question, part_of
from steelyard.harness.world import Scene
from steelyard.harness.world_source import Knobs, Row, Source

BASE_KNOBS: Knobs = {"p_color": 0.985, "p_cooc": 0.9, "p_neutral": 0.25}
"""How the world usually is: what the base model is trained on."""
BASE_HABITS = Habits(
    BASE_KNOBS["p_color"], BASE_KNOBS["p_cooc"], BASE_KNOBS["p_neutral"], yes=0.7, same_place=0.15
)
SYNONYMS = {
    "grapes": ("grape",),
    "doughnut": ("donut",),
    "shrimp": ("prawn",),
    "bread": ("loaf",),
    "ball": ("sphere",),
    "cup": ("mug",),
}
"""What else a caption may call an object."""
PARTS = {"train": "pool", "val": "val", "test": "test"}


def habits_of(source: Source, yes: float = 0.5, same_place: float = 0.5) -> Habits:
    """How the source's scenes are composed."""
    prior, together, neutral = (source.knobs[key] for key in ("p_color", "p_cooc", "p_neutral"))
    return Habits(prior, together, neutral, yes, same_place, source.grid, source.most)


def new_scene(source: Source, make: Callable[[], Scene], *, again: bool = False) -> Scene:
    """A scene of the source's part, unless ``again`` one that it has not given before."""
    for _ in range(10_000):
        scene = make()
        fresh = again or scene.symbol not in source.used
        if fresh and part_of(scene) == PARTS[source.split]:
            source.used.add(scene.symbol)
            return scene
    raise UserError(f"No new {source.split} scene is left; ask for fewer items.")


def evaluation(
    build: Callable[[Path, int, Source], list[Row]], images: str = "images"
) -> Callable[[Path, Mapping[str, int], Mapping[str, Source]], list[Row]]:
    """Writer of a set without training items: test in the folder, validation below ``val``.

    ``build`` finds the folder ``images`` in place.
    """

    def both(folder: Path, counts: Mapping[str, int], sources: Mapping[str, Source]) -> list[Row]:
        truth = []
        for split, place in (("test", folder), ("val", folder / "val")):
            (place / images).mkdir(parents=True, exist_ok=True)
            rows = build(place, counts[split], sources[split])
            truth += [{"split": split, **row} for row in rows]
        return truth

    return both


def truth_of(scene: Scene, question: Question) -> Row:
    """What is true of an item, for ``truth.jsonl``."""
    return {"scene": scene.symbol, "kind": question.kind, "answer": question.answer}
