"""The two kinds of backbone behind one door: which a name means, made, saved and loaded."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.models.backbone import Backbone

if TYPE_CHECKING:
    from steelyard.harness.models.vlm import Vlm

from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.harness.core.errors import unknown
from steelyard.harness.core.examples import Kind
from steelyard.harness.models import classifier_config, vlm_config
from steelyard.harness.models.classifier_config import ClassifierConfig
from steelyard.harness.models.vlm_config import VlmConfig
from steelyard.harness.records.spec import RunSpec

if TYPE_CHECKING:
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm

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


def ensure_base(
    name: str, options: Mapping[str, Any], progress: Callable[[str, float], None]
) -> None:
    """Train the small base model that a preset starts from, if it is not in the cache yet."""
    config = configure(name, options)
    if isinstance(config, VlmConfig) and config.source == vlm_config.TINY:
        from steelyard.harness.models.tiny_vlm import train

        train.ensure(progress=progress)


def build_untrained(spec: RunSpec, corpus: Corpus, device: str) -> "Classifier | Vlm":
    """The backbone before the method's training: equal for every method of one seed."""
    config = configure(spec.backbone, spec.backbone_options)
    seed = spec.seed_for("weights")
    if isinstance(config, VlmConfig):
        from steelyard.harness.models import vlm_build

        return vlm_build.build(spec.backbone, config, seed).to(device)
    from steelyard.harness.models import classifier

    if not corpus.classes:
        raise UserError(
            f"{corpus.name} asks open questions, which a classifier cannot answer: choose a "
            "vision-language model with --backbone, for example tiny-vlm."
        )
    texts = [example.text for example in corpus.splits["train"] if example.text]
    made = classifier.build(spec.backbone, config, corpus.classes, corpus.multi_label, texts, seed)
    return made.to(device)


def save(backbone: "Classifier | Vlm", folder: Path) -> None:
    """Write a trained backbone so that ``load`` gives it back."""
    from steelyard.harness.models import classifier, vlm_build

    if isinstance(backbone, classifier.Classifier):
        classifier.save(backbone, folder)
    else:
        vlm_build.save(backbone, folder)


def load(folder: Path) -> "Classifier | Vlm":
    """A saved backbone of either kind; a missing or foreign folder is a UserError."""
    from steelyard.harness.models import classifier, vlm_build

    if (folder / vlm_build.DESCRIPTION).is_file():
        return vlm_build.load(folder)
    return classifier.load(folder)


def revision(source: str, options: Mapping[str, Any]) -> str:
    """Which weights a model as it is has: the hub's commit, or a hash of its files.

    Raises:
        UserError: it is a classifier, which has no weights before training.
    """
    config = configure(source, options)
    if isinstance(config, ClassifierConfig):
        raise UserError(f"'{source}' is an untrained classifier: give the folder of a run of it.")
    from steelyard.harness.models import vlm_build

    parts = [vlm_build.checkpoint(config.source), *([config.adapter] if config.adapter else [])]
    return "+".join(map(vlm_build.revision, parts))


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
    from steelyard.harness.models import vlm_build

    return vlm_build.build(source, config, seed=0, device=device).eval()


def check_images(backbone: Backbone, task: str, count: int) -> None:
    """Refuse a task that shows ``count`` images at once to a model that takes fewer.

    Raises:
        UserError: naming both.
    """
    if count <= 1:
        return
    places = cast("Vlm", backbone).image_capacity(count) if backbone.kind == "vlm" else 1
    if places < count:
        raise UserError(
            f"{task} shows {count} images at once, and {backbone.name} takes {places}: leave the "
            "task out, or ask a vision-language model whose chat template has a place for each."
        )
