"""Text-only baseline: the score of a data set without its images.

Two answers need no image: the most common one, and that of a small fixed model of the text
(multinomial naive Bayes on tf-idf of hashed words and word pairs). The score is a lower bound: a
better model of the text may reach more.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.harness.core.examples import Corpus, Example, enclosing
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks import answers
from steelyard.tasks.metrics import clustered_stderr, item_f1
from steelyard.tasks.weighted_metrics import FloatArray

FEATURES = 2**15
CLASSES = 256
"""Most answers that can be predicted; of more, the most common ones."""
FOLDS = 5
CHUNK = 20_000
"""Texts per fit or prediction: bounds the memory for classes x texts and classes x features."""
Z = 1.96
MOST_SUBSETS = 12
ABOUT = (
    "One answer: the best to give to all. Text only: naive Bayes on words and word pairs, with "
    "its 95 % interval from low to high."
)


class TextOnlyScore(NamedTuple):
    """Mean scores of a split or subset, as fractions; ``low`` to ``high`` is a 95 % interval."""

    split: str
    subset: str
    items: int
    one_answer: float
    text_only: float
    low: float
    high: float
    fitted_on: str


def scores(corpus: Corpus) -> list[TextOnlyScore]:
    """Score each split but train, and each subset unless there are more than ``MOST_SUBSETS``.

    ``one_answer`` is the score of the single best answer for all items. The model of the text is
    fitted on ``train``; without one, on the other folds of the split, cut by cluster. A subset is
    predicted from training items of its own kind. An answer is right if it equals a reference; if
    an item may have several classes, its score is the F1 of its classes.
    """
    rows = []
    train = corpus.splits.get("train", ())
    fitted_on = "train" if train else f"{FOLDS} folds by cluster"
    for split, examples in corpus.splits.items():
        if split == "train":
            continue
        subsets = sorted({part for example in examples for part in enclosing(example.subset)})
        for subset in ["", *subsets] if 1 < len(subsets) <= MOST_SUBSETS else [""]:
            test, same_kind = _in_subset(subset, examples), _in_subset(subset, train)
            if train:
                # A subset may have no training items.
                from_text = _scores(corpus, test, _predict(corpus, same_kind or train, test))
            else:
                from_text = _cross_fitted(corpus, test)
            most_common = _vocabulary(corpus, test)[: _answer_count(corpus, test)]
            one_answer = _scores(corpus, test, [most_common] * len(test)).mean()
            low, high = interval(from_text.tolist(), [row.cluster or row.id for row in test])
            means = (float(one_answer), float(from_text.mean()), low, high)
            rows.append(TextOnlyScore(split, subset, len(test), *means, fitted_on))
    return rows


def unsuitable(corpus: Corpus) -> str:
    """Return why a text-only model cannot answer the items; empty if it can."""
    examples = [example for rows in corpus.splits.values() for example in rows]
    if not corpus.splits.keys() - {"train"}:
        return "there is no usable item to answer"
    if not any(example.text for example in examples):
        return "the items have no text besides the image"
    if not _vocabulary(corpus, examples):
        return "no answer occurs twice, so none can be guessed"
    return ""


def interval(scores: Sequence[float], clusters: Sequence[str]) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a mean of scores in [0, 1]."""
    centre = float(np.mean(scores))
    error = clustered_stderr(scores, clusters)
    # As many draws as would have the clustered standard error if they were independent.
    draws = centre * (1 - centre) / error**2 if error else len(set(clusters))
    middle = (centre + Z**2 / (2 * draws)) / (1 + Z**2 / draws)
    spread = centre * (1 - centre) / draws + Z**2 / (4 * draws**2)
    half = Z * float(np.sqrt(spread)) / (1 + Z**2 / draws)
    return max(0.0, middle - half), min(1.0, middle + half)


def _cross_fitted(corpus: Corpus, examples: Sequence[Example]) -> FloatArray:
    """Score predictions from the text of each fold, fitted on the others: [N]."""
    folds = np.array([seed_for("fold", row.cluster or row.id) % FOLDS for row in examples])
    result = np.zeros(len(examples))
    for fold in set(folds.tolist()):
        test = [row for row, number in zip(examples, folds, strict=True) if number == fold]
        train = [row for row, number in zip(examples, folds, strict=True) if number != fold]
        result[folds == fold] = _scores(corpus, test, _predict(corpus, train, test))
    return result


def _predict(corpus: Corpus, train: Sequence[Example], test: Sequence[Example]) -> list[list[str]]:
    """Predict the likeliest answers of ``train`` from the text of each item, if it has any."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    if not (vocabulary := _vocabulary(corpus, train)):
        return [[]] * len(test)

    @cache
    def mask_of(choices: tuple[str, ...]) -> NDArray[np.bool_]:
        """Mask the answers of the vocabulary that are among the choices, [V]; all if none is."""
        allowed = {answers.normalise(choice) for choice in choices}
        mask = np.array([answer in allowed for answer in vocabulary])
        return mask if mask.any() else ~mask

    # Naive Bayes needs features of one sign.
    words = HashingVectorizer(
        n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False, norm=None
    )
    encoder = make_pipeline(words, TfidfTransformer(sublinear_tf=True)).fit(_texts(train))
    index = {answer: number for number, answer in enumerate(vocabulary)}
    pairs = [(row, index[a]) for row in train for a in _targets(corpus, row) if a in index]
    # In chunks: a dense matrix of classes by features or by texts is large.
    model = MultinomialNB()
    for chunk in _chunks(pairs):
        features = encoder.transform(_texts(row for row, _ in chunk))
        # All classes by name: a chunk may lack some.
        model.partial_fit(features, [target for _, target in chunk], classes=range(len(index)))
    predictions, count = [], _answer_count(corpus, train)
    for part in _chunks(test):
        log_proba = model.predict_log_proba(encoder.transform(_texts(part)))
        # A closed question is answered by one of its choices.
        log_proba[~np.array([mask_of(row.choices) for row in part])] = -np.inf
        # Stable: of equally likely answers the most common one comes first, on every machine.
        best = np.argsort(-log_proba, axis=1, kind="stable")[:, :count]
        predictions += [[vocabulary[target] for target in row] for row in best.tolist()]
    return predictions


def _texts(examples: Iterable[Example]) -> list[str]:
    return [example.text or "" for example in examples]


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _vocabulary(corpus: Corpus, examples: Sequence[Example]) -> list[str]:
    """List the answers that can be predicted, most common first."""
    pairs = [(a, row.cluster or row.id) for row in examples for a in _targets(corpus, row)]
    counts = Counter(answer for answer, _ in pairs)
    clusters = Counter(answer for answer, _ in set(pairs))
    # An answer that occurs in one cluster alone, such as a caption, helps with no other item.
    useful = [answer for answer in counts if corpus.classes or clusters[answer] > 1]
    return sorted(useful, key=lambda answer: (-counts[answer], answer))[:CLASSES]


def _answer_count(corpus: Corpus, examples: Sequence[Example]) -> int:
    """Return the number of answers per item: one, or the mean number of classes."""
    if not corpus.multi_label:
        return 1
    return max(1, round(float(np.mean([len(row.labels) for row in examples]))))


def _targets(corpus: Corpus, example: Example) -> list[str]:
    """List the answers to learn: the classes, or the most common reference answer."""
    if corpus.classes:
        return [corpus.classes[label] for label in example.labels]
    counts = Counter(map(_normalise, example.answers))
    return [max(counts, key=counts.__getitem__)] if counts else []


_normalise = cache(answers.normalise)


def _scores(
    corpus: Corpus, test: Sequence[Example], predictions: Sequence[Sequence[str]]
) -> FloatArray:
    """Score predictions: F1 of the classes, or whether the answer equals a reference; [N]."""
    index = {name: number for number, name in enumerate(corpus.classes)}

    def score(row: Example, names: Sequence[str]) -> float:
        if corpus.classes:
            return item_f1(row.labels, [index[name] for name in names])
        return float(bool(names) and names[0] in set(map(_normalise, row.answers)))

    return np.array([score(*pair) for pair in zip(test, predictions, strict=True)])


def _in_subset(subset: str, examples: Sequence[Example]) -> list[Example]:
    return [row for row in examples if not subset or subset in enclosing(row.subset)]
