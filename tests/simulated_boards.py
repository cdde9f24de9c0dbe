"""Boards whose truth is known: binary items in clusters, answered by seeds of unequal skill."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from steelyard.leaderboards.stats.intervals import DRAWS, Sample, resample_weights

Floats = NDArray[np.float64]
WEIGHTS = 20
"""Sets of resamples that simulated boards take turns in using, as making them takes longest."""
LIKENESS = 0.5
"""Share of the variance of difficulty that items of one cluster have in common."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated. An entry's skill differs from seed to seed by ``training`` (standard
    deviation); difficulties of items have standard deviation 1."""

    seeds: int
    training: float
    clusters: int = 300
    size: int = 1
    """Items in a cluster."""
    steepness: float = 4.0
    """How sharply a chance to be right falls with an item's difficulty; where it is sharp, seeds
    give the same answers."""


def true_score(setting: Setting, skill: float) -> float:
    """The expected share of right answers over all seeds and items there could be."""
    spread = np.sqrt(1 + setting.training**2)
    places = (np.arange(20_000) + 0.5) / 20_000
    return float(_right(setting, skill - spread * ndtri(places)).mean())


def answers(setting: Setting, skills: Sequence[float], rng: np.random.Generator) -> Floats:
    """Right or wrong of every entry and seed on the same new items: [E, S, clusters, size]."""
    own = rng.standard_normal((setting.clusters, setting.size))
    common = rng.standard_normal((setting.clusters, 1))
    difficulty = LIKENESS**0.5 * common + (1 - LIKENESS) ** 0.5 * own
    drawn = setting.training * rng.standard_normal((len(skills), setting.seeds))
    skill = (np.array(skills)[:, None] + drawn)[:, :, None, None]
    chances = _right(setting, skill - difficulty)
    return (rng.random((*drawn.shape, *own.shape)) < chances).astype(float)


def samples_of(right: Floats, board: int) -> list[Sample]:
    """The entries as a board measures them: values by seed, and resamples of whole clusters."""
    entries, seeds, clusters, size = right.shape
    weights = _weights(clusters, size, board % WEIGHTS)
    items = right.reshape(entries, seeds, -1)
    drawn = items @ weights.T / weights.sum(axis=1)
    return [Sample(items[e].mean(axis=1), drawn[e], clusters) for e in range(entries)]


@cache
def _weights(clusters: int, size: int, turn: int) -> Floats:
    names = np.repeat(np.arange(clusters), size).astype(str)
    return resample_weights(names, DRAWS, "simulated", turn)


def _right(setting: Setting, advantage: Floats) -> Floats:
    return np.asarray(expit(setting.steepness * advantage))
