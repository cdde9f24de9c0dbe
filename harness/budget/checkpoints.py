"""Checkpoints of a training: all that decides how it continues, in one file without code.

A training is a sequence of stages: loops over steps, and lists that grow batch by batch, such as
mined answers. The method's code runs again from its start when a run continues. A stage that had
finished returns its result at once; the one that was under way is restored by its first ``mark``:

    stage = meter.checkpoints.stage("train")
    if stage.finished:
        return stage.result
    position = stage.position or {"step": 0}
    while ...:
        stage.mark(lambda: position, [optimiser, generator])  # between two steps
        ...
    stage.finish()

The file holds tensors (safetensors) and, in its header, JSON: position and parts of the stage,
results of earlier ones, weights, random states, and the meter with its prices and its audit.
"""

import itertools
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from steelyard.harness.core import ranks
from steelyard.harness.core.errors import Interrupted, LeaseLost, UserError, one_line
from steelyard.harness.core.files import TemporaryFolder, digest, explain_write_errors, write_json
from steelyard.harness.core.progress import echo
from steelyard.harness.core.readers import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steelyard.harness.budget.meter import Meter

FILE = "checkpoint.safetensors"
SPENT = "spent.json"
"""FLOPs and seconds at which each attempt began, and those it reached."""
MINUTES = 10.0
"""Time between two checkpoints, by default."""
SCHEMA = 1
NOTE_SECONDS = 10.0
"""Time between two notes of what an attempt has reached."""
Position = Callable[[], Mapping[str, Any]]
T = TypeVar("T")


@dataclass(slots=True)
class Stage:
    """Part of a training that is restored as a whole or not repeated."""

    checkpoints: "Checkpoints"
    index: int
    finished: bool = False
    """Whether an earlier attempt has its result."""
    result: Any = None
    position: dict[str, Any] | None = None
    """Where an earlier attempt was in it; its state follows with the first ``mark``."""

    def mark(self, position: Position, parts: Sequence[Any] | None) -> None:
        """Note that nothing is under way: a checkpoint is restored, or written if it is time.

        ``position`` returns JSON. ``parts`` are everything beside the backbone's weights that
        changes: torch generators, and objects with ``state_dict`` and ``load_state_dict``; None if
        that is not known, and then this training has no checkpoints from here on.

        Raises:
            Interrupted: a progress callback has asked for the end of the run.
        """
        self.checkpoints.mark(position, parts)

    def finish(self, result: Any = None) -> None:
        """Note the stage's result, as JSON."""
        self.checkpoints.results[self.index :] = [result]


class Checkpoints:
    """Checkpoints of one training, which its meter carries; before ``open`` there are none."""

    def __init__(self, meter: "Meter") -> None:
        self.results: list[Any] = []
        """Those of finished stages."""
        self._meter = meter
        self._folder = Path()
        self._backbone: Any = None
        self._parts: Sequence[Any] = ()
        self._trained: set[str] = set()
        self._about: dict[str, Any] = {}
        self._period = self._due = self._note_due = math.inf
        self._steps = -1  # of the last mark
        self._names: list[str] = []
        self._saved: dict[str, Any] | None = None
        self._tensors: dict[str, Tensor] = {}
        self._attempts: list[dict[str, Sequence[float]]] = []
        self._interruption: Interrupted | None = None

    def open(
        self,
        folder: Path,
        minutes: float,
        backbone: "nn.Module",
        about: Mapping[str, Any],
        parts: Sequence[Any] = (),
    ) -> None:
        """Read the checkpoint of an earlier attempt, and write one all ``minutes``; 0 for never.

        ``parts`` are those of every stage; see ``Stage.mark``.

        One is of use only where ``about`` (code, versions, device) is equal. Another, or a damaged
        one, is removed with a line that says so, and training starts anew.
        """
        self._folder, self._backbone, self._parts = folder, backbone, parts
        self._trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
        self._about = {"schema": SCHEMA, **about}
        self._period = 60 * minutes or math.inf
        self._due = time.monotonic() + self._period
        if (folder / FILE).is_file():
            self._read()
        begun = self._saved["spent"] if self._saved else (0.0, 0.0)
        path = folder / SPENT
        self._attempts = [*(read_json(path) if path.is_file() else []), {"begun": begun}]
        self._note(begun)

    @property
    def unused(self) -> bool:
        """Whether the stage of the checkpoint has not been reached."""
        return self._saved is not None

    def stage(self, name: str) -> Stage:
        """Begin the next stage.

        Raises:
            RuntimeError: the stages are not those of the checkpoint, which is removed.
        """
        index = len(self._names)
        self._names.append(name)
        if self._saved is None:
            return Stage(self, index)
        if (names := self._saved["names"])[: index + 1] != self._names:
            self.remove()
            raise RuntimeError(f"stages {self._names} do not continue the checkpoint's {names}")
        if index < len(names) - 1:
            return Stage(self, index, finished=True, result=self._saved["results"][index])
        return Stage(self, index, position=self._saved["position"])

    def collect(self, name: str, items: Sequence[T], work: Callable[[T], Any]) -> list[Any]:
        """Return what ``work`` makes of each item, as JSON; ranks share it, between checkpoints."""
        stage = self.stage(name)
        if stage.finished:
            return list(stage.result)
        results: list[Any] = (stage.position or {"results": []})["results"]
        while len(results) < len(items):
            stage.mark(lambda: {"results": results}, ())
            results.extend(ranks.deal(items[len(results) :][: ranks.world()], work))
        stage.finish(results)
        return results

    def defer(self, interruption: Interrupted) -> None:
        """Raise it at the next mark, after a checkpoint; at once if there will be none."""
        never = self._period == math.inf or not self._names or isinstance(interruption, LeaseLost)
        # The second one comes if no mark has followed the first.
        if never or self._interruption is not None:
            if self._attempts and not isinstance(interruption, LeaseLost):
                self._note((self._meter.spent, self._meter.seconds))
            raise interruption
        self._interruption = interruption

    def mark(self, position: Position, parts: Sequence[Any] | None) -> None:
        """See ``Stage.mark``."""
        if self._saved is not None:
            self._restore(self._saved, (*self._parts, *(parts or ())))
            return
        if parts is None:
            self._period = self._due = math.inf
        if self._meter.steps == self._steps:  # a loop that is not of steps, and may take hours
            self._meter.on_progress(min(1.0, self._meter.fraction))
        self._steps = self._meter.steps
        ends, now = self._interruption is not None, time.monotonic()
        if now >= self._due or (ends and self._period < math.inf):
            with self._meter.uncounted():
                try:
                    self._write(position(), (*self._parts, *(parts or ())))
                except UserError as error:  # a full disk: training goes on without
                    echo(str(error), error=True)
            self._due = time.monotonic() + self._period
        if ends or now >= self._note_due:
            self._note((self._meter.spent, self._meter.seconds))
        if self._interruption is not None:
            raise self._interruption

    def remove(self) -> None:
        """Remove the file."""
        (self._folder / FILE).unlink(missing_ok=True)

    def _write(self, position: Mapping[str, Any], parts: Sequence[Any]) -> None:
        import torch
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        state = {
            "weights": self._weights(),
            "parts": [
                part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
                for part in parts
            ],
            "random": _random_states(),
            "meter": self._meter.state_dict(),
        }
        content = {
            "about": self._about,
            "names": self._names,
            "results": self.results,
            "position": position,
            "spent": (self._meter.spent, self._meter.seconds),
            "state": pack(state, tensors),
        }
        text = json.dumps(content)
        path = self._folder / FILE
        with explain_write_errors(path), TemporaryFolder(self._folder) as temporary:
            file = Path(temporary) / FILE
            save_file(tensors, file, {"content": text, "checksum": _checksum(text, tensors)})
            with file.open("rb") as written:
                os.fsync(written.fileno())
            file.chmod(0o644)  # as other files of a run: safetensors lets only the user read it
            file.replace(path)

    def _read(self) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file

        path = self._folder / FILE
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata()
            tensors = load_file(path)
            if header["checksum"] != _checksum(header["content"], tensors):
                raise ValueError("its checksum differs")
            saved = json.loads(header["content"])
            if saved["about"] != self._about:
                raise ValueError("it is of other code, packages or another device")
        except Exception as error:  # whatever a damaged file leads to
            self.remove()
            reason = str(error) if isinstance(error, ValueError) else one_line(error)
            echo(f"{path} cannot be used ({reason}): training starts anew.", error=True)
            return
        self._saved, self._tensors = saved, tensors

    def _restore(self, saved: Mapping[str, Any], parts: Sequence[Any]) -> None:
        import torch

        state = unpack(saved["state"], self._tensors)
        try:
            with self._meter.uncounted(), torch.no_grad():
                weights = self._weights()
                if weights.keys() != state["weights"].keys():
                    raise RuntimeError("the checkpoint has other weights than the backbone")
                for name, value in state["weights"].items():
                    weights[name].copy_(value)
                for part, value in zip(parts, state["parts"], strict=True):
                    if isinstance(part, torch.Generator):
                        part.set_state(value)
                    else:
                        part.load_state_dict(value)
                _set_random_states(state["random"])
                self._meter.load_state_dict(state["meter"])
        except Exception:
            self.remove()  # or every further attempt would end here
            raise
        self.results = saved["results"]
        self._saved, self._tensors = None, {}

    def _weights(self) -> "dict[str, Tensor]":
        """Return what may differ from the start: parameters that are or were trained, buffers."""
        parameters = self._backbone.named_parameters()
        trained = {n: p for n, p in parameters if p.requires_grad or n in self._trained}
        return trained | dict(self._backbone.named_buffers())

    def _note(self, reached: Sequence[float]) -> None:
        self._attempts[-1]["reached"] = reached
        with suppress(UserError):  # a full disk
            write_json(self._folder / SPENT, self._attempts)
        self._note_due = time.monotonic() + NOTE_SECONDS


def lost_work(folder: Path) -> dict[str, float]:
    """Return FLOPs and seconds that a training had to repeat; empty if none.

    Work after an attempt's last note, of at most ``NOTE_SECONDS``, is unknown.
    """
    path = folder / SPENT
    pairs = list(itertools.pairwise(read_json(path) if path.is_file() else []))
    flops, seconds = (
        sum(max(0.0, earlier["reached"][i] - later["begun"][i]) for earlier, later in pairs)
        for i in range(2)
    )
    return {"flops": flops, "seconds": round(seconds, 3)} if flops else {}


def pack(value: Any, tensors: "dict[str, Tensor]") -> Any:
    """Return nested containers as JSON; tensors move into ``tensors`` under numbers."""
    import torch

    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        # Pairs, because keys of an optimiser's state are numbers.
        return {"pairs": [(key, pack(item, tensors)) for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [pack(item, tensors) for item in value]
    return value


def unpack(value: Any, tensors: "Mapping[str, Tensor]") -> Any:
    """Return what ``pack`` was given, tuples as lists."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: unpack(item, tensors) for key, item in value["pairs"]}


def _checksum(text: str, tensors: "Mapping[str, Tensor]") -> str:
    import torch

    values: Iterator[Any] = (
        tensors[name].flatten().view(torch.uint8).numpy() for name in sorted(tensors)
    )
    return digest([text.encode(), *values])


def _random_states() -> dict[str, Any]:
    import numpy as np
    import torch

    state: Any = np.random.get_state()
    kind, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    import numpy as np
    import torch

    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
