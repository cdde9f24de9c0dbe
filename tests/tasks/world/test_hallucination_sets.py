"""The generated hallucination benchmarks: what they ask is true, and they run from end to end."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Inputs
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models.backbone import Recipe
from steelyard.tasks import build as build_task
from steelyard.tasks.metrics import ratio
from steelyard.tasks.world import build
from steelyard.tasks.world.scenes import KINDS

SETS = ("amber", "amber_generative", "amber_discriminative", "hallusionbench", "mmhal")
TEST = 96


@pytest.fixture(scope="module")
def world_sets(tmp_path_factory: pytest.TempPathFactory, short_validation: None) -> Path:
    root = tmp_path_factory.mktemp("hallucinations")
    for task in SETS:
        build.write(build.WorldSpec(task, train=16, test=TEST, seed=5), root / task)
    return root


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def truth(root: Path, split: str = "test") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (root / build.TRUTH).read_text().splitlines()]
    return [row for row in rows if row["split"] == split]


def colours_of(symbol: str) -> dict[str, str]:
    """Colour by kind, from ``sea: blue fish@0, red cup@3``."""
    words = (text.split("@")[0].split() for text in symbol.partition(": ")[2].split(", "))
    return {kind: colour for colour, kind in words}


# --- What is asked is true -------------------------------------------------------------------


def test_amber_asks_what_is_true(world_sets: Path) -> None:
    root = world_sets / "amber"
    annotations = {row["id"]: row for row in read(root / "data" / "annotations.json")}
    query = root / "data" / "query"
    captions = read(query / "query_generative.json")
    questions = read(query / "query_discriminative.json")
    facts = {row["id"]: row for row in truth(root)}
    assert (
        [row["id"] for row in captions + questions]
        == sorted(annotations)
        == list(range(1, len(annotations) + 1))
    )
    assert abs(len(annotations) - TEST) < 10 and len(captions) == TEST // 8
    for row in captions:
        shown, about = colours_of(facts[str(row["id"])]["scene"]), annotations[row["id"]]
        assert set(about["truth"]) == set(shown) and not set(about["hallu"]) & set(shown)
    answers = Counter()
    for row in questions:
        shown, about = colours_of(facts[str(row["id"])]["scene"]), annotations[row["id"]]
        words = row["query"].rstrip("?").split()
        kind = next((word for word in words if word in KINDS), "")
        right = {
            "discriminative-hallucination": kind in shown,
            "discriminative-attribute-state": shown.get(kind) == words[-1],
            "discriminative-attribute-number": str(len(shown)) in words,
        }.get(about["type"], about["type"] == "discriminative-relation")
        assert about["truth"] == ("yes" if right else "no")
        answers[about["type"], about["truth"]] += 1
    one_answer = {"discriminative-hallucination": "no", "discriminative-relation": "yes",
                  "relation": "no"}  # fmt: skip
    for (type, answer), count in answers.items():
        assert answer == one_answer.get(type, answer)
        assert type in one_answer or count == answers[type, "yes"] == answers[type, "no"]


def test_relations_are_of_rows_of_the_picture(world_sets: Path) -> None:
    root = world_sets / "amber_discriminative"
    queries = {
        str(r["id"]): r["query"] for r in read(root / "data/query/query_discriminative.json")
    }
    relations = [row for row in truth(root) if "relation" in row["type"]]
    assert len(relations) > 3
    for row in relations:
        cells = [text.split("@") for text in row["scene"].partition(": ")[2].split(", ")]
        level = {words.split()[1]: int(cell) // 2 for words, cell in cells}
        _, _, upper, _, _, lower = queries[row["id"]].rstrip("?").split()
        assert (level[upper] < level[lower]) == (row["truth"] == "yes")


def test_hallusionbench_asks_one_question_of_several_pictures(world_sets: Path) -> None:
    rows = read(world_sets / "hallusionbench" / "HallusionBench.json")
    facts = {row["id"]: row for row in truth(world_sets / "hallusionbench")}
    sets: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        names = [row[key] for key in ("category", "subcategory", "set_id")]
        fact = facts["/".join([*names, row["figure_id"], row["question_id"]])]
        kind, colour = row["sample_note"], row["question"].rstrip("?").split()[-1]
        shown = colours_of(fact["scene"])[kind] == colour
        assert row["gt_answer"] == str(int(shown))
        assert (row["filename"] is None) == (row["visual_input"] == "0")
        if row["visual_input"] == "0":  # the usual colour, which one can know
            assert (row["gt_answer"] == "1") == (KINDS[kind].colour == colour)
        sets["/".join(names)].append(row)
    assert {name[:2]: len(members) for name, members in sets.items()} == {"VD": 4, "VS": 6}
    # A constant answer is right half the time, and never for a whole figure or question.
    assert Counter(row["gt_answer"] for row in rows) == {"0": len(rows) // 2, "1": len(rows) // 2}


def test_mmhal_asks_of_every_type_and_of_what_is_not_there(world_sets: Path) -> None:
    rows, facts = read(world_sets / "mmhal" / "response_template.json"), truth(world_sets / "mmhal")
    assert len(rows) == TEST and len({row["question_type"] for row in rows}) == 5
    for row, fact in zip(rows, facts, strict=True):
        shown = colours_of(fact["scene"])
        assert row["image_content"] == list(shown) and row["gt_answer"] == fact["answer"]
        if row["question_type"] == "adversarial":
            assert row["question"].rstrip("?").split()[-1] not in shown


# --- From end to end ---------------------------------------------------------------------------


class Knowing:
    """Answers by what it is asked: what the answers to equal prompts on equal pictures were."""

    name, classes, recipe = "knowing", (), Recipe()

    def __init__(self, corpus: Corpus, task: str, rule: Callable[[str], str]) -> None:
        self.known: dict[tuple[bytes, str], str] = {}
        self.rule = rule
        built = build_task(tasks.parse_variant(task), corpus)
        for doc in built.dataset["test"]:
            images = built.doc_to_visual(doc)
            key = images[0].tobytes() if images else b"", built.doc_to_text(doc)
            self.known[key] = tasks.target(task, doc)

    def generate(self, inputs: Sequence[Inputs], max_tokens: int) -> list[str]:
        keys = ((item.image.tobytes() if item.image else b"", item.prompt) for item in inputs)
        return [self.known.get(key) or self.rule(key[1]) for key in keys]

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def scored(world_sets: Path, task: str, variant: str) -> tuple[dict[str, float], Any]:
    corpus = tasks.load(task, world_sets / task)
    model: Any = Knowing(corpus, task, lambda prompt: "no")
    result = evaluate(model, tasks.parse_variant(variant), corpus)
    for score in result.scores:  # what is kept of the items gives the score again
        if not score.subset:
            parts = result.items[[f"{score.metric}.top", f"{score.metric}.bottom"]].to_numpy(float)
            assert ratio(parts.tolist()) == pytest.approx(score.value, abs=1e-6)
    return {
        f"{s.subset}.{s.metric}" if s.subset else s.metric: s.value for s in result.scores
    }, result


@pytest.mark.parametrize("task", ["amber", "amber_discriminative", "hallusionbench"])
def test_right_answers_are_right_and_need_picture_and_question(world_sets: Path, task: str) -> None:
    main = tasks.info(task).main
    clean, _ = scored(world_sets, task, task)
    assert clean[main] == 1.0
    for corruption in ("image-blank", "text-noise:5"):
        corrupted, _ = scored(world_sets, task, f"{task}@{corruption}")
        assert corrupted[main] < 0.95, corruption


def test_amber_in_parts(world_sets: Path) -> None:
    clean, result = scored(world_sets, "amber", "amber")
    assert {"generative.chair", "attribute.f1", "attribute: state.f1", "relation.f1"} <= set(clean)
    assert not [name for name in clean if name.endswith(".score")]
    assert "generative.f1" not in clean and "existence.chair" not in clean
    shown = [(score.subset, score.metric) for score in result.scores if score.shown]
    assert [f"{s}.{m}".lstrip(".") for s, m in shown] == sorted(
        tasks.info("amber").columns, key=lambda name: ("." in name, 0 if "." not in name else name)
    )
    sizes = {score.subset: score.n for score in result.scores}
    assert sizes["attribute"] == sizes["attribute: state"] + sizes["attribute: number"]
    assert sizes[""] == sum(
        sizes[name] for name in ("generative", "existence", "attribute", "relation")
    )


def test_captions_have_no_text_to_corrupt(world_sets: Path) -> None:
    clean, _ = scored(world_sets, "amber_generative", "amber_generative")
    blank, _ = scored(world_sets, "amber_generative", "amber_generative@image-blank")
    assert (clean["chair"], clean["cover"], clean["hal"]) == (0, 1, 0)
    assert blank["cover"] == 0
    with pytest.raises(UserError, match="amber_generative has no text beside the image"):
        tasks.parse_variant("amber_generative@text-blank")


def test_mmhal_reports_no_score_without_a_judge(world_sets: Path, tmp_path: Path) -> None:
    clean, result = scored(world_sets, "mmhal", "mmhal")
    assert {name for name in clean if "." not in name} == {"answered", "length"}
    assert "score.top" not in result.items.columns
    rated = [
        {"id": row.id, "answer": row.answer, "rating": index % 7}
        for index, row in enumerate(result.items.itertuples())
    ]
    path = tmp_path / "rated.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rated))
    corpus = tasks.load("mmhal", world_sets / "mmhal", ratings=str(path))
    model: Any = Knowing(corpus, "mmhal", lambda prompt: "no")
    values = {
        score.metric: score.value
        for score in evaluate(model, tasks.parse_variant("mmhal"), corpus).scores
        if not score.subset
    }
    assert values["score"] == pytest.approx(sum(row["rating"] for row in rated) / len(rated))
    assert values["hallucination"] == pytest.approx(
        sum(r["rating"] < 3 for r in rated) / len(rated)
    )
    with pytest.raises(UserError, match="has none on this answer"):
        evaluate(model, tasks.parse_variant("mmhal@image-blank"), corpus)


def test_a_limit_takes_whole_pictures_and_sets(world_sets: Path) -> None:
    for task in ("amber", "hallusionbench"):
        corpus = tasks.load(task, world_sets / task)
        some = build_task(tasks.parse_variant(task), corpus, limit=30).dataset["test"]
        assert 0 < len(some) <= 30
        everyone = Counter(example.cluster for example in corpus.splits["test"])
        clusters = Counter(doc["cluster"] for doc in some)
        assert all(everyone[cluster] == count for cluster, count in clusters.items())
