"""Real photos with official POPE questions, human captions and Visual Genome's questions."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import SHARED

from steelyard import tasks
from steelyard.harness.core.examples import Corpus
from steelyard.tasks import build, chair, metrics, pope, vqa
from steelyard.tasks.corruptions import CORRUPTIONS

pytestmark = pytest.mark.real

DATA = SHARED
COCO, GENOME = DATA / "coco_mini", DATA / "vg_vqa_mini"
OFFICIAL = "pope_official_subset.jsonl"
LIMIT = 40


@pytest.fixture(autouse=True)
def _data() -> None:
    if not COCO.is_dir() or not GENOME.is_dir():
        pytest.skip("no shared/data/coco_mini and vg_vqa_mini beside the repository")


def scores(task: str, corpus: Corpus, answer: Callable[[Any], str]) -> dict[str, float]:
    docs = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    scorer: Any = tasks.module(task)
    results = [scorer.process_results(doc, [answer(doc)]) for doc in docs]
    return {m: metrics.ratio([row[m] for row in results]) for m in tasks.info(task).metrics}


def test_official_pope() -> None:
    corpus = pope.load(COCO, questions=OFFICIAL)
    assert Counter(e.subset for e in corpus.splits["test"]) == dict.fromkeys(pope.KINDS, 126)
    assert corpus.skipped == ()
    right = scores("pope", corpus, lambda doc: f"{doc['answers'][0].title()}.")
    assert (right["f1"], right["accuracy"], right["unparsed"]) == (1.0, 1.0, 0.0)
    always = scores("pope", corpus, lambda doc: "Yes, there is.")
    assert (always["recall"], always["yes_rate"]) == (1.0, 1.0)
    assert always["accuracy"] == always["precision"] == pytest.approx(0.5, abs=0.01)


def test_pope_from_the_labels() -> None:
    """Questions made from the labels: their owner's rule is the right answer."""
    corpus = pope.load(COCO)
    assert Counter(e.subset for e in corpus.splits["test"]) == dict.fromkeys(pope.KINDS, 416)
    present = {e.cluster: set(e.facts["objects"]) for e in chair.load(COCO).splits["test"]}

    def knows(doc: Any) -> str:
        noun = doc["text"].removesuffix(" in the image?").partition(" a")[2]
        return "yes" if noun.removeprefix("n").strip() in present[doc["cluster"]] else "no"

    assert scores("pope", corpus, knows)["accuracy"] > 0.97  # captions add objects to the labels


def test_chair() -> None:
    corpus = chair.load(COCO)
    assert len(corpus.splits["test"]) == 84 and corpus.notes == {"not labelled": "test 17"}
    human = scores("chair", corpus, lambda doc: doc["answers"][0] if doc["answers"] else "")
    assert human["chair_i"] == 0.0 and 0.1 < human["recall"] < 0.9
    listed = scores("chair", corpus, lambda doc: ", ".join(doc["facts"]["objects"]))
    assert (listed["chair_i"], listed["recall"]) == (0.0, 1.0)
    person = scores("chair", corpus, lambda doc: "A man with a giraffe.")
    assert person["chair_s"] > 0.9 and 0.4 < person["chair_i"] < 1.0


def test_visual_genome() -> None:
    corpus = vqa.load(GENOME)
    assert len(corpus.splits["test"]) == 7967
    assert len({example.cluster for example in corpus.splits["test"]}) == 110
    right = scores("vqa", corpus, lambda doc: doc["answers"][0].lower().rstrip("."))
    assert right["accuracy"] == 1.0
    usual = scores("vqa", corpus, lambda doc: "white" if "color" in doc["text"] else "man")
    assert 0.01 < usual["accuracy"] < 0.2


@pytest.mark.parametrize("corruption", [n for n, c in CORRUPTIONS.items() if c.apply])
@pytest.mark.parametrize(("task", "root"), [("pope", COCO), ("chair", COCO), ("vqa", GENOME)])
def test_every_corruption_builds(task: str, root: Path, corruption: str) -> None:
    if CORRUPTIONS[corruption].modality == "text" and not tasks.info(task).text:
        pytest.skip("no text beside the image")
    corpus = tasks.load(task, root)
    clean = build(tasks.parse_variant(task), corpus, limit=LIMIT)
    corrupted = build(tasks.parse_variant(f"{task}@{corruption}"), corpus, limit=LIMIT)
    pairs = list(zip(clean.dataset["test"], corrupted.dataset["test"], strict=True))
    assert len(pairs) == LIMIT
    prompts = [(clean.doc_to_text(a), corrupted.doc_to_text(b)) for a, b in pairs]
    images = [(clean.doc_to_visual(a), corrupted.doc_to_visual(b)) for a, b in pairs]
    assert all(prompt for _, prompt in prompts)
    if CORRUPTIONS[corruption].modality == "text":
        assert sum(clean != corrupted for clean, corrupted in prompts) > LIMIT / 2
        assert all(clean[0].tobytes() == corrupted[0].tobytes() for clean, corrupted in images)
    else:
        assert all(clean == corrupted for clean, corrupted in prompts)
        assert all(not o or o[0].tobytes() != a[0].tobytes() for a, o in images)
        assert all(bool(corrupted) == (corruption != "image-blank") for _, corrupted in images)
