"""Coverage of intervals: those of a board beside those in common use.

Usage: ``python tests/bench/bench_coverage.py [BOARDS]``, by default 1,000 boards per line.
Nominal is 95 %. Every line simulates boards of two entries on the same seeds and binary items and
counts the intervals of their paired difference that contain the true difference.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student
from simulated_boards import WEIGHTS, Setting, answers, samples_of, true_score
from timing import arguments

from steelyard.harness.core.seeds import seed_for
from steelyard.leaderboards.stats import intervals as stats
from steelyard.leaderboards.stats import ranking
from steelyard.leaderboards.stats.differences import detectable_difference
from steelyard.leaderboards.stats.intervals import DRAWS, Sample

Floats = NDArray[np.float64]
SKILLS = (0.9, 0.5)
LADDER = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
SETTINGS = {
    "no, seeds answer alike": Setting(3, 0.0, steepness=40.0),
    "no": Setting(3, 0.0),
    "small": Setting(3, 0.05),
    "middle": Setting(3, 0.15),
    "large": Setting(3, 0.3),
}
"""Settings by the variation between seeds."""
CLUSTERS = {"300 items": (300, 1), "100 clusters of 3": (100, 3)}
Ends = Mapping[str, tuple[float, float]]


def intervals(right: Floats, difference: Sample, board: int) -> Ends:
    """Return the ends of each kind of interval."""
    interval = stats.interval(difference)
    spread = stats.spread_of([difference])
    seeds, items = float(spread.seeds[0]), float(spread.items[0])
    fraction = seeds / (seeds + items) if seeds + items else 0.0
    freedom = spread.seed_freedom / fraction**2 if fraction else math.inf
    welch = float(student.ppf(0.975, freedom)) if fraction else float(norm.ppf(0.975))
    half = welch * math.sqrt(seeds + items)
    return {
        "board": (interval.low, interval.high),
        "seeds, clusters": percentiles(two_levels(difference, board)),
        "seeds, clusters, items": percentiles(three_levels(right[0] - right[1], board)),
        "clusters": percentiles(difference.draws.mean(axis=0)),
        "Satterthwaite": (interval.mean - half, interval.mean + half),
    }


def percentiles(draws: Floats) -> tuple[float, float]:
    """Return the middle 95 %."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def two_levels(difference: Sample, board: int) -> Floats:
    """Resample seeds, then clusters: the plain hierarchical bootstrap. Return the means."""
    weights = _seed_weights(len(difference.values), board % WEIGHTS)
    return np.asarray((weights * difference.draws).sum(axis=0))


def three_levels(scores: Floats, board: int) -> Floats:
    """Resample [S, clusters, size] by seeds, clusters, then items in them. Return the means."""
    seeds, clusters, size = scores.shape
    means = scores.reshape(seeds, -1) @ _item_weights(clusters, size, board % WEIGHTS)
    return np.asarray((_seed_weights(seeds, board % WEIGHTS) * means).sum(axis=0))


@cache
def _seed_weights(seeds: int, turn: int) -> Floats:
    rng = np.random.default_rng(seed_for("seeds", turn))
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS).T / seeds


@cache
def _item_weights(clusters: int, size: int, turn: int) -> Floats:
    """Sample clusters, then as many of their items as they have: [clusters * size, R]."""
    rng = np.random.default_rng(seed_for("items", turn))
    times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS)
    counts = rng.multinomial(times * size, np.full(size, 1 / size))
    return counts.reshape(DRAWS, -1).T / (clusters * size)


def coverage(setting: Setting, boards: int) -> dict[str, float]:
    """Return the fraction of boards whose interval contains the true difference, by kind.

    ``seeds' share`` is the mean fraction of the variance that comes from seeds.
    """
    rng = np.random.default_rng(seed_for("coverage", setting))
    truth = true_score(setting, SKILLS[0]) - true_score(setting, SKILLS[1])
    values: dict[str, list[float]] = {}
    for board in range(boards):
        right = answers(setting, SKILLS, rng)
        difference = stats.minus(*samples_of(right, board))
        for kind, (low, high) in intervals(right, difference, board).items():
            values.setdefault(kind, []).append(low <= truth <= high)
        spread = stats.spread_of([difference])
        total = float(spread.seeds[0] + spread.items[0])
        fraction = float(spread.seeds[0]) / total if total else 0.0
        values.setdefault("seeds' share", []).append(fraction)
    return {kind: float(np.mean(rows)) for kind, rows in values.items()}


def rank_coverage(setting: Setting, boards: int) -> float:
    """Return the fraction of six entries' true ranks inside their ranges."""
    rng = np.random.default_rng(seed_for("ranks", setting))
    true_ranks = np.arange(1.0, len(LADDER) + 1)
    inside = []
    for board in range(boards):
        samples = samples_of(answers(setting, LADDER, rng), board)
        points = ranking.ranks(
            np.array([sample.values.mean() for sample in samples]), higher_is_better=True
        )
        draws = ranking.ranks(ranking.bootstrap(samples, board), higher_is_better=True)
        low, high = ranking.central(draws, points).T
        inside.append(np.mean((low <= true_ranks) & (true_ranks <= high)))
    return float(np.mean(inside))


def power(setting: Setting, boards: int) -> float:
    """Return the fraction of boards that detect a difference of the size they claim to detect.

    The entries are half a difference above and below the same skill.
    """
    rng = np.random.default_rng(seed_for("power", setting))

    def difference(skills: tuple[float, float], board: int) -> Sample:
        return stats.minus(*samples_of(answers(setting, skills, rng), board))

    target = float(
        np.mean([detectable_difference([difference((0, 0), board)]) for board in range(100)])
    )
    step = 0.0
    while true_score(setting, step) - true_score(setting, -step) < target:
        step += 0.002
    detected = [stats.interval(difference((step, -step), n)).low > 0 for n in range(boards)]
    return float(np.mean(detected))


def main(boards: int) -> None:
    """Print the tables."""
    print(
        f"Coverage of nominal 95 % intervals of a paired difference, {boards} boards per line (%)"
    )
    kinds: list[str] = []
    for name, (clusters, size) in CLUSTERS.items():
        for seeds in (3, 5, 10):
            for varies, setting in SETTINGS.items():
                sized = replace(setting, seeds=seeds, clusters=clusters, size=size)
                rates = coverage(sized, boards)
                if not kinds:
                    kinds = list(rates)
                    print(f"{'items':18s} {'seeds':>5s} {'training':>23s}  " + "  ".join(kinds))
                numbers = "  ".join(f"{100 * rates[kind]:{len(kind)}.1f}" for kind in kinds)
                print(f"{name:18s} {seeds:5d} {varies:>23s}  {numbers}", flush=True)
    print("\nTrue ranks of six entries inside their ranges; detection, nominal 80, of differences "
          "as large as a board claims to detect (%)")  # fmt: skip
    for seeds in (3, 5, 10):
        for varies, setting in SETTINGS.items():
            sized = replace(setting, seeds=seeds)
            inside, detected = rank_coverage(sized, boards // 4), power(sized, boards // 2)
            print(f"{seeds:5d} {varies:>23s}: ranks {100 * inside:.1f}, found {100 * detected:.1f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main(*arguments(__doc__, boards=1_000))
