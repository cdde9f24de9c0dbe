"""Prompts and answers are tokenised as each family's published processor would: subwords, begin
tokens, and templates that put spaces around images and answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlms
import torch
from PIL import Image

from steelyard.harness.core.examples import Inputs
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.models.backbone import Latents
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_prompts import TOKEN_TYPES

SUFFIX = "\nAnswer the question using a single word or phrase."
QUESTIONS = ("Is there a banana in the image?", "What color is the fish?", "Which dish is this?")
ANSWERS = ["yes", "red green", "no"]
# The shape of the published templates, in our words: where images, spaces and ends of turns lie.
TURNS = {
    "llava": (
        "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
        "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "llava_onevision": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
        "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}{{ '\n' + c['text'] }}{% endfor %}"
        "{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "qwen2_vl": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "smolvlm": (
        "<|im_start|>{% for m in messages %}{{ m['role'].capitalize() }}"
        "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>' }}{% else %}"
        "{{ c['text'] }}{% endif %}{% endfor %}{{ '<end_of_utterance>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}  # fmt: skip
TURNS |= {
    "llava_next": (
        "{% for m in messages %}{{ '[INST] ' if m['role'] == 'user' else '' }}"
        "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}"
        "{{ c['text'] if m['role'] == 'user' else ' ' + c['text'] }}{% endfor %}"
        "{{ ' [/INST]' if m['role'] == 'user' else '<end>' }}{% endfor %}"
    ),
    "gemma3": (
        "{{ '<s>' }}{% for m in messages %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<start_of_image>' }}"
        "{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "internvl": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "idefics3": TURNS["smolvlm"],
    "qwen2_5_vl": TURNS["qwen2_vl"],
    "qwen3_vl": TURNS["qwen2_vl"],
}
END = {
    **dict.fromkeys(("llava_onevision", "internvl", *tiny_vlms.QWEN), "<|im_end|>"),
    **dict.fromkeys(("llava", "llava_next"), "<end>"),
    **dict.fromkeys(tiny_vlms.SPLITTING, "<end_of_utterance>"),
    "gemma3": "<end_of_turn>",
}
every_family = pytest.mark.parametrize("family", tiny_vlms.cells())
Build = Callable[[str], Vlm]


def subwords(family: str, special: list[str]) -> Any:
    """Train a subword tokeniser: pieces with leading spaces, for LLaVA a begin token as well."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if family == "llava":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = ["\n", "▁"]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    corpus = [*QUESTIONS, SUFFIX, "USER: user assistant ASSISTANT: User: Assistant:", *ANSWERS]
    corpus += ["\n\nuser\n\n\nis"] * 4  # tokens of line breaks, some of which a processor writes
    tokenizer.train_from_iterator([*corpus, tiny_vlms.VOCABULARY] * 4, trainer)
    if family == "llava":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return tokenizer


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    root = tmp_path_factory.mktemp("families")
    tokenizer_of: Any = tiny_vlms.tokenizer_of
    by_family: dict[str, Vlm] = {}

    def built(family: str) -> Vlm:
        if family not in by_family:
            special = tiny_vlms.special_tokens(family)
            special += ["<s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
            tokenizer = tokenizer_of(family, subwords(family, special), special, begin="<s>")
            tiny_vlms.make(family, root / family, tokenizer=tokenizer, template=TURNS[family])
            config = vlm_config.configure(str(root / family), {"tune": "full"})
            by_family[family] = vlm_build.build(family, config, seed=0, device="cpu").eval()
        return by_family[family]

    return built


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def items() -> list[Inputs]:
    return [Inputs(picture(n), text, text + SUFFIX) for n, text in enumerate(QUESTIONS)]


def conversation(model: Vlm, item: Inputs, answer: str | None = None) -> Any:
    """Return the processor's own encoding of a conversation."""
    turns = model.messages(item)
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return model.processor.apply_chat_template(
        turns, add_generation_prompt=answer is None, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip


def continued(prompt: Any, ids: list[int]) -> dict[str, Any]:
    """Append tokens to the processor's prompt."""
    more = torch.tensor([ids], dtype=torch.int64)
    full = {**prompt, "input_ids": torch.cat([prompt["input_ids"], more], 1)}
    full["attention_mask"] = torch.ones_like(full["input_ids"])
    for name in TOKEN_TYPES:
        if name in prompt:
            full[name] = torch.cat([prompt[name], torch.zeros_like(more)], 1)
    return full


@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
@pytest.mark.parametrize("sighted", [True, False])
@torch.no_grad()
def test_logits_are_those_of_the_processors_own_conversation(
    family: str, sighted: bool, build: Build
) -> None:
    model = build(family)
    for item, answer in zip(items(), ANSWERS, strict=True):
        inputs = item if sighted else replace(item, image=None)
        batch = model.collate([inputs], [answer])
        prompt, full = conversation(model, inputs), conversation(model, inputs, answer)
        start = prompt["input_ids"].shape[1]
        assert batch.tokens.tolist() == prompt["input_ids"].tolist()
        ids = batch.targets[0].tolist()
        assert ids[-1] == model.processor.tokenizer.convert_tokens_to_ids(END[family])
        length = len(ids) if family != "llava" else len(ids) - 1  # its template ends no turn
        if family == "llava_onevision":  # its finished turns have a space its opened ones lack
            full = continued(prompt, ids)
        assert ids[:length] == full["input_ids"][0, start : start + length].tolist()
        logits = model.model(**full).logits[0, start - 1 : start - 1 + length]
        torch.testing.assert_close(model.predict(batch)[:length], logits, rtol=0, atol=1e-4)


@every_family
@torch.no_grad()
def test_a_blanked_image_is_the_other_rendering(family: str, build: Build) -> None:
    model = build(family)
    batch = model.collate(items(), ANSWERS)
    blanked = model.fuse(model.blank(model.encode(batch), "image"))
    without = model.collate([replace(item, image=None) for item in items()], ANSWERS)
    assert without.tokens.shape[1] < batch.tokens.shape[1]
    torch.testing.assert_close(blanked, model.predict(without), rtol=0, atol=1e-4)


@every_family
@torch.no_grad()
def test_an_image_is_given_to_an_item_without(family: str, build: Build) -> None:
    model = build(family)
    sighted, blind = items()[0], replace(items()[1], image=None)
    latents = model.encode(model.collate([sighted, blind], ANSWERS[:2]))
    first, both = torch.tensor([0, 0]), torch.tensor([0, 1])
    assert latents.context is not None
    context = latents.context.select(both, first, both)
    fused = model.fuse(Latents(latents.image[first], latents.text, context))
    rendered = model.collate([sighted, replace(blind, image=sighted.image)], ANSWERS[:2])
    torch.testing.assert_close(fused, model.predict(rendered), rtol=0, atol=1e-4)


@every_family
@torch.no_grad()
def test_a_blanked_question_takes_its_tokens_out(family: str, build: Build) -> None:
    """Against the model's own pass over the prompt without the question's tokens."""
    model = build(family)
    for item, answer in zip(items(), ANSWERS, strict=True):
        batch = model.collate([item], [answer])
        keep = ~batch.extra["text_tokens"][0][~batch.extra["only_without_image"][0]]
        gone = model.processor.tokenizer.decode(batch.tokens[0, ~keep]).strip()
        assert gone.lower().lstrip("▁") == (item.text or "").lower()
        assert keep.sum() > (batch.tokens == model.prompts.image_token).sum() + len(SUFFIX.split())
        remaining = replace(batch, tokens=batch.tokens[:, keep], mask=batch.mask[:, keep])
        ids = torch.cat([remaining.tokens, batch.targets], 1)
        rest = {
            k: v for k, v in model.prompts.plain(remaining).items() if "pixel" in k or "image" in k
        }
        if model.prompts.type_argument:
            rest[model.prompts.type_argument] = (ids == model.prompts.image_token).long()
        logits = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), **rest).logits
        blanked = model.fuse(model.blank(model.encode(batch), "text"))
        reference = logits[0, keep.sum() - 1 : -1]
        torch.testing.assert_close(blanked, reference, rtol=0, atol=1e-4)


@every_family
@torch.no_grad()
def test_generation_continues_as_the_model_alone_would(family: str, build: Build) -> None:
    model = build(family)
    item = items()[0]
    (ids,) = model.continuations(model.collate([item]), 5)
    prompt = conversation(model, item)
    expected: list[int] = []
    for _ in range(len(ids)):
        logits = model.model(**continued(prompt, expected)).logits[0, -1]
        logits[model.prompts.image_ids] = -torch.inf
        expected.append(int(logits.argmax()))
    assert ids == expected


@every_family
@torch.no_grad()
def test_samples_share_their_prompt_and_are_drawn_from_the_logits_of_complete_rows(
    family: str, build: Build
) -> None:
    model = build(family)
    batch = model.collate(items())
    greedy = model.continuations(batch, 5)
    assert model.continuations(batch, 5, samples=3) == [row for row in greedy for _ in range(3)]

    drawn: list[torch.Tensor] = []
    head = model.base.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, out: drawn.append(out.clone()))
    torch.manual_seed(0)
    answers = model.continuations(batch, 5, 1.0, samples=3)
    handle.remove()
    assert len(drawn[0]) == len(items()), "one pass over each prompt"
    again = model.collate([item for item in items() for _ in range(3)])
    width = max(map(len, answers))
    targets = torch.tensor([row + [-100] * (width - len(row)) for row in answers])
    complete = model.predict(replace(again, targets=targets)).split([len(row) for row in answers])
    drawn[0] = drawn[0].repeat_interleave(3, 0)
    for step, logits in enumerate(drawn):
        expected = [row[step] for row in complete if len(row) > step]
        torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=1e-4)


def test_tiles_that_only_pad_are_no_image(build: Build) -> None:
    """Keep attacks out of a batch's padding, or the model would take it for image."""
    model = build("smolvlm")
    small, large = picture(0).resize((16, 16)), picture(1).resize((200, 60))
    texts = QUESTIONS[:2]
    both = [Inputs(i, t, t) for i, t in zip((small, large), texts, strict=True)]
    batch = model.collate(both, ANSWERS[:2])
    bounds = model.pixel_range(batch)
    low, high = (bound.expand_as(batch.pixels) for bound in (bounds.low, bounds.high))
    assert bool((batch.pixels >= low - 1e-4).all() and (batch.pixels <= high + 1e-4).all())
    empty = ~batch.pixels.flatten(2).any(2)
    if bool(empty.any()):
        assert float(high[empty].abs().max()) == float(low[empty].abs().max()) == 0.0
    pushed = replace(batch, pixels=(batch.pixels + 0.1).clamp(low, high))
    assert model.predict(pushed).shape == model.predict(batch).shape


@torch.no_grad()
def test_a_sliding_window_does_not_count_what_is_blanked(tmp_path: Path) -> None:
    """Gemma 3 with a window shorter than its prompts, whose choices are read from a cache."""
    tiny_vlms.make("gemma3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["sliding_window"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = vlm_config.configure(str(tmp_path), {"tune": "full"})
    model = vlm_build.build("gemma3", options, seed=0, device="cpu").eval()
    batch = model.collate(items(), ANSWERS)
    assert batch.tokens.shape[1] > 20
    own = model.model(**model.prompts.plain(batch, answers=True)).logits
    expected = own[:, batch.tokens.shape[1] - 1 : -1][batch.targets != -100]
    torch.testing.assert_close(model.predict(batch), expected, rtol=0, atol=1e-4)
    blanked = model.fuse(model.blank(model.encode(batch), "image"))
    without = model.collate([replace(item, image=None) for item in items()], ANSWERS)
    torch.testing.assert_close(blanked, model.predict(without), rtol=0, atol=1e-4)
    scores = model.answer(items(), ANSWERS).log()
    losses = [
        model.loss(model.predict(same), same)
        for same in (model.collate(items(), [answer] * 3) for answer in ANSWERS)
    ]
    expected = torch.log_softmax(-torch.stack(losses, 1), 1)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
