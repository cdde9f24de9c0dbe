"""Reading answers given in words: yes or no, a choice, or a short answer to compare."""

import re
import string
from collections.abc import Callable, Iterable, Sequence

SOFT_REFERENCES = 4
"""Fewest references of the soft score: with fewer, even the right answer could not reach 1."""
AGREEING = 3
"""References an answer has to agree with for the whole point."""

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
PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
PERIOD = re.compile(r"\.(?!\d)")
YES = frozenset({"yes", "yeah", "yep", "true", "correct"})
NO = frozenset({"no", "nope", "not", "none", "false", "incorrect", "cannot"})
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)*")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
LETTER = re.compile(r"\(?([A-Za-z])\)?(?=$|[.:),])")
"""An option's letter that begins an answer, not a word or the article ``A``."""
NAMED_LETTER = re.compile(r"\banswer is:? ?\(?([A-Z])\b")

Form = Callable[[str], str]
"""Brings answers that mean the same into the same words."""


def _spellings(word: str) -> Iterable[str]:
    """The word without any one of its apostrophes."""
    places = [place for place, letter in enumerate(word) if letter == "'"]
    return [word[:place] + word[place + 1 :] for place in places]


CONTRACTIONS = {
    **{bare: word for word in CONTRACTED for bare in _spellings(word)},
    "somebody'd": "somebodyd",  # the official table's one entry the other way round
}
"""Contractions by their spellings that lack an apostrophe."""


def pope_label(answer: str) -> str:
    """``yes`` or ``no`` by the rule of POPE's own scorer: what is not a no is a yes.

    The first sentence without its commas is a no if one of its words, parted by spaces, is
    ``No``, ``no`` or ``not``.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def yes_or_no(answer: str) -> str | None:
    """``yes`` or ``no`` where the first sentence says one and only one of them, else None.

    A denial such as ``there isn't`` is a no, whatever its case and punctuation.
    """
    plain = answer.strip().lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    words = WORD.findall(re.split(r"[.!?\n]", plain, maxsplit=1)[0])
    no = any(word in NO or word.endswith("n't") for word in words)
    yes = any(word in YES for word in words)
    if yes == no:
        return None
    return "yes" if yes else "no"


def stance(answer: str) -> str | None:
    """``yes`` or ``no`` where the first word is one of them, else as ``yes_or_no``.

    A long answer goes on after its first word: ``Yes, they are not parallel`` is a yes.
    """
    return opening(answer) or yes_or_no(answer)


def opening(answer: str) -> str | None:
    """The first word where it is ``yes`` or ``no``, whatever its case, else None."""
    first = WORD.match(answer.strip().lower())
    return first.group() if first and first.group() in ("yes", "no") else None


def normalise(answer: str) -> str:
    """Short answer in the form that VQAv2's scorer compares.

    Lower case; a punctuation mark goes where a space is beside it or the answer has a comma in a
    number, and else becomes a space; a period goes unless a digit follows; number words become
    digits; articles go; contractions get their apostrophes.
    """
    plain = " ".join(answer.split())
    kept = plain
    crowded = COMMA_IN_NUMBER.search(plain) is not None
    for mark in PUNCTUATION:
        loose = crowded or f"{mark} " in plain or f" {mark}" in plain
        kept = kept.replace(mark, "" if loose else " ")
    words = PERIOD.sub("", kept).lower().split()
    numbered = (NUMBERS.get(word, word) for word in words)
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


def normalise_evalai(answer: str) -> str:
    """The form that TextVQA's scorer compares: as ``normalise``, more done before.

    Commas and question marks go at once, and ``'s`` is parted from its word.
    """
    parted = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalise(parted)


def plain(answer: str) -> str:
    """Lower case without punctuation, one space between words: how GQA's answers are compared."""
    return " ".join(answer.lower().translate(NO_PUNCTUATION).split())


def exact(answer: str, references: Iterable[str], form: Form = normalise) -> float:
    """1 if the answer is one of the references, both in the form given, else 0."""
    return float(form(answer) in map(form, references))


def soft(answer: str, references: Sequence[str], form: Form = normalise) -> float:
    """VQAv2's accuracy: of min(1, matches / 3) the mean over leaving out each reference.

    With fewer than four references it is ``exact``.
    """
    if len(references) < SOFT_REFERENCES:
        return exact(answer, references, form)
    given = form(answer)
    same = [form(reference) == given for reference in references]
    points = (min(1.0, (sum(same) - left_out) / AGREEING) for left_out in same)
    return sum(points) / len(references)


def choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that the answer is, or else the only one it names as a word; None without one."""
    given = normalise(answer)
    forms = {normalise(option): option for option in choices}
    if given in forms:
        return forms[given]
    named = [option for form, option in forms.items() if f" {form} " in f" {given} "]
    return named[0] if len(named) == 1 else None


def letter(answer: str, letters: Sequence[str]) -> str | None:
    """The option's letter that an answer gives, as ``B``, ``(b)``, ``B. stone``, or None.

    Elsewhere than at the beginning it is read only after ``answer is``.
    """
    given = answer.strip()
    found = LETTER.match(given) or NAMED_LETTER.search(given)
    said = found[1].upper() if found else ""
    return said if said in letters else None


def first_of(answer: str, words: Sequence[str]) -> str | None:
    """The one of the words that comes first in an answer, whatever its case; None without any."""
    places = {word: re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in words}
    found = {word: place.start() for word, place in places.items() if place}
    return min(found, key=found.__getitem__) if found else None


def named(answer: str, choices: Sequence[str]) -> list[bool]:
    """Which choices an enumeration names: parted by commas, semicolons, line ends or ``and``."""
    parts = {normalise(part) for part in re.split(r"[,;\n]|\band\b", answer)}
    return [normalise(option) in parts for option in choices]
