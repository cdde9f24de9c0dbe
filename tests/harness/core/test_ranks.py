"""Parts of a step by hand, and what one process pays; ``runs/test_ranks.py`` has two processes."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import pytest
import torch

from steelyard.harness.core import ranks
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Recipe
from steelyard.methods._preference import trl_data
from steelyard.methods._preference.online import BlockSampler, RowPool, Sampling

LAUNCHED = {
    "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "x",
}  # fmt: skip


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Return a patch for the number of this process, which is not connected to others."""
    monkeypatch.setattr(ranks, "_world", 2)
    yield monkeypatch


def of_each(as_rank: pytest.MonkeyPatch, make: Callable[[], Iterable[int]]) -> list[list[int]]:
    results = []
    for rank in range(2):
        as_rank.setattr(ranks, "_rank", rank)
        results.append(list(make()))
    return results


def test_torchrun_alone_makes_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_world", "_rank", "_variables"):
        monkeypatch.setattr(ranks, name, {} if name == "_variables" else getattr(ranks, name))
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    for absent in LAUNCHED.keys() - {"TORCHELASTIC_RUN_ID"}:
        assert not ranks.adopt({k: v for k, v in LAUNCHED.items() if k != absent}), absent
    assert not ranks.adopt({**LAUNCHED, "WORLD_SIZE": "1"}) and ranks.world() == 1
    for visible, own in ((None, "1"), ("5,7", "7"), ("5", "")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is restored afterwards
        variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        assert ranks.adopt({**LAUNCHED, **variables})
        assert os.environ["CUDA_VISIBLE_DEVICES"] == own  # no GPU where there are too few
    assert (ranks.world(), ranks.rank(), ranks.is_main()) == (2, 1, False)


def test_passes_of_a_step_are_dealt_whole_or_made_smaller(as_rank: pytest.MonkeyPatch) -> None:
    assert Recipe(batch_size=32).micro_size(32) == 16  # of one process 32
    assert Recipe(batch_size=32, micro_batch_size=8).micro_size(32) == 8
    assert Recipe(batch_size=32, micro_batch_size=8).micro_size(24) == 6  # three of 8 are odd
    assert Recipe(batch_size=32).micro_size(32, multiple=2) == 16
    with pytest.raises(UserError, match=r"7 items of a step .* multiple of 2"):
        Recipe().micro_size(7)
    assert Recipe(micro_batch_size=16).micro_size(32, compares=True) == 16
    with pytest.raises(UserError, match="micro_batch_size=16"):
        Recipe().micro_size(32, compares=True)


def test_each_block_is_dealt_to_all_ranks(as_rank: pytest.MonkeyPatch) -> None:
    pools = (RowPool(tuple(range(6)), 2, 0.5), RowPool(tuple(range(10, 18)), 1, 0.5))

    def rows() -> list[int]:
        return list(islice(BlockSampler(pools, 4, 0), 4))

    as_rank.setattr(ranks, "_world", 1)
    whole = list(islice(BlockSampler(pools, 4, 0), 8))
    as_rank.setattr(ranks, "_world", 2)
    first, second = of_each(as_rank, rows)
    # Blocks of four rows: of each, both ranks have half, and a group of two answers stays whole.
    assert first[:2] + second[:2] == whole[:4] and first[2:] + second[2:] == whole[4:]
    assert first[0] == first[1] != second[0] == second[1]
    with pytest.raises(UserError, match=r"batch_size=8 of each of 2 ranks.*batch_size=32"):
        Sampling(group=8).check_batch(8)


def test_rows_of_a_step_are_those_of_one_process(as_rank: pytest.MonkeyPatch) -> None:
    def rows() -> list[int]:
        return [int(row) for row in trl_data.ordered(40, 8, 3, "sft", 2)["row"][:4]]

    first, second = of_each(as_rank, rows)
    as_rank.setattr(ranks, "_world", 1)
    as_rank.setattr(ranks, "_rank", 0)
    step = [int(row) for row in trl_data.ordered(40, 8, 3, "sft", 2)["row"][:8]]
    assert first == step[:2] + step[4:6] and second == step[2:4] + step[6:]


def test_a_draw_in_turn_is_that_of_one_process(as_rank: pytest.MonkeyPatch) -> None:
    def draw() -> list[int]:
        generator = torch.Generator().manual_seed(0)
        turns = (lambda: int(torch.randint(99, (), generator=generator)) for _ in range(2))
        return [ranks.in_turn(turn) for turn in turns]

    first, second = of_each(as_rank, draw)
    generator = torch.Generator().manual_seed(0)
    alone = [int(torch.randint(99, (), generator=generator)) for _ in range(4)]
    assert [first[0], second[0], first[1], second[1]] == alone


def test_one_process_keeps_its_values() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    ranks.average([weight])
    assert weight.grad is None and ranks.deal([3, 4], str) == ["3", "4"]
    assert ranks.gather(1) == [1] and ranks.share(lambda: 2) == ranks.main_first(lambda: 2) == 2
    assert ranks.mean_values({"a": 1.0}) == {"a": 1.0} and ranks.name() == ()
    with pytest.raises(KeyError), ranks.together():
        raise KeyError
