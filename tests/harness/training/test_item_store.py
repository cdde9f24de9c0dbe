"""Items that do not fit in memory: read ahead by threads, kept on disk, and always the same."""

import io
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import vlm_toys

from steelyard import methods
from steelyard.harness.budget.meter import BudgetSpent
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Turn
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training import train_data
from steelyard.harness.training.item_store import ItemStore

COUNT = 24


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vlm:
    monkeypatch.setattr(train_data, "IN_MEMORY_BYTES", 10)
    monkeypatch.setattr(train_data, "CHUNK", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return vlm_toys.build("llava", tmp_path)


def large_data(model: Vlm, reads: list[tuple[int, str]], **options: Any) -> train_data.TrainData:
    """Training data larger than memory; ``reads`` gets every decoded item, and by which thread."""
    turns = vlm_toys.turns(COUNT, uneven=True)
    examples = tuple(Example(str(row), Path(f"{row}.png"), "?", ()) for row in range(COUNT))

    def turn(example: Example) -> Turn:
        reads.append((int(example.id), threading.current_thread().name))
        return turns[int(example.id)]

    values = vlm_toys.vlm_config.configure("some/model", options)
    model.config = values
    return train_data.vlm_data(model, examples, turn)


@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 0}, {"pixel_cache_gb": 1.0}])
def test_batches_are_the_same_in_the_same_order(model: Vlm, options: dict[str, Any]) -> None:
    plain = large_data(model, [], workers=0).batches(5, 0, "train")
    ahead = large_data(model, [], **options).batches(5, 0, "train")
    for _ in range(12):  # three passes
        expected, batch = next(plain), next(ahead)
        assert torch.equal(batch.pixels, expected.pixels)
        assert torch.equal(batch.targets, expected.targets)
        assert all(torch.equal(batch.extra[name], expected.extra[name]) for name in batch.extra)


def test_threads_read_two_batches_ahead(model: Vlm) -> None:
    reads: list[tuple[int, str]] = []
    data = large_data(model, reads, workers=2)
    reads.clear()
    batches = data.positions(4, 0, "train")
    first = next(batches)
    batch = data.gather(first)
    data.gather(next(batches))
    assert len(batch.targets) == 4
    assert all("ThreadPool" in thread for _, thread in reads)
    rows = [row for row, _ in reads]
    assert sorted(rows) == sorted(set(rows)) and set(first) <= set(rows)


def test_the_disk_is_used_within_its_limit_and_emptied(model: Vlm, tmp_path: Path) -> None:
    reads: list[int] = []

    def encode(prompts: Any, positions: Any) -> Any:
        reads.extend(positions)
        turns = [vlm_toys.turns(COUNT)[position] for position in positions]
        return prompts.encode_items([t.inputs for t in turns], [t.answer for t in turns])

    (item,) = encode(model.prompts, [0])
    torch.save(item, buffer := io.BytesIO())
    size = len(buffer.getvalue())
    reads.clear()
    store = ItemStore(model, encode, 0, disk=3.5 * size)
    for _ in range(2):
        store.get(range(5))
    assert reads == [0, 1, 2, 3, 4, 3, 4]
    folder = tmp_path / "cache" / "steelyard" / "items"
    files = list(folder.glob("*/*"))
    assert len(files) == 3 and sum(f.stat().st_size for f in files) <= 3.5 * size
    del store
    assert not list(folder.iterdir())


def test_a_fault_of_an_item_is_named_when_its_batch_is_made(model: Vlm) -> None:
    data = large_data(model, [], workers=2, max_answer_tokens=1)
    with pytest.raises(UserError, match="answer"):
        data.gather(next(data.positions(4, 0, "train")))


@pytest.mark.parametrize("name", ["joint", "dpo"])
def test_a_run_is_the_same_with_threads_and_disk(
    name: str, model: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the harness's own loop, and in a trainer's, whose rows are announced to the threads."""
    weights = []
    for options in ({"workers": 0}, {"workers": 2, "pixel_cache_gb": 1.0}):
        trained = vlm_toys.build("llava", tmp_path, **options)
        data = vlm_toys.train_data(trained)
        method = methods.load(name)
        torch.manual_seed(0)
        with vlm_toys.watched(trained, 6e8) as meter, suppress(BudgetSpent):
            method.train(trained, data, meter, method.Config(), 0)
        assert meter.steps > 1
        weights.append(torch.cat([p.detach().flatten() for p in trained.parameters()]))
    assert torch.equal(*weights)
