"""Generated rows in the columns of lmms-eval's own tasks, and a model that answers by a rule."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.seeds import seed_for

Rule = Callable[[Inputs], str]


class Talker:
    """A backbone that answers in words by a rule and remembers what it was shown."""

    name, classes, kind = "talker", (), "vlm"

    def __init__(self, rule: Rule, room: int = 9) -> None:
        self.rule, self.room = rule, room
        self.seen: list[Inputs] = []

    def places(self, images: int) -> int:
        return min(images, self.room)

    def generate(self, inputs: Sequence[Inputs], max_tokens: int) -> list[str]:
        self.seen += inputs
        return [self.rule(item) for item in inputs]

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def picture(name: object, size: int = 24) -> Image.Image:
    """Noise that belongs to a name."""
    rng = np.random.default_rng(seed_for("picture", name))
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def write(folder: Path, rows: Sequence[dict[str, Any]], split: str = "test") -> Path:
    """Rows as the one parquet file of a split, in the layout of a hub copy."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_dict({key: [row[key] for row in rows] for key in rows[0]})
    made.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def pope(count: int = 24, per_image: int = 3) -> list[dict[str, Any]]:
    """Questions about objects; each image is asked about several times."""
    kinds = ("random", "popular", "adversarial")
    return [
        {
            "id": str(number),
            "question_id": str(number // 3),
            "question": f"Is there a thing {number} in the image?",
            "answer": ("yes", "no", "no", "yes")[number % 4],
            "image_source": f"COCO_val2014_{number // per_image:012}",
            "image": picture(number // per_image),
            "category": kinds[number % 3],
        }
        for number in range(count)
    ]


def mme(count: int = 16) -> list[dict[str, Any]]:
    """Pairs of a question to answer with yes and one to answer with no, in two subtasks."""
    return [
        {
            "question_id": f"{('color', 'code_reasoning')[number // 2 % 2]}/{number // 2:04}.png",
            "image": picture(number // 2),
            "question": f"Is it {number}? Please answer yes or no.",
            "answer": ("Yes", "No")[number % 2],
            "category": ("color", "code_reasoning")[number // 2 % 2],
        }
        for number in range(count)
    ]


def mmstar(count: int = 24) -> list[dict[str, Any]]:
    """Four choices, two categories, subcategories of unequal size."""
    categories = (
        ("math", "geometry"), ("math", "geometry"), ("math", "statistical reasoning"),
        ("coarse perception", "image emotion"),
    )  # fmt: skip
    return [
        {
            "index": number,
            "question": f"What is {number}?\nOptions: A: one, B: two, C: three, D: four",
            "image": picture(number),
            "answer": "ABCD"[number % 4],
            "category": categories[number % 4][0],
            "l2_category": categories[number % 4][1],
        }
        for number in range(count)
    ]


def ai2d(count: int = 12) -> list[dict[str, Any]]:
    """Diagrams with four options and the place of the right one."""
    return [
        {
            "question": f"Which part is {number}?",
            "options": ["leaf", "root", "stem", "seed"],
            "answer": str(number % 4),
            "image": picture(number // 2),
        }
        for number in range(count)
    ]


def realworldqa(count: int = 12) -> list[dict[str, Any]]:
    """Letters, numbers and words as answers."""
    answers = ("A", "2", "Downhill", "C")
    return [
        {
            "image_path": f"{number}.webp",
            "image": picture(number),
            "question": f"How many cars {number}?",
            "answer": answers[number % 4],
        }
        for number in range(count)
    ]


def right(rows: Sequence[dict[str, Any]], answer: Callable[[dict[str, Any]], str]) -> Rule:
    """Answers a row's question as ``answer`` says, by finding the question in the prompt."""

    def rule(item: Inputs) -> str:
        found = [row for row in rows if _asks(item.prompt, row["question"])]
        return answer(found[0])

    return rule


def _asks(prompt: str, question: str) -> bool:
    return question.partition(" Please")[0] in prompt
