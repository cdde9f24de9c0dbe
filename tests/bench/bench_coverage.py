"""How often intervals hold the truth: a board's own beside what is usually done.

Usage: ``python tests/bench/bench_coverage.py [BOARDS]``, 1,000 boards a line unless told otherwise.
Nominal is 95 %. Every line simulates boards of two entries on the same seeds and binary items and
asks whether the interval of their paired difference holds the true difference.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student
from simulated_boards import WEIGHTS, Setting, answers, samples_of, true_score

from steelyard.harness.core.seeds import seed_for
from steelyard.leaderboards.stats import intervals as stats
from steelyard.leaderboards.stats import ranking
from steelyard.leaderboards.stats.intervals import DRAWS, Sample
from steelyard.leaderboards.stats.power import visible

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
"""By what varies between seeds."""
CLUSTERS = {"300 items": (300, 1), "100 clusters of 3": (100, 3)}
Ends = Mapping[str, tuple[float, float]]


def intervals(right: Floats, difference: Sample, board: int) -> Ends:
    """The ends of each kind of interval."""
    own = stats.interval(difference)
    spread = stats.spread_of([difference])
    seeds, items = float(spread.seeds[0]), float(spread.items[0])
    share = seeds / (seeds + items) if seeds + items else 0.0
    freedom = spread.seed_freedom / share**2 if share else math.inf
    welch = float(student.ppf(0.975, freedom)) if share else float(norm.ppf(0.975))
    half = welch * math.sqrt(seeds + items)
    return {
        "board": (own.low, own.high),
        "seeds, clusters": percentiles(two_levels(difference, board)),
        "seeds, clusters, items": percentiles(three_levels(right[0] - right[1], board)),
        "clusters": percentiles(difference.draws.mean(axis=0)),
        "Satterthwaite": (own.mean - half, own.mean + half),
    }


def percentiles(draws: Floats) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def two_levels(difference: Sample, board: int) -> Floats:
    """Means when seeds, then whole clusters are resampled: the plain hierarchical bootstrap."""
    shares = _seed_shares(len(difference.values), board % WEIGHTS)
    return np.asarray((shares * difference.draws).sum(axis=0))


def three_levels(scores: Floats, board: int) -> Floats:
    """Means of [S, clusters, size] when seeds, then clusters, then items in them are resampled."""
    seeds, clusters, size = scores.shape
    drawn = scores.reshape(seeds, -1) @ _item_shares(clusters, size, board % WEIGHTS)
    return np.asarray((_seed_shares(seeds, board % WEIGHTS) * drawn).sum(axis=0))


@cache
def _seed_shares(seeds: int, turn: int) -> Floats:
    rng = np.random.default_rng(seed_for("seeds", turn))
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS).T / seeds


@cache
def _item_shares(clusters: int, size: int, turn: int) -> Floats:
    """Clusters are drawn, then as many of their items as they hold: [clusters * size, R]."""
    rng = np.random.default_rng(seed_for("items", turn))
    times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS)
    drawn = rng.multinomial(times * size, np.full(size, 1 / size))
    return drawn.reshape(DRAWS, -1).T / (clusters * size)


def coverage(setting: Setting, boards: int) -> dict[str, float]:
    """Share of boards whose interval holds the true difference, by kind; and the seeds' share of
    the variance, mean over boards."""
    rng = np.random.default_rng(seed_for("coverage", setting))
    truth = true_score(setting, SKILLS[0]) - true_score(setting, SKILLS[1])
    held: dict[str, list[float]] = {}
    for board in range(boards):
        right = answers(setting, SKILLS, rng)
        difference = stats.minus(*samples_of(right, board))
        for kind, (low, high) in intervals(right, difference, board).items():
            held.setdefault(kind, []).append(low <= truth <= high)
        spread = stats.spread_of([difference])
        total = float(spread.seeds[0] + spread.items[0])
        held.setdefault("seeds' share", []).append(float(spread.seeds[0]) / total if total else 0.0)
    return {kind: float(np.mean(values)) for kind, values in held.items()}


def rank_coverage(setting: Setting, boards: int) -> float:
    """Share of six entries' true ranks that lie in their ranges."""
    rng = np.random.default_rng(seed_for("ranks", setting))
    true_ranks = np.arange(1.0, len(LADDER) + 1)
    inside = []
    for board in range(boards):
        samples = samples_of(answers(setting, LADDER, rng), board)
        points = ranking.ranks(
            np.array([sample.values.mean() for sample in samples]), higher_is_better=True
        )
        draws = ranking.rank_draws(samples, board, higher_is_better=True)
        low, high = ranking.central(draws, points).T
        inside.append(np.mean((low <= true_ranks) & (true_ranks <= high)))
    return float(np.mean(inside))


def power(setting: Setting, boards: int) -> float:
    """Share of boards that find a true difference as large as boards like them say they can see.

    Between entries half a difference above and below the same skill.
    """
    rng = np.random.default_rng(seed_for("power", setting))

    def difference(skills: tuple[float, float], board: int) -> Sample:
        return stats.minus(*samples_of(answers(setting, skills, rng), board))

    wanted = float(np.mean([visible([difference((0, 0), board)]) for board in range(100)]))
    step = 0.0
    while true_score(setting, step) - true_score(setting, -step) < wanted:
        step += 0.002
    found = [stats.interval(difference((step, -step), board)).low > 0 for board in range(boards)]
    return float(np.mean(found))


def main() -> None:
    """Print the tables."""
    boards = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    print(f"Coverage of nominal 95 % intervals of a paired difference, {boards} boards a line (%)")
    kinds: list[str] = []
    for name, (clusters, size) in CLUSTERS.items():
        for seeds in (3, 5, 10):
            for varies, setting in SETTINGS.items():
                made = replace(setting, seeds=seeds, clusters=clusters, size=size)
                found = coverage(made, boards)
                if not kinds:
                    kinds = list(found)
                    print(f"{'items':18s} {'seeds':>5s} {'training':>23s}  " + "  ".join(kinds))
                numbers = "  ".join(f"{100 * found[kind]:{len(kind)}.1f}" for kind in kinds)
                print(f"{name:18s} {seeds:5d} {varies:>23s}  {numbers}", flush=True)
    print("\nTrue ranks of six entries inside their ranges; found, nominal 80, of differences as "
          "large as a board says it can see (%)")  # fmt: skip
    for seeds in (3, 5, 10):
        for varies, setting in SETTINGS.items():
            made = replace(setting, seeds=seeds)
            inside, seen = rank_coverage(made, boards // 4), power(made, boards // 2)
            print(f"{seeds:5d} {varies:>23s}: ranks {100 * inside:.1f}, found {100 * seen:.1f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
