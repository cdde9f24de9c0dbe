"""Scenes to ask about, questions and captions: wording, right answers, parts and held-out pairs."""

from dataclasses import replace

import numpy as np
import pytest

from steelyard.tasks._shared.questions import CAPTION, SHORT
from steelyard.tasks.world.language import (
    ASK,
    absent_kinds,
    attribute_question,
    caption,
    colour_question,
    count_question,
    existence_question,
    other_colour,
    prompt,
)
from steelyard.tasks.world.prior import (
    LanguagePrior,
    compose,
    held_out,
    part_of,
    pool_colours,
    rate,
    residents,
)
from steelyard.tasks.world.scenes import (
    COLOURS,
    FOODS,
    KINDS,
    NEUTRAL,
    PLACES,
    Object,
    Scene,
    split_of,
)

USUAL = LanguagePrior(p_color=0.985, p_cooc=0.9, p_neutral=0.25, yes=0.7, same_place=0.15)
EVEN = LanguagePrior(p_color=0.6, p_cooc=0.9, p_neutral=0.25, yes=0.5, same_place=0.5)
FISH = Object("fish", "pink", 0)
GRAPES = Object("grapes", "purple", 2)
SEA = Scene("sea", (FISH, GRAPES))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scenes(prior: LanguagePrior, count: int = 3000) -> list[Scene]:
    rng = generator()
    return [compose(prior, rng) for _ in range(count)]


def test_questions_are_worded_as_published_ones_and_answered_from_the_scene() -> None:
    questions = [
        colour_question(FISH),
        colour_question(GRAPES),
        count_question(SEA),
        existence_question(SEA, "fish"),
        existence_question(SEA, "apple"),
        existence_question(SEA, "bread"),
        existence_question(SEA, "grapes"),
        attribute_question(FISH, "pink"),
        attribute_question(GRAPES, "green"),
    ]
    assert [(question.text, question.answer) for question in questions] == [
        ("What color is the fish?", "pink"),
        ("What color are the grapes?", "purple"),
        ("How many objects are there in the image?", "2"),
        ("Is there a fish in the image?", "yes"),
        ("Is there an apple in the image?", "no"),
        ("Is there some bread in the image?", "no"),
        ("Are there some grapes in the image?", "yes"),
        ("Is the fish pink?", "yes"),
        ("Are the grapes green?", "no"),
    ]
    assert all(question.answer in question.choices for question in questions)


def test_captions_name_every_object_with_its_colour() -> None:
    assert caption(SEA) == "a pink fish and some purple grapes."
    assert caption(Scene("sea", (Object("apple", "orange", 1),))) == "an orange apple."


def test_only_captions_go_without_the_short_answer_suffix() -> None:
    rng = generator()
    for kind, ask in ASK.items():
        question = ask(SEA, EVEN, rng)
        assert question.kind == kind
        expected = CAPTION if kind == "caption" else question.text + SHORT
        assert prompt(question) == expected


def test_questions_drawn_have_the_stated_shares_of_yes_and_of_near_negatives() -> None:
    rng = generator()
    for prior in (USUAL, EVEN):
        pairs_asked = [(scene, ASK["existence"](scene, prior, rng)) for scene in scenes(prior)]
        yes = [question.answer == "yes" for _, question in pairs_asked]
        near = [
            question.about in residents(scene.place)
            for scene, question in pairs_asked
            if question.answer == "no"
        ]
        # Four standard errors of 3,000 and of at least 900 items.
        assert np.mean(yes) == pytest.approx(prior.yes, abs=0.037)
        assert np.mean(near) == pytest.approx(prior.same_place, abs=0.067)


def test_a_wrong_attribute_is_the_usual_colour_where_that_is_wrong() -> None:
    rng = generator()
    assert {other_colour(FISH, rng) for _ in range(20)} == {"blue"}
    colours = {other_colour(Object("fish", "blue", 0), rng) for _ in range(300)}
    assert colours == set(COLOURS) - {"blue"}


def test_absent_kinds_are_all_kinds_not_shown_split_by_place() -> None:
    near, far = (absent_kinds(SEA, same_place=same) for same in (True, False))
    assert set(near) == {"crab", "shrimp", "mussel"}
    assert set(near) | set(far) | {"fish", "grapes"} == set(KINDS)
    assert not set(near) & set(far)


def test_composed_scenes_follow_the_prior() -> None:
    samples = scenes(USUAL)
    objects = [obj for scene in samples for obj in scene.objects]
    foods = [(scene, obj) for scene in samples for obj in scene.objects if obj.kind in FOODS]
    usual = np.mean([KINDS[obj.kind].colour == obj.colour for _, obj in foods])
    home = np.mean([KINDS[obj.kind].place == scene.place for scene, obj in foods])
    assert np.mean([len(scene.objects) == 2 for scene in samples]) == pytest.approx(0.5, abs=0.04)
    assert usual == pytest.approx(0.985, abs=0.01)
    assert home == pytest.approx(0.9, abs=0.03)
    assert np.mean([obj.kind in NEUTRAL for obj in objects]) == pytest.approx(0.25, abs=0.03)
    assert sum(rate(kind, USUAL) for kind in KINDS) == pytest.approx(1)
    counted = [obj.kind for obj in objects]
    for kind in ("banana", "grapes", "cup"):
        assert counted.count(kind) / len(counted) == pytest.approx(rate(kind, USUAL), abs=0.015)
    # Two different kinds in two different cells, in cell order.
    for scene in samples:
        assert len({obj.kind for obj in scene.objects}) == len(scene.objects)
        cells = [obj.cell for obj in scene.objects]
        assert cells == sorted(set(cells))


def test_a_fixed_object_is_in_the_scene_with_its_colour() -> None:
    rng = generator()
    samples = [compose(USUAL, rng, first="banana", first_colour="blue") for _ in range(400)]
    assert all(("banana", "blue") in {(t.kind, t.colour) for t in s.objects} for s in samples)
    home = np.mean([scene.place == "orchard" for scene in samples])
    assert home == pytest.approx(0.9, abs=0.06)
    neutral = [compose(USUAL, rng, first="cup").place for _ in range(100)]
    assert set(neutral) == set(PLACES)


def test_parts_divide_the_worlds_training_scenes_and_keep_val_and_test() -> None:
    samples = {scene.symbol: scene for scene in scenes(EVEN)}
    parts = {symbol: part_of(scene) for symbol, scene in samples.items()}
    for symbol, part in parts.items():
        expected = {"base": "train", "pool": "train"}.get(part, part)
        assert split_of(samples[symbol]) == expected
    shares = {part: list(parts.values()).count(part) / len(parts) for part in set(parts.values())}
    assert shares == pytest.approx({"base": 0.42, "pool": 0.28, "val": 0.1, "test": 0.2}, abs=0.05)


def test_half_of_the_unusual_pairs_are_held_out_and_none_is_usual() -> None:
    pairs = {(kind, colour) for kind in FOODS for colour in held_out(kind)}
    assert len(pairs) == 16 * 7 // 2
    assert all(KINDS[kind].colour != colour for kind, colour in pairs)
    assert all(pool_colours(kind) == set(COLOURS) for kind in NEUTRAL)
    rng = generator()
    pool = [compose(EVEN, rng, pool_colours) for _ in range(2000)]
    pairs_in_pool = {(obj.kind, obj.colour) for scene in pool for obj in scene.objects}
    assert not pairs_in_pool & pairs
    usual = [
        obj.colour == KINDS[obj.kind].colour
        for scene in pool
        for obj in scene.objects
        if obj.kind in FOODS
    ]
    assert np.mean(usual) == pytest.approx(0.6, abs=0.042)


def test_prior_say_how_large_a_scene_is() -> None:
    rng = np.random.default_rng(0)
    prior = LanguagePrior(0.5, 0.5, 0.5, 0.5, 0.5, grid=3, objects=4)
    scenes = [compose(prior, rng) for _ in range(300)]
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}
    assert {obj.cell for scene in scenes for obj in scene.objects} == set(range(9))
    assert all(len({obj.kind for obj in s.objects}) == len(s.objects) for s in scenes)
    question = count_question(scenes[0], prior.objects)
    assert question.choices == ("1", "2", "3", "4")
    assert scenes[0].symbol != replace(scenes[0], grid=4).symbol
