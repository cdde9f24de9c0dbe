"""Ranks, win rates, Borda points, ties by letters and the critical difference, by hand."""

import numpy as np
import pytest
from scipy.stats import f, friedmanchisquare, studentized_range

from steelyard.leaderboards.stats.intervals import Sample
from steelyard.leaderboards.stats.ranking import (
    TaskScores,
    block_ranks,
    bootstrap,
    central,
    critical,
    overall_ranks,
    ranks,
    tie_letters,
    ties,
    wins,
)


def test_ranks_share_ties_and_follow_the_direction() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.1])
    assert ranks(scores, higher_is_better=True).tolist() == [2.5, 1, 2.5, 4]
    assert ranks(scores, higher_is_better=False).tolist() == [2.5, 4, 2.5, 1]


def test_where_one_has_no_score_none_has_a_rank() -> None:
    placed = ranks(np.array([[0.5, 0.9], [0.5, np.nan], [0.1, 0.2]]), higher_is_better=True)
    assert placed[:, 0].tolist() == [1.5, 1.5, 3.0] and np.isnan(placed[:, 1]).all()


def test_rank_draws_know_which_entries_are_apart() -> None:
    rng = np.random.default_rng(0)
    samples = [Sample(rng.random(3), level + 0.1 * rng.random((3, 200)), 9) for level in (0, 0, 5)]
    drawn = ranks(bootstrap(samples, "toy"), higher_is_better=True)
    assert (drawn[2] == 1).all()
    assert set(drawn[0]) == set(drawn[1]) == {2, 3}


def sample(*values: float, spread: float = 1e-6) -> Sample:
    """Seeds' values with resamples hardly different from them."""
    noise = np.random.default_rng(len(values)).standard_normal((len(values), 100))
    return Sample(np.array(values), np.array(values)[:, None] + spread * noise, 50)


def test_resampled_means_have_all_the_variance_of_the_seeds() -> None:
    # Plain resampling of 3 seeds would give 2 / 3 of var(0, 3, 6) / 3 = 3.
    many = Sample(np.array([0.0, 3.0, 6.0]), np.tile([[0.0], [3.0], [6.0]], 20_000), 50)
    drawn = bootstrap([many, many], "toy")
    assert drawn.var(axis=1) == pytest.approx([3.0, 3.0], rel=0.05)
    assert np.array_equal(drawn[0], drawn[1]), "seeds are drawn alike for all entries"
    one = Sample(np.array([2.0]), np.array([[1.0, 3.0]]), 50)
    assert bootstrap([one]).tolist() == [[1.0, 3.0]]


def test_ranges_hold_the_rank_itself() -> None:
    draws = np.array([[2.0, 2.0, 3.0], [1.0, 1.0, np.nan]])
    assert central(draws, np.array([1.0, 2.0])).tolist() == [[1.0, 3.0], [1.0, 2.0]]


def test_wins_are_counted_seed_by_seed() -> None:
    samples = [sample(3, 1), sample(2, 2), sample(1, 2)]
    rates = [each.values.tolist() for each in wins(samples, higher_is_better=True)]
    assert rates == [[1, 0], [0.5, 0.75], [0, 0.75]]
    turned = [each.values.tolist() for each in wins(samples, higher_is_better=False)]
    assert turned == [[0, 1], [0.5, 0.25], [1, 0.25]]


def test_places_over_tasks_by_hand() -> None:
    up = TaskScores("up", (0, 1), True, {"a": sample(3, 3), "b": sample(2, 2), "c": sample(1, 1)})
    down = TaskScores(
        "down", (1, 2), False, {"a": sample(3, 3), "b": sample(2, 2), "c": sample(9, 9)}
    )
    found = overall_ranks([up, down], ["a", "b", "c"])
    assert list(found) == ["a", "b", "c"], "equal mean ranks stand in the order of labels"
    assert found["a"].ranks == {"up": 1, "down": 2} and found["c"].ranks == {"up": 3, "down": 3}
    assert [each.mean_rank for each in found.values()] == [1.5, 1.5, 3]
    assert [each.borda for each in found.values()] == [3, 3, 0]
    # On seed 1, the one both tasks have: a beats both and one of two, b one of two and both.
    rates = [each.wins for each in found.values()]
    assert [(rate.mean, rate.values) for rate in rates if rate] == [
        (0.75, (0.75,)), (0.75, (0.75,)), (0.0, (0.0,)),
    ]  # fmt: skip
    assert found["a"].ties == found["b"].ties != found["c"].ties


def test_tasks_without_a_common_seed_have_no_win_rate() -> None:
    one = TaskScores("one", (0,), True, {"a": sample(3), "b": sample(2)})
    two = TaskScores("two", (1,), True, {"a": sample(3), "b": sample(2)})
    found = overall_ranks([one, two], ["a", "b"])
    assert found["a"].wins is None and found["a"].borda == 2


def test_letters_by_hand() -> None:
    # 0-1 and 1-2 are ties, 0-2 is not; 3 stands alone.
    apart = np.ones((4, 4), dtype=bool)
    for one, other in ((0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 2)):
        apart[one, other] = apart[other, one] = False
    assert tie_letters(apart) == [("a",), ("a", "b"), ("b",), ("c",)]
    assert tie_letters(~np.eye(28, dtype=bool))[-2:] == [("a2",), ("b2",)]
    assert tie_letters(np.zeros((1, 1), dtype=bool)) == [("a",)]


def test_ties_are_corrected_over_all_pairs() -> None:
    # 0.03 or so, the p-value of the two apart, passes alone but not as the first of three steps.
    rng = np.random.default_rng(0)
    common = rng.standard_normal((4, 400))
    apart = [Sample(level + np.zeros(4), level + common + 0.1 * rng.standard_normal((4, 400)), 99)
             for level in (0.0, 0.08, 0.08)]  # fmt: skip
    assert ties(apart[:2]) == [("a",), ("b",)]
    assert ties(apart) == [("a",), ("a",), ("a",)]


def test_critical_difference_of_demsars_example() -> None:
    # Demšar (JMLR 2006), section 3.2.2: four classifiers on 14 data sets, CD = 1.25 at 5 %.
    rng = np.random.default_rng(0)
    table = np.array([rng.permutation(4) + 1.0 for _ in range(14)]).T
    found = critical(dict(zip("abcd", table, strict=True)))
    assert found is not None and found.blocks == 14
    assert found.difference == pytest.approx(1.25, abs=0.005)
    quantile = studentized_range.ppf(0.95, 4, np.inf) / np.sqrt(2)
    assert found.difference == pytest.approx(quantile * np.sqrt(4 * 5 / (6 * 14)), rel=1e-11)
    means = dict(zip("abcd", table.mean(axis=1), strict=True))
    assert found.mean_ranks == pytest.approx(means)
    assert list(found.mean_ranks.values()) == sorted(means.values())
    chi = friedmanchisquare(*table).statistic
    assert found.p == pytest.approx(f.sf(13 * chi / (14 * 3 - chi), 3, 39))


def test_too_few_blocks_or_entries_give_no_critical_difference() -> None:
    rows = {name: np.ones(9) for name in "abc"}
    assert critical(rows) is None
    assert critical({name: np.ones(10) for name in "ab"}) is None
    assert critical({}) is None


def test_entries_alike_in_every_block_do_not_differ() -> None:
    same = critical({name: np.arange(10.0) for name in "abc"})
    assert same is not None and same.p == 1


def test_blocks_are_seeds_of_tasks() -> None:
    up = TaskScores("up", (0, 1), True, {"a": sample(3, 1), "b": sample(2, 2)})
    down = TaskScores("down", (0,), False, {"a": sample(3), "b": sample(2)})
    found = block_ranks([up, down], ["a", "b"])
    assert {label: row.tolist() for label, row in found.items()} == {
        "a": [1, 2, 2], "b": [2, 1, 1],
    }  # fmt: skip
