"""Text-only baseline: by hand, and on the published questions of three benchmarks."""

from pathlib import Path

import numpy as np
import pytest
from paths import SHARED

from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.core.readers import read_json, read_rows
from steelyard.harness.datacheck import text_only

OFFICIAL = SHARED / "official_json"


def classes(texts: list[str], labels: list[tuple[int, ...]], prefix: str) -> tuple[Example, ...]:
    pairs = zip(texts, labels, strict=True)
    return tuple(
        Example(f"{prefix}{n}", None, text, score) for n, (text, score) in enumerate(pairs)
    )


def questions(triples: list[tuple[str, str, str]], **same: object) -> tuple[Example, ...]:
    """Examples of (cluster, question, answer)."""
    return tuple(
        Example(str(n), None, text, (), answers=(answer,), cluster=cluster)
        for n, (cluster, text, answer) in enumerate(triples)
    )


def open_set(examples: tuple[Example, ...]) -> Corpus:
    return Corpus("toy", Path(), (), False, {"test": examples}, "r")


def test_text_that_names_the_class_solves_it() -> None:
    train = classes(["apple pie", "ramen soup", "apple tart"] * 20, [(0,), (1,), (0,)] * 20, "a")
    test = classes(["an apple", "hot ramen", "soup", ""], [(0,), (1,), (1,), (1,)], "b")
    corpus = Corpus("toy", Path(), ("pie", "soup"), False, {"train": train, "test": test}, "r")
    (row,) = text_only.scores(corpus)
    assert row.one_answer == 0.75  # "soup" for all
    assert row.text_only == 0.75  # without a text the usual class is left, which is wrong
    assert (row.split, row.items, row.fitted_on) == ("test", 4, "train")
    assert row.low < 0.75 < row.high


def test_several_labels_are_scored_by_f1_of_the_usual_number() -> None:
    texts = ["robot war", "robot love", "war story", "love story"]
    labels = [(0, 1), (0, 2), (1, 3), (2, 3)]
    train = classes(texts * 5, labels * 5, "a")
    test = classes(["robot war", "love"], [(0, 1), (2,)], "b")
    names = ("scifi", "war", "romance", "drama")
    corpus = Corpus("toy", Path(), names, True, {"train": train, "test": test}, "r")
    (row,) = text_only.scores(corpus)
    # Three are equally common, two are given: romance and scifi by name. F1 1/2 and 2/3.
    assert row.one_answer == pytest.approx(7 / 12)
    # Two of two, and romance with another one: F1 1 and 2/3.
    assert row.text_only == pytest.approx(5 / 6)


def test_folds_keep_clusters_together() -> None:
    # The answer is a property of the cluster alone and the question says nothing: only a reader
    # who has seen the cluster could know it.
    rng = np.random.default_rng(0)
    triples = [
        (f"image{cluster}", f"what of image{cluster}", ("red", "blue")[int(rng.integers(2))])
        for cluster in range(60)
    ]
    (row,) = text_only.scores(open_set(questions([row for row in triples for _ in range(4)])))
    assert row.text_only < 0.7
    assert row.fitted_on == "5 folds by cluster"


def test_choices_bound_the_answer() -> None:
    triples = [(f"i{n}", "is it so?", ("yes", "no", "no")[n % 3]) for n in range(90)]
    examples = questions(triples)
    free = text_only.scores(open_set(examples))[0]
    assert free.text_only == pytest.approx(2 / 3)
    bound = tuple(
        Example(row.id, None, row.text, (), answers=row.answers, choices=("Yes", "Maybe"),
                cluster=row.cluster)
        for row in examples
    )  # fmt: skip
    assert text_only.scores(open_set(bound))[0].text_only == pytest.approx(1 / 3)


def test_subsets_are_answered_from_their_own_kind() -> None:
    # In either part the dog decides, the other way round.
    examples = []
    for n in range(120):
        part, noun = ("a", "b")[n % 2], ("dog", "boat")[n // 2 % 2]
        answer = "yes" if (noun == "dog") == (part == "a") else "no"
        examples.append(
            Example(str(n), None, f"a {noun}?", (), answers=(answer,), subset=part)
        )  # fmt: skip
    rows = {row.subset: row for row in text_only.scores(open_set(tuple(examples)))}
    assert rows["a"].text_only == rows["b"].text_only == 1.0
    assert rows[""].text_only < 0.65 and rows[""].items == 120


def test_what_cannot_be_solved_says_why() -> None:
    captions = questions([(f"i{n}", "describe it", f"caption {n}") for n in range(9)])
    assert "no answer occurs twice" in text_only.unsuitable(open_set(captions))
    bare = tuple(Example(str(n), None, None, (), answers=("yes",)) for n in range(9))
    assert "no text" in text_only.unsuitable(open_set(bare))
    nothing = Corpus("toy", Path(), (), False, {"train": bare}, "r")
    assert "no usable item" in text_only.unsuitable(nothing)
    assert not text_only.unsuitable(open_set(questions([("a", "?", "yes"), ("b", "?", "yes")])))


def test_interval_by_hand() -> None:
    # Wilson for 8 of 10: published tables give 0.490 to 0.943. n - 1 in the variance makes the
    # draws nine: 0.462 to 0.945.
    low, high = text_only.interval([1.0] * 8 + [0.0] * 2, [str(n) for n in range(10)])
    z, n, p = 1.96, 9.0, 0.8
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    assert (low, high) == (pytest.approx(middle - half), pytest.approx(middle + half))
    # All right: the number of draws is that of the clusters. Wilson for 3 of 3: 0.438 to 1.
    low, high = text_only.interval([1.0] * 30, [str(n % 3) for n in range(30)])
    assert (low, high) == (pytest.approx(0.4385, abs=1e-3), 1.0)
    # Clusters that agree within themselves count as one draw each.
    wide = text_only.interval([1.0, 1.0, 0.0, 0.0] * 5, [str(n // 2) for n in range(20)])
    narrow = text_only.interval([1.0, 1.0, 0.0, 0.0] * 5, [str(n) for n in range(20)])
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
def test_popes_lists_are_solved_from_the_object_asked_for() -> None:
    examples = tuple(
        Example(f"{kind}/{row['question_id']}", None, row["text"], (), answers=(row["label"],),
                choices=("yes", "no"), subset=kind, cluster=row["image"])
        for kind in ("random", "popular", "adversarial")
        for _, row in read_rows(OFFICIAL / "pope" / f"coco_pope_{kind}.json.gz")
    )  # fmt: skip
    rows = {row.subset: row for row in text_only.scores(open_set(examples))}
    # A guesser by each object's share of yes on other images reaches 0.69, 0.87 and 0.71.
    for kind, share in (("random", 0.69), ("popular", 0.87), ("adversarial", 0.71)):
        assert rows[kind].text_only == pytest.approx(share, abs=0.025), kind
        assert rows[kind].one_answer == pytest.approx(0.5, abs=0.02)
        assert rows[kind].high - rows[kind].low < 0.04


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
def test_what_words_alone_solve_of_hallusionbench_and_of_amber() -> None:
    rows = read_json(OFFICIAL / "hallusionbench" / "HallusionBench.json.gz")
    triples = [
        (f"{row['category']}/{row['subcategory']}/{row['set_id']}", row["question"],
         ("no", "yes")[int(row["gt_answer"])])
        for row in rows
    ]  # fmt: skip
    (score,) = text_only.scores(open_set(questions(triples)))
    assert score.one_answer == 645 / 1129  # no, always
    assert score.low < score.one_answer < score.high  # words say nothing beyond that

    truth = {row["id"]: row["truth"] for row in read_json(OFFICIAL / "amber/annotations.json.gz")}
    queries = read_json(OFFICIAL / "amber" / "query_discriminative.json.gz")
    triples = [(row["image"], row["query"], truth[row["id"]]) for row in queries]
    (score,) = text_only.scores(open_set(questions(triples)))
    assert score.one_answer == 9427 / 14216
    assert score.text_only == pytest.approx(0.852, abs=0.01)
