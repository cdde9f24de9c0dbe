"""MME: both shapes of a category, pairs that belong together, points worked by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mme_files import lines, write

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.models.backbone import Recipe
from steelyard.tasks import build, metrics, mme
from steelyard.tasks._shared import official


def docs(corpus: Corpus, split: str = "test") -> list[Any]:
    return [
        tasks.document(corpus, split, example, example.text) for example in corpus.splits[split]
    ]


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("home", [".", "MME_Benchmark_release_version/MME_Benchmark"])
def test_both_shapes_of_a_category(tmp_path: Path, home: str) -> None:
    write(tmp_path / home, {"count": 1, "posters": 2}, nested=("posters",))
    corpus = mme.load(tmp_path)
    test = corpus.splits["test"]
    assert [example.id for example in test] == [
        "count/0000/1", "count/0000/2", "posters/0000/1", "posters/0000/2", "posters/0001/1",
        "posters/0001/2",
    ]  # fmt: skip
    assert test[0].text == "Is there a 1 in this image?"
    assert test[2].image == tmp_path / home / "posters" / "images" / "0000.jpg"
    assert (test[2].subset, test[2].cluster, test[2].answers) == (
        "posters", "posters/0000", ("yes",),
    )  # fmt: skip
    assert "landmark" in corpus.notes["categories missing"]
    assert "posters" not in corpus.notes["categories missing"]


def test_the_prompt_has_the_instruction_of_short_answers(tmp_path: Path) -> None:
    corpus = mme.load(write(tmp_path, {"count": 1}))
    expected = "Is there a 1 in this image?\nAnswer the question using a single word or phrase."
    assert tasks.prompt("mme", docs(corpus)[0]) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Is it?\tMaybe\nIs it not?\tNo\n", r"0000\.txt:1: expected a question, a tab, and Yes"),
        (f"{lines('Yes')}a question without an answer\n", r"0000\.txt:3: expected a question"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, {"count": 1})
    (tmp_path / "count" / "0000.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        mme.load(tmp_path)


def _one_question(root: Path) -> None:
    (root / "count" / "0001.txt").write_text(lines("Yes"))


def _no_questions(root: Path) -> None:
    (root / "count" / "0001.txt").unlink()


def _no_image(root: Path) -> None:
    (root / "count" / "0001.jpg").unlink()


def _half_an_image(root: Path) -> None:
    path = root / "count" / "0001.jpg"
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (_one_question, "1 of the two questions about an image"),
        (_no_questions, "0 of the two questions about an image"),
        (_no_image, "image missing: count/0001.jpg"),
        (_half_an_image, "image unreadable: count/0001.jpg"),
    ],
)
def test_half_a_pair_is_refused_or_left_out_whole(
    tmp_path: Path, break_it: Any, reason: str
) -> None:
    write(tmp_path, {"count": 4})
    break_it(tmp_path)
    with pytest.raises(UserError, match=rf"2 of 8 rows of test cannot be used: .*{reason}"):
        mme.load(tmp_path)
    corpus = mme.load(tmp_path, max_bad=0.25)
    assert {row.reason.partition(":")[0] for row in corpus.skipped} == {reason.partition(":")[0]}
    assert len(corpus.splits["test"]) == 6
    assert not [row for row in corpus.splits["test"] if row.cluster == "count/0001"]


def test_a_folder_without_categories(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No category of MME in .*: expected .* existence, count"):
        mme.load(tmp_path)
    with pytest.raises(UserError, match="No data folder at"):
        mme.load(tmp_path / "absent")


def test_a_limit_takes_whole_pairs(tmp_path: Path) -> None:
    corpus = mme.load(write(tmp_path, {"count": 5, "color": 5}))

    def taken(limit: int) -> list[str]:
        task = build(tasks.parse_variant("mme"), corpus, limit=limit)
        return [doc["cluster"] for doc in task.dataset["test"]]

    for limit, size in ((1, 2), (2, 2), (5, 4), (7, 6), (20, 20), (99, 20)):
        clusters = taken(limit)
        assert len(clusters) == size
        assert {clusters.count(name) for name in clusters} == {2}
    assert set(taken(5)) < set(taken(7))


# --- scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Yes", "yes"), ("no.", "no"), ("y", "yes"), ("N", "no"), ("Yes, it is", "yes"),
        ("No, yes", "no"), ("not sure", "no"), ("I see", None), ("", None), ("m", None),
        ("it is a yes", None),
    ],
)  # fmt: skip
def test_the_first_four_letters_decide(answer: str, label: str | None) -> None:
    assert mme.label_of(answer) == label


def test_points_by_hand() -> None:
    # Of category a (two pairs) three of four items and one of two pairs are right: 75 + 50. Of b
    # (one pair) one item and no pair: 50 + 0. Together 175 points of 400.
    items = [("a", "1", 1.0), ("a", "1", 1.0), ("a", "2", 1.0), ("a", "2", 0.0), ("b", "1", 0.0)]
    items += [("b", "1", 1.0)]
    assert metrics.total_points(items) == pytest.approx(175)
    assert metrics.mean_points(items) == pytest.approx(175 / 400)
    only_b = metrics.mean_points.fractions(items)[4:]
    assert metrics.ratio(only_b) == pytest.approx(50 / 200)
    assert sum(part[1] for part in metrics.total_points.fractions(items)) == pytest.approx(1)


class Yes:
    """Says yes to everything."""

    classes: tuple[str, ...] = ()
    name = "yes"
    recipe = Recipe()

    def generate(self, inputs: Sequence[Any], max_tokens: int) -> list[str]:
        return ["Yes"] * len(inputs)

    def count_tokens(self, text: str) -> int:
        return 1


def test_always_yes_gets_half_of_all_accuracy_and_no_pair(tmp_path: Path) -> None:
    from steelyard.harness.evaluation.evaluate import evaluate

    sizes = {name: 1 + index % 3 for index, name in enumerate((*mme.PERCEPTION, *mme.COGNITION))}
    corpus = mme.load(write(tmp_path, sizes, nested=mme.NESTED))
    assert corpus.notes == {"categories missing": "none"}
    model: Any = Yes()
    result = evaluate(model, tasks.parse_variant("mme"), corpus)
    value = {(score.subset, score.metric): score.value for score in result.scores}
    complete = {metric: number for (subset, metric), number in value.items() if not subset}
    assert complete == {
        "score": pytest.approx(0.25),
        "perception": pytest.approx(500),
        "cognition": pytest.approx(200),
        "accuracy": 0.5,
        "accuracy_plus": 0.0,
        "yes_rate": 1.0,
        "unparsed": 0.0,
    }
    parts = {subset for subset, _ in value if subset}
    assert parts == {*mme.PERCEPTION, *mme.COGNITION}
    assert [value[part, "score"] for part in parts] == [pytest.approx(0.25)] * 14
    # Points are sums over categories: of one category they say nothing more than its score.
    assert not [part for part in parts if (part, "perception") in value]


def test_points_are_of_the_categories_there(tmp_path: Path) -> None:
    from steelyard.harness.evaluation.evaluate import evaluate

    corpus = mme.load(write(tmp_path, {"count": 2, "color": 1}))
    model: Any = Yes()
    scores = evaluate(model, tasks.parse_variant("mme"), corpus).scores
    value = {score.metric: score.value for score in scores if not score.subset}
    assert value["perception"] == pytest.approx(100)
    assert "cognition" not in value


# --- a hub copy ------------------------------------------------------------------------------


def test_a_hub_copy_becomes_the_official_tree(tmp_path: Path) -> None:
    tree = mme.load(write(tmp_path / "tree", {"count": 2, "posters": 1}, nested=("posters",)))
    rows = [
        {
            official.CONFIG: "default",
            official.SPLIT: "test",
            "question_id": f"{example.subset}/{(example.image or Path()).name}",
            "image": {"bytes": (example.image or Path()).read_bytes(), "path": None},
            "question": f"{example.text} {mme.INSTRUCTION}",
            "answer": example.answers[0].capitalize(),
            "category": example.subset,
        }
        for example in tree.splits["test"]
    ]
    mme.write_official(iter(rows), tmp_path / "made")
    built = mme.load(tmp_path / "made")
    assert built.revision == tree.revision
    assert (tmp_path / "made/posters/questions_answers_YN/0000.txt").is_file()
    with pytest.raises(UserError, match="category 'smell', which MME does not have"):
        mme.write_official(iter([{**rows[0], "category": "smell"}]), tmp_path / "other")
