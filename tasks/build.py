"""Variants as tasks of lmms-eval: ours over documents in memory, and lmms-eval's own."""

from typing import TYPE_CHECKING

from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.errors import unknown
from steelyard.harness.core.examples import Corpus
from steelyard.tasks import Variant, is_stock

if TYPE_CHECKING:
    from steelyard.tasks._lmms.memory_task import MemoryTask
    from steelyard.tasks._lmms.stock_task import StockTask


def build(
    variant: Variant, corpus: Corpus, split: str = "test", limit: int | None = None
) -> "MemoryTask | StockTask":
    """Build the variant as an lmms-eval task over a split of ``corpus``.

    ``limit`` takes that many items by a hash of their ids, not the first ones: files are often
    sorted by class. A smaller limit gives a subset of a larger one.
    """
    if split not in corpus.splits:
        raise unknown(f"split of {corpus.name}", split, corpus.splits)
    import_lmms_eval()
    from steelyard.tasks._lmms import memory_task, stock_task

    if is_stock(variant.task):
        return stock_task.build(variant, corpus, split, limit)
    return memory_task.build(variant, corpus, split, limit)
