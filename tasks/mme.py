"""MME: two questions an image, one with answer yes and one with no, in fourteen categories."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.folders import listing
from steelyard.harness.core.readers import read_text
from steelyard.harness.data.reading import IMAGE_SUFFIXES
from steelyard.tasks import metrics
from steelyard.tasks._shared import official
from steelyard.tasks._shared import questions as _questions

NESTED = ("posters", "celebrity", "scene", "landmark", "artwork")
"""Categories with separate folders of images and questions, as published."""
PERCEPTION = ("existence", "count", "position", "color", *NESTED, "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
CATEGORIES = (*PERCEPTION, *COGNITION)
HOMES = (".", "MME_Benchmark", "MME_Benchmark_release_version",
         "MME_Benchmark_release_version/MME_Benchmark")  # fmt: skip
IMAGES, QUESTIONS = "images", "questions_answers_YN"
INSTRUCTION = "Please answer yes or no."
"""End of every question of the files; replaced by the instruction of all short answers."""
LABELS = ("yes", "no")
PAIR = 2


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read ``<category>/<name>.txt`` next to its image; lines are a question, a tab, Yes or No.

    Images and questions of a category may also be in ``images`` and ``questions_answers_YN``. An
    image without two questions, or questions without their image, are left out as a pair.
    """

    def read(folder: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
        home = _home(folder)
        if home is None:
            examples = ", ".join(PERCEPTION[:4])
            raise UserError(f"No category of MME in {folder}: expected folders such as {examples}.")
        for name in CATEGORIES:
            if (home / name).is_dir():
                yield from _category(home / name, skipped, split)

    home = _home(root)
    missing = [name for name in CATEGORIES if home and not (home / name).is_dir()]
    notes = {"categories missing": ", ".join(missing) or "none"}
    return _questions.corpus(
        "mme", root, read, notes=notes, max_bad=max_bad, by_cluster=True, holds=_home
    )


def _home(root: Path) -> Path | None:
    """Find the folder of the categories, or None."""
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: give the folder that holds {PERCEPTION[0]}.")
    homes = (root / name for name in HOMES)
    return next((h for h in homes if any((h / name).is_dir() for name in CATEGORIES)), None)


def _category(folder: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
    questions, images = (
        folder / name if (folder / name).is_dir() else folder for name in (QUESTIONS, IMAGES)
    )
    paths: dict[str, Path] = {}
    for path in listing(images, *IMAGE_SUFFIXES):
        if (other := paths.setdefault(path.stem, path)) != path:
            raise UserError(f"{images} has {other.name} and {path.name}: keep one.")
    texts = {path.stem: path for path in listing(questions, ".txt")}
    # Both kinds of names: an image without questions is reported too.
    for name in sorted(paths.keys() | texts.keys()):
        id = f"{_questions.prefix(split)}{folder.name}/{name}"
        pair = _pair(texts[name]) if name in texts else []
        if len(pair) != PAIR:
            reason = f"{len(pair)} of the two questions about an image"
            skipped += [Skipped(f"{id}/{number}", split, reason) for number in range(1, PAIR + 1)]
            continue
        for number, (question, label) in enumerate(pair, start=1):
            yield Example(
                f"{id}/{number}",
                paths.get(name, images / f"{name}.jpg"),
                question,
                answers=(label,),
                choices=LABELS,
                subset=folder.name,
                # Names repeat between categories.
                cluster=f"{folder.name}/{name}",
            )


def _pair(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        question, _, label = (part.strip() for part in line.rpartition("\t"))
        if not question or label.lower() not in LABELS:
            raise UserError(f"{path}:{number}: expected a question, a tab, and Yes or No.")
        # Instruction is no text that a corruption may change.
        pairs.append((question.removesuffix(INSTRUCTION).strip(), label.lower()))
    return pairs


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (question_id, image, question, answer, category) in the official layout.

    Both questions about an image have the same ``question_id``, ``<category>/<file>``.
    """
    for row in rows:
        category, id = (str(official.column(row, name)) for name in ("category", "question_id"))
        if category not in CATEGORIES:
            raise UserError(f"The copy has a category {category!r}, which MME does not have.")
        image = Path(id).name
        if Path(image).suffix.lower() not in IMAGE_SUFFIXES:
            image = f"{image}.png"
        images = questions = folder / category
        if category in NESTED:
            images, questions = images / IMAGES, questions / QUESTIONS
        official.write_image(official.column(row, "image"), images, image)
        questions.mkdir(parents=True, exist_ok=True)
        question, answer = (str(official.column(row, name)) for name in ("question", "answer"))
        path = questions / f"{Path(image).stem}.txt"
        # Appended: an image's second question is a later row.
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"{' '.join(question.split())}\t{answer.strip().capitalize()}\n")


def label_of(answer: str) -> str | None:
    """Read ``yes`` or ``no`` from the first four letters, yes before no: the official rule."""
    start = answer.lower().strip().replace(".", "")
    # The official rule for answers of one letter.
    if len(start) == 1:
        return {"y": "yes", "n": "no"}.get(start)
    return next((label for label in LABELS if label in start[:4]), None)


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    """Score one answer; ``score`` is the fraction of all points, with equal weight per category."""
    label, category, pair = label_of(results[0]), doc["subset"], doc["cluster"]
    right = float(label == doc["answers"][0])
    kind = "perception" if category in PERCEPTION else "cognition"
    return {
        "score": (category, pair, right),
        kind: (category, pair, right),
        "accuracy": (right, 1),
        "accuracy_plus": (pair, right),
        "yes_rate": (label == "yes", 1),
        "unparsed": (label is None, 1),
        "item": metrics.answer_item(doc, results[0]),
    }
