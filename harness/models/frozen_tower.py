"""Vision tower that does not learn: no dropout, no graph, and features computed once an image.

``freeze`` changes a tower in place, below everything that calls it: ``encode``, a trainer's plain
forward pass, generation and the passes of a reference model.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from steelyard.harness.core.compat import DECODER_SETTINGS

LANES = {4: torch.int32, 2: torch.int16, 1: torch.uint8}
"""Integers to read the bits of a number as, by its bytes."""
# Constants of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) as signed numbers.
STRIDE, MIX, MIX_AGAIN = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
AT_ONCE = 1 << 24
"""Numbers that are fingerprinted at once: 128 MB as int64."""
PACKED, UNPACKED = "pooler_output", "last_hidden_state"
"""Last output of a tower that merges the patches of all images in one row, and of others."""
Features = Mapping[str, Sequence[Tensor]]
"""Parts of a tower's output that families read, by name."""


@dataclass(slots=True)
class StoredFeatures:
    """Features of one image in the host's memory."""

    features: Features | None
    """None for what an earlier attempt of a run computed."""
    size: int
    """Bytes."""
    uses: int = 0


class FeatureStore:
    """Features by image within a limit of bytes; the least used leave first, of these the oldest.

    Images that come once, such as attacked ones, so make no image leave that comes in every epoch.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.size = 0
        self._entries: dict[bytes, StoredFeatures] = {}
        self.repeat: Callable[[], AbstractContextManager[None]] = nullcontext
        """Context in which features of an earlier attempt are computed again."""

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # the frozen tower of a reference model has the same weights

    def get(self, key: bytes) -> Features | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.uses += 1
        return entry.features

    def computing(self, key: bytes) -> AbstractContextManager[None]:
        """Return the context in which the features of an image are computed."""
        return self.repeat() if key in self._entries else nullcontext()

    def add(self, key: bytes, features: Features) -> None:
        if key in self._entries:
            self._entries[key].features = features
            return
        tensors = [tensor for part in features.values() for tensor in part]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self._entries[key] = StoredFeatures(features, size)
        self.size += size
        while self.size > self.limit:
            # ``min`` returns the first of equal ones, and the newest is last.
            least = min(self._entries, key=lambda key: self._entries[key].uses)
            self.size -= self._entries.pop(least).size

    def state_dict(self) -> list[tuple[str, int, int]]:
        """Return images, sizes and uses, without the features: they can be computed again."""
        return [(key.hex(), entry.size, entry.uses) for key, entry in self._entries.items()]

    def load_state_dict(self, state: Iterable[tuple[str, int, int]]) -> None:
        """Continue with the images of an earlier attempt."""
        rows = [(bytes.fromhex(key), StoredFeatures(None, *numbers)) for key, *numbers in state]
        self._entries = dict(rows)
        self.size = sum(entry.size for entry in self._entries.values())


class FrozenTower(nn.Module):
    """Base that ``freeze`` puts before a tower's own class."""

    feature_store: FeatureStore
    feature_layers: Sequence[int]
    """Hidden states that the family reads; empty if it reads the tower's last output."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # whatever a trainer asks for

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pixels: Tensor = args[0] if args else kwargs["pixel_values"]
        if pixels.requires_grad and torch.is_grad_enabled():  # an attack changes them
            return super().__call__(*args, **kwargs)
        with torch.no_grad():
            if not self.feature_store.limit:
                return super().__call__(*args, **kwargs)
            return self._stored_call(pixels, args, kwargs)

    def _stored_call(self, pixels: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return the output for a batch; each image that is not stored passes the tower alone.

        Alone, so that its features do not depend on the images beside it: those of Qwen-VL and of
        tiles differ in the last bits with the size of the batch.
        """
        grid = kwargs.get("grid_thw")
        # Qwen-VL has the patches of all images one after another, others a row per image or tile.
        sizes = [1] * len(pixels) if grid is None else grid.prod(1).tolist()
        tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
        tensors.pop("pixel_values", None)
        unused = {*tensors, "pixel_values", *DECODER_SETTINGS}
        settings = [item for item in kwargs.items() if item[0] not in unused]
        images, prints = (torch.split(rows, sizes) for rows in (pixels, fingerprints(pixels)))
        batch: list[Features] = []
        for row, image in enumerate(images):
            further = {name: value[row : row + 1] for name, value in tensors.items()}
            key = _key(settings, (prints[row], *further.values()))
            features = self.feature_store.get(key)
            if features is None:
                keywords = {} if args else {"pixel_values": image}
                inputs = [image, *args[1:]][: len(args)]
                with self.feature_store.computing(key):
                    output = super().__call__(*inputs, **kwargs | further | keywords)
                features = self._features(output, packed=grid is not None)
                self.feature_store.add(key, features)
            batch.append(features)
        return self._output(batch, pixels.device)

    def _features(self, output: Any, packed: bool) -> Features:
        """Return what the family reads of the tower's output for one image."""
        last, parts = PACKED if packed else UNPACKED, dict[str, list[Tensor]]()
        # Of old releases some families ask for none if they read the last layer alone.
        if self.feature_layers and output.hidden_states is not None:
            parts["hidden_states"] = [output.hidden_states[i] for i in self.feature_layers]
        if not self.feature_layers or -1 in self.feature_layers:  # InternVL reads it for that layer
            parts[last] = [output[last]]
        if deepstack := output.get("deepstack_features"):
            parts["deepstack_features"] = list(deepstack)
        return {name: [part.cpu() for part in values] for name, values in parts.items()}

    def _output(self, batch: Sequence[Features], device: torch.device) -> Any:
        """Join the features of a batch to an output of the tower."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        output = BaseModelOutputWithPooling()
        for name in batch[0]:
            columns = zip(*(features[name] for features in batch), strict=True)
            parts = [torch.cat(column).to(device) for column in columns]
            if name == "hidden_states":  # read by layer
                output[name] = dict(zip(self.feature_layers, parts, strict=True))
            else:
                output[name] = parts if name == "deepstack_features" else parts[0]
        return output


def freeze(tower: nn.Module, layers: Sequence[int], limit: float) -> None:
    """Make a tower frozen; keep features of at most ``limit`` bytes, none if it is 0.

    ``layers`` are the hidden states that the family reads, empty for its last output.
    """
    kind = type(tower)
    # Under its own name, by which transformers looks up what a class records.
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__")}
    tower.__class__ = type(kind.__name__, (FrozenTower, kind), names)
    frozen = cast(FrozenTower, tower)
    frozen.feature_store, frozen.feature_layers = FeatureStore(limit), tuple(layers)
    frozen.requires_grad_(False).eval()


def feature_stores(module: nn.Module) -> list[FeatureStore]:
    """Return the stores of the frozen towers in a module."""
    return [inner.feature_store for inner in module.modules() if isinstance(inner, FrozenTower)]


def fingerprints(rows: Tensor) -> Tensor:
    """Return a 64-bit hash [N] of the bits of each row, on the CPU: int64 from [N, ...].

    It is computed where the rows are. To move pixels of a photo to the host and hash them there
    takes as long as the tower.
    """
    lanes = rows.detach().flatten(1).contiguous().view(LANES[rows.element_size()])
    steps = torch.arange(lanes.shape[1], device=rows.device) * STRIDE
    parts = []
    for chunk in torch.split(lanes, max(1, AT_ONCE // lanes.shape[1])):
        mixed = chunk.long() + steps
        mixed = (mixed ^ (mixed >> 30)) * MIX
        mixed = (mixed ^ (mixed >> 27)) * MIX_AGAIN
        parts.append((mixed ^ (mixed >> 31)).sum(1))
    return torch.cat(parts).cpu()


def _key(settings: object, tensors: Sequence[Tensor]) -> bytes:
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest()
