"""Read a training row in any common form as question, answer and, for a pair, rejected answer.

A row has ``question`` and ``answer`` (steelyard's own form), ``conversations`` of LLaVA and
ShareGPT, ``messages``, or TRL's ``prompt`` with ``chosen`` and ``rejected``, or ``completion``;
prompts and answers are strings, messages or lists of messages. See ``docs/data.md``.

Of a conversation the first turn is read: a later one may depend on the answers before it, and a
training turn has no history. System prompts are left out, for each family has its own.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.readers import short_repr
from steelyard.tasks._shared import questions
from steelyard.tasks._shared.questions import SourceRow

KEYS = (
    "id", "question", "answer", "choices", "kind", "rejected", "conversations", "messages",
    "prompt", "chosen", "completion", "label",
)  # fmt: skip
"""Keys of a row that are read, beside its image."""
PLAIN = "question"
"""Kind of a question that is asked with the instruction for a short answer."""
CONVERSATION = "conversation"
"""Kind of a prompt that is trained on as it is."""
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {
    "human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT, "model": ASSISTANT,
    "system": SYSTEM,
}  # fmt: skip
IMAGE = "<image>"


class Message(NamedTuple):
    role: str
    text: str


class PairRow(NamedTuple):
    """Row in steelyard's own form, without its image."""

    question: str
    answer: str
    rejected: str
    kind: str
    choices: tuple[str, ...]
    later_turns: int
    """Answers of the conversation after the first, which are left out."""


def parse(where: str, row: SourceRow, images: int) -> PairRow:
    """Read a row that has this number of images.

    Raises:
        UserError: it has none of the forms, or more image places than images.
    """
    if row.get("question") is not None:
        question, answer = (questions.field(where, row, k) for k in ("question", "answer"))
        later = 0
        rejected = questions.field(where, row, "rejected") if row.get("rejected") else ""
        kind = questions.field(where, row, "kind") if row.get("kind") else PLAIN
    else:
        question, answer, rejected, later = _parse_messages(where, row)
        # The instruction for a short answer is no text that a corruption may change.
        short = question.endswith(questions.SHORT)
        question = question.removesuffix(questions.SHORT)
        kind = PLAIN if short else CONVERSATION
    if (places := question.count(IMAGE)) > images:
        raise UserError(f"{where}: {places} {IMAGE} in the text, and {images} image(s).")
    # The image stands before the text, as in every task.
    question = re.sub(r"\s*<image>\s*", lambda m: "\n" if "\n" in m[0] else " ", question).strip()
    if rejected == answer:
        raise UserError(f"{where}: 'rejected' is the right answer.")
    if not question:
        raise UserError(f"{where}: the question is empty.")
    return PairRow(
        question, answer, rejected, kind, questions.strings(where, row, "choices"), later
    )


def _parse_messages(where: str, row: SourceRow) -> tuple[str, str, str, int]:
    """Return question, answer, rejected answer and the number of later answers."""
    # Tables have every column in every row.
    parts = {key: value for key in KEYS if (value := row.get(key)) is not None}
    start: Any = next((parts[k] for k in ("conversations", "messages", "prompt") if k in parts), [])
    if parts.get("label") is False:
        raise UserError(f"{where}: 'label' is false; an answer that is only wrong is no example.")
    prompt = _messages(where, start, USER)
    end = parts.get("chosen", parts.get("completion", []))
    turns = [*prompt, *_messages(where, end, ASSISTANT)]
    if [turn.role for turn in turns[:2]] != [USER, ASSISTANT] or not all(t.text for t in turns[:2]):
        keys = ", ".join(key for key in row if key not in ("image", "images"))
        raise UserError(
            f"{where}: no question and answer; it has {keys or 'nothing'}. Known forms: question "
            "and answer; conversations; messages; prompt with chosen or completion."
        )
    question, answer, *later = turns
    rejected = ""
    if "rejected" in parts:
        wrong = _messages(where, parts["rejected"], ASSISTANT)
        # TRL's rejected conversation may repeat the question.
        wrong = wrong if wrong[:1] == [question] else [question, *wrong]
        if later or len(wrong) != 2 or wrong[0] != question or wrong[1].role != ASSISTANT:
            raise UserError(f"{where}: a pair needs one question, one right and one wrong answer.")
        rejected = wrong[1].text
    return question.text, answer.text, rejected, sum(t.role == ASSISTANT for t in later)


def _messages(where: str, value: Any, role: str) -> list[Message]:
    """Read a string of ``role``, a message or a list of messages, without system prompts."""
    if isinstance(value, str):
        return [Message(role, value.strip())]
    messages = []
    for part in value if isinstance(value, list) else [value]:
        if not isinstance(part, Mapping):
            raise UserError(f"{where}: expected a message, found {short_repr(part)}.")
        name = part.get("role", part.get("from"))
        if not isinstance(name, str) or name not in ROLES:
            raise UserError(f"{where}: role {short_repr(name)}, allowed are {', '.join(ROLES)}.")
        messages.append(Message(ROLES[name], _text(where, part.get("content", part.get("value")))))
    return [message for message in messages if message.role != SYSTEM]


def _text(where: str, content: Any) -> str:
    """Return the text of a message; an image among its parts becomes ``<image>``."""
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(p, Mapping) and (p.get("type") != "text" or "text" in p) for p in parts):
        raise UserError(
            f"{where}: a message's content must be text or parts, found {short_repr(content)}."
        )
    texts = [IMAGE if part.get("type") != "text" else str(part["text"]) for part in parts]
    return "\n".join(texts).strip()
