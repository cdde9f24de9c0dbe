"""Find, load and check methods; a method is one module with ``ABOUT``, ``Config`` and ``train``.

>>> method = load("ogm_ge")
>>> config = configure(method, {"alpha": 0.5})
>>> method.train(backbone, data, meter, config, seed=0)
"""

import ast
import dataclasses
import functools
import importlib
import pkgutil
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, Protocol

from steelyard.harness.core.errors import UserError, check_known, unknown
from steelyard.harness.core.examples import Corpus, ModelKind
from steelyard.harness.core.files import import_file
from steelyard.harness.core.options import Option, Options, apply, read_values
from steelyard.harness.training.search import Range, Space

# They import torch, which ``list`` and boards do without.
if typing.TYPE_CHECKING:
    from steelyard.harness.budget.meter import Meter
    from steelyard.harness.models.backbone import Backbone
    from steelyard.harness.training.train_data import TrainData


@dataclass(frozen=True, slots=True)
class About:
    """Description of a method for boards and readers."""

    title: str
    kind: Literal["control", "objective", "optimisation", "data", "preference"]
    summary: str
    """One sentence in plain words."""
    paper: str = ""
    """Authors, title, venue and identifier; empty for a control."""
    backbones: tuple[ModelKind, ...] = ("classifier",)
    """Kinds of model it can train."""
    on_vlm: Mapping[str, Option] = field(default_factory=dict)
    """Options whose default differs on a vlm."""
    adapted: str = ""
    """What is ours on a vlm, in one sentence; empty if the paper has it or there is no vlm."""
    learning_rate: float = 1.0
    """Learning rate on a vlm relative to the backbone's, which is that of fine-tuning; other than 1
    only where rates are published."""
    trainer: str = ""
    """TRL's configuration class, such as ``DPOConfig``, whose settings a user may change on a vlm;
    empty if the method's loss is its own."""
    learns: bool = True
    """False if the method needs no training items and leaves the model unchanged."""


@dataclass(frozen=True, slots=True)
class NoOptions:
    """``Config`` of a method without options."""


class Method(Protocol):
    """Contract of a method module; there is no base class.

    A function ``extend(backbone, config)`` beside these may replace modules of the backbone or add
    some: it is called before training and whenever the trained weights are loaded.
    """

    @property
    def ABOUT(self) -> About: ...

    @property
    def Config(self) -> type[Any]: ...

    def train(
        self, backbone: "Backbone", data: "TrainData", meter: "Meter", config: Any, seed: int
    ) -> None:
        """Change the backbone's weights in place; return when done, and never catch BudgetSpent."""


def names() -> list[str]:
    """Return the methods of this folder and those that other packages offer by entry point.

    Modules and folders whose name begins with an underscore are helpers.
    """
    modules = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return sorted({*modules, *_external()})


# Entry points are read from the metadata of every installed package.
@functools.cache
def _external() -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="steelyard.methods")}


def about(name: str) -> About:
    """Return a method's ``ABOUT``, without running code of this folder's or a user's file for it.

    Raises:
        UserError: there is no such method.
    """
    path = Path(name) if name.endswith(".py") else Path(__file__).with_name(f"{name}.py")
    is_file = path.is_file() and name not in _external()
    return (_parse_about(path) if is_file else None) or load(name).ABOUT


def _parse_about(path: Path) -> About | None:
    """Read ``ABOUT`` from a file's syntax tree; None if it is not made of constants.

    Boards and ``list`` need every method's title: parsing all files takes 50 ms, importing one of
    them 2 s, because methods import torch.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="ABOUT")], value=ast.Call(args=[], keywords=keywords)
            ):
                try:
                    return About(**{str(k.arg): ast.literal_eval(k.value) for k in keywords})
                except ValueError:
                    return None
    return None


def idle() -> str:
    """Return the method that trains nothing; records of an untrained model carry its name."""
    return next(name for name in names() if not about(name).learns)


def load(name: str) -> Method:
    """Return the method of that name, or of a user's file if ``name`` is a path to a ``.py``.

    Raises:
        UserError: there is no such method or file, or it breaks the contract.
    """
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"No method file at {path}.")
        return _check(import_file(path), name)
    check_known("method", name, names())
    if (entry := _external().get(name)) is not None:
        return _check(entry.load(), name)
    return _check(importlib.import_module(f"{__name__}.{name}"), name)


def search_space(method: Method) -> Space:
    """Return the ranges that the method's file declares in ``SEARCH``, if any."""
    space: Space = vars(method).get("SEARCH", {})
    return space


def configure(method: Method, options: Mapping[str, Option], kind: ModelKind = "classifier") -> Any:
    """Return the frozen Config with ``options`` applied; refuse unknown keys and wrong types.

    Raises:
        UserError: also when the method does not train this kind of backbone.
    """
    about = method.ABOUT
    if kind not in about.backbones:
        raise UserError(
            f"{about.title} trains a {' or '.join(about.backbones)}, and the backbone is a {kind}: "
            "choose another with --backbone; 'steelyard list backbones' names them."
        )
    config = method.Config(**(about.on_vlm if kind == "vlm" else {}))
    return apply(config, options, f"option of {about.title}")


def read_settings(
    name: str, options: Options, settings: Options
) -> tuple[dict[str, Option], dict[str, Option]]:
    """Read texts among a method's options, and among the settings of its TRL trainer.

    A list of such settings stays text. ``configure`` and ``check_trainer`` refuse what is wrong.
    """
    method = load(name)
    trainer = dict(settings)
    if settings and method.ABOUT.trainer:
        import trl  # takes seconds

        read = read_values(getattr(trl, method.ABOUT.trainer), settings)
        trainer |= {key: value for key, value in read.items() if not isinstance(value, list)}
    return read_values(method.Config, options), trainer


def check_data(name: str, options: Mapping[str, Option], kind: ModelKind, corpus: Corpus) -> None:
    """Let a method that has ``Config.check_data`` check the training items before any run.

    Raises:
        UserError: its options need items that the data set does not have.
    """
    config = configure(load(name), options, kind)
    if check := getattr(config, "check_data", None):
        check(corpus.splits.get("train", ()))


def check(name: str, options: Mapping[str, Option], kind: ModelKind, batch_size: int) -> None:
    """Check options, and a vision-language model's batch size by ``Config.check_batch`` if any.

    Raises:
        UserError: an option is unknown or wrong, or the method cannot train on such batches.
    """
    config = configure(load(name), options, kind)
    if kind == "vlm" and (check_batch := getattr(config, "check_batch", None)):
        check_batch(batch_size)


def check_trainer(name: str, settings: Mapping[str, Option], kind: ModelKind) -> None:
    """Raise UserError unless a method's TRL trainer takes these settings."""
    if not settings:
        return
    method = load(name)
    if not method.ABOUT.trainer or kind == "classifier":
        raise UserError(
            f"{method.ABOUT.title} takes no settings of TRL on a {kind}: leave out {min(settings)}."
        )
    # Imported here, because trl takes seconds.
    from steelyard.methods._preference import trainer_settings

    options = [option.name for option in dataclasses.fields(method.Config)]
    trainer_settings.check(method.ABOUT.trainer, settings, options)


def learning_rate(name: str, kind: ModelKind) -> float:
    """Return a method's learning rate relative to the backbone's."""
    return about(name).learning_rate if kind == "vlm" else 1.0


def _check(module: Any, name: str) -> Method:
    missing = [part for part in ("ABOUT", "Config", "train") if part not in vars(module)]
    if missing:
        raise UserError(f"Method '{name}' lacks {', '.join(missing)}; see CONTRIBUTING.md.")
    if not dataclasses.is_dataclass(module.Config):
        raise UserError(f"Method '{name}': Config must be a frozen dataclass.")
    options = [option.name for option in dataclasses.fields(module.Config)]
    for option, values in vars(module).get("SEARCH", {}).items():
        if option not in options:
            raise UserError(f"SEARCH of '{name}': {unknown('option', str(option), options)}")
        if not isinstance(values, Range):
            raise UserError(
                f"SEARCH of '{name}': {option} must be a Choice, Uniform or LogUniform of "
                "steelyard.harness.training.search."
            )
    return typing.cast(Method, module)
