"""Measure the tiny base model on the generated question sets, with and without the picture.

``python measure_base.py [--part val|test] [--seed N] [--base FOLDER] [--data CACHE]`` prints
one line per subset. Settings are chosen on ``val``; ``test`` is for reporting.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from steelyard.harness.models.tiny_vlm import train
from steelyard.tasks.world import build
from steelyard.tasks.world.language import CAPTION, SHORT
from steelyard.tasks.world.scenes import KINDS

PER_FORWARD = 250


@dataclass(frozen=True)
class BaseQuestion:
    """Question of a set, with the facts that its rates need."""

    group: str
    image: Path
    text: str
    answer: str
    prior: str = ""
    objects: tuple[str, ...] = ()


def read(root: Path, task: str, part: str) -> Iterator[BaseQuestion]:
    """Yield the questions of one part of a set."""
    folder = root / "val" if part == "val" else root
    images = folder / "images"
    if task == "prior_conflict":
        for row in lines(folder / "questions.jsonl"):
            prompt = row["question"] + SHORT
            yield BaseQuestion(
                row["subset"], folder / row["image"], prompt, row["answer"], row["prior"]
            )
    elif task == "pope":
        for name in ("random", "popular", "adversarial"):
            for row in lines(folder / f"coco_pope_{name}.json"):
                yield BaseQuestion(
                    f"pope {name}", images / row["image"], row["text"] + SHORT, row["label"]
                )
    elif task == "vqa":
        questions = json.loads(next(folder.glob("*questions.json")).read_text())["questions"]
        facts = json.loads(next(folder.glob("*annotations.json")).read_text())["annotations"]
        for row, fact in zip(questions, facts, strict=True):
            image = next(images.glob(f"*_{row['image_id']:012d}.png"))
            answer = fact["multiple_choice_answer"]
            yield BaseQuestion(
                f"vqa {fact['question_type']}", image, row["question"] + SHORT, answer
            )
    else:
        for row in lines(folder / "images.jsonl"):
            objects = tuple(row["objects"])
            image = images / row["image"]
            yield BaseQuestion("chair", image, CAPTION, row["captions"][0], objects=objects)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def answer(
    model: Any, processor: Any, questions: Sequence[BaseQuestion], *, picture: bool, tokens: int
) -> list[str]:
    """Return greedy answers."""
    answers = []
    for start in range(0, len(questions), PER_FORWARD):
        rows = questions[start : start + PER_FORWARD]
        texts = []
        for row in rows:
            content = [{"type": "image"}] * picture + [{"type": "text", "text": row.text}]
            message = [{"role": "user", "content": content}]
            texts.append(
                processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            )
        images = {"images": [Image.open(row.image) for row in rows]} if picture else {}
        inputs = processor(text=texts, **images, padding=True, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def report(
    task: str, questions: Sequence[BaseQuestion], answers: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the rates of each group of questions."""
    groups: defaultdict[str, list[tuple[BaseQuestion, str]]] = defaultdict(list)
    for question, text in zip(questions, answers, strict=True):
        groups[question.group].append((question, text))
    return {name: rates(task, rows) for name, rows in groups.items()}


def rates(task: str, rows: Sequence[tuple[BaseQuestion, str]]) -> dict[str, float]:
    """Return accuracy and the task's other rates; for captions, CHAIR's rates over kinds."""
    size = len(rows)
    right = sum(answer == row.answer for row, answer in rows) / size
    if task == "prior_conflict":
        return {"n": size, "right": right, "prior": sum(a == r.prior for r, a in rows) / size}
    if task == "pope":
        return {"n": size, "right": right, "yes": sum(a == "yes" for _, a in rows) / size}
    if task == "vqa":
        return {"n": size, "right": right}
    mentioned = [
        [kind for kind in KINDS if kind in answer.replace(".", " ").split()] for _, answer in rows
    ]
    mentions = sum(map(len, mentioned))
    wrong = [
        [k for k in kinds if k not in row.objects]
        for (row, _), kinds in zip(rows, mentioned, strict=True)
    ]
    present = sum(len(row.objects) for row, _ in rows)
    return {
        "n": size,
        "right": right,
        "chair_i": sum(map(len, wrong)) / max(mentions, 1),
        "chair_s": sum(map(bool, wrong)) / size,
        "recall": (mentions - sum(map(len, wrong))) / present,
    }


def measure(base: Path, data: Path, part: str) -> None:
    """Print the table of one base model."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(base).eval()
    processor = AutoProcessor.from_pretrained(base)
    for task in ("prior_conflict", "pope", "vqa", "chair"):
        questions = list(read(build.ensure(build.WorldSpec(task, seed=1), data), task, part))
        tokens = 16 if task == "chair" else 3
        for picture in (True, False):
            texts = answer(model, processor, questions, picture=picture, tokens=tokens)
            for group, values in report(task, questions, texts).items():
                numbers = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
                view = "with image" if picture else "text-only "
                print(f"{view}  {group:18} {numbers}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        measure(
            options.base or train.ensure(seed=options.seed),
            options.data or Path(temporary),
            options.part,
        )
