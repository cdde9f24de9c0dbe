"""Vocabulary and processor of the generated world's vision-language model.

Each word is a token in lower case; punctuation marks and digits are tokens of their own. Prompts of
the generated data sets have no unknown word.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from steelyard import tasks
from steelyard.tasks import hateful_memes, mm_imdb
from steelyard.tasks._shared.questions import CAPTION, SHORT
from steelyard.tasks.world.classification import (
    ENDINGS,
    GENRES,
    MEME_PHRASES,
    NAMING_TITLES,
    OPENINGS,
    OUTSIDE_GENRE,
    SILENT_TITLES,
)
from steelyard.tasks.world.language import (
    attribute_question,
    caption,
    colour_question,
    count_question,
    existence_question,
)
from steelyard.tasks.world.scenes import COLOURS, KINDS, PLACES, Object, Scene
from steelyard.tasks.world.source import FILLERS

IMAGE = "<image>"
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", IMAGE, "<user>", "<assistant>")
# Images come before the text, in whatever order a message lists them.
TEMPLATE = (
    "<s>{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant>{% else %}<user>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A turn is ``<s><user><image>question<assistant>answer</s>``."""
EXTRA = (
    "Choose an option. A, B, C, D, E or none. Please describe what you see: there are two, one, "
    "three, four, no, not, zero objects. I do not know. Look at the photo, picture or scene.",
    "0 1 2 3 4 5 6 7 8 9 . , : ; ! ? ' \" ( ) - | /",
)
"""Words that answers to other questions use."""


def texts() -> Iterator[str]:
    """Yield every question, text and answer of the generated data sets."""
    yield from (SHORT, CAPTION, OUTSIDE_GENRE, *EXTRA, *COLOURS, *PLACES)
    classes = {"food101": (), "hateful_memes": hateful_memes.CLASSES, "mm_imdb": mm_imdb.GENRES}
    for task, names in classes.items():
        yield tasks.prompt(task, {"text": "a", "classes": names})
    yield from (*NAMING_TITLES, *SILENT_TITLES, *OPENINGS, *ENDINGS)
    yield from (word for words in (*FILLERS.values(), *MEME_PHRASES) for word in words)
    for name, genre in GENRES.items():
        yield from (name, *genre.sentences)
    # One scene of each kind of object covers the words of all scenes.
    for kind in KINDS:
        objects = (Object(kind, "red", 0), Object("cup", "orange", 1))
        scene = Scene("sea", objects)
        yield caption(scene)
        for question in (
            colour_question(objects[0]),
            attribute_question(objects[0], "red"),
            existence_question(scene, kind),
            count_question(scene),
        ):
            yield from (question.text, *question.choices)


@cache
def vocabulary() -> tuple[str, ...]:
    """Return the tokens by id: the special ones, then all words in alphabetical order."""
    # Split as the tokenizer will, so that its words and the vocabulary's agree.
    pre = _raw_tokenizer({}).pre_tokenizer
    words = {word for text in texts() for word, _ in pre.pre_tokenize_str(text.lower())}
    return (*SPECIALS, *sorted(words - set(SPECIALS)))


def _raw_tokenizer(ids: dict[str, int]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.add_special_tokens([token for token in SPECIALS if token in ids])
    # WordPiece's decoder closes the gaps before punctuation; no token has its prefix.
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def build_tokenizer() -> Any:
    """Build a ``PreTrainedTokenizerFast`` that pads on the left."""
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate(vocabulary())}
    return PreTrainedTokenizerFast(
        tokenizer_object=_raw_tokenizer(ids),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=[IMAGE, "<user>", "<assistant>"],
        padding_side="left",
        chat_template=TEMPLATE,
    )


def build_processor(size: int, patches: int) -> Any:
    """Build a ``LlavaProcessor`` for square pictures of ``size`` pixels, scaled to [-1, 1].

    Each row and column has ``patches`` patches.
    """
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=size // patches,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE,
        # The vision tower's class token, which the strategy "default" drops again.
        num_additional_image_tokens=1,
    )
