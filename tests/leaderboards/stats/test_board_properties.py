"""What must hold for any records: order, direction, scale and absent entries change nothing."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from board_factory import board_of, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steelyard.leaderboards.stats.intervals import (
    Sample,
    holm,
    holm_adjusted,
    interval,
    minus,
    resample_weights,
)
from steelyard.leaderboards.stats.ranking import ranks, tie_letters, wins
from steelyard.tasks.weighted_metrics import METRICS, Items, all_resampled

Seeds = st.integers(0, 10_000)
Chances = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12)


def some_items(seed: int, n: int = 40) -> Items:
    rng = np.random.default_rng(seed)
    target, predicted = rng.random((2, n, 3)) < 0.5
    ids = np.array([f"{i:03d}" for i in range(n)])
    clusters = rng.integers(0, 15, n).astype(str)
    return Items(ids, clusters, target, predicted, rng.random(n), rng.integers(0, 9, n) / 9)


def some_sample(seed: int, seeds: int = 4) -> Sample:
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal(60) + rng.standard_normal((seeds, 60)) * rng.random()
    return Sample(rng.standard_normal(seeds), draws, 30)


@given(Seeds, st.sampled_from(sorted(METRICS)))
def test_the_order_of_items_changes_no_resample(seed: int, metric: str) -> None:
    items = some_items(seed)
    order = np.random.default_rng(seed + 1).permutation(len(items.ids))
    parts = (items.ids, items.clusters, items.target, items.predicted, items.score)
    mixed = Items(*(part[order] for part in parts), items.confidence[order])
    drawn = [
        all_resampled(metric, [each], resample_weights(each.clusters, 20, "toy"))[0]
        for each in (items, mixed)
    ]
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-9, atol=1e-12)


@given(Seeds, Seeds)
def test_differences_are_antisymmetric(one: int, other: int) -> None:
    a, b = some_sample(one), some_sample(other)
    there, back = interval(minus(a, b)), interval(minus(b, a))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == pytest.approx(back.p)


@given(Seeds, st.floats(0.01, 100), st.floats(-10, 10))
def test_intervals_move_and_stretch_with_the_metric(seed: int, scale: float, move: float) -> None:
    sample = some_sample(seed)
    moved = Sample(scale * sample.values + move, scale * sample.draws + move, sample.clusters)
    before, after = interval(sample), interval(moved)
    expected = scale * before.low + move, scale * before.high + move
    assert (after.low, after.high) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(Seeds, st.permutations(range(4)))
def test_the_order_of_seeds_changes_no_interval(seed: int, order: Sequence[int]) -> None:
    sample = some_sample(seed)
    mixed = Sample(sample.values[list(order)], sample.draws[list(order)], sample.clusters)
    assert (interval(mixed).low, interval(mixed).p) == pytest.approx(
        (interval(sample).low, interval(sample).p)
    )


@given(Chances)
def test_holm_never_lowers_nor_reorders_p_values(raw: Sequence[float]) -> None:
    adjusted = holm_adjusted(np.array(raw))
    assert (adjusted >= np.array(raw)).all() and (adjusted <= 1).all()
    for one in range(len(raw)):
        for other in range(len(raw)):
            assert raw[one] > raw[other] or adjusted[one] <= adjusted[other]
    by_name = holm({str(place): p for place, p in enumerate(raw)})
    assert [by_name[str(place)] for place in range(len(raw))] == pytest.approx(adjusted.tolist())


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=9), Seeds)
def test_ranks_and_wins_see_only_the_order(scores: Sequence[int], seed: int) -> None:
    plain = np.array(scores, dtype=float)
    bent = np.exp(plain / 3) + 7  # strictly increasing
    for up in (True, False):
        expected = ranks(plain, higher_is_better=up)
        assert np.array_equal(ranks(bent, higher_is_better=up), expected)
        assert expected.sum() == len(scores) * (len(scores) + 1) / 2
        assert np.array_equal(ranks(-plain, higher_is_better=not up), expected)
    rates = [wins([Sample(np.array([x]), np.array([[x]]), 9) for x in values],
                  higher_is_better=True) for values in (plain, bent)]  # fmt: skip
    flat = [[each.values[0] for each in found] for found in rates]
    assert flat[0] == flat[1] and np.mean(flat[0]) == pytest.approx(0.5)


@given(st.integers(1, 9), Seeds, st.floats(0, 1))
def test_letters_are_shared_by_exactly_the_ties(count: int, seed: int, share: float) -> None:
    drawn = np.triu(np.random.default_rng(seed).random((count, count)) < share, 1)
    apart: NDArray[np.bool_] = drawn | drawn.T
    letters = [set(each) for each in tie_letters(apart)]
    for one in range(count):
        assert letters[one]
        for other in range(count):
            assert letters[one].isdisjoint(letters[other]) == apart[one, other]


@settings(max_examples=8, deadline=None)
@given(Seeds, st.sampled_from(["failed", "no seed", "no variant"]))
def test_an_incomplete_entry_changes_nothing_for_the_others(seed: int, lack: str) -> None:
    rng = np.random.default_rng(seed)

    def hits() -> dict[str, list[float]]:
        names = ("clean", "image-blank", "text-blank")
        return {name: (rng.random(12) < 0.6).astype(float).tolist() for name in names}

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for run in (0, 1):
            for label in ("joint", "other"):
                make_run(root, label, hits(), seed=run)
        before = board_of(root)
        make_run(root, "lacking", hits(), seed=0)
        if lack != "no seed":
            short = {name: rows for name, rows in hits().items() if name != "text-blank"}
            status = "failed" if lack == "failed" else "done"
            make_run(root, "lacking", short, seed=1, status=status)
        after = board_of(root)
    assert after.rows == before.rows and after.detectable == before.detectable
    assert [blank.label for blank in after.blanks] == ["lacking"]


@settings(max_examples=6, deadline=None)
@given(Seeds)
def test_no_score_depends_on_which_entries_stand_beside_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for label in ("a", "b", "c"):
            hits = {name: rng.random(9).round().tolist() for name in ("clean", "image-blank")}
            make_run(root / label, label, hits)
            make_run(root / "all", label, hits)
        together = {entry.label: entry.scores for entry in board_of(root / "all").rows}
        for label in together:
            assert board_of(root / label).rows[0].scores == together[label]
