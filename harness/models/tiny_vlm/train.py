"""The tiny base model of the generated world: a real LLaVA, trained here from nothing.

Its pictures follow the world's habits (bananas are yellow, and there is more often one than not),
so it learns the language prior before it learns to look. Post-training is measured against that.
Training uses one thread and named seeds, so equal arguments give equal weights on one machine.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from steelyard.harness.core.files import cache_folder, publish_folder
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.tiny_vlm.config import Training, build
from steelyard.harness.models.tiny_vlm.tokenizer import IMAGE, SPECIALS, build_processor, vocabulary
from steelyard.tasks.world.language import ASK, Habits, Question, compose, part_of, prompt
from steelyard.tasks.world.scenes import COLOURS, KINDS, PLACES, Object, Scene, draw

VERSION = 1
"""Raised whenever equal arguments would train another model."""
MARKER = "base.json"
PAD, IMAGE_ID, ASSISTANT_ID = (SPECIALS.index(token) for token in ("<pad>", IMAGE, "<assistant>"))
KIND_NAMES, COLOUR_NAMES = tuple(KINDS), tuple(COLOURS)

Progress = Callable[[str, float], None]
"""Told the stage (``vision``, ``text``, ``alignment``) and the share of it that is done."""


def ensure(
    cache: Path | None = None,
    seed: int = 0,
    training: Training | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Path:
    """Folder of the trained base checkpoint, made if absent: model and processor, pretrained style.

    ``cache`` is ``steelyard`` in the user's cache folder unless given. Raises UserError where the
    folder cannot be written.
    """
    training = training or Training()
    content = _describe(seed, training)
    digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
    root = (cache or cache_folder()) / f"tiny-vlm-{digest}"
    if (root / MARKER).is_file():
        return root
    with publish_folder(root, (root / MARKER).is_file) as folder:
        _train(folder, seed, training, progress or _silent, device)
        (folder / MARKER).write_text(content, encoding="utf-8")
    return root


def _silent(stage: str, share: float) -> None:
    pass


def _describe(seed: int, training: Training) -> str:
    """All that decides the weights on a given machine, with a sample of what the world makes."""
    words = "\n".join(vocabulary())
    # Not told twice: the habits are below. What is not set leaves older hashes as they were.
    told = {k: v for k, v in dataclasses.asdict(training).items() if v is not None}
    set_ = {k: v for k, v in told.items() if k not in ("p_color", "p_cooc")}
    content = {"version": VERSION, "seed": seed, "training": set_}
    world = {
        "habits": dataclasses.asdict(training.habits),
        "mix": MIX,
        "sample": _sample(training),
    }
    vocabulary_hash = hashlib.blake2b(words.encode(), digest_size=8).hexdigest()
    return json.dumps({**content, **world, "vocabulary": vocabulary_hash}, indent=1) + "\n"


def _sample(training: Training) -> str:
    """Hash of some scenes, their questions and pictures: changes with the generator's code."""
    rng = np.random.default_rng(seed_for("base", "sample"))
    digest = hashlib.blake2b(digest_size=8)
    for _ in range(40):
        for scene in (_sight(training.grid, rng), _scene(training.habits, rng)):
            digest.update(scene.symbol.encode())
            digest.update(draw(scene, rng, training.size).tobytes())
            for ask in ASK.values():
                digest.update(str(ask(scene, training.habits, rng)).encode())
    return digest.hexdigest()


# --- training ----------------------------------------------------------------------------------


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "base", "weights"))
            yield
    finally:
        torch.set_num_threads(threads)


def _train(folder: Path, seed: int, training: Training, progress: Progress, device: str) -> None:
    processor = build_processor(training.size, training.patches)
    with _repeatable(seed):
        model = build(training).to(device)
        _learn_to_see(model, seed, training, progress)
        _learn_to_talk(model, processor, seed, training, progress)
    with _without_bars():
        model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Saving shows a bar of its own, which would break into the caller's progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _optimise(
    parameters: Sequence[nn.Parameter],
    steps: int,
    learning_rate: float,
    loss: Callable[[int], Tensor],
) -> None:
    """AdamW with a cosine schedule and gradients clipped to norm 1."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.1
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


# --- the eyes: what is in each cell of a crowded picture ---------------------------------------


def _sight(grid: int, rng: np.random.Generator) -> Scene:
    """A scene with something in every cell, of any kind and colour."""
    cells, place = grid**2, str(rng.choice(list(PLACES)))
    kinds = rng.choice(KIND_NAMES, cells, replace=False).tolist()
    colours = rng.choice(COLOUR_NAMES, cells).tolist()
    things = zip(kinds, colours, range(cells), strict=True)
    return Scene(place, tuple(Object(kind, colour, cell) for kind, colour, cell in things), grid)


def _pixels(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """What the processor makes of pictures of its own size: [B, 3, size, size] in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _learn_to_see(model: Any, seed: int, training: Training, progress: Progress) -> None:
    rng = np.random.default_rng(seed_for(seed, "base", "vision"))
    tower = model.model.vision_tower
    heads = nn.Linear(training.width, len(KIND_NAMES) + len(COLOUR_NAMES)).to(model.device)
    scenes = [_sight(training.grid, rng) for _ in range(training.vision_images)]
    pictures = [draw(scene, rng, training.size) for scene in scenes]
    kinds = torch.tensor([[KIND_NAMES.index(t.kind) for t in s.objects] for s in scenes])
    colours = torch.tensor([[COLOUR_NAMES.index(t.colour) for t in s.objects] for s in scenes])

    def loss(step: int) -> Tensor:
        progress("vision", step / training.vision_steps)
        rows = rng.integers(len(scenes), size=training.vision_batch).tolist()
        features = _look(model, _pixels([pictures[row] for row in rows]))
        found = heads(_by_cell(features, training.grid)).flatten(0, 1)
        kind, colour = found.split([len(KIND_NAMES), len(COLOUR_NAMES)], 1)
        return cross_entropy(kind, kinds[rows].flatten().to(kind.device)) + cross_entropy(
            colour, colours[rows].flatten().to(colour.device)
        )

    parameters = [*tower.parameters(), *heads.parameters()]
    _optimise(parameters, training.vision_steps, training.learning_rate, loss)


# --- the language: blind first, then with the picture ------------------------------------------


MIX = {"colour": 0.2, "existence": 0.33, "attribute": 0.2, "count": 0.05, "caption": 0.22}
"""How likely each question is to be of each kind."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """Questions about base scenes as tokens, and what the vision tower makes of the pictures."""

    seen: Tensor
    """[N, T] prompt, answer and end, right-padded: attention looks left, so nothing else moves."""
    blind: Tensor
    """[N, T - P] the same without image tokens."""
    picture: Tensor
    """[N] row of each question in ``features``."""
    features: Tensor
    """[images, P, D] of P patches; the tower does not change any more."""


def _scene(habits: Habits, rng: np.random.Generator) -> Scene:
    while True:
        scene = compose(habits, rng)
        if part_of(scene) == "base":
            return scene


def _lessons(model: Any, processor: Any, seed: int, training: Training) -> Lessons:
    rng = np.random.default_rng(seed_for(seed, "base", "questions"))
    pictures, questions = [], []
    for _ in range(training.images):
        scene = _scene(training.habits, rng)
        pictures.append(draw(scene, rng, training.size))
        kinds = rng.choice(list(MIX), training.turns, p=list(MIX.values())).tolist()
        questions += [ASK[kind](scene, training.habits, rng) for kind in kinds]
    with torch.no_grad():
        chunks = [pictures[start : start + 256] for start in range(0, len(pictures), 256)]
        features = torch.cat([_look(model, _pixels(chunk)) for chunk in chunks])
    return Lessons(
        _tokens(processor, questions, patches=training.patches**2),
        _tokens(processor, questions, patches=0),
        torch.arange(training.images).repeat_interleave(training.turns),
        features,
    )


def _look(model: Any, pixels: Tensor) -> Tensor:
    """Features of the picture's patches, before the projector: [B, P, D]."""
    tower = model.model.vision_tower
    states = tower(pixels.to(model.device), output_hidden_states=True).hidden_states
    features: Tensor = states[-1][:, 1:]
    return features


def _by_cell(features: Tensor, grid: int) -> Tensor:
    """Features of the scene's cells, each the mean of its patches: [B, grid x grid, D]."""
    side = round(features.shape[1] ** 0.5)
    picture = features.transpose(1, 2).reshape(len(features), -1, side, side)
    return adaptive_avg_pool2d(picture, grid).flatten(2).transpose(1, 2)


def _tokens(processor: Any, questions: Sequence[Question], *, patches: int) -> Tensor:
    """Whole conversations as the chat template writes them: [N, T]."""
    ids: dict[tuple[str, str], list[int]] = {}
    for question in questions:
        key = (prompt(question), question.answer)
        if key not in ids:
            text = conversation(processor, *key, patches=patches)
            ids[key] = processor.tokenizer(text, add_special_tokens=False).input_ids
    rows = [torch.tensor(ids[prompt(question), question.answer]) for question in questions]
    pad = processor.tokenizer.pad_token_id
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)


def conversation(processor: Any, asked: str, answer: str, *, patches: int) -> str:
    """Question and answer by the chat template, the image's place widened to its tokens.

    Without ``patches`` there is no image.
    """
    image = [{"type": "image"}] if patches else []
    messages = [
        {"role": "user", "content": [*image, {"type": "text", "text": asked}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    text: str = processor.apply_chat_template(messages, tokenize=False)
    return text.replace(IMAGE, IMAGE * patches)


def _learn_to_talk(
    model: Any, processor: Any, seed: int, training: Training, progress: Progress
) -> None:
    """The language model and the projector learn from answers; the vision tower is frozen."""
    lessons = _lessons(model, processor, seed, training)
    rng = np.random.default_rng(seed_for(seed, "base", "order"))
    parameters = [
        parameter
        for part in (model.model.language_model, model.model.multi_modal_projector, model.lm_head)
        for parameter in part.parameters()
    ]
    for stage, steps, blind in (
        ("text", training.text_steps, 1.0),
        ("alignment", training.steps, training.blind),
    ):

        def loss(step: int, stage: str = stage, steps: int = steps, blind: float = blind) -> Tensor:
            progress(stage, step / steps)
            rows = torch.from_numpy(rng.integers(len(lessons.picture), size=training.batch))
            unseen = round(blind * training.batch)
            return _answer_loss(model, lessons, rows[unseen:], rows[:unseen])

        _optimise(parameters, steps, training.learning_rate, loss)


def _answer_loss(model: Any, lessons: Lessons, seen: Tensor, unseen: Tensor) -> Tensor:
    """Mean over questions, with the picture and without, so long captions weigh no more."""
    losses = []
    if len(seen):
        features = lessons.features[lessons.picture[seen]]
        losses.append(_row_losses(model, lessons.seen[seen], features))
    if len(unseen):
        losses.append(_row_losses(model, lessons.blind[unseen], None))
    return torch.cat(losses).mean()


def _row_losses(model: Any, tokens: Tensor, features: Tensor | None) -> Tensor:
    """Cross entropy of each row's answer, the end included, averaged over its tokens: [B]."""
    tokens = tokens[:, : int((tokens != PAD).sum(1).max())].to(model.device)
    embedded = model.get_input_embeddings()(tokens)
    if features is not None:
        where = (tokens == IMAGE_ID)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(where, model.model.multi_modal_projector(features))
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    answered = (tokens == ASSISTANT_ID).cumsum(1)[:, :-1].bool() & (tokens[:, 1:] != PAD)
    logits = model.lm_head(hidden[:, :-1][answered])
    losses = cross_entropy(logits, tokens[:, 1:][answered], reduction="none")
    share = 1 / answered.sum(1, keepdim=True).expand_as(answered)[answered]
    row = answered.nonzero()[:, 0]
    return losses.new_zeros(len(tokens)).index_add(0, row, losses * share)
