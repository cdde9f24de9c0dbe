"""Training of the generated world's base model: a small LLaVA, trained from random weights.

Its pictures follow the language prior of the world (bananas are usually yellow), so it learns the
prior before it learns to look; post-training is measured against that. Training uses one thread
and named seeds, so equal arguments give equal weights on one machine::

    folder = ensure(cache, seed=0, training=Training(steps=100), device="cpu")
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from steelyard.harness.core.files import cache_folder, publish_folder
from steelyard.harness.core.progress import Progress, no_progress
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.tiny_vlm.config import Training, build
from steelyard.harness.models.tiny_vlm.tokenizer import IMAGE, SPECIALS, build_processor, vocabulary
from steelyard.tasks.world.language import ASK, Question, prompt
from steelyard.tasks.world.prior import LanguagePrior, compose, part_of
from steelyard.tasks.world.scenes import COLOURS, KINDS, PLACES, Object, Scene, draw

VERSION = 1
"""Raised whenever equal arguments would train another model."""
MARKER = "base.json"
PAD, IMAGE_ID, ASSISTANT_ID = (SPECIALS.index(token) for token in ("<pad>", IMAGE, "<assistant>"))
KIND_NAMES, COLOUR_NAMES = tuple(KINDS), tuple(COLOURS)

MIX = {"colour": 0.2, "existence": 0.33, "attribute": 0.2, "count": 0.05, "caption": 0.22}
"""Probability of each kind of training question."""


def ensure(
    cache: Path | None = None,
    seed: int = 0,
    training: Training | None = None,
    progress: Progress = no_progress,
    *,
    device: str,
) -> Path:
    """Return the folder of the trained model and its processor; train it if absent.

    ``cache`` defaults to ``steelyard`` in the user's cache folder. The stages of ``progress`` are
    ``vision``, ``text`` and ``alignment``.

    Raises:
        UserError: the folder cannot be written.
    """
    training = training or Training()
    content = _content(seed, training)
    digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
    root = (cache or cache_folder()) / f"tiny-vlm-{digest}"
    if (root / MARKER).is_file():
        return root
    with publish_folder(root, (root / MARKER).is_file) as folder:
        _train(folder, seed, training, progress, device)
        (folder / MARKER).write_text(content, encoding="utf-8")
    return root


def _content(seed: int, training: Training) -> str:
    """Return everything that decides the weights on one machine, with a sample of the world."""
    # The prior has p_color and p_cooc. Unset options are left out, so older hashes stay valid.
    options = {
        name: value
        for name, value in dataclasses.asdict(training).items()
        if value is not None and name not in ("p_color", "p_cooc")
    }
    words = "\n".join(vocabulary()).encode()
    # A sample of scenes, questions and pictures, which changes with the code of the world.
    rng, sample = np.random.default_rng(seed_for("base", "sample")), hashlib.blake2b(digest_size=8)
    for _ in range(40):
        for scene in (_crowded_scene(training.grid, rng), _base_scene(training.prior, rng)):
            sample.update(scene.symbol.encode())
            sample.update(draw(scene, rng, training.size).tobytes())
            for ask in ASK.values():
                sample.update(str(ask(scene, training.prior, rng)).encode())
    content = {
        "version": VERSION,
        "seed": seed,
        "training": options,
        # The key is part of the hash that names cached folders.
        "habits": dataclasses.asdict(training.prior),
        "mix": MIX,
        "sample": sample.hexdigest(),
        "vocabulary": hashlib.blake2b(words, digest_size=8).hexdigest(),
    }
    return json.dumps(content, indent=1) + "\n"


# --- training ----------------------------------------------------------------------------------


def _train(folder: Path, seed: int, training: Training, progress: Progress, device: str) -> None:
    from transformers.utils import logging

    processor = build_processor(training.size, training.patches)
    threads, had_bar = torch.get_num_threads(), logging.is_progress_bar_enabled()
    # The order of sums, and so the last bits, depends on the number of threads.
    torch.set_num_threads(1)
    # Saving shows a progress bar, which would interrupt the caller's.
    logging.disable_progress_bar()
    try:
        # The caller's random state is unchanged, whether the model was cached or not.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "base", "weights"))
            model = build(training).to(device)
            _train_vision(model, seed, training, progress)
            _train_language(model, processor, seed, training, progress)
        model.eval().save_pretrained(folder)
        processor.save_pretrained(folder)
    finally:
        torch.set_num_threads(threads)
        if had_bar:
            logging.enable_progress_bar()


def _optimise(
    parameters: Sequence[nn.Parameter],
    steps: int,
    learning_rate: float,
    loss: Callable[[int], Tensor],
) -> None:
    """Minimise a loss by AdamW with a cosine schedule and gradients clipped to norm 1."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    # A schedule of one step would stay at its lowest rate.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.1
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


# --- vision: kind and colour of the object in each cell ----------------------------------------


def _crowded_scene(grid: int, rng: np.random.Generator) -> Scene:
    """Sample a scene with an object in every cell, of any kind and colour."""
    cells, place = grid**2, str(rng.choice(list(PLACES)))
    kinds = rng.choice(KIND_NAMES, cells, replace=False).tolist()
    colours = rng.choice(COLOUR_NAMES, cells).tolist()
    objects = zip(kinds, colours, range(cells), strict=True)
    return Scene(place, tuple(Object(kind, colour, cell) for kind, colour, cell in objects), grid)


def _pixels(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return what the processor gives for pictures of its size: [B, 3, size, size] in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _train_vision(model: Any, seed: int, training: Training, progress: Progress) -> None:
    rng = np.random.default_rng(seed_for(seed, "base", "vision"))
    heads = nn.Linear(training.width, len(KIND_NAMES) + len(COLOUR_NAMES)).to(model.device)
    scenes = [_crowded_scene(training.grid, rng) for _ in range(training.vision_images)]
    pictures = [draw(scene, rng, training.size) for scene in scenes]
    kinds = torch.tensor([[KIND_NAMES.index(obj.kind) for obj in s.objects] for s in scenes])
    colours = torch.tensor([[COLOUR_NAMES.index(obj.colour) for obj in s.objects] for s in scenes])

    def loss(step: int) -> Tensor:
        progress("vision", step / training.vision_steps)
        rows = rng.integers(len(scenes), size=training.vision_batch).tolist()
        features = _patch_features(model, _pixels([pictures[row] for row in rows]))
        logits = heads(_cell_features(features, training.grid)).flatten(0, 1)
        kind, colour = logits.split([len(KIND_NAMES), len(COLOUR_NAMES)], 1)
        return cross_entropy(kind, kinds[rows].flatten().to(kind.device)) + cross_entropy(
            colour, colours[rows].flatten().to(colour.device)
        )

    parameters = [*model.model.vision_tower.parameters(), *heads.parameters()]
    _optimise(parameters, training.vision_steps, training.learning_rate, loss)


def _patch_features(model: Any, pixels: Tensor) -> Tensor:
    """Return the features of a picture's patches, before the projector: [B, P, D]."""
    outputs = model.model.vision_tower(pixels.to(model.device), output_hidden_states=True)
    # Without the class token, as the "default" strategy of the full model.
    features: Tensor = outputs.hidden_states[-1][:, 1:]
    return features


def _cell_features(features: Tensor, grid: int) -> Tensor:
    """Return the features of a scene's cells, means over their patches: [B, grid x grid, D]."""
    side = round(features.shape[1] ** 0.5)
    picture = features.transpose(1, 2).reshape(len(features), -1, side, side)
    return adaptive_avg_pool2d(picture, grid).flatten(2).transpose(1, 2)


# --- language: text-only first, then with the picture ------------------------------------------


@dataclass(frozen=True, slots=True)
class Lessons:
    """Questions about base scenes as tokens, and features of their pictures."""

    with_image: Tensor
    """[N, T] prompt, answer and end, right-padded, which causal attention ignores."""
    text_only: Tensor
    """[N, T - P] the same without image tokens."""
    features: Tensor
    """[images, P, D] of P patches, each for ``turns`` questions; the vision tower is frozen."""


def _base_scene(prior: LanguagePrior, rng: np.random.Generator) -> Scene:
    while True:
        scene = compose(prior, rng)
        # Scenes of the other parts are for post-training and scoring.
        if part_of(scene) == "base":
            return scene


def _lessons(model: Any, processor: Any, seed: int, training: Training) -> Lessons:
    rng = np.random.default_rng(seed_for(seed, "base", "questions"))
    pictures, questions = [], []
    for _ in range(training.images):
        scene = _base_scene(training.prior, rng)
        pictures.append(draw(scene, rng, training.size))
        kinds = rng.choice(list(MIX), training.turns, p=list(MIX.values())).tolist()
        questions += [ASK[kind](scene, training.prior, rng) for kind in kinds]
    with torch.no_grad():
        chunks = [pictures[start : start + 256] for start in range(0, len(pictures), 256)]
        features = torch.cat([_patch_features(model, _pixels(chunk)) for chunk in chunks])
    return Lessons(
        _tokens(processor, questions, patches=training.patches**2),
        _tokens(processor, questions, patches=0),
        features,
    )


def _tokens(processor: Any, questions: Sequence[Question], *, patches: int) -> Tensor:
    """Tokenize conversations as the chat template writes them: [N, T]."""

    @cache
    def encoded(text: str, answer: str) -> Tensor:
        rendered = conversation(processor, text, answer, patches=patches)
        return torch.tensor(processor.tokenizer(rendered, add_special_tokens=False).input_ids)

    rows = [encoded(prompt(question), question.answer) for question in questions]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def conversation(processor: Any, text: str, answer: str, *, patches: int) -> str:
    """Render question and answer by the chat template, with ``patches`` image tokens or none."""
    image = [{"type": "image"}] if patches else []
    messages = [
        {"role": "user", "content": [*image, {"type": "text", "text": text}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    rendered: str = processor.apply_chat_template(messages, tokenize=False)
    return rendered.replace(IMAGE, IMAGE * patches)


def _train_language(
    model: Any, processor: Any, seed: int, training: Training, progress: Progress
) -> None:
    """Train the language model and the projector on answers; the vision tower is frozen."""
    lessons = _lessons(model, processor, seed, training)
    rng = np.random.default_rng(seed_for(seed, "base", "order"))
    parameters = [
        parameter
        for part in (model.model.language_model, model.model.multi_modal_projector, model.lm_head)
        for parameter in part.parameters()
    ]
    for stage, steps, fraction in (
        ("text", training.text_steps, 1.0),
        ("alignment", training.steps, training.blind),
    ):
        text_only = round(fraction * training.batch)

        def loss(
            step: int, stage: str = stage, steps: int = steps, text_only: int = text_only
        ) -> Tensor:
            progress(stage, step / steps)
            rows = torch.from_numpy(rng.integers(len(lessons.with_image), size=training.batch))
            blind, sighted = rows[:text_only], rows[text_only:]
            losses = []
            if len(sighted):
                # Questions are in order of their pictures.
                features = lessons.features[sighted // training.turns]
                losses.append(_row_losses(model, lessons.with_image[sighted], features))
            if len(blind):
                losses.append(_row_losses(model, lessons.text_only[blind], None))
            # The mean over questions, so that long captions weigh no more.
            return torch.cat(losses).mean()

        _optimise(parameters, steps, training.learning_rate, loss)


def _row_losses(model: Any, tokens: Tensor, features: Tensor | None) -> Tensor:
    """Return the cross entropy of each row's answer and end, averaged over its tokens: [B]."""
    # Without columns that only pad, which would cost compute.
    tokens = tokens[:, : int((tokens != PAD).sum(1).max())].to(model.device)
    embedded = model.get_input_embeddings()(tokens)
    if features is not None:
        is_image = (tokens == IMAGE_ID)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(is_image, model.model.multi_modal_projector(features))
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    # A token is a target if it follows the assistant's mark and is no padding.
    answered = (tokens == ASSISTANT_ID).cumsum(1)[:, :-1].bool() & (tokens[:, 1:] != PAD)
    logits = model.lm_head(hidden[:, :-1][answered])
    losses = cross_entropy(logits, tokens[:, 1:][answered], reduction="none")
    weights = 1 / answered.sum(1, keepdim=True).expand_as(answered)[answered]
    row = answered.nonzero()[:, 0]
    return losses.new_zeros(len(tokens)).index_add(0, row, losses * weights)
