"""POPE: official numbers of recorded answers, layouts, faults, and scores by hand."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pope_scores
import pytest
from object_prior import guesses
from paths import SHARED
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.readers import read_rows
from steelyard.tasks import metrics, pope

OFFICIAL = SHARED / "official_json" / "pope"


def rows(count: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "question_id": number + 1,
            "image": f"COCO_val2014_{number // 2:012}.jpg",
            "text": f"Is there a thing {number} in the image?",
            "label": ("yes", "no")[number % 2],
        }
        for number in range(count)
    ]


def write(path: Path, content: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = "".join(json.dumps(row) + "\n" for row in content).encode()
    path.write_bytes(gzip.compress(packed) if path.suffix == ".gz" else packed)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in pope.KINDS:
        write(tmp_path / f"coco_pope_{kind}.json", rows())
    for number in range(2):
        picture(tmp_path / "images" / f"COCO_val2014_{number:012}.jpg")
    return tmp_path


# --- Parity with the published scorer --------------------------------------------------------


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
def test_recorded_answers_give_the_published_numbers() -> None:
    recorded = json.loads((OFFICIAL / "llava15_7b_answers.json").read_text())
    assert len(recorded) == 6
    for name, run in recorded.items():
        path = OFFICIAL / f"coco_pope_{name.partition('-')[0]}.json.gz"
        labels = [row["label"] for _, row in read_rows(path)]
        replies = ["yes" if letter == "y" else "no" for letter in run["answers"]]
        counts = pope_scores.confusion(labels, replies)
        assert counts == {key: run[key] for key in ("tp", "fp", "tn", "fn")}
        ours = pope_scores.scores(labels, replies)
        for metric in ("accuracy", "precision", "recall", "f1"):
            assert ours[metric] == pytest.approx(run[metric], abs=1e-15), (name, metric)
        assert ours["yes_rate"] == run["yes_ratio"]
        assert ours["unparsed"] == 0


# --- Reading ---------------------------------------------------------------------------------


def test_the_official_layout(folder: Path) -> None:
    corpus = pope.load(folder)
    test = corpus.splits["test"]
    assert set(corpus.splits) == {"test"}
    assert [example.subset for example in test] == [k for k in pope.KINDS for _ in range(4)]
    first = test[0]
    assert (first.id, first.text) == ("random/1", "Is there a thing 0 in the image?")
    assert (first.answers, first.choices, first.labels) == (("yes",), ("yes", "no"), ())
    assert first.image == folder / "images" / "COCO_val2014_000000000000.jpg"
    assert [example.cluster[-5:] for example in test[:4]] == ["0.jpg", "0.jpg", "1.jpg", "1.jpg"]


def test_other_places_and_packing_give_the_same_items(folder: Path, tmp_path: Path) -> None:
    before = pope.load(folder)
    for kind in pope.KINDS:
        plain = folder / f"coco_pope_{kind}.json"
        write(folder / "output" / "coco" / f"{plain.name}.gz", rows())
        plain.unlink()
    (folder / "images").rename(folder / "val2014")
    after = pope.load(folder)
    assert after.revision == before.revision
    # A packed file beside its own copy is read once.
    write(folder / "output" / "coco" / "coco_pope_random.json", rows())
    assert pope.load(folder).revision == before.revision


def test_a_file_with_kinds_in_its_rows(folder: Path) -> None:
    mixed = [{**row, "kind": "popular", "source": "POPE/aokvqa"} for row in rows()]
    write(folder / "my_pope_subset.jsonl", mixed)
    selection = pope.load(folder, questions="my_pope_subset.jsonl").splits["test"]
    assert [example.id for example in selection][:2] == [
        "POPE/aokvqa/popular/1",
        "POPE/aokvqa/popular/2",
    ]
    assert {example.subset for example in selection} == {"popular"}
    assert len(pope.load(folder).splits["test"]) == 12
    for kind in pope.KINDS:
        (folder / f"coco_pope_{kind}.json").unlink()
    assert len(pope.load(folder).splits["test"]) == 4


def add(root: Path, source: str, folder: str, image: str) -> None:
    for kind in pope.KINDS:
        result = [{**row, "image": image.format(row["question_id"] // 3)} for row in rows()]
        write(root / folder / f"{source}_pope_seem_{kind}.json", result)


def test_the_questions_of_other_data_sets(folder: Path) -> None:
    before = pope.load(folder).revision
    add(folder, "aokvqa", "output/seem/aokvqa", "COCO_val2014_{:012}.jpg")
    add(folder, "gqa", "gqa", "24057{:02}.jpg")
    for number in (0, 1):
        picture(folder / "gqa" / "images" / f"24057{number:02}.jpg")
    assert pope.load(folder).revision == before  # COCO's where there are any
    second = pope.load(folder, source="aokvqa").splits["test"]
    assert [second[0].id, second[0].subset, len(second)] == ["aokvqa/random/1", "random", 12]
    every = pope.load(folder, source="all").splits["test"]
    assert len(every) == 36
    assert {e.subset for e in every} == {f"{k}: {s}" for k in pope.KINDS for s in pope.SOURCES}
    last = every[-1]
    assert (last.id, last.image) == ("gqa/adversarial/4", folder / "gqa" / "images" / "2405701.jpg")
    for kind in pope.KINDS:
        (folder / f"coco_pope_{kind}.json").unlink()
    assert pope.load(folder).splits["test"] == second
    with pytest.raises(UserError, match=r"No coco_pope_random\.json, coco_pope_popular"):
        pope.load(folder, source="coco")
    with pytest.raises(UserError, match="Unknown source of pope 'gqua'"):
        pope.load(folder, source="gqua")


def test_a_validation_part_has_ids_of_its_own(folder: Path) -> None:
    picture(folder / "val" / "photo.jpg")
    assert set(pope.load(folder).splits) == {"test"}  # a folder of images is no validation part
    write(folder / "val" / "coco_pope_random.json", [{**rows()[0], "image": "photo.jpg"}])
    (example,) = pope.load(folder).splits["val"]
    assert (example.id, example.image) == ("val/random/1", folder / "val" / "photo.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "maybe"}, r"random.json:1: label 'maybe', allowed are yes, no"),
        ({"text": None}, r"random.json:1: 'text' must be a string or a number, found None"),
        ({"question_id": True}, r"'question_id' must be"),
        ({"image": ""}, r"'image' must be"),
        ({"kind": "odd"}, r"kind 'odd', allowed are random, popular, adversarial"),
    ],
)
def test_a_malformed_row_names_its_line(folder: Path, change: dict[str, Any], message: str) -> None:
    write(folder / "coco_pope_random.json", [{**rows()[0], **change}])
    with pytest.raises(UserError, match=message):
        pope.load(folder)


def test_files_that_are_not_there_or_broken(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No data folder at"):
        pope.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"No coco_pope_random\.json, .* in .*images"):
        pope.load(folder / "images")
    with pytest.raises(UserError, match=r"No mine\.json in"):
        pope.load(folder, questions="mine.json")
    (folder / "coco_pope_random.json").unlink()
    (folder / "coco_pope_random.json.gz").write_bytes(gzip.compress(b"{}" * 500)[:20])
    with pytest.raises(UserError, match=r"coco_pope_random\.json\.gz: cannot be read"):
        pope.load(folder)


def test_corrupted_images_are_counted_and_listed(folder: Path) -> None:
    broken = folder / "images" / "COCO_val2014_000000000001.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match="6 of 12 rows of test cannot be used"):
        pope.load(folder)
    corpus = pope.load(folder, max_bad=0.5)
    assert len(corpus.splits["test"]) == 6
    assert [row.id for row in corpus.skipped][:2] == ["random/3", "random/4"]


# --- Scores ----------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    labels = ["yes", "yes", "yes", "no", "no", "no"]
    replies = ["Yes.", "yes, one", "No", "no", "Yes", "a dog"]
    # Official: yes yes no no yes yes. tp 2, fn 1, tn 1, fp 2.
    assert pope_scores.confusion(labels, replies) == {"tp": 2, "fp": 2, "tn": 1, "fn": 1}
    assert pope_scores.scores(labels, replies) == {
        "f1": pytest.approx(4 / 7),
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": pytest.approx(2 / 3),
        "yes_rate": pytest.approx(4 / 6),
        "unparsed": pytest.approx(1 / 6),
    }


def test_the_rate_is_of_answers_and_not_of_labels() -> None:
    always = pope_scores.scores(["yes", "no"], ["yes", "yes"])
    never = pope_scores.scores(["yes", "no"], ["no", "no"])
    assert (always["yes_rate"], never["yes_rate"]) == (1.0, 0.0)
    assert (always["f1"], never["f1"]) == (pytest.approx(2 / 3), 0.0)
    assert (never["precision"], never["recall"]) == (0.0, 0.0)  # no yes answer: 0, not NaN


def test_one_item(folder: Path) -> None:
    corpus = pope.load(folder)
    doc: Any = tasks.document(corpus, "test", corpus.splits["test"][1], "asked")
    result = pope.process_results(doc, ["Yes, there is."])
    assert result["item"] == {
        "id": "random/2",
        "cluster": "COCO_val2014_000000000000.jpg",
        "subset": "random",
        "answer": "Yes, there is.",
    }
    assert result["f1"] == (0.0, 1)
    assert set(result) == {*tasks.info("pope").metrics, "item"}
    assert tasks.prompt("pope", doc) == "asked\nAnswer the question using a single word or phrase."
    assert metrics.ratio([(0.0, 0)]) == 0.0


# --- What needs no image ---------------------------------------------------------------------


def test_the_guesser_by_hand() -> None:
    def asked(image: str, name: str, label: str) -> dict[str, str]:
        return {"image": image, "text": f"Is there a {name} in the image?", "label": label}

    content = [asked("a", "cup", "yes"), asked("b", "cup", "yes"), asked("c", "cup", "no")]
    # The others of a: one yes, one no, level. Of b the same; of c: two yes.
    assert guesses([*content, asked("a", "fox", "no")]) == ["yes", "yes", "yes", "yes"]
    assert guesses([*content, asked("d", "cup", "no")]) == ["no", "no", "yes", "yes"]


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
@pytest.mark.parametrize(
    ("kind", "right", "about"),
    [("random", 2061, 0.69), ("popular", 2608, 0.87), ("adversarial", 2114, 0.71)],
)
def test_object_frequency_alone_answers_much_of_pope(kind: str, right: int, about: float) -> None:
    rows = [row for _, row in read_rows(OFFICIAL / f"coco_pope_{kind}.json.gz")]
    accuracy = pope_scores.scores([row["label"] for row in rows], guesses(rows))["accuracy"]
    assert accuracy == right / 3000 == pytest.approx(about, abs=0.01)


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
@pytest.mark.parametrize("kind", pope.KINDS)
def test_constant_answers(kind: str) -> None:
    path = OFFICIAL / f"coco_pope_{kind}.json.gz"
    labels = [row["label"] for _, row in read_rows(path)]
    assert len(labels) == 3000 and labels.count("yes") == 1500
    always, never = (pope_scores.scores(labels, [answer] * 3000) for answer in ("Yes", "No"))
    assert (always["f1"], always["recall"], always["yes_rate"]) == (pytest.approx(2 / 3), 1.0, 1.0)
    assert (never["f1"], never["accuracy"], never["yes_rate"]) == (0.0, 0.5, 0.0)


def test_lmms_eval_wants_the_bare_word_and_counts_the_labels_as_answers() -> None:
    stock = pytest.importorskip("lmms_eval.tasks.pope.utils")
    labels = ["yes", "no", "yes", "no"]

    def theirs(replies: Sequence[str], metric: str) -> float:
        results = [
            stock.pope_process_results({"answer": label, "question_id": 1}, [answer])
            for label, answer in zip(labels, replies, strict=True)
        ]
        rows = [row[f"pope_{metric}"] for row in results]
        return float(vars(stock)[f"pope_aggregate_{metric}"](rows))

    plain = ["yes", "yes", "no", "no"]
    for metric in ("accuracy", "precision", "recall", "f1_score"):
        assert theirs(plain, metric) == pytest.approx(
            pope_scores.scores(labels, plain)[metric.removesuffix("_score")]
        )
    right = ["Yes, there is.", "No.", "Yes.", "No, there is not."]
    assert theirs(right, "accuracy") == 0.0 and pope_scores.scores(labels, right)["accuracy"] == 1.0
    assert theirs(["yes"] * 4, "yes_ratio") == theirs(["no"] * 4, "yes_ratio") == 0.5
