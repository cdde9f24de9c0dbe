"""Vision-language model in InternVL's layout: DINOv2-small, a projector and SmolLM2-135M-Instruct.

An image of 224 x 224 has 256 patches, of which four become one token: 64 tokens. The projector is
random, so the model sees nothing until it is trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from steelyard.harness.core.compat import prepare_imports
from steelyard.harness.models.assembled import SMOLLM2, located, package_folder

IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
"""Tokens that an InternVL processor asks its tokeniser for by name."""
# SmolLM2's own template without its system prompt, which would cost 20 tokens an item.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZE, TOKENS = 224, 64
VISION = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "attention_bias": True,
    "image_size": [518, 518],  # of the position embeddings, which are resized to an image's
    "patch_size": [14, 14],
    "use_mean_pooling": False,
}
"""InternVL's vision tower is computed as DINOv2 is, under these settings and the names below."""
NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.projection_layer",
    "layer_scale1.lambda1": "lambda_1",
    "layer_scale2.lambda1": "lambda_2",
}


def build(folder: Path) -> None:
    """Write model, processor and generation settings as transformers loads them."""
    prepare_imports()
    import transformers as t

    package = package_folder(SMOLLM2)
    (file,) = package.glob("*.gguf")
    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(0)  # of the projector
        tokenizer = t.AutoTokenizer.from_pretrained(
            package,
            gguf_file=file.name,
            extra_special_tokens=IMAGE_TOKENS,
            trust_remote_code=False,
        )
        language = t.AutoModelForCausalLM.from_pretrained(
            package, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
        )
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        embeddings = language.get_input_embeddings().weight.data
        # The mean of all tokens, from which no output and no input stands out.
        embeddings[-len(IMAGE_TOKENS) :] = embeddings[: -len(IMAGE_TOKENS)].mean(0)
        text = language.config.to_dict()
        del text["quantization_config"]  # of the file, not of these weights
        config = t.InternVLConfig(
            vision_config=VISION,
            text_config=text,
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=TOKENS,
            projector_hidden_act="gelu",
        )
        model = t.InternVLForConditionalGeneration(config)
        model.model.language_model.load_state_dict(language.model.state_dict())
        model.model.vision_tower.load_state_dict(_vision_weights())
    model.tie_weights()
    model.generation_config = language.generation_config
    model.save_pretrained(folder)
    square = {"height": SIZE, "width": SIZE}
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as DINOv2 wants
    images = t.GotOcr2ImageProcessor(
        size=square, crop_to_patches=False, max_patches=1, image_mean=mean, image_std=deviation
    )
    videos = t.InternVLVideoProcessor(size=square)
    t.InternVLProcessor(images, tokenizer, videos, TOKENS, TEMPLATE).save_pretrained(folder)


def _vision_weights() -> dict[str, Tensor]:
    weights = {}
    for name, tensor in load_file(Path(located("dinov2-small")) / "model.safetensors").items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        weights[name] = tensor
    del weights["embeddings.mask_token"]
    return weights


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the reader of GGUF files, which lists what it leaves out and draws a bar."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
