"""Small sets of questions in their official layouts, for the tests of their tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from steelyard import tasks
from steelyard.harness.core.examples import Corpus
from steelyard.tasks import metrics, textvqa, vqav2
from steelyard.tasks._shared import official

Row = dict[str, Any]
Change = Callable[[Any], Any]
TEN = ["red"] * 3 + ["blue"] * 7


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit(path: Path, change: Change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    dump(path, content)


def docs(corpus: Corpus, split: str = "test") -> list[Any]:
    return [tasks.row(corpus, split, example, example.text) for example in corpus.splits[split]]


def value(module: Any, corpus: Corpus, answer: str, metric: str = "accuracy") -> float:
    """The metric of a model that always gives this answer."""
    shares = [module.process_results(doc, [answer]) for doc in docs(corpus)]
    return metrics.ratio([share[metric] for share in shares if metric in share])


def hub(rows: list[Row], split: str = "test", config: str = "default") -> list[Row]:
    return [{official.CONFIG: config, official.SPLIT: split, **row} for row in rows]


def bytes_of(path: Path | None) -> Row:
    assert path is not None
    return {"bytes": path.read_bytes(), "path": None}


VQA = ("v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")


def write_vqa(root: Path, part: str = "val2014", answers: bool = True) -> Path:
    types = ("yes/no", "number", "other", "other")
    ids = [{"question_id": 10 + n, "image_id": 40 + n // 2} for n in range(4)]
    asked = [{**each, "question": f"What is {each['question_id']}?"} for each in ids]
    known = [
        {
            **each,
            "question_type": "what is",
            "answer_type": kind,
            "multiple_choice_answer": "blue",
            "answers": [{"answer": a, "answer_id": i + 1} for i, a in enumerate(TEN)],
        }
        for each, kind in zip(ids, types, strict=True)
    ]
    dump(root / VQA[0].format(part), {"questions": asked})
    if answers:
        dump(root / VQA[1].format(part), {"annotations": known})
    for each in ids:
        picture(root / vqav2.image_name(part, each["image_id"]))
    return root


def write_gqa(root: Path, name: str = "testdev_balanced_questions.json") -> Path:
    types = (("verify", "obj", "yes"), ("query", "attr", "red"), ("query", "global", "indoors"))
    rows = {
        str(n): {
            "imageId": f"n{n // 2}",
            "question": f"What is {n}?",
            "answer": answer,
            "fullAnswer": f"It is {answer}.",
            "types": {"structural": structural, "semantic": semantic, "detailed": "x"},
        }
        for n, (structural, semantic, answer) in enumerate(types)
    }
    dump(root / name, rows)
    for row in rows.values():
        picture(root / "images" / f"{row['imageId']}.jpg")
    return root


def write_textvqa(root: Path, part: str = "val") -> Path:
    rows = [
        {
            "question_id": 30 + n,
            "image_id": f"ab{n // 2}",
            "question": f"what Brand is {n}?",
            "answers": ["the cat's"] * 6 + ["nokia"] * 4,
        }
        for n in range(3)
    ]
    tokens = [{"image_id": f"ab{n}", "ocr_tokens": ["NOKIA", str(n)]} for n in range(2)]
    dump(root / f"TextVQA_0.5.1_{part}.json", {"data": rows})
    dump(root / f"TextVQA_Rosetta_OCR_v0.2_{part}.json", {"data": tokens})
    for n in range(2):
        picture(root / textvqa.FOLDERS[part] / f"ab{n}.jpg")
    return root


def write_scienceqa(root: Path, folder: str = "images/") -> Path:
    problems: Row = {}
    ids: dict[str, list[str]] = {"train": [], "val": [], "test": [], "minitest": []}
    subjects = ("natural science", "language science", "social science")
    for number in range(8):
        split, id = ("test", "train", "val", "test")[number % 4], str(number + 1)
        image = number % 3 != 1
        problems[id] = {
            "question": f"Which is {id}?",
            "choices": ["stone", "wood", "wool"][: 2 + number % 2],
            "answer": number % 2,
            "hint": "" if image else "Stones are hard.",
            "image": "image.png" if image else None,
            "subject": subjects[number % 3],
            "split": split,
        }
        ids[split].append(id)
        if image:
            picture(root / f"{folder}{split}" / id / "image.png")
    dump(root / "problems.json", problems)
    dump(root / "pid_splits.json", ids)
    return root
