"""Directions of all metrics: by their papers, and by scores of worse answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from steelyard import tasks
from steelyard.tasks import metrics
from steelyard.tasks.world import build

UP, DOWN, NEITHER = True, False, None
YES_NO = {"yes_rate": NEITHER, "unparsed": NEITHER}
F1 = dict.fromkeys(("f1", "accuracy", "precision", "recall"), UP)
AMBER = {"chair": DOWN, "cover": UP, "hal": DOWN, "cog": DOWN, "length": NEITHER}
LABELLED = dict.fromkeys(("macro_f1", "micro_f1", "weighted_f1", "samples_f1"), UP)

PAPERS: dict[str, tuple[str, dict[str, bool | None]]] = {
    "pope": (
        "Li et al. 2023, arXiv:2305.10355: accuracy, precision, recall, F1; a share of yes far "
        "from one half shows a bias and is neither good nor bad when high",
        {**F1, **YES_NO},
    ),
    "chair": (
        "Rohrbach et al. 2018, arXiv:1809.02156: CHAIRi and CHAIRs are shares of hallucinated "
        "objects and sentences, lower is better; recall is of the objects there are",
        {"chair_i": DOWN, "chair_s": DOWN, "recall": UP, "length": NEITHER},
    ),
    "amber": (
        "Wang et al. 2023, arXiv:2311.07397: CHAIR, Hal and Cog (hallucinations that people share) "
        "lower, Cover higher; accuracy, precision, recall, F1 and the score higher",
        {"score": UP, **AMBER, **F1, **YES_NO},
    ),
    "amber_generative": ("as amber", AMBER),
    "amber_discriminative": ("as amber", {**F1, **YES_NO}),
    "hallusionbench": (
        "Guan et al. 2024, arXiv:2310.14566: all are accuracies, of questions, of figures, of "
        "question pairs, of easy and of hard questions",
        {**dict.fromkeys(("aAcc", "fAcc", "qAcc", "easy", "hard"), UP), **YES_NO},
    ),
    "mmhal": (
        "Sun et al. 2023, arXiv:2309.14525: mean rating higher, hallucination rate lower",
        {"score": UP, "hallucination": DOWN, "answered": NEITHER, "length": NEITHER},
    ),
    "naturalbench": (
        "Li et al. 2024, arXiv:2410.14669: accuracies of questions, images and groups",
        {
            **dict.fromkeys(("group_accuracy", "question_accuracy", "image_accuracy"), UP),
            "accuracy": UP,
            "unparsed": NEITHER,
        },
    ),
    "mme": (
        "Fu et al. 2023, arXiv:2306.13394: accuracy, accuracy+ and their sums, all higher",
        {
            **dict.fromkeys(("score", "perception", "cognition"), UP),
            **dict.fromkeys(("accuracy", "accuracy_plus"), UP),
            **YES_NO,
        },
    ),
    "vqa": ("Goyal et al. 2017, arXiv:1612.00837: accuracy", {"accuracy": UP}),
    "vqav2": ("Goyal et al. 2017, arXiv:1612.00837: accuracy", {"accuracy": UP}),
    "textvqa": ("Singh et al. 2019, arXiv:1904.08920: accuracy", {"accuracy": UP}),
    "gqa": (
        "Hudson and Manning 2019, arXiv:1902.09506: accuracy, in all and by semantic type",
        {
            "accuracy": UP,
            **{f"{kind}_accuracy": UP
               for kind in ("object", "attribute", "category", "relation", "global")},
        },
    ),
    "scienceqa": (
        "Lu et al. 2022, arXiv:2209.09513: accuracy, in all and by subject",
        {
            "accuracy": UP,
            **{f"{subject}_accuracy": UP for subject in ("natural", "social", "language")},
            "unparsed": NEITHER,
        },
    ),
    "food101": ("Wang et al. 2015, doi:10.1109/ICMEW.2015.7169757: accuracy", {"accuracy": UP}),
    "hateful_memes": (
        "Kiela et al. 2020, arXiv:2005.04790: area under the ROC curve, accuracy",
        {"auroc": UP, "accuracy": UP, "macro_f1": UP},
    ),
    "mm_imdb": ("Arevalo et al. 2017, arXiv:1702.01992: F1 scores", LABELLED),
    "instruct": ("our own: accuracy", {"accuracy": UP}),
    "prior_conflict": (
        "our own: right answers by kind of item, and the share of conflicts answered as usual",
        {
            **dict.fromkeys(("counter_prior", "held_out", "in_prior", "accuracy"), UP),
            "prior_following": DOWN,
            "invalid": NEITHER,
        },
    ),
}  # fmt: skip
UNRANKED = {"mmhal"}
"""Tasks whose main metric has no direction, since only a judge could score them."""


def test_the_table_names_every_task_and_nothing_else() -> None:
    assert sorted(PAPERS) == tasks.names()


@pytest.mark.parametrize("task", PAPERS)
def test_directions_are_those_of_the_paper(task: str) -> None:
    source, directions = PAPERS[task]
    about = tasks.info(task)
    assert dict(about.metrics) == directions, source
    assert (about.metrics[about.main] is None) == (task in UNRANKED)


# --- Right answers score better than those of other items --------------------------------------


def aggregations(task: str) -> dict[str, Callable[[Any], float]]:
    text = tasks.definition(task).read_text(encoding="utf-8").replace("!function ", "")
    names = {row["metric"]: row["aggregation"] for row in yaml.safe_load(text)["metric_list"]}
    return {metric: vars(metrics)[path.rpartition(".")[2]] for metric, path in names.items()}


def given(task: str, docs: list[Any], shift: int) -> list[str]:
    """Return the right answers, shifted by ``shift`` items."""
    moved = [docs[(index + shift) % len(docs)] for index in range(len(docs))]
    if "labels" not in docs[0]:
        return [tasks.target(task, doc) for doc in moved]
    return [json.dumps(metrics.indicator(doc["labels"], len(doc["classes"]))) for doc in moved]


def scores(task: str, root: Path, shift: int) -> dict[str, float]:
    score = tasks.function(task, "process_results")
    corpus = tasks.load(task, root)
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    # Of one kind, so that moved answers are answers to the same sort of question.
    docs.sort(key=lambda doc: str(doc.get("subset", "")))
    result = [
        score(doc, [answer]) for doc, answer in zip(docs, given(task, docs, shift), strict=True)
    ]
    return {
        metric: aggregate([row[metric] for row in result if metric in row])
        for metric, aggregate in aggregations(task).items()
        if any(metric in row for row in result)
    }


@pytest.mark.parametrize(
    "task", [task for task in PAPERS if task not in UNRANKED and task in build.SETS]
)
def test_worse_answers_are_worse_by_every_metric(
    task: str, tmp_path: Path, short_validation: None
) -> None:
    build.write(build.WorldSpec(task, train=32, test=96, seed=3), tmp_path / task)
    right, wrong = (scores(task, tmp_path / task, shift) for shift in (0, 1))
    assert tasks.info(task).main in right
    for name in right:  # the world has nothing to ask for some, such as social science
        higher = PAPERS[task][1][name]
        gain = right[name] - wrong[name]
        assert higher is NEITHER or (gain > 0 if higher else gain < 0), (name, right, wrong)
