"""Reading answers in words: the published rules on cases worked by hand."""

import pytest

from steelyard.tasks import answers


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("yes", "yes"),
        ("No", "no"),
        ("no, there is a cat", "no"),
        ("There is not a dog in the image", "no"),
        ("No, there isn't. Yes", "no"),
        ("Yes. There is no doubt", "yes"),  # the first sentence alone
        ("NO", "yes"),  # the rule knows No and no
        ("There isn't one", "yes"),
        ("none", "yes"),
        ("", "yes"),
        ("I cannot tell", "yes"),
    ],
)
def test_pope_official_rule(answer: str, label: str) -> None:
    assert answers.pope_label(answer) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        ("  YES!", "yes"),
        ("yes, there is", "yes"),
        ("Yes, there is. No wonder.", "yes"),
        ("No, there isn't", "no"),
        ("NO", "no"),
        ("There isn\N{RIGHT SINGLE QUOTATION MARK}t one", "no"),
        ("There is not a dog", "no"),
        ("", None),
        ("a banana", None),
        ("yes and no", None),
        ("notable eyes", None),
    ],
)
def test_yes_or_no(answer: str, label: str | None) -> None:
    assert answers.yes_or_no(answer) == label


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Red.", "red"),
        ("The red car", "red car"),
        ("an apple and a pear", "apple and pear"),
        ("two", "2"),
        ("None", "0"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # the official table knows one missing apostrophe, not two
        ("im", "im"),  # and has this one in capitals only, which lower case never meets
        ("couldn'tve", "couldn't've"),
        ("red, white", "red white"),  # a space beside the mark: it goes
        ("red,white", "red white"),  # none: it becomes a space
        ("1,000", "1000"),  # a comma in a number: every mark goes
        ("1,000 t-shirts", "1000 tshirts"),
        ("t-shirt", "t shirt"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("p.m.", "pm"),
        ("is it?", "is it"),
        ("  black\n and\twhite ", "black and white"),
        ("the", ""),
        ("cafe\u0301", "caf\xe9"),  # ours: one form of an accent
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert answers.normalise(text) == normal


def test_normalising_twice_changes_nothing() -> None:
    for text in ("The Cat's 1,000 toys!", "dont", "t-shirt.", "ten o clock", "youre"):
        once = answers.normalise(text)
        assert answers.normalise(once) == once


def test_accents_of_two_forms_are_one_answer() -> None:
    composed, apart = "cr\xeape", "cre\u0302pe"
    assert answers.exact(apart, [composed]) == 1
    assert answers.choice(composed, ["pie", apart]) == apart
    assert answers.plain(apart) == answers.plain(composed)


def test_soft_accuracy_by_hand() -> None:
    # Three of ten agree. Left out, one of the three leaves 2 matches: 2/3; another one leaves 3: 1.
    references = ["red"] * 3 + ["blue"] * 7
    assert answers.soft("Red.", references) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert answers.soft("blue", references) == 1.0
    # One of ten: 0 when it is left out, else 1/3.
    assert answers.soft("red", ["red"] + ["blue"] * 9) == pytest.approx(9 * (1 / 3) / 10)
    assert answers.soft("green", references) == 0.0
    assert answers.soft("2", ["two"] * 10) == 1.0


def test_few_references_are_compared_exactly() -> None:
    assert answers.soft("a dog", ["Dog."]) == 1.0
    assert answers.soft("a dog", ["cat", "dog", "dog"]) == 1.0
    assert answers.soft("dogs", ["Dog."]) == 0.0
    assert answers.exact("Two.", ["2"]) == 1.0
    assert answers.exact("two dogs", ["2"]) == 0.0


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("Yellow.", "yellow"),
        ("The banana is yellow", "yellow"),
        ("yellow or green", None),
        ("yellowish", None),
        ("teal", None),
        ("", None),
        ("dark green", "dark green"),  # itself a choice, though it names another
    ],
)
def test_choice(answer: str, choice: str | None) -> None:
    assert answers.choice(answer, ("yellow", "green", "dark green")) == choice


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think> no </think> yes", "yes"),
        ("yes <analysis>or no?</analysis>", "yes"),
        ("<thinking>a <thinking>b</thinking> c</thinking> d", "d"),
        ("is it? no </thought>\nyes", "yes"),  # the template opened the tag
        ("<think> no, wait", ""),  # cut off
        (" <b>no</b> think </THINK> ", " <b>no</b> think </THINK> "),
    ],
)
def test_without_reasoning(text: str, answer: str) -> None:
    assert answers.without_reasoning(text) == answer
