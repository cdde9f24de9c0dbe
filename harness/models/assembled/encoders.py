"""Encoders for ``AutoModel`` and its processors, from the packages that ship their weights."""

import json
import shutil
from pathlib import Path

from steelyard.harness.core.compat import prepare_imports
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.assembled import DINOV2, EFFICIENTNET, MINILM, package_folder

# The package does not say how its weights want their input. A logistic regression on 720 training
# photos of ten Food-101 classes, five folds, reaches 0.69 with TensorFlow's padding and pixels in
# [-1, 1], 0.67 with symmetric padding, 0.60 and 0.56 with ImageNet's mean and deviation instead.
ARCHITECTURE = "tf_efficientnet_lite0"
POSITIONS, CLASS_POSITION = "/backbone/embeddings/Resize", "/backbone/embeddings/Concat_6"
"""Nodes of the ONNX graph that read the position embeddings of patches and of the class token."""


def minilm(folder: Path) -> None:
    """Copy MiniLM-L6, which its package holds as transformers saves it."""
    shutil.copytree(package_folder(MINILM) / "model", folder, dirs_exist_ok=True)


def efficientnet(folder: Path) -> None:
    """Write EfficientNet-Lite0 with timm's names; UserError if its tensors are others."""
    prepare_imports()
    import timm
    import torch
    from safetensors.torch import save_file

    (weights,) = (package_folder(EFFICIENTNET) / "models").glob("*.pth")
    tensors = torch.load(weights, map_location="cpu", weights_only=True).values()
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    expected = model.state_dict()
    # Names differ, but both list the same layers from input to output.
    if [t.shape for t in tensors] != [t.shape for t in expected.values()]:
        raise UserError(f"{weights}: its tensors are not those of {ARCHITECTURE}, in order.")
    state = {key: t.contiguous() for key, t in zip(expected, tensors, strict=True)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    keys = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    config = {
        "model_type": "timm_wrapper",
        "architecture": ARCHITECTURE,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": {key: model.pretrained_cfg[key] for key in keys},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def dinov2(folder: Path) -> None:
    """Write DINOv2-small (Oquab et al., arXiv 2304.07193), the backbone of a saliency model.

    The ONNX file names tensors as transformers does; those of products have lost their names, which
    their nodes still have.
    """
    prepare_imports()
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper
    from safetensors.torch import save_file
    from transformers import BitImageProcessor, Dinov2Config

    (file,) = (package_folder(DINOV2) / "models").glob("*.onnx")
    graph = onnx.load(file).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    producers = {output: node for node in graph.node for output in node.output}
    state = {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }
    for node in graph.node:
        weights = [name for name in node.input if name in tensors]
        if node.op_type == "MatMul" and weights and node.name.startswith("/backbone/"):
            layer = ".".join(node.name.split("/")[2:-1])
            state[f"{layer}.weight"] = tensors[weights[0]].T
    grid = nodes[POSITIONS].input[0]
    while grid not in tensors:  # behind a cast, a transposition and a change of shape
        grid = producers[grid].input[0]
    class_position = next(name for name in nodes[CLASS_POSITION].input if name in tensors)
    positions = [tensors[name].reshape(1, -1, 384) for name in (class_position, grid)]
    state["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    state["embeddings.mask_token"] = np.zeros((1, 384), np.float32)  # of pretraining alone
    save_file(
        {name: torch.tensor(tensor).contiguous() for name, tensor in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 256}).save_pretrained(folder)
