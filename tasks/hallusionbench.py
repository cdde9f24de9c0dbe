"""HallusionBench: the same yes-no questions about a figure, edited versions of it, and no figure.

Guan et al., CVPR 2024, arXiv 2310.14566. Accuracy of questions (aAcc), of figures with all
questions right (fAcc), and of questions that are right for all their figures (qAcc). ``easy`` is
the accuracy on original figures, or on none; ``hard`` needs the question right on all edited ones.
For a question without a figure, the answer that one does not know is also right.

Officially GPT-4 decides whether an answer is correct, incorrect or unclear. Here yes and no are
read from the answer's words, an answer with neither is wrong, and ``unparsed`` counts those. The
loader's option ``verdicts`` names a file of a judge's verdicts to use instead.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_rows
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import judged, official, questions

FILE = "HallusionBench.json"
CATEGORIES = ("VD", "VS")
"""Questions that depend on the figure, and questions that it supplements."""
COLUMNS = (
    "category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note",
    "question_id", "question", "gt_answer_details", "gt_answer", "filename",
)  # fmt: skip
"""Columns of the official file, in its order."""
LABELS = {"0": "no", "1": "yes"}
IMAGE_FOLDERS = ("hallusion_bench", ".", "images")
"""Parent folders of the figures' paths, searched in this order."""
ORIGINAL = "0"
"""Id of the original figure, or of none: the others are edited versions."""
CORRECT, INCORRECT, UNCLEAR = VERDICTS = ("correct", "incorrect", "unclear")
UNCERTAIN = re.compile(
    r"\b(?:uncertain|unsure|unclear|unknown|insufficient|not (?:sure|certain|clear|possible|enough)"
    r"|impossible to|(?:do not|don't) know"
    r"|(?:can ?not|can't|unable to) (?:be )?(?:tell|say|know|determine|answer|confirm|verify))"
)
"""Phrases of an answer that one does not know."""


def load(root: Path, *, max_bad: float = 0.01, verdicts: str = "") -> Corpus:
    """Read ``HallusionBench.json``; its ``filename`` is the path of a figure.

    Ids are ``category/subcategory/set/figure/question``. ``verdicts`` names a file of a judge's
    verdicts, lines of ``{"id": ..., "answer": ..., "verdict": correct | incorrect | unclear}``.
    """
    judge_verdicts = judged.read(verdicts, "verdict", VERDICTS)

    def read(folder: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
        keys = ("subcategory", "set_id", "figure_id", "question_id")
        for where, row in read_rows(questions.first_file(folder, FILE)):
            subcategory, group, figure, question = (questions.field(where, row, k) for k in keys)
            category = questions.one_of(where, row, "category", CATEGORIES)
            cluster = f"{category}/{subcategory}/{group}"
            id_ = f"{questions.prefix(split)}{cluster}/{figure}/{question}"
            numbers = {"figure": (figure,), "question": (question,)}
            yield Example(
                id_,
                _figure(where, folder, row),
                questions.field(where, row, "question"),
                answers=(LABELS[questions.one_of(where, row, "gt_answer", LABELS)],),
                choices=("yes", "no"),
                subset=f"{category}: {subcategory}",
                cluster=cluster,
                facts=numbers | judged.facts(judge_verdicts, id_),
            )

    notes = {"scored by": "verdicts" if judge_verdicts is not None else "words"}
    return questions.corpus(
        "hallusionbench", root, read, notes=notes, max_bad=max_bad, by_cluster=True
    )


def _figure(where: str, root: Path, row: questions.SourceRow) -> Path | None:
    """Return the path of the figure; None for a question without one."""
    if row.get("filename") is None:
        if str(row.get("visual_input")) != "0":
            raise UserError(f"{where}: no 'filename' of the figure.")
        return None
    name = questions.field(where, row, "filename")
    return questions.image_path(root, name, IMAGE_FOLDERS)


def label_of(answer: str) -> str | None:
    """Read ``yes`` or ``no``; None for neither, and for an answer that one does not know."""
    unknown = UNCERTAIN.search(answer.lower()) is not None
    # "No, it is unclear ..." is an answer: its first word decides.
    return answers.opening(answer) or (None if unknown else answers.yes_or_no(answer))


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    """Score one answer; groups are a figure's questions and a question's figures."""
    label, cluster = label_of(results[0]), doc["cluster"]
    (figure,), (question,) = doc["facts"]["figure"], doc["facts"]["question"]
    # Questions of VS have no figure in their original version.
    has_figure = figure != ORIGINAL or not cluster.startswith("VS/")
    verdict = judged.verdict_on(doc, results[0])
    if verdict is None:
        unknown = label is None and UNCERTAIN.search(results[0].lower())
        verdict = CORRECT if label == doc["answers"][0] else UNCLEAR if unknown else INCORRECT
    right = float(verdict == CORRECT or (verdict == UNCLEAR and not has_figure))
    scores: metrics.AnswerScores = {
        "aAcc": (right, 1),
        "qAcc": (f"{cluster}/{question}", right),
        "yes_rate": (label == "yes", 1),
        "unparsed": (label is None, 1),
        "item": metrics.answer_item(doc, results[0]),
    }
    if has_figure:
        scores["fAcc"] = (f"{cluster}/{figure}", right)
    if figure == ORIGINAL:
        return {**scores, "easy": (right, 1)}
    # The same groups as qAcc, but of edited figures only.
    return {**scores, "hard": scores["qAcc"]}


def write_official(rows: Iterator[questions.SourceRow], folder: Path) -> None:
    """Write rows of a hub copy as ``HallusionBench.json`` and the figures.

    Only split ``image`` has a column of figures; questions of the other split have none.
    """
    questions_of_copy = []
    for row in rows:
        content = {name: official.column(row, name) for name in COLUMNS}
        questions_of_copy.append(content)
        if name := content["filename"]:
            image = official.column(row, "image")
            # Path() drops the "./" of the official names.
            official.write_image(image, folder / IMAGE_FOLDERS[0], str(Path(name)))
    official.write_json(folder / FILE, questions_of_copy)
