"""Items of a vision-language model that do not fit in memory: read ahead, and kept on disk.

store = ItemStore(backbone, encode, workers=2, disk=20e9)
store.expect([4, 0])        # begins to decode and process them
items = store.get([4, 0])   # equal to encode(backbone.prompts, [4, 0])
"""

import copy
import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from steelyard.harness.core.files import TemporaryFolder, cache_folder, write_atomic
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_layout import PromptRow
from steelyard.harness.models.vlm_prompts import EncodedItem, PromptEncoder

torch.serialization.add_safe_globals([EncodedItem, PromptRow])

Encode = Callable[[PromptEncoder, Sequence[int]], list[EncodedItem]]
"""Returns the items at these positions, processed with this encoder."""


class ItemStore:
    """Processed items by position: a thread's, a file's, or processed now; always the same."""

    def __init__(self, backbone: Vlm, encode: Encode, workers: int, disk: float) -> None:
        """Start ``workers`` threads, and keep at most ``disk`` bytes in a folder of this run.

        Threads and not processes, so that the guard of opened files sees what they read; decoding
        and resizing release Python's lock. When the folder is full it stays as it is: items come
        in every pass in another order, so that any of them is as good as another.
        """
        self._prompts, self._encode = backbone.prompts, encode
        self._disk_left = disk
        self._folder: TemporaryFolder | None = None
        if disk:
            parent = cache_folder() / "items"
            parent.mkdir(parents=True, exist_ok=True)
            self._folder = TemporaryFolder(parent)
        self._lock, self._own = threading.Lock(), threading.local()
        self._expected: dict[int, Future[EncodedItem]] = {}
        # A tokenizer cannot be used by two threads at once.
        processors = [copy.deepcopy(backbone.processor) for _ in range(workers)]

        def start() -> None:
            encoder = PromptEncoder(processors.pop(), backbone.base, backbone.config)
            self._own.prompts = encoder

        self._pool = ThreadPoolExecutor(workers, initializer=start) if workers else None

    def expect(self, positions: Sequence[int]) -> None:
        """Begin to process items that will be asked for soon."""
        for position in positions:
            if self._pool is not None and position not in self._expected:
                self._expected[position] = self._pool.submit(self._load, position)

    def get(self, positions: Sequence[int]) -> list[EncodedItem]:
        """Return items; raises whatever processing them raises."""
        items = []
        for position in positions:
            future = self._expected.pop(position, None)
            items.append(self._load(position) if future is None else future.result())
        return items

    def _load(self, position: int) -> EncodedItem:
        file = Path(self._folder.name) / f"{position}.pt" if self._folder else None
        if file is not None and file.is_file():
            stored: EncodedItem = torch.load(file, weights_only=True)
            return stored
        (item,) = self._encode(getattr(self._own, "prompts", self._prompts), [position])
        if file is not None:
            buffer = io.BytesIO()
            torch.save(item, buffer)
            content = buffer.getvalue()
            with self._lock:
                fits = len(content) <= self._disk_left
                self._disk_left -= len(content) if fits else 0
            if fits:
                write_atomic(file, content)
        return item
