"""Log of a training: rows of its history, and the mean of each value."""

from collections.abc import Callable, Mapping

HISTORY_EVERY = 10  # steps between two rows of a run's log


class StepLog:
    """Logged values of the steps of a training."""

    def __init__(self) -> None:
        self.on_log: Callable[[Mapping[str, float]], None] = lambda row: None
        """Called with the row of every step, with the fraction of the FLOPs so far that each phase
        has."""
        self._sums: dict[str, tuple[float, int]] = {}
        self._history: list[dict[str, float]] = []
        self._latest: dict[str, float] = {}

    def _add(self, values: Mapping[str, float], place: Mapping[str, float]) -> dict[str, float]:
        """Add the values of a step to the means, and its row, which begins with its place."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        self._latest = {**place, **values}
        if (place["step"] - 1) % HISTORY_EVERY == 0:
            self._history.append(self._latest)
        return self._latest

    @property
    def history(self) -> list[dict[str, float]]:
        """Rows of the run's log: the first step, every tenth after it, and the last."""
        unlisted = self._latest and self._history[-1:] != [self._latest]
        return [*self._history, self._latest] if unlisted else self._history

    @property
    def diagnostics(self) -> dict[str, float]:
        """Mean over training of every logged value."""
        return {name: total / count for name, (total, count) in sorted(self._sums.items())}
