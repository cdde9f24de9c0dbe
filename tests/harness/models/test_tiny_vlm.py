"""Tiny base model: vocabulary, chat template, repeatable training and caching by content."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.tiny_vlm import train
from steelyard.harness.models.tiny_vlm.config import Training
from steelyard.harness.models.tiny_vlm.tokenizer import (
    IMAGE,
    build_processor,
    build_tokenizer,
    vocabulary,
)
from steelyard.harness.models.tiny_vlm.train import conversation, ensure
from steelyard.tasks import food101, hateful_memes, mm_imdb
from steelyard.tasks._shared.questions import CAPTION, SHORT
from steelyard.tasks.world.build import WorldSpec, write
from steelyard.tasks.world.language import ASK, prompt
from steelyard.tasks.world.prior import BASE_PRIOR, compose, part_of
from steelyard.tasks.world.scenes import GLYPHS

FEW = Training(vision_steps=2, vision_images=64, text_steps=2, steps=3, images=20, batch=16)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("bases"), seed=1, training=FEW, device="cpu")


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor(48, 2)


def unknown_words(texts: list[str]) -> set[str]:
    tokenizer = build_tokenizer()
    unk = tokenizer.unk_token_id
    return {text for text in texts if unk in tokenizer(text).input_ids}


# --- words -----------------------------------------------------------------------------------


def test_every_question_and_answer_of_the_world_is_made_of_known_words() -> None:
    rng = np.random.default_rng(0)
    texts = set()
    for _ in range(3000):
        scene = compose(BASE_PRIOR, rng)
        for ask in ASK.values():
            question = ask(scene, BASE_PRIOR, rng)
            texts |= {prompt(question), question.answer, *question.choices}
    assert len(texts) > 500 and not unknown_words(sorted(texts))


def test_prompts_of_the_classification_sets_are_made_of_known_words(tmp_path: Path) -> None:
    texts = set()
    for task, module in {
        "food101": food101,
        "hateful_memes": hateful_memes,
        "mm_imdb": mm_imdb,
    }.items():
        write(WorldSpec(task, train=240, test=64), tmp_path / task)
        corpus = module.load(tmp_path / task)
        texts |= set(module.choices(corpus.classes))
        for rows in corpus.splits.values():
            docs = [tasks.document(corpus, "test", row, row.text) for row in rows]
            texts |= {tasks.prompt(task, doc) for doc in docs}
    texts |= set(mm_imdb.choices(mm_imdb.GENRES))
    assert len(texts) > 500 and not unknown_words(sorted(texts))


def test_a_word_from_elsewhere_is_unknown() -> None:
    assert unknown_words(["Is there a snowboard in the image?"])


def test_case_and_punctuation_do_not_change_words() -> None:
    tokenizer = build_tokenizer()
    plain = tokenizer("yes there is a banana").input_ids
    assert tokenizer("Yes There is A BANANA").input_ids == plain
    assert [i for i in tokenizer('"Yes, there is a banana."').input_ids if i in plain] == plain
    assert tokenizer.decode(tokenizer("a red fish and an apple.").input_ids) == (
        "a red fish and an apple."
    )


# --- chat ------------------------------------------------------------------------------------


def test_a_conversation_is_the_prompt_then_the_answer_and_the_end(processor: Any) -> None:
    question = "Is there a fish in the image?" + SHORT
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    start = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert start == f"<s><user>{IMAGE}{question}<assistant>"
    full = conversation(processor, question, "yes", patches=4)
    assert full == start.replace(IMAGE, IMAGE * 4) + "yes</s>"
    assert conversation(processor, question, "yes", patches=0) == full.replace(IMAGE, "")


def test_training_tokens_and_pixels_are_those_of_the_processor(processor: Any) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    text = f"<s><user>{IMAGE}{CAPTION}<assistant>"
    output = processor(images=[Image.fromarray(picture)], text=[text], return_tensors="pt")
    ours = processor.tokenizer(
        conversation(processor, CAPTION, "a red cup.", patches=4), add_special_tokens=False
    ).input_ids
    assert ours[: output.input_ids.shape[1]] == output.input_ids[0].tolist()
    assert vocabulary()[ours[-1]] == "</s>"
    pixels = train._pixels([picture])
    assert torch.allclose(pixels, output.pixel_values, atol=1e-6)


# --- training --------------------------------------------------------------------------------


def test_base_loads_as_any_model_and_answers(base: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(base)
    processor = AutoProcessor.from_pretrained(base)
    assert processor.tokenizer.padding_side == "left"
    texts = [f"<s><user>{IMAGE}{word}<assistant>" for word in ("fish", "is there a fish?")]
    images = [Image.new("RGB", (48, 48), colour) for colour in ("red", "blue")]
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    assert inputs["input_ids"][0, 0] == processor.tokenizer.pad_token_id
    output = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]
    ends = (model.generation_config.eos_token_id, model.generation_config.pad_token_id)
    assert ends == (processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id)
    assert sum(parameter.numel() for parameter in model.parameters()) < 400_000


def test_training_repeats_bit_for_bit_and_touches_no_global_state(
    base: Path, tmp_path: Path
) -> None:
    torch.manual_seed(123)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    again = ensure(tmp_path, seed=1, training=FEW, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert again.name == base.name
    for path in base.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_what_is_trained_already_is_not_trained_again(base: Path) -> None:
    stages: list[str] = []
    folder = ensure(base.parent, 1, FEW, lambda stage, fraction: stages.append(stage), device="cpu")
    assert folder == base and not stages


@pytest.mark.parametrize(
    ("seed", "training"), [(2, FEW), (1, dataclasses.replace(FEW, learning_rate=1e-3))]
)
def test_a_changed_argument_has_its_own_folder_and_weights(
    seed: int, training: Training, base: Path
) -> None:
    calls: list[tuple[str, float]] = []
    changed = ensure(base.parent, seed, training, lambda *call: calls.append(call), device="cpu")
    assert changed != base
    assert [stage for stage, _ in calls] == ["vision"] * 2 + ["text"] * 2 + ["alignment"] * 3
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (base, changed))
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_changed_code_of_the_world_change_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = train._content(0, FEW)
    assert train._content(0, FEW) == before
    monkeypatch.setitem(GLYPHS, "ball", GLYPHS["box"])  # type: ignore[misc]
    assert train._content(0, FEW) != before


def test_an_interrupted_training_leaves_nothing(tmp_path: Path) -> None:
    def stop(stage: str, share: float) -> None:
        if stage == "alignment":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path, seed=1, training=FEW, progress=stop, device="cpu")
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Could not write"):
        ensure(tmp_path / "file", seed=1, training=FEW, device="cpu")


def test_the_base_never_sees_a_scene_of_another_part() -> None:
    rng = np.random.default_rng(3)
    natural = [train._base_scene(BASE_PRIOR, rng) for _ in range(300)]
    assert {part_of(scene) for scene in natural} == {"base"}
    crowded = [train._crowded_scene(2, rng) for _ in range(50)]
    # Four objects, where every data set has at most three: no symbol can be shared.
    assert all(len(scene.objects) == 4 for scene in crowded)


def test_a_larger_world_makes_a_larger_model(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    large = replace(FEW, size=36, patches=6, grid=3, objects=4, width=32, layers=1)
    folder = ensure(tmp_path, seed=1, training=large, device="cpu")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config.image_seq_length == 36
    assert model.config.text_config.hidden_size == 32
    prompt = f"<s><user>{IMAGE}how many objects are there in the image?<assistant>"
    processor = AutoProcessor.from_pretrained(folder)
    output = processor(images=[Image.new("RGB", (36, 36))], text=[prompt], return_tensors="pt")
    assert int((output.input_ids == model.config.image_token_id).sum()) == 36
    assert model.generate(**output, max_new_tokens=1).shape[1] == output.input_ids.shape[1] + 1


def test_features_of_a_cell_are_the_mean_of_its_patches() -> None:
    features = torch.arange(16.0)[None, :, None]  # 4 x 4 patches, numbered row by row
    cells = train._cell_features(features, 2)
    assert cells.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(train._cell_features(features, 4), features)
