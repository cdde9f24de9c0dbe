"""Families of vision-language models: encode and fuse equal their own forward pass."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlms
import torch
from PIL import Image
from torch import Tensor

from steelyard.harness.budget.flops import total_counter
from steelyard.harness.budget.meter import Budget, Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Inputs, Turn
from steelyard.harness.core.files import file_hash, weights_hash
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.models.backbone import Batch, Latents
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_layout import differing_block
from steelyard.harness.training.train_data import vlm_data

SUFFIX = "\nAnswer the question using a single word or phrase."
Build = Callable[..., Vlm]


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def asked(image: Image.Image | None, question: str) -> Inputs:
    return Inputs(image, question, question + SUFFIX)


ITEMS = [
    asked(picture(0), "Is there a banana in the image?"),
    asked(picture(1), "What color is the fish?"),
    asked(None, "Is there a cup in the image?"),
]
ANSWERS = ["yes", "red green", "no ."]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vlms")
    for family in tiny_vlms.FAMILIES:
        tiny_vlms.make(family, root / family)
    return root


@pytest.fixture(scope="module")
def build(checkpoints: Path) -> Build:
    def made(family: str, **options: Any) -> Vlm:
        source = str(checkpoints / family)
        config = vlm_config.configure(
            source, {"tune": "full", "batch_size": 4, "checkpointing": False, **options}
        )
        return vlm_build.build(source, config, seed=0, device="cpu")

    return made


def plain(model: Vlm, batch: Batch) -> Tensor:
    """Logits at the answers by the transformers model's own forward pass."""
    answered = batch.targets != -100
    logits: Tensor = model.model(**model.prompts.plain(batch, answers=True)).logits
    return logits[:, batch.tokens.shape[1] - 1 : -1][answered]


def selected(latents: Latents, rows: list[int], image: list[int], text: list[int]) -> Latents:
    assert latents.context is not None
    r, i, t = (torch.tensor(order) for order in (rows, image, text))
    context = latents.context.select(r, i, t)
    return Latents(latents.image[i], latents.text[t], context)


every_family = pytest.mark.parametrize("family", tiny_vlms.cells())


@every_family
@torch.no_grad()
def test_encode_and_fuse_are_the_models_own_forward_pass(family: str, build: Build) -> None:
    model = build(family).eval()
    batch = model.collate(ITEMS, ANSWERS)
    logits = model.predict(batch)
    assert logits.shape == (8, model.base.config.get_text_config().vocab_size)
    assert logits.std() > 0.3, "random weights must tell inputs apart"
    torch.testing.assert_close(logits, plain(model, batch), rtol=0, atol=1e-4)
    latents = model.encode(batch)
    same = selected(latents, [0, 1, 2], [0, 1, 2], [0, 1, 2])
    assert torch.equal(model.fuse(model.contribute(same)), logits)


@every_family
@torch.no_grad()
def test_a_blanked_image_is_a_prompt_without_it(family: str, build: Build) -> None:
    model = build(family).eval()
    batch = model.collate(ITEMS, ANSWERS)
    latents = model.encode(batch)
    without = model.collate([replace(item, image=None) for item in ITEMS], ANSWERS)
    blanked = model.fuse(model.blank(latents, "image"))
    torch.testing.assert_close(blanked, model.predict(without), rtol=0, atol=1e-4)
    assert (blanked - model.predict(batch)).abs().max() > 0.1
    first = model.blank(latents, "image", torch.tensor([True, False, False]))
    half = model.collate([replace(ITEMS[0], image=None), *ITEMS[1:]], ANSWERS)
    torch.testing.assert_close(model.fuse(first), model.predict(half), rtol=0, atol=1e-4)
    torch.testing.assert_close(model.unimodal(latents).text, blanked, rtol=0, atol=1e-5)


@every_family
@torch.no_grad()
def test_a_blanked_question_is_a_prompt_without_its_tokens(family: str, build: Build) -> None:
    model = build(family).eval()
    batch = model.collate(ITEMS, ANSWERS)
    texts = [
        model.decode(row[modality].tolist())
        for row, modality in zip(batch.tokens, batch.extra["text_tokens"], strict=True)
    ]
    assert texts[0] == "is there a banana in the image ?" and texts[2].startswith("is there a cup")
    blanked = model.fuse(model.blank(model.encode(batch), "text"))
    bare = [replace(item, prompt=SUFFIX, text=None) for item in ITEMS]
    reference = model.predict(model.collate(bare, ANSWERS))
    torch.testing.assert_close(blanked, reference, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        model.unimodal(model.encode(batch)).image, blanked, rtol=0, atol=1e-5
    )


@every_family
@torch.no_grad()
def test_permuted_modalities_are_the_exchanged_items(family: str, build: Build) -> None:
    model = build(family).eval()
    latents = model.encode(model.collate(ITEMS, ANSWERS))
    first, second, third = ITEMS
    images = [replace(first, image=second.image), replace(second, image=first.image), third]
    texts = [replace(second, image=first.image), replace(first, image=second.image), third]
    for order, exchanged in ((([0, 1, 2], [1, 0, 2], [0, 1, 2]), images),
                             (([0, 1, 2], [0, 1, 2], [1, 0, 2]), texts)):  # fmt: skip
        fused = model.fuse(selected(latents, *order))
        reference = model.predict(model.collate(exchanged, ANSWERS))
        torch.testing.assert_close(fused, reference, rtol=0, atol=1e-4)


@every_family
@torch.no_grad()
def test_several_images_are_shown_at_once(family: str, build: Build) -> None:
    """In a batch with one and none: as the model's own pass, as alone, and in their order."""
    model = build(family).eval()
    two = replace(ITEMS[1], more=(picture(2),))
    items = [ITEMS[0], two, ITEMS[2]]
    batch = model.collate(items, ANSWERS)
    logits = model.predict(batch)
    torch.testing.assert_close(logits, plain(model, batch), rtol=0, atol=1e-4)
    assert model.generate(items, 4)[1] == model.generate([two], 4)[0]
    rows = slice(2, 5)  # its answer's tokens
    torch.testing.assert_close(model.predict(model.collate([two], ANSWERS[1:2])), logits[rows])
    turned = replace(two, image=picture(2), more=(picture(1),))
    exchanged = model.predict(model.collate([items[0], turned, items[2]], ANSWERS))
    assert float((exchanged[rows] - logits[rows]).abs().max()) > 0.01
    blind = model.fuse(model.blank(model.encode(batch), "image"))
    nothing = [replace(item, image=None, more=()) for item in items]
    expected = model.predict(model.collate(nothing, ANSWERS))
    torch.testing.assert_close(blind, expected, rtol=0, atol=1e-4)


def test_a_template_may_have_one_place(build: Build) -> None:
    model = build("llava")
    assert [model.image_capacity(count) for count in (1, 2, 3)] == [1, 2, 3]
    template = model.processor.chat_template
    once = "{% if part['type'] == 'image' and loop.first %}"
    model.processor.chat_template = template.replace("{% if part['type'] == 'image' %}", once)
    assert [model.image_capacity(count) for count in (1, 2, 3)] == [1, 1, 1]
    model.processor.chat_template = "{{ raise_exception('one image') }}"
    assert model.image_capacity(3) == 1


UNEQUAL = [
    asked(picture(0, (32, 32)), "Is there a banana in the image?"),
    asked(picture(1, (64, 33)), "What color is the fish?"),
    asked(None, "Is there a cup in the image, and is it on the dish?"),
    Inputs(picture(2, (20, 70)), "How many?", "How many?" + SUFFIX, more=(picture(3, (48, 32)),)),
    asked(picture(4, (40, 64)), "yes?"),
]


@every_family
@pytest.mark.parametrize("order", [[1, 0, 3, 4, 2], [2, 3, 1, 0, 4], [4, 4, 0, 2, 2]])
@torch.no_grad()
def test_an_exchanged_image_is_a_prompt_rendered_with_it(
    family: str, order: list[int], build: Build
) -> None:
    """Images of unequal size, several of one item, and none: by the model's own forward pass."""
    model = build(family).eval()
    answers = ["yes", "red green", "no .", "two", "yes"]
    latents = model.encode(model.collate(UNEQUAL, answers))
    rows = list(range(len(UNEQUAL)))
    rendered = [
        replace(item, image=UNEQUAL[other].image, more=UNEQUAL[other].more)
        for item, other in zip(UNEQUAL, order, strict=True)
    ]
    expected = plain(model, model.collate(rendered, answers))
    fused = model.fuse(selected(latents, rows, order, rows))
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-4)
    # Exchanging the text instead, with the answers of the other items.
    turned = [
        replace(UNEQUAL[other], image=item.image, more=item.more)
        for item, other in zip(UNEQUAL, order, strict=True)
    ]
    expected = plain(model, model.collate(turned, answers))
    fused = model.fuse(selected(latents, rows, rows, order))
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-4)


@every_family
def test_selected_rows_can_be_selected_from_again(family: str, build: Build) -> None:
    model = build(family).eval()
    latents = model.encode(model.collate(UNEQUAL[:3], ANSWERS))
    with torch.no_grad():
        first = selected(latents, [0, 1, 2], [1, 2, 0], [0, 1, 2])
        second = selected(first, [2, 0, 1], [2, 0, 1], [2, 0, 1])
        direct = selected(latents, [2, 0, 1], [0, 1, 2], [2, 0, 1])
        assert torch.equal(model.fuse(second), model.fuse(direct))


@every_family
def test_loss_is_the_mean_over_a_rows_answer_tokens(family: str, build: Build) -> None:
    model = build(family).eval()
    batch = model.collate(ITEMS, ANSWERS)
    with torch.no_grad():
        loss = model.loss(model.predict(batch), batch)
        alone = [model.collate([i], [a]) for i, a in zip(ITEMS, ANSWERS, strict=True)]
        losses = torch.cat([model.loss(model.predict(row), row) for row in alone])
        torch.testing.assert_close(loss, losses, rtol=1e-4, atol=1e-4)
        choices = ["yes", "red green", "no ."]
        columns = []
        for choice in choices:
            same = model.collate(ITEMS, [choice] * 3)
            columns.append(-model.loss(model.predict(same), same))
        expected = torch.softmax(torch.stack(columns, 1), 1)
    torch.testing.assert_close(model.answer(ITEMS, choices), expected, rtol=1e-3, atol=1e-4)


@every_family
def test_a_gradient_reaches_the_pixels_and_stays_an_image(family: str, build: Build) -> None:
    model = build(family).eval()
    batch = model.collate(ITEMS, ANSWERS)
    bounds = model.pixel_range(batch)
    assert bool((batch.pixels >= bounds.low - 1e-4).all())
    assert bool((batch.pixels <= bounds.high + 1e-4).all())
    pixels = batch.pixels.clone().requires_grad_()
    loss = model.loss(model.predict(replace(batch, pixels=pixels)), batch)[:2].sum()
    (gradient,) = torch.autograd.grad(loss, pixels)
    followed = model.pixel_gradient(gradient)
    assert followed.shape == pixels.shape and float(followed.abs().sum()) > 0
    if family.startswith("qwen"):  # both frames of a patch must move alike
        frames = followed.view(len(followed), 3, 2, -1)
        assert torch.equal(frames[:, :, 0], frames[:, :, 1])


@every_family
def test_answers_do_not_depend_on_company(family: str, build: Build) -> None:
    model = build(family)
    together = model.generate(ITEMS, 6)
    assert together == [model.generate([item], 6)[0] for item in ITEMS]
    assert model.training, "asking leaves the mode as it was"
    ids = model.continuations(model.collate(ITEMS), 6)
    assert all(len(row) <= 6 and not set(row) & set(model.prompts.image_ids) for row in ids)
    assert all(model.prompts.eos_id not in row[:-1] for row in ids)


def test_cold_samples_are_the_greedy_answer_and_hot_ones_differ(build: Build) -> None:
    model = build("llava")
    batch = model.collate([asked(picture(0), "What is here?")])
    torch.manual_seed(0)
    (greedy,) = model.continuations(batch, 6)
    assert model.continuations(batch, 6, 1e-5, 8) == [greedy] * 8
    assert len(set(map(tuple, model.continuations(batch, 6, 100.0, 8)))) == 8


@every_family
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_saved_and_loaded_it_answers_the_same(
    family: str, tune: str, build: Build, tmp_path: Path
) -> None:
    model = build(family, tune=tune)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    vlm_build.save(model, tmp_path)
    assert not list(tmp_path.rglob("*.bin")) and weights_hash(tmp_path)
    again = vlm_build.load(tmp_path, "cpu")
    choices = ["yes", "no", "red"]
    assert torch.equal(again.answer(ITEMS, choices), model.answer(ITEMS, choices))
    assert again.config == model.config and not again.training


@every_family
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_meter_sees_every_product_once(family: str, tune: str, build: Build) -> None:
    """Compare the watched parts with the full model, for its own forward pass and for ours."""
    model = build(family, tune=tune, feature_cache_gb=0)
    batch = model.collate(ITEMS, ANSWERS)
    for forward in (model.predict, lambda batch: plain(model, batch)):
        meter = Meter(Budget("test", 1e15), "cpu")
        handles = [handle for module in model.metered_modules for handle in meter.watch(module)]
        with total_counter() as counter:
            model.loss(forward(batch), batch).sum().backward()
        counted = counter.get_total_flops()
        with meter:
            model.loss(forward(batch), batch).sum().backward()
        for handle in handles:
            handle.remove()
        assert meter.spent == pytest.approx(counted, rel=0.02)


def test_what_learns_is_what_the_configuration_says(build: Build) -> None:
    def learning(**options: Any) -> set[str]:
        model = build("llava", **options)
        return {name for name, p in model.base.named_parameters() if p.requires_grad}

    full = learning()
    assert not any("vision_tower" in name for name in full)
    assert any("projector" in name for name in full) and any("lm_head" in name for name in full)
    assert any("vision_tower" in name for name in learning(vision="trained"))
    lora = learning(tune="lora", lora_targets="q_proj,v_proj")
    assert lora and all("lora_" in name and "language_model" in name for name in lora)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in lora} == {"q_proj", "v_proj"}


def test_checkpointing_changes_no_gradient(build: Build) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = build("llava", checkpointing=checkpointing)
        batch = model.collate(ITEMS, ANSWERS)
        model.loss(model.predict(batch), batch).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_the_processor_is_made_to_pad_left(build: Build, checkpoints: Path) -> None:
    model = build("llava")
    assert model.processor.tokenizer.padding_side == "left"
    batch = model.collate(ITEMS)
    assert batch.mask[:, -1].all() and not batch.mask[2, 0]
    assert batch.targets.shape == (3, 0)


def test_prepared_rows_are_the_collated_ones(build: Build) -> None:
    model = build("llava")
    turns = [Turn(item, answer, ()) for item, answer in zip(ITEMS, ANSWERS, strict=True)] * 40
    examples = tuple(Example(str(n), None, turn.inputs.text, ()) for n, turn in enumerate(turns))
    data = vlm_data(model, examples, lambda example: turns[int(example.id)])
    for rows in ([2], [2, 5, 8], [4, 0, 2, 119, 66]):
        selected = [turns[row] for row in rows]
        expected = model.collate([t.inputs for t in selected], [t.answer for t in selected])
        gathered = data.gather(rows)
        for name in ("pixels", "has_image", "tokens", "mask", "has_text", "targets"):
            actual, right = getattr(gathered, name), getattr(expected, name)
            if name != "pixels" or len(right):
                assert torch.equal(actual, right), name
        for name in expected.extra:
            assert torch.equal(gathered.extra[name], expected.extra[name]), name


@pytest.mark.parametrize(
    ("long", "short", "block"),
    [
        ("abXYcd", "abcd", (2, 4)),
        ("XYcd", "cd", (0, 2)),
        ("abXY", "ab", (2, 4)),
        ("aab", "ab", (1, 2)),
    ],
)
def test_the_image_block_is_what_only_the_longer_rendering_has(
    long: str, short: str, block: tuple[int, int]
) -> None:
    assert differing_block([ord(c) for c in long], [ord(c) for c in short]) == block


def test_mistakes_are_one_line(build: Build, checkpoints: Path, tmp_path: Path) -> None:
    def refused(message: str, call: Callable[[], object]) -> None:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)

    refused("no layer called q_prj", lambda: build("llava", tune="lora", lora_targets="q_prj"))
    refused("No PEFT adapter at", lambda: build("llava", adapter=str(tmp_path)))
    refused("Could not load 'nobody/nothing'",
            lambda: vlm_build.build("x", vlm_config.configure("nobody/nothing", {}), 0, "cpu")
            )  # fmt: skip
    refused("No vision-language model at", lambda: vlm_build.load(tmp_path, "cpu"))
    refused("Unknown backbone option 'lr'", lambda: build("llava", lr=1.0))
    refused("allowed are full, lora", lambda: build("llava", tune="some"))
    bare = tmp_path / "bare"
    shutil.copytree(checkpoints / "llava", bare)
    (bare / "chat_template.jinja").unlink()
    refused(
        "no chat template",
        lambda: vlm_build.build("x", vlm_config.configure(str(bare), {}), 0, "cpu"),
    )
    short = build("llava", max_prompt_tokens=20)
    refused("max_prompt_tokens=", lambda: short.collate(ITEMS))
    brief = build("llava", max_answer_tokens=4)
    refused("max_answer_tokens=", lambda: brief.collate(ITEMS[:1], ["yes " * 5]))
    from transformers import LlamaConfig, LlamaForCausalLM

    blind = LlamaForCausalLM(LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8,
                                         num_hidden_layers=1, num_attention_heads=1))  # fmt: skip
    blind.save_pretrained(tmp_path / "blind")
    text_only = vlm_config.configure(str(tmp_path / "blind"), {})
    refused("as a vision-language model", lambda: vlm_build.build("x", text_only, 0, "cpu"))


def test_weights_are_hashed_wherever_a_kind_of_model_keeps_them(tmp_path: Path) -> None:
    assert weights_hash(tmp_path) is None
    file = tmp_path / "model" / "model-1.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"one")
    alone = weights_hash(tmp_path)
    assert alone == file_hash(file)
    file.with_name("model-2.safetensors").write_bytes(b"two")
    both = weights_hash(tmp_path)
    assert both not in (alone, None)
    file.write_bytes(b"other")
    assert weights_hash(tmp_path) not in (alone, both)
