"""Tokens that a model read and wrote in a phase of its training, and what they cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Generation:
    """Passes of a decoder that read prompts and continue them token by token, without padding.

    A prompt is read once, however many answers are sampled to it, and an answer's last token is
    not read at all. The passes over images are not in here: they are charged as executed.
    """

    phase: str
    """Phase of the ledger that has their FLOPs."""
    token_flops: float
    """Price of reading a token, without attention and without the head."""
    attention_flops: float
    """Price of attending to one token."""
    head_flops: float
    """Price of predicting a token."""
    prompts: int = 0
    """Prompts read: an image and a question, or a question alone."""
    prompt_tokens: int = 0
    """Tokens of these prompts, those of the images included."""
    answer_tokens: int = 0
    """Tokens of answers that were read to predict the next one."""
    attended: int = 0
    """Tokens that each of these attends to, in sum. To all of its prompt, as torch counts
    attention, or to the prompt and the answer so far, itself included."""

    @property
    def flops(self) -> float:
        tokens = self.prompt_tokens + self.answer_tokens
        return (
            self.token_flops * tokens
            + self.attention_flops * self.attended
            + self.head_flops * (self.prompts + self.answer_tokens)
        )

    def after(self, attended: Sequence[int], prompts: bool) -> "Generation":
        """Return the sum with one more pass: ``attended`` tokens of each row's last token.

        The rows are complete prompts, or one token each.
        """
        if prompts:
            return replace(
                self,
                prompts=self.prompts + len(attended),
                prompt_tokens=self.prompt_tokens + sum(attended),
                attended=self.attended + sum(length * length for length in attended),
            )
        return replace(
            self,
            answer_tokens=self.answer_tokens + len(attended),
            attended=self.attended + sum(attended),
        )


def total(parts: Iterable[Generation]) -> tuple[Generation, ...]:
    """Return the sums of the parts with equal phase and prices, sorted by phase."""
    sums: dict[Generation, Generation] = {}
    for part in parts:
        key = replace(part, prompts=0, prompt_tokens=0, answer_tokens=0, attended=0)
        last = sums.get(key, key)
        sums[key] = replace(
            last,
            prompts=last.prompts + part.prompts,
            prompt_tokens=last.prompt_tokens + part.prompt_tokens,
            answer_tokens=last.answer_tokens + part.answer_tokens,
            attended=last.attended + part.attended,
        )
    return tuple(sorted(sums.values(), key=lambda part: part.phase))
