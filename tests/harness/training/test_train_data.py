"""Order of the batches: each item once an epoch, another order in the next, decided by the seed."""

from itertools import chain, islice

from steelyard.harness.core.examples import Example
from steelyard.harness.models.backbone import Batch
from steelyard.harness.training.train_data import TrainData


def unread(*_: object) -> Batch:
    raise AssertionError("the order of the batches reads no item")


def epochs(size: int, seed: int = 0, stage: str = "train") -> list[list[int]]:
    """Return the items of two epochs over ten."""
    examples = tuple(Example(str(number), None, None) for number in range(10))
    data = TrainData(examples, unread, unread, 2, False)  # type: ignore[arg-type]
    batches = list(islice(data.positions(size, seed, stage), 2 * (10 // size)))
    half = len(batches) // 2
    return [list(chain(*part)) for part in (batches[:half], batches[half:])]


def test_an_epoch_has_each_item_once_and_the_next_has_another_order() -> None:
    first, second = epochs(5)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_order_is_decided_by_seed_and_stage() -> None:
    assert epochs(5) == epochs(5)
    assert len({tuple(epochs(5, *key)[0]) for key in ((0,), (1,), (0, "warm-up"))}) == 3


def test_an_incomplete_last_batch_is_left_out() -> None:
    first, second = epochs(4)
    assert len(set(first)) == len(first) == len(set(second)) == 8
