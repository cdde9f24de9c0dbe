"""Read answers in words: yes or no, a choice, or a short answer to compare.

without_reasoning("<think>No dog?</think> Yes.")   # "Yes."
normalise("Two dogs.")             # "2 dogs"
yes_or_no("No, there is none.")    # "no"
choice("It is red.", ["red", "blue"])  # "red"
"""

import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence

SOFT_REFERENCES = 4
"""Fewest references for the soft score: with fewer, even the right answer is below 1."""
AGREEING = 3
"""References that an answer must agree with for the full point."""

ARTICLES = frozenset({"a", "an", "the"})
# fmt: off
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}
CONTRACTED = (
    "ain't", "aren't", "can't", "could've", "couldn't", "couldn't've", "didn't", "doesn't", "don't",
    "hadn't", "hadn't've", "hasn't", "haven't", "he'd", "he'd've", "he's", "how'd", "how'll",
    "how's", "isn't", "it'd", "it'd've", "it'll", "ma'am", "mightn't", "mightn't've", "might've",
    "mustn't", "must've", "needn't", "not've", "o'clock", "oughtn't", "'ow's'at", "shan't",
    "she'd've", "should've", "shouldn't", "shouldn't've", "somebody'd've", "somebody'll",
    "somebody's", "someone'd", "someone'd've", "someone'll", "someone's", "something'd",
    "something'd've", "something'll", "that's", "there'd", "there'd've", "there're", "there's",
    "they'd", "they'd've", "they'll", "they're", "they've", "'twas", "wasn't", "we'd've", "we've",
    "weren't", "what'll", "what're", "what's", "what've", "when's", "where'd", "where's",
    "where've", "who'd", "who'd've", "who'll", "who's", "who've", "why'll", "why're", "why's",
    "won't", "would've", "wouldn't", "wouldn't've", "y'all", "y'all'll", "y'all'd've", "you'd",
    "you'd've", "you'll", "you're", "you've",
)
# fmt: on
# The official list: no period, colon or apostrophe.
PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
# The official pattern's look-behind is misspelt, ``(?!<=\d)``, and never excludes a match.
PERIOD = re.compile(r"\.(?!\d)")
YES = frozenset({"yes", "yeah", "yep", "true", "correct"})
NO = frozenset({"no", "nope", "not", "none", "false", "incorrect", "cannot"})
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)*")
REASONING = ("think", "thinking", "thought", "analysis")
"""Names of tags around reasoning: those that lmms-eval removes, and ``thought``."""
_TAGS = "|".join(REASONING)
_CLOSED = re.compile(rf"<({_TAGS})>.*?</\1>", re.DOTALL)
# A template may open the tag within the prompt; the limit of tokens may cut before it is closed.
_HALF_OPEN = re.compile(rf"^.*</(?:{_TAGS})>|<(?:{_TAGS})>.*$", re.DOTALL)
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
LETTER = re.compile(r"\(?([A-Za-z])\)?(?=$|[.:),])")
"""An option's letter at the beginning of an answer, but no word and no article ``A``."""
NAMED_LETTER = re.compile(r"\banswer is:? ?\(?([A-Z])\b")

Form = Callable[[str], str]
"""Function that gives answers with the same meaning the same words."""


CONTRACTIONS = {
    word[:index] + word[index + 1 :]: word
    for word in CONTRACTED
    for index, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the other way round
"""Contractions by their spellings without one apostrophe."""


def without_reasoning(text: str) -> str:
    """Return what follows and surrounds a model's reasoning; empty if reasoning was cut off."""
    answer = _HALF_OPEN.sub("", _CLOSED.sub("", text))
    return text if answer == text else answer.strip()


def pope_label(answer: str) -> str:
    """Read ``yes`` or ``no`` by the rule of POPE's scorer: an answer that is not no is yes.

    The first sentence without its commas is no if one of its words, separated by spaces, is
    ``No``, ``no`` or ``not``.
    """
    # split(" ") and not split(): the official code does not split at line ends.
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def yes_or_no(answer: str) -> str | None:
    """Read ``yes`` or ``no`` from the first sentence; None if it has neither or both.

    A denial such as ``there isn't`` is no. Case and punctuation do not matter.
    """
    plain = answer.strip().lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    words = WORD.findall(re.split(r"[.!?\n]", plain, maxsplit=1)[0])
    # Only the first sentence: later ones often mention the opposite.
    no = any(word in NO or word.endswith("n't") for word in words)
    yes = any(word in YES for word in words)
    if yes == no:
        return None
    return "yes" if yes else "no"


def stance(answer: str) -> str | None:
    """Read ``yes`` or ``no`` from the first word (``Yes, not parallel``), else as ``yes_or_no``."""
    return opening(answer) or yes_or_no(answer)


def opening(answer: str) -> str | None:
    """Return the first word if it is ``yes`` or ``no`` in any case, else None."""
    first = WORD.match(answer.strip().lower())
    return first.group() if first and first.group() in ("yes", "no") else None


def normalise(answer: str) -> str:
    """Normalise a short answer as VQAv2's scorer.

    Lower case; a punctuation mark is removed if a space is next to it or the answer has a comma in
    a number, and else becomes a space; a period is removed unless a digit follows; number words
    become digits; articles are removed; contractions get their apostrophes. Before that an
    accent becomes one character with its letter (NFC), which official files have already.
    """
    plain = " ".join(unicodedata.normalize("NFC", answer).split())
    text = plain
    has_number = COMMA_IN_NUMBER.search(plain) is not None
    for mark in PUNCTUATION:
        removed = has_number or f"{mark} " in plain or f" {mark}" in plain
        text = text.replace(mark, "" if removed else " ")
    words = PERIOD.sub("", text).lower().split()
    # Number words before articles, as officially.
    numbered = (NUMBERS.get(word, word) for word in words)
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


def normalise_evalai(answer: str) -> str:
    """Normalise as TextVQA's scorer: no commas and question marks, ``'s`` apart, ``normalise``."""
    separated = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalise(separated)


def plain(answer: str) -> str:
    """Normalise as for GQA: NFC, lower case without punctuation, one space between words."""
    return " ".join(unicodedata.normalize("NFC", answer).lower().translate(NO_PUNCTUATION).split())


def exact(answer: str, references: Iterable[str], form: Form = normalise) -> float:
    """Return 1 if the answer equals a reference after ``form``, else 0."""
    return float(form(answer) in map(form, references))


def soft(answer: str, references: Sequence[str], form: Form = normalise) -> float:
    """Return VQAv2's accuracy: the mean of min(1, matches / 3) over leaving out each reference."""
    if len(references) < SOFT_REFERENCES:
        return exact(answer, references, form)
    normalised = form(answer)
    same = [form(reference) == normalised for reference in references]
    # Leaving a reference out changes the matches only if it is one.
    points = (min(1.0, (sum(same) - is_match) / AGREEING) for is_match in same)
    return sum(points) / len(references)


def choice(answer: str, choices: Sequence[str]) -> str | None:
    """Return the choice that equals the answer, else the only one that is a word of it, or None."""
    text = normalise(answer)
    forms = {normalise(option): option for option in choices}
    if text in forms:
        return forms[text]
    # Spaces around both, so that ``red`` is not found in ``bored``.
    matches = [option for form, option in forms.items() if f" {form} " in f" {text} "]
    # Two choices in one answer are no choice.
    return matches[0] if len(matches) == 1 else None


def letter(answer: str, letters: Sequence[str]) -> str | None:
    """Read an option's letter from an answer: ``B``, ``(b)``, ``B. stone``, ``answer is B``."""
    match = LETTER.match(answer.strip()) or NAMED_LETTER.search(answer)
    option = match[1].upper() if match else ""
    return option if option in letters else None


def first_of(answer: str, words: Sequence[str]) -> str | None:
    """Return the word that is first in an answer, in any case; None without any of them."""
    matches = {word: re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in words}
    starts = {word: match.start() for word, match in matches.items() if match}
    return min(starts, key=starts.__getitem__) if starts else None


def mentioned(answer: str, choices: Sequence[str]) -> list[bool]:
    """Mark the choices in an enumeration: separated by commas, semicolons, line ends or ``and``."""
    parts = {normalise(part) for part in re.split(r"[,;\n]|\band\b", answer)}
    return [normalise(option) in parts for option in choices]
