"""Build, save and load backbones of both kinds by name.

backbone = registry.build_untrained(spec, corpus, "cpu")      # for a method to train
registry.save(backbone, folder / registry.WEIGHTS)
backbone = registry.open_model("tiny-vlm", {}, "cpu")         # to evaluate without training
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from steelyard import tasks
from steelyard.harness.core.environment import require_package
from steelyard.harness.core.errors import UserError, one_line, unknown
from steelyard.harness.core.examples import Corpus, ModelKind
from steelyard.harness.core.files import cache_folder, check_output, digest, user_path
from steelyard.harness.core.folders import listing
from steelyard.harness.core.options import Options, read_values
from steelyard.harness.models import classifier_config, vlm_config
from steelyard.harness.models.assembled import MODELS, located
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.models.classifier_config import ClassifierConfig
from steelyard.harness.models.storage import folder_hash, read_description
from steelyard.harness.models.vlm_config import VlmConfig
from steelyard.harness.records.spec import RunSpec

if TYPE_CHECKING:
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm

WEIGHTS = "weights"
"""Folder of a run that holds its trained backbone."""
OTHER_FORMATS = ["*.bin", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx*", "*.pt", "*.pth",
                 "original/*"]  # fmt: skip
"""Weights in the hub's repositories that are there as safetensors too."""


def kind_of(name: str) -> ModelKind:
    """Return the kind a name means: classifier for its presets and ``IMAGE+TEXT``, else vlm."""
    classifier = name in classifier_config.PRESETS or classifier_config.encoders(name)
    return "classifier" if classifier else "vlm"


def configure(name: str, options: Mapping[str, Any]) -> ClassifierConfig | VlmConfig:
    """Build the configuration of a backbone; UserError for an unknown name, option or value."""
    if kind_of(name) == "classifier":
        return classifier_config.configure(name, options)
    if name not in vlm_config.PRESETS and "/" not in name and not Path(name).exists():
        presets = (*classifier_config.PRESETS, *vlm_config.PRESETS)
        raise UserError(
            f"{unknown('backbone', name, presets)} Or give a vision-language model, or two "
            "encoders as IMAGE+TEXT, by hub id or path."
        )
    return vlm_config.configure(name, options)


def read_options(name: str, options: Options) -> dict[str, Any]:
    """Read texts among the options of a backbone; ``configure`` refuses what is wrong."""
    config_class = ClassifierConfig if kind_of(name) == "classifier" else VlmConfig
    values = read_values(config_class, options)
    return {
        key: as_typed(value) if key == "adapter" and isinstance(value, str) else value
        for key, value in values.items()
    }


def check_packages(name: str, options: Mapping[str, Any]) -> None:
    """Raise UserError if an option of a backbone needs a package or a folder that is not there."""
    config = configure(name, options)
    if config.optimizer.endswith("8bit"):
        require_package("bitsandbytes", "quant", f"optimizer={config.optimizer}")
    if isinstance(config, VlmConfig) and config.quantize == "4bit":
        require_package("bitsandbytes", "quant", "quantize=4bit")
    if isinstance(config, VlmConfig) and config.pixel_cache_gb:
        check_output(cache_folder())


def ensure_base(
    name: str, options: Mapping[str, Any], progress: Callable[[str, float], None]
) -> None:
    """Train or assemble the models that have a name here, unless they are in the cache."""
    config = configure(name, options)
    if isinstance(config, ClassifierConfig):
        located(config.image), located(config.text)
    elif config.source != vlm_config.TINY:
        located(config.source)
    else:
        from steelyard.harness.models.tiny_vlm import train

        train.ensure(progress=progress, device="cpu")


def fetch(name: str, options: Mapping[str, Any]) -> None:
    """Download the files of a backbone's hub ids into the hub's cache, unless they are there.

    Raises:
        UserError: a model is neither a folder nor in the cache, and the hub does not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    config = configure(name, options)
    if isinstance(config, ClassifierConfig):
        sources = [config.image, config.text]
    else:
        sources = [config.source, config.adapter]
    for source in sources:
        # What has a name here has no slash.
        if "/" not in source or Path(source).is_dir():
            continue
        try:
            snapshot_download(source, ignore_patterns=OTHER_FORMATS)
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
            raise UserError(f"Could not download model '{source}': {one_line(error)}") from error


def leave_out_refused(
    corpus: Corpus, name: str, options: Mapping[str, Any], max_bad: float
) -> Corpus:
    """Return a data set without the items whose image the model's processor refuses.

    Raises:
        UserError: these are more than ``max_bad`` of a split.
    """
    config = configure(name, options)
    # Encoders and the small model take any shape; tasks of lmms-eval have no files of images.
    if isinstance(config, ClassifierConfig) or config.source == vlm_config.TINY:
        return corpus
    if tasks.is_stock(corpus.name):
        return corpus
    from steelyard.harness.data.reading import leave_out
    from steelyard.harness.models import vlm_build, vlm_checks

    images = (row.image for rows in corpus.splits.values() for row in rows if row.image)
    processor = vlm_build.load_processor(vlm_build.checkpoint(config.source))
    refused = vlm_checks.refused_images(processor, images)
    return leave_out(corpus, refused, max_bad) if refused else corpus


def build_untrained(spec: RunSpec, corpus: Corpus, device: str) -> "Classifier | Vlm":
    """Build the backbone before the method's training: equal for all methods of one seed."""
    config = configure(spec.backbone, spec.backbone_options)
    seed = spec.seed_for("weights")
    if isinstance(config, VlmConfig):
        from steelyard.harness.models import vlm_build

        return vlm_build.build(spec.backbone, config, seed, device)
    from steelyard.harness.models import classifier

    if not corpus.classes:
        raise UserError(
            f"{corpus.name} asks open questions, which a classifier cannot answer: choose a "
            "vision-language model with --backbone, for example tiny-vlm."
        )
    texts = [example.text for example in corpus.splits["train"] if example.text]
    return classifier.build(
        spec.backbone, config, corpus.classes, corpus.multi_label, texts, seed
    ).to(device)


def save(backbone: "Classifier | Vlm", folder: Path) -> None:
    """Write a trained backbone for ``load``."""
    from steelyard.harness.models import classifier, vlm_build

    if isinstance(backbone, classifier.Classifier):
        classifier.save(backbone, folder)
    else:
        vlm_build.save(backbone, folder)


def trained_classes(folder: Path) -> tuple[str, ...]:
    """Return the classes of a saved classifier; none for another model."""
    from steelyard.harness.models import classifier, vlm_build

    if (folder / vlm_build.DESCRIPTION).is_file():
        return ()
    return classifier.saved_classes(folder)


def load(folder: Path, device: str) -> "Classifier | Vlm":
    """Load a saved backbone of either kind in evaluation mode; UserError if there is none."""
    from steelyard.harness.models import classifier, vlm_build

    if (folder / vlm_build.DESCRIPTION).is_file():
        return vlm_build.load(folder, device)
    return classifier.load(folder).to(device)


def precision(spec: RunSpec, weights: Path, device: str) -> str:
    """Return the precision of a run's passes: that of its saved weights, else the device's."""
    from steelyard.harness.models import vlm_build

    description = weights / vlm_build.DESCRIPTION
    if description.is_file():
        return str(read_description(description, "vision-language model")["config"]["precision"])
    config = configure(spec.backbone, spec.backbone_options)
    if isinstance(config, VlmConfig):
        config = vlm_config.resolve_precision(config, device)
    return config.precision


def revision(source: str, options: Mapping[str, Any]) -> str:
    """Identify the weights of a pretrained model: the hub's commit, or a hash of its files."""
    from steelyard.harness.models import vlm_build

    config = _pretrained_config(source, options)
    parts = [vlm_build.checkpoint(config.source), *([config.adapter] if config.adapter else [])]
    return "+".join(map(vlm_build.revision, parts))


def folders(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return ``NAME#CONTENT`` of each model's folder in a backbone's name and options, by path."""
    without_folder = (*classifier_config.PRESETS, *vlm_config.PRESETS, *MODELS, "")
    paths = (*(classifier_config.encoders(name) or (name,)), str(options.get("adapter", "")))
    contents = {}
    for path in paths:
        if path not in without_folder and Path(path).is_dir():
            content = folder_hash(Path(path))
            # An adapter is another model on another base.
            if path == name and (base := vlm_config.base_of_adapter(path)):
                below = folder_hash(Path(base)) if Path(base).is_dir() else base
                content = digest([content.encode(), below.encode()])
            # A link, and . or .., have the name of what they are.
            contents[path] = f"{Path(path).resolve().name}#{content}"
    return contents


def saved_bytes(name: str, options: Mapping[str, Any]) -> int:
    """Estimate the files of a trained backbone by those that it starts from; 0 if not known."""
    config = configure(name, options)
    if isinstance(config, ClassifierConfig):
        sources = [config.image, config.text]
    else:
        sources = [config.source] if config.tune == "full" else []
    return sum(
        path.stat().st_size
        for source in sources
        for path in listing(Path(source), ".safetensors", ".bin")
    )


def as_typed(name: str) -> str:
    """Return a model's name without what shells leave or add: ``~`` and a closing slash."""
    path = name.rstrip("/") or name
    return str(user_path(path)) if path.startswith("~") else path


def open_model(source: str, options: Mapping[str, Any], device: str) -> "Classifier | Vlm":
    """Load a model to evaluate it without training.

    ``source`` is a run's folder, or a vision-language model: a preset, a hub id or a path.

    Raises:
        UserError: there is no such model, or it is an untrained classifier.
    """
    weights = Path(source) / WEIGHTS
    if weights.is_dir():
        return load(weights, device)
    from steelyard.harness.models import vlm_build

    config = _pretrained_config(source, options)
    return vlm_build.build(source, config, seed=None, device=device).eval()


def _pretrained_config(source: str, options: Mapping[str, Any]) -> VlmConfig:
    config = configure(source, options)
    if isinstance(config, ClassifierConfig):
        raise UserError(f"'{source}' is an untrained classifier: give the folder of a run of it.")
    return config


def check_images(backbone: Backbone, task: str, count: int) -> None:
    """Raise UserError for a task that shows more images at once than the model takes."""
    if count <= 1:
        return
    capacity = cast("Vlm", backbone).image_capacity(count) if backbone.kind == "vlm" else 1
    if capacity < count:
        raise UserError(
            f"{task} shows {count} images at once, and {backbone.name} takes {capacity}: leave the "
            "task out, or use a vision-language model whose chat template takes several images."
        )
