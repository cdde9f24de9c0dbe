"""The two kinds of backbone behind one door: which a name means, made, saved and loaded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.harness import classifier_config, vlm_config
from steelyard.harness.backbone import Kind, Turn
from steelyard.harness.classifier_config import ClassifierConfig
from steelyard.harness.data import Corpus, Example
from steelyard.harness.errors import UserError, unknown
from steelyard.harness.spec import RunSpec
from steelyard.harness.vlm_config import VlmConfig

if TYPE_CHECKING:
    from steelyard.harness.batches import TrainData
    from steelyard.harness.classifier import Classifier
    from steelyard.harness.vlm import Vlm

Config = ClassifierConfig | VlmConfig
WEIGHTS = "weights"
"""Folder of a run that holds its trained backbone."""


def kind_of(name: str) -> Kind:
    """``IMAGE+TEXT`` and the classifier's presets mean a classifier, all else a vlm."""
    classifier = name in classifier_config.PRESETS or "+" in name
    return "classifier" if classifier else "vlm"


def configure(name: str, options: Mapping[str, Any]) -> Config:
    """The configuration a backbone's name and options describe; refuses what it does not know."""
    if kind_of(name) == "classifier":
        return classifier_config.configure(name, options)
    if name not in vlm_config.PRESETS and "/" not in name and not Path(name).exists():
        presets = (*classifier_config.PRESETS, *vlm_config.PRESETS)
        raise UserError(
            f"{unknown('backbone', name, presets)} Or give a vision-language model, or two "
            "encoders as IMAGE+TEXT, by hub id or path."
        )
    return vlm_config.configure(name, options)


def make_ready(
    name: str, options: Mapping[str, Any], progress: Callable[[str, float], None]
) -> None:
    """Train the small base model that a preset starts from, if it is not in the cache yet."""
    config = configure(name, options)
    if isinstance(config, VlmConfig) and config.source == vlm_config.TINY:
        from steelyard.harness import scenes_base

        scenes_base.ensure(progress=progress)


def untrained(spec: RunSpec, corpus: Corpus, device: str) -> "Classifier | Vlm":
    """The backbone before the method's training: equal for every method of one seed."""
    config = configure(spec.backbone, spec.backbone_options)
    seed = spec.seed_for("weights")
    if isinstance(config, VlmConfig):
        from steelyard.harness import vlm_io

        return vlm_io.build(spec.backbone, config, seed).to(device)
    from steelyard.harness import classifier

    if not corpus.classes:
        raise UserError(
            f"{corpus.name} asks open questions, which a classifier cannot answer: choose a "
            "vision-language model with --backbone, for example tiny-vlm."
        )
    texts = [example.text for example in corpus.splits["train"] if example.text]
    made = classifier.build(spec.backbone, config, corpus.classes, corpus.multi_label, texts, seed)
    return made.to(device)


def train_data(backbone: "Classifier | Vlm", task: str, corpus: Corpus) -> "TrainData":
    """The training split of a task's data, ready for this backbone; empty where there is none."""
    from steelyard import tasks
    from steelyard.tasks.images import store_of

    images = store_of(corpus.root, "train")

    def turn(example: Example) -> Turn:
        image = images.get(example.image)[0] if example.image else None
        return tasks.turn(task, corpus, example, image)

    return _prepare(backbone)(corpus.splits.get("train", ()), turn)


def save(backbone: "Classifier | Vlm", folder: Path) -> None:
    """Write a trained backbone so that ``load`` gives it back."""
    from steelyard.harness import classifier, vlm_io

    if isinstance(backbone, classifier.Classifier):
        classifier.save(backbone, folder)
    else:
        vlm_io.save(backbone, folder)


def load(folder: Path) -> "Classifier | Vlm":
    """A saved backbone of either kind; a missing or foreign folder is a UserError."""
    from steelyard.harness import classifier, vlm_io

    if (folder / vlm_io.DESCRIPTION).is_file():
        return vlm_io.load(folder)
    return classifier.load(folder)


def revision(source: str, options: Mapping[str, Any]) -> str:
    """Which weights a model as it is has: the hub's commit, or a hash of its files.

    Raises:
        UserError: it is a classifier, which has no weights before training.
    """
    config = configure(source, options)
    if isinstance(config, ClassifierConfig):
        raise UserError(f"'{source}' is an untrained classifier: give the folder of a run of it.")
    from steelyard.harness import vlm_io

    parts = [vlm_io.checkpoint(config.source), *([config.adapter] if config.adapter else [])]
    return "+".join(map(vlm_io.revision, parts))


def open_model(source: str, options: Mapping[str, Any], device: str) -> "Classifier | Vlm":
    """A model as it is, to be asked and not trained.

    ``source`` is a run's folder, or a vision-language model: a preset, a hub id or a path.

    Raises:
        UserError: there is no such model, or it is a classifier that nobody has trained.
    """
    weights = Path(source) / WEIGHTS
    if weights.is_dir():
        return load(weights).to(device)
    config = configure(source, options)
    if isinstance(config, ClassifierConfig):
        raise UserError(f"'{source}' is an untrained classifier: give the folder of a run of it.")
    from steelyard.harness import vlm_io

    return vlm_io.build(source, config, seed=0, device=device).eval()


def _prepare(
    backbone: "Classifier | Vlm",
) -> "Callable[[tuple[Example, ...], Callable[[Example], Turn]], TrainData]":
    from steelyard.harness import batches, classifier, vlm_io

    if isinstance(backbone, classifier.Classifier):
        return lambda examples, turn: batches.prepare(backbone, examples, turn)
    return lambda examples, turn: vlm_io.prepare(backbone, examples, turn)
