"""Checks before step 1, on what the processor really makes of the rows.

What TRL would let pass in silence: an answer cut off, a picture without its tokens, prompts padded
on the side that misaligns token types, an answer that generation could not have produced.
"""

from collections.abc import Callable, Sequence

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference.trl_data import Pair, Prompt, render

CHECKED = 512  # rows at most, evenly spaced


def check(
    backbone: Vlm,
    data: TrainData,
    pairs: Sequence[Pair] | None = None,
    prompt: Callable[[int], Prompt] | None = None,
) -> None:
    """Look at up to ``CHECKED`` rows: the training answers, or both answers of pairs.

    ``prompt`` gives rendered prompts by position, so that those kept for training are used.

    Raises:
        UserError: names the row, what is wrong with it and what to change.
    """
    if not len(data):
        raise UserError("There is no training example: raise --limit or choose another task.")
    check_padding(backbone)
    count = len(data) if pairs is None else len(pairs)
    for row in spaced(count, CHECKED):
        position = row if pairs is None else pairs[row].position
        turn, name = data.turn(position), data.examples[position].id
        try:
            asked = prompt(position) if prompt else render(backbone, turn.inputs)
        except UserError as error:  # it is too long
            raise UserError(f"Row {name}: {error}") from error
        except ValueError as error:  # an image token in its text, a broken picture
            first = str(error).strip().splitlines()[0]
            raise UserError(f"Row {name}: the checkpoint's processor said: {first}") from error
        check_image(backbone, asked, turn.inputs, name)
        answers = [turn.answer] if pairs is None else [pairs[row].chosen, pairs[row].rejected]
        for answer in answers:
            check_answer(backbone, answer, name)


def spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spaced, the first among them."""
    if count <= most:
        return list(range(count))
    return [index * count // most for index in range(most)]


def check_padding(backbone: Vlm) -> None:
    """The tokeniser pads on the left, or token types of shorter rows would be misplaced."""
    modality = backbone.processor.tokenizer.padding_side
    if modality != "left":
        raise UserError(
            f"The processor pads on the {modality}; training needs the left: set padding_side to "
            "'left' in the checkpoint's tokenizer_config.json."
        )


def check_image(backbone: Vlm, prompt: Prompt, inputs: Inputs, name: str) -> None:
    """A picture has its tokens in the prompt, and a row without one has none."""
    token = backbone.prompts.image_token
    count = int((prompt.tokens == token).sum())
    if inputs.image is not None and not (count and prompt.images):
        raise UserError(
            f"Row {name} has an image but its prompt has {count} image tokens: the checkpoint's "
            "chat template must render {'type': 'image'} content."
        )
    if inputs.image is None and count:
        raise UserError(
            f"Row {name} has no image but its prompt holds {count} image token(s): remove the "
            "image placeholder from its text."
        )


def check_answer(backbone: Vlm, answer: str, name: str) -> None:
    """An answer is whole, fits, and reads the same when its tokens are decoded."""
    tokens = backbone.prompts.answer_ids(answer)  # refuses one that is too long
    if len(tokens) == 1:
        raise UserError(f"Row {name} has an empty answer: drop it or give it an answer.")
    if backbone.eos_id in tokens[:-1]:
        raise UserError(
            f"Row {name}: its answer {answer!r} holds the end token in the middle, so generation "
            "would stop there: remove it from the answer."
        )
    spoken = backbone.decode(tokens)
    if _plain(spoken) != _plain(answer):
        raise UserError(
            f"Row {name}: its answer {answer!r} becomes {spoken!r} in the model's tokens: use "
            "words its tokeniser knows."
        )


def _plain(text: str) -> str:
    """Text without spaces and case, which tokenisers of small vocabularies do not keep."""
    return "".join(text.split()).casefold()
