"""Checks of rendered rows before the first step, for mistakes that TRL does not report."""

from collections.abc import Sequence

from steelyard.harness.core.errors import ItemError, UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference.trl_data import AnswerPair, Prompt, PromptAt

CHECKED = 512  # maximum number of rows, evenly spaced; each costs a rendering


def check(
    backbone: Vlm, data: TrainData, prompt_at: PromptAt, pairs: Sequence[AnswerPair] | None = None
) -> None:
    """Check up to ``CHECKED`` rows with the training answer, or with both answers of pairs."""
    if not len(data):
        raise UserError("There is no training example: raise --limit or choose another task.")
    side = backbone.processor.tokenizer.padding_side
    if side != "left":  # token types of shorter rows would be shifted
        raise UserError(
            f"The processor pads on the {side}; training needs the left: set padding_side to "
            "'left' in the checkpoint's tokenizer_config.json."
        )
    count = len(data) if pairs is None else len(pairs)
    for row in spaced(count, CHECKED):
        position = row if pairs is None else pairs[row].position
        turn, name = data.turn(position), data.examples[position].id
        try:
            prompt = prompt_at(position)
        except ItemError as error:
            raise UserError(f"Row {name}: {error}") from error
        check_image(backbone, prompt, turn.inputs, name)
        answers = [turn.answer] if pairs is None else [pairs[row].chosen, pairs[row].rejected]
        for answer in answers:
            check_answer(backbone, answer, name)


def spaced(count: int, most: int) -> list[int]:
    """Return at most ``most`` numbers below ``count``, evenly spaced, beginning with 0."""
    most = min(count, most)
    return [index * count // most for index in range(most)]


def check_image(backbone: Vlm, prompt: Prompt, inputs: Inputs, name: str) -> None:
    """Refuse a picture without image tokens."""
    token = backbone.prompts.image_token
    count = int((prompt.tokens == token).sum())
    if inputs.image is not None and not (count and prompt.images):
        raise UserError(
            f"Row {name} has an image but its prompt has {count} image tokens: the checkpoint's "
            "chat template must render {'type': 'image'} content."
        )


def check_answer(backbone: Vlm, answer: str, name: str) -> None:
    """Refuse an answer that is empty, too long, ends early, or decodes to another text."""
    tokens = backbone.prompts.answer_ids(answer)  # raises if it is too long
    if len(tokens) == 1:  # the end token
        raise UserError(f"Row {name} has an empty answer: drop it or give it an answer.")
    if set(backbone.eos_ids) & set(tokens[:-1]):
        raise UserError(
            f"Row {name}: its answer {answer!r} has an end token in the middle, so generation "
            "would stop there: remove it from the answer."
        )
    decoded = backbone.decode(tokens)
    if _plain(decoded) != _plain(backbone.prompts.as_text(answer)):
        raise UserError(
            f"Row {name}: its answer {answer!r} becomes {decoded!r} in the model's tokens: use "
            "words that its tokeniser knows."
        )


def _plain(text: str) -> str:
    """Remove spaces and case, which tokenisers of small vocabularies do not preserve."""
    return "".join(text.split()).casefold()
