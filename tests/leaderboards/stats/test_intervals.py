"""Metrics under item weights, intervals, corrections: by hand, scikit-learn and simulation."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from simulated_boards import Setting, answers, samples_of, true_score
from sklearn import metrics as sk

from steelyard.leaderboards.boards.cells import with_half
from steelyard.leaderboards.stats.differences import detectable_difference, differences
from steelyard.leaderboards.stats.intervals import (
    DRAWS,
    Sample,
    averaged,
    holm,
    interval,
    intervals,
    mcnemar,
    minus,
    pair_p_values,
    paired_difference,
    resample_weights,
    spread_of,
)
from steelyard.leaderboards.stats.ranking import wins
from steelyard.tasks.weighted_metrics import METRICS, Items, all_resampled


def random_items(n: int = 60, classes: int = 5, seed: int = 0) -> Items:
    """Multi-label items with tied confidences; class 4 is absent, class 3 is never predicted."""
    rng = np.random.default_rng(seed)
    target = rng.random((n, classes)) < 0.4
    predicted = np.where(rng.random((n, classes)) < 0.6, target, rng.random((n, classes)) < 0.4)
    target[:, 4] = predicted[:, 4] = predicted[:, 3] = False
    ids = np.array([f"{i:03d}" for i in range(n)])
    confidence = rng.integers(0, 12, n) / 12
    return Items(ids, ids, target, predicted, rng.integers(0, 2, n).astype(float), confidence)


def by_sklearn(metric: str, items: Items, rows: NDArray[np.int64]) -> float:
    """The metric of the items at these rows, repeats included."""
    if metric == "accuracy":
        return float(sk.accuracy_score(np.ones(len(rows)), items.score[rows]))
    if metric == "auroc":
        return float(sk.roc_auc_score(items.target[rows, 1], items.confidence[rows]))
    average = metric.removesuffix("_f1")
    pair = items.target[rows], items.predicted[rows]
    return float(sk.f1_score(*pair, average=average, zero_division=0))


@pytest.mark.parametrize("metric", METRICS)
def test_unit_weights_equal_scikit_learn(metric: str) -> None:
    items = random_items()
    value = all_resampled(metric, [items], np.ones((1, 60)))[0]
    assert value[0] == pytest.approx(by_sklearn(metric, items, np.arange(60)), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_integer_weights_equal_repeated_items(metric: str) -> None:
    items = random_items(seed=1)
    weights = np.random.default_rng(2).integers(0, 4, (7, 60)).astype(float)
    expected = [by_sklearn(metric, items, np.repeat(np.arange(60), w.astype(int))) for w in weights]
    assert all_resampled(metric, [items], weights)[0] == pytest.approx(expected, abs=1e-12)


def test_unknown_metrics_are_means_of_item_scores() -> None:
    items = random_items()
    assert all_resampled("exact_match", [items], np.ones((1, 60)))[0, 0] == items.score.mean()


def test_auroc_of_a_resample_without_both_classes_is_undefined() -> None:
    items = random_items()
    weights = np.stack([items.target[:, 1].astype(float), np.ones(60)])
    assert np.isnan(all_resampled("auroc", [items], weights)[0]).tolist() == [True, False]


@pytest.mark.parametrize("drawn", [(32767, 32768), (40000, 40000), (10**6, 3 * 10**6)])
def test_auroc_counts_more_pairs_than_fit_into_the_smallest_whole_numbers(
    drawn: tuple[int, int],
) -> None:
    target = np.array([[False, True], [True, False]])
    for confidence, expected in (((0.9, 0.1), 1.0), ((0.1, 0.9), 0.0), ((0.5, 0.5), 0.5)):
        items = replace(random_items(), target=target, confidence=np.array(confidence))
        assert all_resampled("auroc", [items], np.array([drawn], dtype=float))[0] == [expected]


def test_clusters_are_drawn_whole_and_the_same_for_the_same_name() -> None:
    clusters = np.array(["a", "b", "a", "c", "c", "c"])
    weights = resample_weights(clusters, 300, "toy")
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert weights[:, 1].mean() == pytest.approx(1, abs=0.2)
    assert np.array_equal(weights, resample_weights(clusters, 300, "toy"))
    assert not np.array_equal(weights, resample_weights(clusters, 300, "other"))


def test_interval_by_hand() -> None:
    # Between seeds: var(0.1, 0.2, 0.3) / 3 = 0.01 / 3. Over items: every seed's draws, and their
    # mean, have var(-0.1, 0.1) = 0.02, so all of it is shared. Student's 97.5 % points are 4.30265
    # with 2 and 2.26216 with 9 degrees of freedom; w = (seeds' share of the variance) ** 1.5.
    draws = np.array([[0.0, 0.2], [0.1, 0.3], [0.2, 0.4]])
    found = interval(Sample(np.array([0.1, 0.2, 0.3]), draws, clusters=10))
    total = 0.01 / 3 + 0.02
    w = (0.01 / 3 / total) ** 1.5
    expected = total * (w * 4.30265**2 + (1 - w) * 2.26216**2)
    assert found.mean == pytest.approx(0.2)
    assert found.half == pytest.approx(expected**0.5, rel=1e-5)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)
    assert found.values == pytest.approx((0.1, 0.2, 0.3))


def test_what_is_particular_to_seed_and_item_counts_once() -> None:
    # The seeds' draws are uncorrelated, so their items share nothing and only the variance between
    # seeds, (1 - 0) ** 2 / 2 / 2 = 0.25, is left: Student's interval of two values.
    draws = np.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    found = interval(Sample(np.array([0.0, 1.0]), draws, clusters=10))
    assert found.half == pytest.approx(12.7062 * 0.25**0.5, rel=1e-5)


def test_seeds_that_agree_by_chance_make_nothing_certain() -> None:
    # Nothing between seeds and nothing shared: half of what the items alone give, variance 2 / 3.
    draws = np.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    found = interval(Sample(np.array([0.5, 0.5]), draws, clusters=10))
    assert found.half == pytest.approx(0.5 * 2.26216 * (2 / 3) ** 0.5, rel=1e-5)
    assert found.p > 0.2


def test_rounding_is_no_variance() -> None:
    turns = 2 * np.pi * np.arange(DRAWS) / DRAWS
    unrelated = [
        Sample(np.zeros(2), np.stack([np.cos(k * turns), np.sin((k + 1) * turns)]), 100)
        for k in range(1, 9)
    ]
    assert spread_of(unrelated).items.tolist() == [0.0] * 8


def test_one_seed_leaves_only_the_items() -> None:
    found = interval(Sample(np.array([0.2]), np.array([[0.1, 0.3]]), clusters=5))
    assert found.half == pytest.approx(2.77645 * 0.02**0.5, rel=1e-5)  # t with 4 degrees


def test_the_interval_of_a_rate_ends_at_0_and_1() -> None:
    draws = np.array([[0.8, 1.0]])
    high = Sample(np.array([0.95]), draws, clusters=5, rate=True)
    low = replace(high, values=1 - high.values, draws=1 - draws)
    half = 2.77645 * 0.02**0.5
    assert interval(high).ends == pytest.approx((0.95, 0.95 - half, 1.0), rel=1e-5)
    assert interval(low).ends == pytest.approx((0.05, 0.0, 0.05 + half), rel=1e-5)
    assert interval(averaged([high, low])).high == pytest.approx(0.5)  # no variance is left
    # A difference is no rate, so its interval agrees with its p-value.
    change = paired_difference(low, high)
    assert change.high == pytest.approx(-0.9 + 2 * half, rel=1e-4) and not change.is_cut
    assert with_half(interval(high)) == "95.0 [55.7, 100.0]"
    assert with_half(change, sign="+") == "-90.0 ± 78.5"


def test_win_rates_end_at_0_and_1() -> None:
    """Of one seed, two entries and items on which the first is hardly ever behind."""
    draws = np.array([[1.0, 0.0, 1.0, 1.0]])
    first = Sample(np.array([1.0]), draws, clusters=4, rate=True)
    second = replace(first, values=np.array([0.5]), draws=np.full((1, 4), 0.5))
    for rate in intervals(wins([first, second], higher_is_better=True)):
        assert rate.mean in (0.0, 1.0) and rate.low >= 0 and rate.high <= 1 and rate.is_cut


def test_equal_entries_differ_by_nothing() -> None:
    sample = Sample(np.array([0.4, 0.6]), np.random.default_rng(0).random((2, 50)), clusters=9)
    found = paired_difference(sample, sample)
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert found.p == pytest.approx(1)


def test_p_is_at_five_percent_where_the_interval_touches_zero() -> None:
    draws = np.random.default_rng(0).standard_normal((3, 200))
    values = np.array([1.0, 1.4, 0.9])
    half = interval(Sample(values, draws, 50)).half
    found = interval(Sample(values - values.mean() + half, draws, 50))
    assert found.low == pytest.approx(0, abs=1e-12)
    assert found.p == pytest.approx(0.05)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1, never falling, never above 1.
    adjusted = holm({"c": 0.03, "a": 0.01, "d": 0.9, "b": 0.02})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


COVERED = {"no": Setting(3, 0.0), "small": Setting(3, 0.05), "large": Setting(3, 0.3)}
"""By how much seeds differ in skill."""


def test_mcnemar_by_hand() -> None:
    # Of six items one model alone got one: the tail is 1 + 6 of 64 outcomes, on both sides.
    assert mcnemar(1, 5) == mcnemar(5, 1) == pytest.approx(14 / 64)
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1


def test_verdicts_are_corrected_for_the_number_of_entries() -> None:
    noise = np.random.default_rng(0).normal(size=(1, 1000))
    noise = (noise - noise.mean()) / noise.std()
    control = Sample(np.zeros(1), np.zeros((1, 1000)), 1000)
    # 2.2 standard errors: p is 0.03 alone, and 0.08 as one of three.
    entry = Sample(np.array([2.2]), 2.2 + noise, 1000)

    def verdicts(*labels: str) -> list[str]:
        samples = {"joint": control, **dict.fromkeys(labels, entry)}
        compared = differences(samples, "joint", higher_is_better=True)
        return [difference.verdict for difference in compared.values()]

    assert verdicts("mcr") == ["better"]
    assert verdicts("mcr", "dgl", "agm") == ["", "", ""]


def held(setting: Setting, boards: int) -> tuple[float, float]:
    """Share of simulated boards on which the paired difference's interval, and the middle 95 % of
    a plain bootstrap over seeds and items, hold the true difference."""
    rng = np.random.default_rng([setting.seeds, boards])
    truth = true_score(setting, 0.9) - true_score(setting, 0.5)
    shares = rng.multinomial(setting.seeds, np.full(setting.seeds, 1 / setting.seeds), DRAWS).T
    hits = []
    for board in range(boards):
        difference = minus(*samples_of(answers(setting, (0.9, 0.5), rng), board))
        found = interval(difference)
        plain = np.quantile((shares * difference.draws).sum(axis=0) / setting.seeds, (0.025, 0.975))
        hits.append((found.low <= truth <= found.high, plain[0] <= truth <= plain[1]))
    own, usual = np.mean(hits, axis=0).tolist()
    return own, usual


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("training", ["no", "large"])
def test_intervals_hold_the_true_difference(seeds: int, training: str) -> None:
    own, usual = held(replace(COVERED[training], seeds=seeds), 400)
    assert 0.93 <= own <= 0.97
    if (seeds, training) == (3, "large"):
        assert usual < 0.90, "the simulation can tell a bad interval"


@pytest.mark.heavy
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("training", COVERED)
@pytest.mark.parametrize("size", [1, 3])
def test_intervals_hold_the_true_difference_on_many_boards(
    seeds: int, training: str, size: int
) -> None:
    setting = replace(COVERED[training], seeds=seeds, clusters=300 // size, size=size)
    assert 0.93 <= held(setting, 1_000)[0] <= 0.97


def test_what_a_board_can_see_is_found_as_often_as_it_says() -> None:
    # Nothing between seeds and a known variance of items 0.04: z(0.975) + z(0.8) deviations.
    draws = np.random.default_rng(0).standard_normal(50_000) * 0.2
    shared = Sample(np.full(3, 0.1), np.stack([draws] * 3), clusters=10**6)
    assert detectable_difference([shared]) == pytest.approx((1.95996 + 0.84162) * 0.2, rel=0.01)
    assert detectable_difference([shared], tests=10) == pytest.approx(
        (2.80703 + 0.84162) * 0.2, rel=0.01
    )
    assert detectable_difference([Sample(np.ones(3), np.ones((3, 9)), 5)]) == 0


def test_what_a_board_can_see_counts_the_seeds() -> None:
    # Seeds alone, variance of their mean 0.04: of 2,000 boards with that difference 80 % find it.
    rng = np.random.default_rng(1)
    some = [Sample(0.4 * rng.standard_normal(4), np.zeros((4, 9)), 50) for _ in range(300)]
    wanted = detectable_difference(some)
    boards = [Sample(wanted + each.values, each.draws, 50) for each in some]
    boards += [
        Sample(wanted + 0.4 * rng.standard_normal(4), np.zeros((4, 9)), 50) for _ in range(1_700)
    ]
    assert np.mean([found.low > 0 for found in intervals(boards)]) == pytest.approx(0.8, abs=0.05)


def test_every_pair_gets_the_p_value_of_its_difference() -> None:
    rng = np.random.default_rng(3)
    common = rng.standard_normal(200)
    samples = [
        Sample(rng.random(4) + level, level + common + rng.standard_normal((4, 200)), 60)
        for level in (0.0, 0.5, 3.0)
    ]
    p = pair_p_values(samples)
    for one in range(3):
        for other in range(3):
            expected = paired_difference(samples[one], samples[other]).p if one != other else 1.0
            assert p[one, other] == pytest.approx(expected)
    gone = replace(samples[1], draws=np.where(np.arange(200) < 5, np.nan, samples[1].draws))
    expected = paired_difference(samples[0], gone).p
    assert pair_p_values([samples[0], gone])[0, 1] == pytest.approx(expected)
