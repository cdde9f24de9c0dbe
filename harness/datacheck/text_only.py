"""How much of a data set is solved without its images: by the usual answer, and from the text.

The text's answers are those of a fixed, small model (scikit-learn's multinomial naive Bayes on
hashed words and pairs of words, tf-idf), so the share is a lower bound: what it solves needs no
eyes, and a better reader may solve more.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.examples import Corpus, Example, enclosing
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks import answers
from steelyard.tasks.metrics import clustered_stderr, item_f1

FEATURES = 2**15
CLASSES = 256
"""Most answers that can be given; of more, the most common ones."""
FOLDS = 5
CHUNK = 20_000
"""Texts fitted or answered at a time: classes by texts, and classes by features, stay in memory."""
Z = 1.96
MOST_SUBSETS = 12

Floats = NDArray[np.float64]


def shares(corpus: Corpus) -> list[dict[str, Any]]:
    """One row a split, and a subset where there are few: items, majority, from_text, low, high.

    ``majority`` is the one answer that is right most often, given to all. The texts are answered
    from ``train``; a set without one is cut into folds by cluster, each answered from the others.
    A subset is answered from items of its own kind, as it is scored apart. An answer is right where
    it equals a reference, and scored by the F1 of its classes where an item may have several.
    ``low`` and ``high`` bound ``from_text`` at 95 %.
    """
    rows = []
    train = corpus.splits.get("train", ())
    for split, examples in corpus.splits.items():
        if split == "train":
            continue
        for subset in _subsets(examples):
            asked, known = _only(subset, examples), _only(subset, train) or train
            read = _from_train(corpus, known, asked) if train else _folded(corpus, asked)
            low, high = interval(read.tolist(), [one.cluster or one.id for one in asked])
            rows.append(
                {
                    "split": split,
                    "subset": subset,
                    "items": len(asked),
                    "fitted": "train" if train else f"{FOLDS} folds by cluster",
                    "majority": float(_scores(corpus, asked, _usual(corpus, asked, asked)).mean()),
                    "from_text": float(read.mean()),
                    "low": low,
                    "high": high,
                }
            )
    return rows


def unsuited(corpus: Corpus) -> str:
    """Why a text-only model has nothing to say here; empty where it has."""
    examples = [example for rows in corpus.splits.values() for example in rows]
    if not corpus.splits.keys() - {"train"}:
        return "there is no usable item to answer"
    if not any(example.text for example in examples):
        return "there is no text beside the images"
    if not _vocabulary(corpus, examples):
        return "no answer is given twice, so there is none to guess"
    return ""


def interval(scores: Sequence[float], clusters: Sequence[str]) -> tuple[float, float]:
    """Wilson's 95 % interval of a mean of scores in [0, 1], for as many draws as clusters tell."""
    centre = float(np.mean(scores))
    error = clustered_stderr(scores, clusters)
    draws = centre * (1 - centre) / error**2 if error else len(set(clusters))
    middle = (centre + Z**2 / (2 * draws)) / (1 + Z**2 / draws)
    spread = centre * (1 - centre) / draws + Z**2 / (4 * draws**2)
    half = Z * float(np.sqrt(spread)) / (1 + Z**2 / draws)
    return max(0.0, middle - half), min(1.0, middle + half)


def _from_train(corpus: Corpus, train: Sequence[Example], asked: Sequence[Example]) -> Floats:
    """Scores of the text's answers to the asked examples, [N]."""
    known = {answer: place for place, answer in enumerate(_vocabulary(corpus, train))}
    given = _answers(corpus, train, asked, known) if known else _usual(corpus, train, asked)
    return _scores(corpus, asked, given)


def _folded(corpus: Corpus, examples: Sequence[Example]) -> Floats:
    """As ``_from_train``, each fold from the others."""
    fold = np.array([seed_for("fold", one.cluster or one.id) % FOLDS for one in examples])
    read = np.zeros(len(examples))
    for number in set(fold.tolist()):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        others, asked = ([examples[place] for place in part.tolist()] for part in (outside, inside))
        read[inside] = _from_train(corpus, others, asked)
    return read


def _usual(corpus: Corpus, known: Sequence[Example], asked: Sequence[Example]) -> list[list[str]]:
    """The most common answer, or answers, of the known examples for each asked one."""
    return [[*_vocabulary(corpus, known)][: _usual_count(corpus, known)]] * len(asked)


def _answers(
    corpus: Corpus, train: Sequence[Example], asked: Sequence[Example], known: Mapping[str, int]
) -> list[list[str]]:
    """The likeliest of the known answers to each text."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.naive_bayes import MultinomialNB

    words = HashingVectorizer(
        n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False, norm=None
    )
    pairs = [(one, answer) for one in train for answer in _targets(corpus, one) if answer in known]
    weights, model = TfidfTransformer(sublinear_tf=True), MultinomialNB()
    weights.fit(words.transform(_texts(train)))
    for chunk in _chunks(pairs):
        seen = weights.transform(words.transform(_texts(one for one, _ in chunk)))
        places = [known[answer] for _, answer in chunk]
        model.partial_fit(seen, places, classes=range(len(known)))
    found, names, count = [], [*known], _usual_count(corpus, train)
    for part in _chunks(asked):
        likely = model.predict_log_proba(weights.transform(words.transform(_texts(part))))
        likely[~_allowed(part, known)] = -np.inf
        best = np.argsort(-likely, axis=1, kind="stable")[:, :count]
        found += [[names[place] for place in row] for row in best.tolist()]
    return found


def _allowed(asked: Sequence[Example], known: Mapping[str, int]) -> NDArray[np.bool_]:
    """Which known answers each question allows: those among its choices, all where it has none."""

    @cache
    def among(choices: tuple[str, ...]) -> NDArray[np.bool_]:
        named = {answers.normalise(choice) for choice in choices}
        mask = np.array([answer in named for answer in known])
        return mask if mask.any() else ~mask

    return np.array([among(one.choices) for one in asked])


def _texts(examples: Iterable[Example]) -> list[str]:
    return [example.text or "" for example in examples]


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK))


def _vocabulary(corpus: Corpus, examples: Sequence[Example]) -> dict[str, int]:
    """Answers that can be given and how often they are, most common first.

    An answer to questions of one cluster alone, such as a caption, helps nowhere else.
    """
    clusters: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for example in examples:
        for answer in _targets(corpus, example):
            counts[answer] += 1
            clusters.setdefault(answer, set()).add(example.cluster or example.id)
    enough = 1 if corpus.classes else 2
    useful = ((answer, n) for answer, n in counts.items() if len(clusters[answer]) >= enough)
    return dict(sorted(useful, key=lambda pair: (-pair[1], pair[0]))[:CLASSES])


def _usual_count(corpus: Corpus, examples: Sequence[Example]) -> int:
    """How many answers are given: one, or the usual number of classes where there are several."""
    if not corpus.multi_label:
        return 1
    return max(1, round(float(np.mean([len(one.labels) for one in examples]))))


def _targets(corpus: Corpus, example: Example) -> list[str]:
    """Right answers to learn: the classes, or the reference that most people gave."""
    if corpus.classes:
        return [corpus.classes[label] for label in example.labels]
    given = Counter(map(_normal, example.answers))
    return [max(given, key=given.__getitem__)] if given else []


@cache
def _normal(answer: str) -> str:
    return answers.normalise(answer)


def _scores(corpus: Corpus, asked: Sequence[Example], given: Sequence[Sequence[str]]) -> Floats:
    score = _class_score(corpus) if corpus.classes else _question_score
    return np.array([score(one, answer) for one, answer in zip(asked, given, strict=True)])


def _class_score(corpus: Corpus) -> Callable[[Example, Sequence[str]], float]:
    index = {name: place for place, name in enumerate(corpus.classes)}
    return lambda one, given: item_f1(one.labels, [index[name] for name in given])


def _question_score(one: Example, given: Sequence[str]) -> float:
    return float(bool(given) and given[0] in set(map(_normal, one.answers)))


def _subsets(examples: Sequence[Example]) -> list[str]:
    """The whole, named by nothing, and its parts where there are some but not many."""
    parts = sorted({part for example in examples for part in enclosing(example.subset)})
    return ["", *parts] if 1 < len(parts) <= MOST_SUBSETS else [""]


def _only(subset: str, examples: Sequence[Example]) -> list[Example]:
    return [one for one in examples if not subset or subset in enclosing(one.subset)]
