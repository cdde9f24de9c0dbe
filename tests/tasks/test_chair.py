"""CHAIR: what a caption mentions, its metrics by hand, and both layouts."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.tasks import chair, metrics
from steelyard.tasks._shared import objects as _objects

SYNONYMS = "dog, puppy, pup\nhot dog, frank\ncup, mug\n"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def write(root: Path, rows: Sequence[dict[str, Any]], synonyms: str = SYNONYMS) -> Path:
    root.mkdir(exist_ok=True)
    (root / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if synonyms:
        (root / "synonyms.txt").write_text(synonyms)
    for row in rows:
        picture(root / "images" / row["image"])
    return root


def row(image: str, objects: list[str] | None, *captions: str) -> dict[str, Any]:
    return {"image": image, "objects": objects, "captions": list(captions)}


# --- Mentions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("A man and two women ride horses.", ["person", "person", "horse"]),
        ("The dog's bowl", ["dog", "bowl"]),
        ("hot dogs beside dogs", ["hot dog", "dog"]),
        ("a teddy bear, not a bear", ["teddy bear", "bear"]),
        ("Knives, wine glasses and a glass", ["knife", "wine glass"]),
        ("a fire hydrant by the hydrant", ["fire hydrant", "fire hydrant"]),
        ("buses on skis", ["bus", "skis"]),
        ("benches, sandwiches, couches", ["bench", "sandwich", "couch"]),
        ("a train track", []),
        ("a microwave, oven and hot. Dog", ["microwave", "oven", "dog"]),
        ("a microwave oven", ["microwave"]),
        ("people walk a puppy", ["person", "dog"]),
        ("a busy category of carpets and stoves", ["oven"]),
        ("", []),
    ],
)
def test_coco_mentions(text: str, result: list[str]) -> None:
    assert _objects.mentions(text, _objects.COCO) == result


def test_every_coco_class_is_understood_in_singular_and_plural() -> None:
    names = _objects.coco_names()
    assert len(names) == len(set(names)) == 80
    for name in names:
        assert _objects.mentions(f"a {name}.", _objects.COCO) == [name]
    regular = [
        name
        for name in names
        if name[-1] not in "sy" and name not in ("broccoli", "knife", "mouse")
    ]
    for name in (name for name in regular if not name.endswith(("ch", "sh", "x", "person"))):
        assert _objects.mentions(f"many {name}s", _objects.COCO) == [name]


@pytest.mark.parametrize(
    ("plural", "singular"),
    [("berries", "berry"), ("dishes", "dish"), ("boxes", "box"), ("potatoes", "potato"),
     ("shoes", "shoe"), ("glass", "glass"), ("bus", "bus"), ("gas", "gas"), ("ties", "tie")],
)  # fmt: skip
def test_singular(plural: str, singular: str) -> None:
    assert _objects.singular(plural) == singular


# --- Metrics ---------------------------------------------------------------------------------


def scores(root: Path, replies: Sequence[str]) -> dict[str, float]:
    corpus = chair.load(root)
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    results = [
        chair.process_results(doc, [answer]) for doc, answer in zip(docs, replies, strict=True)
    ]
    declared = tasks.info("chair").metrics
    assert all(set(result) == {*declared, "item"} for result in results)
    return {metric: metrics.ratio([row[metric] for row in results]) for metric in declared}


def test_metrics_by_hand(tmp_path: Path) -> None:
    root = write(tmp_path, [row("a.png", ["dog", "cup"]), row("b.png", ["cup"]), row("c.png", [])])
    result = scores(root, ["A puppy, a pup and a hot dog.", "mugs", "nothing here"])
    assert result == {
        "chair_i": pytest.approx(1 / 4),  # dog dog hot-dog, cup: one of four is wrong
        "chair_s": pytest.approx(1 / 3),
        "recall": pytest.approx(2 / 3),  # dog of dog and cup, cup
        "length": pytest.approx((8 + 1 + 2) / 3),
    }


def test_what_humans_mention_counts_as_present(tmp_path: Path) -> None:
    root = write(tmp_path, [row("a.png", ["dog"], "a dog by two mugs", "a frank")])
    assert chair.load(root).splits["test"][0].facts["objects"] == ("dog", "cup", "hot dog")
    assert scores(root, ["a cup"])["chair_i"] == 0.0
    assert scores(root, ["a cup"])["recall"] == pytest.approx(1 / 3)


def test_a_silent_model_hallucinates_nothing_and_recalls_nothing(tmp_path: Path) -> None:
    root = write(tmp_path, [row("a.png", ["dog"])])
    assert scores(root, [""]) == {"chair_i": 0.0, "chair_s": 0.0, "recall": 0.0, "length": 0.0}


def test_equal_to_lmms_eval_on_the_same_mentions(tmp_path: Path) -> None:
    stock = pytest.importorskip("lmms_eval.tasks.coco_cap_chair.utils")
    names = _objects.coco_names()
    draw = random.Random(0)
    rows = [row(f"{n}.png", draw.sample(names, draw.randint(1, 5))) for n in range(60)]
    root = write(tmp_path, rows, "")
    mentioned = [[draw.choice(names[:40]) for _ in range(draw.randint(0, 6))] for _ in rows]
    ours = scores(root, [", ".join(words) for words in mentioned])
    pairs = zip(rows, mentioned, strict=True)
    theirs = [{"answer": line["objects"], "pred": words} for line, words in pairs]
    for metric in ("chair_i", "chair_s", "recall"):
        aggregate = vars(stock)[f"coco_cap_chair_aggregate_results_{metric}"]
        assert aggregate(theirs) == pytest.approx(100 * ours[metric])
    assert 0.1 < ours["chair_i"] < 0.99 and 0 < ours["recall"] < 1
    with pytest.raises(ZeroDivisionError):
        stock.coco_cap_chair_aggregate_results_chair_i([{"answer": ["dog"], "pred": []}])


# --- Reading ---------------------------------------------------------------------------------


def test_reading(tmp_path: Path) -> None:
    rows = [row("a.png", ["puppy"], "a dog"), row("b.png", None), row("c.png", ["cup"])]
    corpus = chair.load(write(tmp_path, rows))
    assert [example.id for example in corpus.splits["test"]] == ["a.png", "c.png"]
    assert corpus.notes == {"not labelled": "test 1"} and corpus.skipped == ()
    example = corpus.splits["test"][0]
    assert (example.text, example.answers, example.cluster) == (None, ("a dog",), "a.png")
    assert example.facts["objects"] == ("dog",)  # the label was a synonym
    doc: Any = tasks.document(corpus, "test", example, None)
    assert tasks.prompt("chair", doc) == "Describe this image in one sentence."
    assert tasks.target("chair", doc) == "a dog"


def test_vocabulary_without_a_file(tmp_path: Path) -> None:
    of_coco = chair.load(write(tmp_path / "coco", [row("a.png", ["Dog"])], ""))
    assert of_coco.splits["test"][0].facts["vocabulary"] == _objects.COCO
    second = chair.load(write(tmp_path / "other", [row("a.png", ["dog", "corn"])], ""))
    assert second.splits["test"][0].facts["vocabulary"] == ("corn", "dog")


def write_coco(root: Path, part: str = "val2014") -> None:
    (root / "annotations").mkdir(exist_ok=True)
    instances = {
        "categories": [{"id": 18, "name": "dog"}, {"id": 47, "name": "cup"}],
        "images": [{"id": n, "file_name": f"COCO_{n}.jpg"} for n in (1, 2)],
        "annotations": [{"image_id": 1, "category_id": c} for c in (47, 18, 47)],
    }
    captions = {"annotations": [{"image_id": 2, "caption": "a sofa"}]}
    for kind, content in (("instances", instances), ("captions", captions)):
        (root / "annotations" / f"{kind}_{part}.json").write_text(json.dumps(content))
    for number in (1, 2):
        picture(root / "val2014" / f"COCO_{number}.jpg")


def test_the_official_layout(tmp_path: Path) -> None:
    write_coco(tmp_path)
    examples = chair.load(tmp_path).splits["test"]
    assert [example.facts["objects"] for example in examples] == [("cup", "dog"), ("couch",)]
    assert examples[0].image == tmp_path / "val2014" / "COCO_1.jpg"
    write_coco(tmp_path, part="train2014")
    with pytest.raises(UserError, match=r"Several instances files .* Choose by part"):
        chair.load(tmp_path)
    assert len(chair.load(tmp_path, part="val2014").splits["test"]) == 2


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No images.jsonl or instances_\*.json in"):
        chair.load(tmp_path)
    with pytest.raises(UserError, match=r"a.png: object 'sofa' is not in synonyms.txt"):
        chair.load(write(tmp_path, [row("a.png", ["sofa"])]))
    with pytest.raises(UserError, match=r"images.jsonl:1: 'objects' must be a list"):
        chair.load(write(tmp_path, [row("a.png", "dog")]))  # type: ignore[arg-type]
    (tmp_path / "images.jsonl").unlink()
    (tmp_path / "instances_x.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"instances_x\.json: 'categories' must be a list"):
        chair.load(tmp_path)


def test_there_is_no_text_to_corrupt() -> None:
    with pytest.raises(UserError, match="chair has no text beside the image to corrupt"):
        tasks.parse_variant("chair@text-blank")
    assert tasks.parse_variant("chair@image-blank").name == "image-blank"
