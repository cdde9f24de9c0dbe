"""Reliance profiles: numbers by hand, queries, and a text-only guesser that is exposed."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from answer_rows import rows
from paths import SHARED
from PIL import Image

from steelyard import tasks
from steelyard.harness.cli.diagnose import parts_of
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Inputs
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import classifier
from steelyard.harness.models.backbone import Recipe
from steelyard.harness.models.classifier_config import ClassifierConfig
from steelyard.harness.reliance import ask as reliance
from steelyard.harness.reliance.additive import projection
from steelyard.harness.reliance.answer_cache import AnswerCache
from steelyard.harness.reliance.session import fingerprint
from steelyard.leaderboards.output.style import render
from steelyard.leaderboards.reliance import numbers as profile
from steelyard.leaderboards.reliance import tables
from steelyard.leaderboards.reliance.numbers import Diagnosis, TaskReliance
from steelyard.tasks import build, pope
from steelyard.tasks.metrics import ratio

OFFICIAL = SHARED / "official_json" / "pope"
RED, BLUE = (255, 0, 0), (0, 0, 255)


class Talker(torch.nn.Module):
    """Answers in words by a rule; a module, as backbones are."""

    kind = "classifier"
    classes: tuple[str, ...] = ()
    recipe = Recipe(batch_size=16)

    def __init__(self, rule: Callable[[Inputs], str]) -> None:
        super().__init__()
        self.name, self.rule, self.asked = "talker", rule, 0

    def generate(self, inputs: Sequence[Inputs], max_tokens: int) -> list[str]:
        self.asked += len(inputs)
        return [self.rule(item) for item in inputs]

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def pope_like(root: Path, count: int = 40) -> Corpus:
    """Write items with two questions per image; half of the images have a dog and are red."""
    root.mkdir(parents=True, exist_ok=True)
    examples = []
    for number in range(count):
        path = root / f"{number // 2}.png"
        dog = number // 2 % 2 == 0
        Image.new("RGB", (4, 4), RED if dog else BLUE).save(path)
        animal = "dog" if number % 2 == 0 else "cat"
        answer = "yes" if dog == (animal == "dog") else "no"
        examples.append(
            Example(
                f"{number:03}", path, f"Is there a {animal} in the image?", (), (answer,),
                ("yes", "no"), subset="random", cluster=path.name,
            )
        )  # fmt: skip
    return Corpus("pope", root, (), False, {"test": tuple(examples)}, "r1")


def sees(item: Inputs) -> str:
    """Knows all; without an image it says yes, without a question no."""
    if item.image is None:
        return "yes"
    red = item.image.getpixel((0, 0)) == RED
    return "yes" if ("dog" in item.prompt and red) or ("cat" in item.prompt and not red) else "no"


def asked(model: Talker, corpus: Corpus, **options: Any) -> pd.DataFrame:
    settings = reliance.ProfileSettings(**options)
    return reliance.ask(model, corpus.name, corpus, AnswerCache(), settings)  # type: ignore[arg-type]


def means(part: TaskReliance) -> dict[str, float]:
    return {name: number.mean for name, number in part.numbers.items()}


def test_numbers_by_hand() -> None:
    table = [
        *rows("full", "", [1, 1, 1, 0], "aaab"),
        *rows("text", "blank", [1, 1, 0, 0], "aabb"),
        *rows("image", "blank", [1, 0, 1, 0], "acac"),
        *rows("neither", "blank", [1, 0, 0, 0], "accc"),
        *rows("text", "shuffled", [1, 1, 0, 0], "aabb", 0),
        *rows("text", "shuffled", [0, 0, 0, 0], "bbbb", 1),
        *rows("image", "shuffled", [1, 0, 0, 0], "abbb", 0),
        *rows("image", "shuffled", [0, 0, 0, 0], "bbbb", 1),
        *rows("neither", "shuffled", [0, 0, 0, 0], "bbbb", 0),
        *rows("neither", "shuffled", [0, 0, 0, 0], "bbbb", 1),
    ]
    part = profile.profile_rows("toy", "", "accuracy", True, [pd.DataFrame(table)])
    numbers = means(part)
    assert (part.items, part.clusters, part.draws) == (4, 2, 2)
    assert numbers["score.full"] == 0.75
    assert numbers["score.text.shuffled"] == 0.25  # the mean of one half and none
    assert numbers["gain.image.blank"] == 0.25 and numbers["gain.image.shuffled"] == 0.5
    assert numbers["gain.text.blank"] == 0.25 and numbers["gain.text.shuffled"] == 0.625
    assert numbers["same.text.blank"] == 0.75  # a a b against a a a b
    assert numbers["same.text.shuffled"] == pytest.approx((0.75 + 0.25) / 2)
    assert numbers["same.image.blank"] == 0.5
    assert numbers["lean.answers"] == 0.25
    # phi: text ((.5 - .25) + (.75 - .5)) / 2 = .25, image the same.
    assert numbers["lean.shapley"] == 0
    shares = {name: numbers[f"group.{name}.share"] for name in profile.GROUPS.values()}
    assert shares == {"both": 0.25, "text": 0.25, "image": 0.25, "neither": 0.25}
    assert numbers["group.neither.score"] == 0 and numbers["group.image.score"] == 1
    assert numbers["information.image"] == 0.5
    # Blind answers are wrong for the last two items: one is kept, one is put right.
    assert (part.conflict, part.conflicts) == ("text_only", 2)
    assert (numbers["conflict.text"], numbers["conflict.image"]) == (0.5, 0.5)


def test_a_modality_that_spoils_answers_has_a_negative_gain_also_of_errors() -> None:
    table = [
        *rows("full", "", [1, 1, 0, 0], "bbaa"),
        *rows("text", "blank", [0, 0, 0, 0], "aaaa"),
        *rows("text", "shuffled", [0, 0, 0, 0], "aaaa"),
    ]
    right = profile.profile_rows("toy", "", "accuracy", True, [pd.DataFrame(table)])
    wrong = profile.profile_rows("toy", "", "errors", False, [pd.DataFrame(table)])
    assert means(right)["gain.image.blank"] == 0.5
    assert means(wrong)["gain.image.blank"] == -0.5
    assert right.conflict == "" and "gain.text.blank" not in means(right)


def test_intervals_are_those_of_independent_clusters() -> None:
    """Two hundred items in pairs that always agree are one hundred observations of p = 1/2."""
    right = np.repeat(np.arange(100) % 2, 2).astype(float).tolist()
    answers = "".join("a" if top else "b" for top in right)
    table = [*rows("full", "", right, answers)]
    for way in profile.WAYS:
        table += rows("text", way, [0.0] * 200, "c" * 200)
    numbers = profile.profile_rows("toy", "", "accuracy", True, [pd.DataFrame(table)]).numbers
    expected = 1.984 * (0.25 / 100) ** 0.5  # Student, 99 degrees of freedom
    assert numbers["score.full"].half == pytest.approx(expected, rel=0.1)


def test_seeds_asked_about_different_items_are_refused() -> None:
    first = pd.DataFrame([*rows("full", "", [1, 1], "aa"), *rows("text", "blank", [1, 1], "aa")])
    second = first.assign(id=first["id"] + "x")
    with pytest.raises(UserError, match="different items"):
        profile.measure([first, second], "toy", higher_is_better=True)
    with pytest.raises(UserError, match="two clusters or more"):
        profile.measure([first], "toy", higher_is_better=True)


def test_the_full_view_scores_what_evaluation_scores(tmp_path: Path) -> None:
    corpus = pope_like(tmp_path)
    model = Talker(lambda item: "yes" if "dog" in item.prompt else "no")
    answers = asked(model, corpus, limit=30, draws=1)
    full = answers[answers["view"] == "full"]
    scores = evaluate(model, tasks.Variant("pope"), corpus, limit=30).scores  # type: ignore[arg-type]
    official = next(s.value for s in scores if s.metric == "accuracy" and not s.subset)
    assert full["top"].sum() / full["bottom"].sum() == pytest.approx(official)
    assert len(full) == 30


def test_a_model_that_looks_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    corpus = pope_like(tmp_path, 320)
    (looks,) = parts_of("pope", [asked(Talker(sees), corpus, draws=2)])
    blind = Talker(lambda item: "yes" if "dog" in item.prompt else "no")
    (guesses,) = parts_of("pope", [asked(blind, corpus, draws=2)])
    assert means(looks)["score.full"] == 1 and means(looks)["gain.image.blank"] == 0.5
    # Of another item's image half are of the same colour.
    assert means(looks)["score.text.shuffled"] == pytest.approx(0.5, abs=0.05)
    assert tables.state(looks, "image") == "used"
    assert means(guesses)["gain.image.blank"] == means(guesses)["gain.image.shuffled"] == 0
    assert means(guesses)["same.text.blank"] == 1
    assert tables.state(guesses, "image") == "not used"
    assert "does not use the image" in tables.verdict(guesses)
    assert "keeps 100.0 % of its answers without it" in tables.verdict(guesses)
    (mute,) = parts_of("pope", [asked(Talker(lambda item: "perhaps"), corpus, draws=1)])
    assert tables.verdict(mute) == "no answer could be read, so nothing can be said."
    (few,) = parts_of("pope", [asked(blind, pope_like(tmp_path / "few", 20), draws=3)])
    assert tables.state(few, "image") == "unclear"  # 10 images can hide 30 points


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no shared/data beside the repository")
@pytest.mark.parametrize(
    ("kind", "accuracy", "f1"),
    [("random", 0.717, 0.706), ("popular", 0.869, 0.871), ("adversarial", 0.707, 0.694)],
)
def test_the_profile_exposes_an_object_prior_on_official_pope(
    tmp_path: Path, kind: str, accuracy: float, f1: float
) -> None:
    """Profile a guesser that says yes to objects that are usually present.

    The photos are not needed for that: a grey pixel stands for each.
    """
    (tmp_path / "images").mkdir()
    file = OFFICIAL / f"coco_pope_{kind}.json.gz"
    (tmp_path / file.name).symlink_to(file)
    lines = pd.read_json(file, lines=True)
    for name in lines["image"].unique():
        Image.new("RGB", (1, 1), (128, 128, 128)).save(tmp_path / "images" / name)
    votes: Counter[str] = Counter()
    for question, label in zip(lines["text"], lines["label"], strict=True):
        votes[question] += 1 if label == "yes" else -1

    def guess(item: Inputs) -> str:
        return "yes" if votes[item.prompt.partition("\n")[0]] > 0 else "no"

    guesses = [guess(Inputs(None, text, text)) for text in lines["text"]]
    parts = [pope.answer_fractions(*pair) for pair in zip(lines["label"], guesses, strict=True)]
    scored = [round(ratio([part[name] for part in parts]), 3) for name in ("accuracy", "f1")]
    assert scored == [accuracy, f1]
    corpus = tasks.load("pope", tmp_path, questions=f"coco_pope_{kind}.json")
    (part,) = parts_of("pope", [asked(Talker(guess), corpus, draws=1, limit=900)])
    numbers = means(part)
    assert numbers["score.full"] == pytest.approx(accuracy, abs=0.03)
    assert numbers["gain.image.blank"] == numbers["gain.image.shuffled"] == 0
    assert numbers["same.text.blank"] == numbers["same.text.shuffled"] == 1
    assert numbers["conflict.text"] == 1
    assert tables.verdict(part).startswith("does not use the image (+0.0 ± 0.0")


def test_every_view_shows_what_it_says(tmp_path: Path) -> None:
    corpus = pope_like(tmp_path)
    docs = list(build(tasks.Variant("pope"), corpus).dataset["test"])
    queries = reliance.plan(docs, has_text=True, draws=2)
    assert len(queries) == 40 * (1 + 3 + 3 * 2)
    for query in queries:
        lacks = reliance.REMOVED.get(query.view.name, ())
        for modality, row in (("image", query.image), ("text", query.text)):
            if modality not in lacks:
                assert row == query.row
            elif query.view.way == "blank":
                assert row is None
            else:
                assert row is not None and docs[row][modality] != docs[query.row][modality]
    again = reliance.plan(docs[::-1], has_text=True, draws=2)
    assert {_named(docs, a) for a in queries} == {_named(docs[::-1], a) for a in again}


def _named(docs: Sequence[Any], ask: reliance.ModelQuery) -> tuple[Any, ...]:
    rows = (None if row is None else docs[row]["id"] for row in (ask.image, ask.text))
    return ask.view, docs[ask.row]["id"], *rows


def test_equal_contents_cannot_be_swapped() -> None:
    with pytest.raises(UserError, match="Every text of the chosen items is the same"):
        reliance.donors(["a", "a", None], ["0", "1", "2"], "text", 0)


def test_equal_questions_are_put_once_and_an_interrupted_diagnosis_goes_on(tmp_path: Path) -> None:
    corpus = pope_like(tmp_path / "data")
    path, model = tmp_path / "answers.jsonl", Talker(sees)
    uninterrupted = asked(model, corpus, draws=2)
    # Forty items in full, two questions blind, one prompt of nothing, twenty images without text.
    assert model.asked < 40 + 2 + 1 + 20 + 40 * 2 * 3 + 1

    class Stops(Exception):
        pass

    def stop(count: int) -> None:
        if count == 16 and len(cache) >= 32:
            raise Stops

    cache, first = AnswerCache(path), Talker(sees)
    settings = reliance.ProfileSettings(draws=2)
    with pytest.raises(Stops):
        reliance.ask(first, "pope", corpus, cache, settings, stop)  # type: ignore[arg-type]
    with path.open("a") as file:
        file.write('["half a li')
    second = Talker(sees)
    resumed = reliance.ask(second, "pope", corpus, AnswerCache(path), settings)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(resumed, uninterrupted)
    assert first.asked + second.asked == model.asked
    path.write_text("no json\n")
    with pytest.raises(UserError, match="not a file of answers: delete it"):
        AnswerCache(path)


def test_conflict_by_habit_and_by_misleading_text() -> None:
    table = pd.DataFrame(
        [
            *rows("full", "", [1, 0, 0, 1], "ayba"),
            *rows("text", "blank", [0, 0, 0, 0], "yyyy"),
            *rows("image", "shuffled", [0, 0, 0, 0], "abbc"),
        ]
    )
    by_prior = table.assign(habit=["y", "y", "y", "a"] * 3)
    kind, ratios = _conflict(by_prior)
    assert kind == "prior"  # three items whose right answer a is not the usual y
    assert ratios == {"text": pytest.approx(1 / 3), "image": pytest.approx(1 / 3)}
    misleading = table.assign(told=np.where(table["view"] == "image", "b", ""))
    kind, ratios = _conflict(misleading)
    assert kind == "misleading"  # answers a b b c to texts of class b
    assert ratios == {"text": 0.5, "image": 0.25}


def _conflict(table: pd.DataFrame) -> tuple[str, dict[str, float]]:
    kind, ratios = profile._conflict(profile._views(table), True)
    shares = {name.split(".")[1]: float(t.sum() / b.sum()) for name, (t, b) in ratios.items()}
    return kind, shares


def test_projection_keeps_sums_and_loses_interaction() -> None:
    image, text = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[10.0], [20.0], [60.0]])
    sums = image[:, None] + text[None, :]
    torch.testing.assert_close(projection(sums), image + text)
    # XOR of two signs: every mean is zero.
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    product = (signs[:, None] * signs[None, :])[..., None]
    torch.testing.assert_close(projection(product), torch.zeros(4, 1))


def diagnosis(tmp_path: Path, model: Talker) -> Diagnosis:
    parts = parts_of("pope", [asked(model, pope_like(tmp_path), draws=2)])
    return Diagnosis("a|model", {"items": "40"}, tuple(parts))


def test_page_tables_and_picture(tmp_path: Path) -> None:
    result = diagnosis(tmp_path, Talker(sees))
    page = tables.report(result).markdown()
    assert page.startswith("# What a\\|model relies on\n\n## Verdicts\n\n- pope: uses the image (+")
    assert (
        "![diagnosis](diagnosis.svg)" in page and "| 40 | pope | accuracy | 100.0 ± 0.0 |" in page
    )
    content = json.loads(tables.report(result).json())
    assert content["parts"][0]["numbers"]["gain.image.blank"]["mean"] == 0.5
    assert content["parts"][0]["verdict"] == tables.verdict(result.parts[0])
    lines = tables.report(result).csv().splitlines()
    assert lines[0] == "task,subset,score,number,mean,low,high,about"
    assert any(line.startswith("pope,,accuracy,score.full,1,1,1,") for line in lines)
    figures = tables.report(result).all_figures
    images = render(figures)
    assert images["diagnosis.png"][:4] == b"\x89PNG" and images == render(figures)
    assert b"<svg" in images["diagnosis.svg"]


def test_parts_of_one_cluster_and_answers_that_count_nothing_are_left_out() -> None:
    table = pd.DataFrame(
        [
            *rows("full", "", [1, 1, 1, 0, 1, 1], "aaabaa"),
            *rows("text", "blank", [1, 1, 0, 0, 0, 0], "aabbbb"),
            *rows("text", "shuffled", [1, 1, 0, 0, 0, 0], "aabbbb"),
        ]
    )
    table["subset"] = ["small", "small", "one", "one", "one", "one"] * 3
    parts = profile.profile_task("toy", "accuracy", higher_is_better=True, runs=[table])
    assert [part.name for part in parts] == ["toy"]  # small is one image, one alone is no part
    (nothing,) = profile.profile_task(
        "toy", "wrong", higher_is_better=False, runs=[table.assign(bottom=0.0, top=0.0)]
    )
    assert tables.verdict(nothing) == "no answer that wrong can be computed on."
    result = Diagnosis("model", {}, (nothing,))
    assert not tables.report(result).all_figures
    assert "| 6 | toy | wrong ↓ |  |" in tables.report(result).markdown()


def test_every_number_is_described() -> None:
    assert set(profile.PERCENTAGES) < set(profile.NUMBERS)
    documented: Mapping[str, str] = profile.NUMBERS
    assert all(documented.values()) and len(documented) == 31


@pytest.mark.parametrize("change", ["weight", "words", "option", "readout", "classes"])
def test_models_are_told_apart_by_all_that_decides_an_answer(change: str) -> None:
    words = "some words"
    model, other = (tiny_classifier(words) for _ in range(2))
    assert fingerprint(model) == fingerprint(other)
    if change == "weight":
        largest = max(other.parameters(), key=torch.numel)
        with torch.no_grad():  # a single number, between any that a sample would take
            largest.view(-1)[1] += 1e-3
    elif change == "words":
        other = tiny_classifier("other words")
        other.load_state_dict(model.state_dict())
    elif change == "option":
        other.config = replace(other.config, max_tokens=40)
    elif change == "readout":
        other.readout = "text"
    else:
        other.classes = other.classes[::-1]
    assert fingerprint(model) != fingerprint(other)


def tiny_classifier(words: str) -> classifier.Classifier:
    config = ClassifierConfig(image_width=8, text_width=8, width=8)
    return classifier.build("tiny", config, ("a", "b"), False, [words], seed=0)
