"""HallusionBench: the same yes-no questions of a figure, of its edited version and of no figure.

Guan et al., CVPR 2024, arXiv 2310.14566. Accuracy per question (aAcc), per figure with all its
questions right (fAcc), and per question right for all its figures (qAcc). ``easy`` is the accuracy
of original figures, or of none; ``hard`` asks the same question of all edited ones. Where the
question has no figure, to say that one does not know is right too.

Officially GPT-4 says whether an answer is correct, incorrect or unclear. Here yes and no are read
from the answer's words, an answer with neither is wrong, and ``unparsed`` counts those. A judge's
verdicts are used where ``verdicts`` names a file of them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import judged as _judged
from steelyard.tasks._shared import official, questions

FILE = "HallusionBench.json"
CATEGORIES = ("VD", "VS")
"""Questions that depend on the figure, and those that it supplements."""
COLUMNS = (
    "category",
    "subcategory",
    "visual_input",
    "set_id",
    "figure_id",
    "sample_note",
    "question_id",
    "question",
    "gt_answer_details",
    "gt_answer",
    "filename",
)
"""Of the official file, in its order."""
LABELS = {"0": "no", "1": "yes"}
IMAGE_FOLDERS = ("hallusion_bench", ".", "images")
"""Where the paths of figures begin, first found first taken."""
ORIGINAL = "0"
"""Figure of the original, or of none: the others are edited versions."""
CORRECT, UNCLEAR = "correct", "unclear"
VERDICTS = (CORRECT, "incorrect", UNCLEAR)
UNCERTAIN = re.compile(
    r"\b(?:uncertain|unsure|unclear|unknown|insufficient|not (?:sure|certain|clear|possible|enough)"
    r"|impossible to|(?:do not|don't) know"
    r"|(?:can ?not|can't|unable to) (?:be )?(?:tell|say|know|determine|answer|confirm|verify))"
)
"""What says that the answer is not known."""

Row = Mapping[str, Any]


def load(root: Path, *, max_bad: float = 0.01, verdicts: str = "") -> Corpus:
    """Read ``HallusionBench.json``; figures lie where its ``filename`` says.

    Ids are ``category/subcategory/set/figure/question``. ``verdicts`` names a file of a judge's
    verdicts, lines of ``{"id": ..., "answer": ..., "verdict": correct | incorrect | unclear}``.

    Raises:
        UserError: files are missing or malformed, or what ``build_corpus`` checks.
    """
    judged = _judged.read(verdicts, "verdict", VERDICTS)

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        return [_example(folder, where, row, split, judged) for where, row in _rows(folder)]

    notes = {"scored by": "verdicts" if judged is not None else "words"}
    return questions.corpus("hallusionbench", root, read, notes=notes, max_bad=max_bad, whole=True)


def _rows(root: Path) -> Iterator[tuple[str, Row]]:
    found = questions.files(root, FILE)
    if not found:
        raise UserError(f"No {FILE} in {root}: check the data folder and its layout.")
    yield from questions.listed(found[0])


def _example(
    root: Path, where: str, row: Row, split: str, judged: _judged.Verdicts | None
) -> Example:
    keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
    category, subcategory, group, figure, question = (
        questions.field(where, row, key) for key in keys
    )
    if category not in CATEGORIES:
        raise UserError(f"{where}: category {category!r}, allowed are VD and VS.")
    label = LABELS.get(str(row.get("gt_answer")))
    if label is None:
        raise UserError(f"{where}: gt_answer {row.get('gt_answer')!r}, allowed are '0' and '1'.")
    cluster = f"{category}/{subcategory}/{group}"
    id_ = f"{questions.prefix(split)}{cluster}/{figure}/{question}"
    return Example(
        id_,
        _figure(where, root, row),
        questions.field(where, row, "question"),
        (),
        answers=(label,),
        choices=("yes", "no"),
        subset=f"{category}: {subcategory}",
        cluster=cluster,
        facts={"figure": (figure,), "question": (question,), **_judged.facts(judged, id_)},
    )


def _figure(where: str, root: Path, row: Row) -> Path | None:
    """Path of the figure; None for a question that has none."""
    if row.get("filename") is None:
        if str(row.get("visual_input")) != "0":
            raise UserError(f"{where}: no 'filename' of the figure.")
        return None
    name = questions.field(where, row, "filename")
    paths = [root / folder / name for folder in IMAGE_FOLDERS]
    return next((path for path in paths if path.is_file()), paths[0])


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row."""
    return questions.prompt(doc)


def doc_to_target(doc: metrics.Question) -> str:
    """Right answer of a row."""
    return questions.first_answer(doc)


def said(answer: str) -> str | None:
    """``yes``, ``no``, or None for an answer that says neither or that one does not know."""
    unknown = UNCERTAIN.search(answer.lower()) is not None
    return answers.opening(answer) or (None if unknown else answers.yes_or_no(answer))


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer; groups are a figure's questions and a question's figures."""
    given, cluster = said(results[0]), doc["cluster"]
    (figure,), (question,) = doc["facts"]["figure"], doc["facts"]["question"]
    right = float(_right(doc, results[0]))
    shares: metrics.Shares = {
        "aAcc": (right, 1),
        "qAcc": (f"{cluster}/{question}", right),
        "yes_rate": (given == "yes", 1),
        "unparsed": (given is None, 1),
        "item": metrics.answered(doc, results[0]),
    }
    if not _without_figure(doc):
        shares["fAcc"] = (f"{cluster}/{figure}", right)
    if figure == ORIGINAL:
        return {**shares, "easy": (right, 1)}
    return {**shares, "hard": (f"{cluster}/{question}", right)}


def _without_figure(doc: metrics.Question) -> bool:
    return doc["cluster"].startswith("VS/") and doc["facts"]["figure"] == (ORIGINAL,)


def _right(doc: metrics.Question, answer: str) -> bool:
    verdict = _judged.of(doc, answer)
    if verdict is not None:
        return verdict == CORRECT or (verdict == UNCLEAR and _without_figure(doc))
    given = said(answer)
    unknown = given is None and UNCERTAIN.search(answer.lower()) is not None
    return given == doc["answers"][0] or (unknown and _without_figure(doc))


def write_official(rows: Iterator[Row], folder: Path) -> None:
    """Write rows of a hub copy as ``HallusionBench.json`` and the figures.

    Figures are in a column of split ``image``; questions of the other split have none.
    """
    kept = []
    for row in rows:
        kept.append({name: official.column(row, name) for name in COLUMNS})
        if name := kept[-1]["filename"]:
            picture = official.column(row, "image")
            official.write_image(picture, folder / IMAGE_FOLDERS[0], str(Path(name)))
    official.write_json(folder / FILE, kept)
