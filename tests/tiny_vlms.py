"""Tiny random checkpoints of each family, with a tokenizer and a chat template, made offline.

``python tests/tiny_vlms.py FAMILY FOLDER`` writes one; larger ones by their sizes.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAMILIES = ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "smolvlm")
SPECIAL = {
    "llava": "<image>",
    "llava_onevision": "<image>",
    "qwen2_vl": "<|image_pad|>",
    "qwen2_5_vl": "<|image_pad|>",
    "smolvlm": "<image>",
}
WRAPPED = dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), ("<|vision_start|>", "<|vision_end|>"))
VOCABULARY = (
    "is there a an the in image what color colour how many objects are this which dish banana "
    "apple fish cup yes no red green blue yellow one two three . , ? ! : user assistant answer "
    "question using single word or phrase describe sentence and with of it on to"
)
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' : ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<end>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Size:
    """How large a checkpoint is."""

    hidden: int = 32
    layers: int = 2
    heads: int = 2
    vision_hidden: int = 32
    vision_layers: int = 2
    words: int = 0
    """Words added to the vocabulary."""


def make(
    family: str,
    folder: Path,
    size: Size | None = None,
    tokenizer: Any = None,
    template: str = "",
) -> Path:
    """Write a random checkpoint of ``family`` into ``folder`` and return it.

    Its tokeniser knows whole words and its template is plain, unless others are given.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    size = size or Size()
    tokenizer = tokenizer or _tokenizer(family, size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(_config(family, tokenizer, size))
        for parameter in model.parameters():
            if parameter.dim() > 1:  # spread, so that different inputs give different logits
                torch.nn.init.normal_(parameter, std=0.3 if size.hidden <= 64 else 0.02)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.eval().save_pretrained(folder)
    _processor(family, tokenizer, template).save_pretrained(folder)
    return folder


def special_tokens(family: str) -> list[str]:
    """Pad, unknown and end token, then what the family writes around and in place of images."""
    special = ["<pad>", "<unk>", "<end>", SPECIAL[family], "<video>", *WRAPPED.get(family, ())]
    if family == "smolvlm":
        grid = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
        special += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *grid]
    return special


def _tokenizer(family: str, size: Size) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    special = special_tokens(family)
    more = (f"w{number}" for number in range(size.words))
    words = [*special, *dict.fromkeys(VOCABULARY.split()), *more]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.normalizer = normalizers.Lowercase()
    split = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    made.pre_tokenizer = split
    return tokenizer_of(family, made, special, begin="<end>")


def tokenizer_of(family: str, made: Any, special: list[str], begin: str) -> Any:
    """A ``tokenizers`` tokeniser as transformers wants it for the family."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        bos_token=begin,
        additional_special_tokens=special[3:],
        padding_side="right",  # on purpose: the backbone has to set it left
    )
    tokenizer.image_token = SPECIAL[family]
    tokenizer.video_token = "<video>"
    return tokenizer


def _id(tokenizer: Any, word: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(word))


def _text(kind: str, tokenizer: Any, size: Size) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": 2 * size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
    }


def _vision(kind: str, size: Size) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": size.vision_hidden,
        "intermediate_size": 2 * size.vision_hidden,
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }


def _config(family: str, tokenizer: Any, size: Size) -> Any:
    from transformers import (
        LlavaConfig,
        LlavaOnevisionConfig,
        Qwen2_5_VLConfig,
        Qwen2VLConfig,
        SmolVLMConfig,
    )

    image = _id(tokenizer, SPECIAL[family])
    if family == "llava":
        return LlavaConfig(
            vision_config=_vision("clip_vision_model", size),
            text_config=_text("llama", tokenizer, size),
            image_token_index=image,
            vision_feature_layer=-1,
        )
    if family == "llava_onevision":
        return LlavaOnevisionConfig(
            vision_config={**_vision("siglip_vision_model", size), "vision_use_head": False},
            text_config=_text("qwen2", tokenizer, size),
            image_token_index=image,
            video_token_index=_id(tokenizer, "<video>"),
            image_grid_pinpoints=[[32, 32], [32, 64], [64, 32]],
        )
    if family == "smolvlm":
        return SmolVLMConfig(
            vision_config=_vision("smolvlm_vision", size),
            text_config=_text("llama", tokenizer, size),
            image_token_id=image,
            scale_factor=2,
            pad_token_id=tokenizer.pad_token_id,
        )
    head = size.hidden // size.heads
    sections = [head // 4 - 2 * (head // 8 // 2 * 1), head // 8, head // 8]
    sections[0] = head // 2 - sections[1] - sections[2]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 10000.0}
    ids = {
        "image_token_id": image,
        "video_token_id": _id(tokenizer, "<video>"),
        "vision_start_token_id": _id(tokenizer, "<|vision_start|>"),
        "vision_end_token_id": _id(tokenizer, "<|vision_end|>"),
    }
    shared = {"depth": size.vision_layers, "num_heads": 2, "patch_size": 8}
    if family == "qwen2_vl":
        vision = {**shared, "embed_dim": size.vision_hidden, "hidden_size": size.hidden}
        text = {**_text("qwen2_vl_text", tokenizer, size), "rope_parameters": rope}
        return Qwen2VLConfig(vision_config=vision, text_config=text, **ids)
    vision = {
        **shared,
        "hidden_size": size.vision_hidden,
        "out_hidden_size": size.hidden,
        "intermediate_size": 2 * size.vision_hidden,
        "fullatt_block_indexes": [1],
        "window_size": 32,
    }
    text = {**_text("qwen2_5_vl_text", tokenizer, size), "rope_parameters": rope}
    return Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids)


def _processor(family: str, tokenizer: Any, template: str) -> Any:
    import transformers as t

    begin, end = WRAPPED.get(family, ("", ""))
    template = template or TEMPLATE.replace("IMAGE", f"{begin}{SPECIAL[family]}{end}\n")
    square: Mapping[str, int] = {"height": 32, "width": 32}
    if family == "llava":
        images = t.CLIPImageProcessor(size=square, crop_size=square)
        return t.LlavaProcessor(
            images, tokenizer, patch_size=8, vision_feature_select_strategy="default",
            chat_template=template, num_additional_image_tokens=1,
        )  # fmt: skip
    if family == "llava_onevision":
        images = t.LlavaOnevisionImageProcessor(
            size=square, image_grid_pinpoints=[[32, 32], [32, 64], [64, 32]]
        )
        return t.LlavaOnevisionProcessor(
            images, tokenizer, t.LlavaOnevisionVideoProcessor(size=square), num_image_tokens=16,
            vision_feature_select_strategy="full", chat_template=template,
        )  # fmt: skip
    if family == "smolvlm":
        images = t.SmolVLMImageProcessor(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
        )
        return t.SmolVLMProcessor(
            images, tokenizer, t.SmolVLMVideoProcessor(), image_seq_len=4, chat_template=template
        )
    limits = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    images = t.Qwen2VLImageProcessor(patch_size=8, size=limits)
    videos = t.Qwen2VLVideoProcessor(patch_size=8)
    kind = t.Qwen2VLProcessor if family == "qwen2_vl" else t.Qwen2_5_VLProcessor
    return kind(images, tokenizer, videos, chat_template=template)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
