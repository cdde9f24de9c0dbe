"""Modules that a method adds to a backbone, built again by the method's file when weights load.

extend(backbone, Extension("gate.py", file_hash(path), options, seed))    # before training
finding = changed_parts(backbone, layout)                                 # after its first step
"""

import importlib
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import file_hash, import_file
from steelyard.harness.models.precision import autocast_calls
from steelyard.harness.models.storage import explain_load_errors

if TYPE_CHECKING:
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm

FUNCTION = "extend"
"""Function ``extend(backbone, config)`` of a method's file, which replaces or adds modules."""
STATE = "extension.safetensors"
UNSAVED = (
    "the method changed the backbone while it trained ({}), and scoring would be without that: do "
    f"it in a function {FUNCTION}(backbone, config) of the method's file, which is called before "
    "training and before scoring"
)

Layout = Mapping[str, tuple[object, ...]]
"""Type of every module, shape of every weight and whether it is trained, by name."""


class NotRestorable(Exception):
    """Training changed what scoring could not build again."""


@dataclass(frozen=True, slots=True)
class Extension:
    """Call of ``extend`` that gave a backbone its further modules."""

    module: str
    """Dotted name of the method's module, or path of a user's file."""
    source: str
    """Hash of a user's file; empty for a method of a package."""
    options: Mapping[str, Any]
    """All options of the method's ``Config``."""
    seed: int
    names: tuple[str, ...] = ()
    """Trained and further weights, which are saved; set by ``extend``."""


def extend(backbone: "Classifier | Vlm", extension: Extension) -> tuple[str, ...]:
    """Let the method's file change the modules of an untrained backbone, and move them to it.

    Returns:
        Names of the trained and of the further weights.

    Raises:
        UserError: the file is missing or is not the one that built the saved modules.
    """
    module = _import(extension)
    old_modules = {id(module) for module in backbone.modules()}
    old_weights = {id(weight) for weight in _weights(backbone).values()}
    # The modules' initial weights depend on the seed alone, and the caller's state is unchanged.
    with torch.random.fork_rng():
        torch.manual_seed(extension.seed)
        getattr(module, FUNCTION)(backbone, module.Config(**extension.options))
    backbone.to(backbone.device)
    if backbone.recipe.precision == "bf16":
        parts = [part for part in backbone.modules() if id(part) not in old_modules]
        inner = {id(part) for outer in parts for part in list(outer.modules())[1:]}
        autocast_calls(p for p in parts if id(p) not in inner and any(True for _ in p.parameters()))
    weights = _weights(backbone)
    names = tuple(n for n, w in weights.items() if w.requires_grad or id(w) not in old_weights)
    backbone.extension = replace(extension, names=names)
    return names


def state(backbone: "Classifier | Vlm") -> dict[str, torch.Tensor]:
    """Return trained and further weights of an extended backbone by name, on the CPU."""
    assert backbone.extension is not None
    weights = _weights(backbone)
    return {n: weights[n].detach().contiguous().cpu() for n in backbone.extension.names}


def load_weights(
    module: nn.Module, weights: Mapping[str, torch.Tensor], names: Set[str], path: Path
) -> None:
    """Load the weights of a file, which has to have exactly these names; others are unchanged."""
    if weights.keys() != names:
        first = min(weights.keys() ^ names)
        state = "has no place in the model" if first in weights else "is not in the file"
        raise UserError(f"{path} does not fit: {first} {state}, so a part would be untrained.")
    with explain_load_errors(f"{path} does not fit", "Restore the run's folder as it was written."):
        module.load_state_dict(weights, strict=False)


def layout(backbone: nn.Module) -> Layout:
    """Return what has to be built again before saved weights can load."""
    content: dict[str, tuple[object, ...]] = {n: (type(m),) for n, m in backbone.named_modules()}
    for name, weight in _weights(backbone).items():
        content[name] = (tuple(weight.shape), weight.requires_grad)
    # A trainer's second adapter, its frozen reference, is not the one that is scored.
    references = set(getattr(getattr(backbone, "model", None), "peft_config", ())) - {"default"}
    content = {
        name: part for name, part in content.items() if references.isdisjoint(name.split("."))
    }
    # A method of the class that is set on the object, such as another ``predict`` or ``forward``;
    # not one that trainers set around the class's own, for arguments of theirs.
    replaced = [
        f"{name}.{method}".removeprefix(".")
        for name, module in backbone.named_modules()
        for method, value in vars(module).items()
        if callable(own := getattr(type(module), method, None))
        and getattr(value, "__wrapped__", None) is not own
    ]
    return content | dict.fromkeys(replaced, ("function",))


def changed_parts(backbone: nn.Module, before: Layout) -> str:
    """Say what training has changed that scoring would not have; empty if nothing.

    Weights may be frozen, and not the reverse: those that are trained later are not all saved.
    """
    now = layout(backbone)
    changes = [f"{name} is gone" for name in before if name not in now]
    changes += [f"{name} is new" for name in now if name not in before]
    for name in before.keys() & now.keys():
        if before[name] != now[name] and before[name] != (*now[name][:-1], True):
            changes.append(f"{name} is another")
    if not changes:
        return ""
    return UNSAVED.format(", ".join(sorted(changes)[:3]))


def _weights(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and saved buffers by name, tied ones once."""
    tensors = backbone.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return {name: tensors[name] for name in first.values()}


def _import(extension: Extension) -> Any:
    if not extension.source:
        return importlib.import_module(extension.module)
    path = Path(extension.module)
    if not path.is_file() or file_hash(path) != extension.source:
        state = "has changed" if path.is_file() else "is missing"
        raise UserError(
            f"{path} builds a part of this model and {state}: restore the file whose hash is "
            f"{extension.source}."
        )
    return import_file(path)
