"""Cache of model answers on disk, so that an interrupted profile continues where it stopped."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import explain_write_errors, write_atomic
from steelyard.harness.core.readers import decode, parse_json, read_bytes

Answer = str | float


class AnswerCache(dict[str, Answer]):
    """Append-only JSONL cache of model answers, keyed by a hash of the query.

    Without a path, answers are kept in memory only. The hash does not cover the model, so each
    model needs a path of its own.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.path = path
        if path is None or not path.is_file():
            return
        # A killed process may have left half a line at the end.
        content = read_bytes(path)
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            write_atomic(path, complete)
        try:
            lines = decode(complete, path).split("\n")
            self.update(parse_json(line, path) for line in lines if line)
        except (TypeError, ValueError, UserError) as error:
            raise UserError(f"{path} is not a file of answers: delete it.") from error

    @staticmethod
    def key(*parts: str | None) -> str:
        # JSON separates the parts and tells None from an empty text.
        text = json.dumps(parts)
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Store answers; they are on disk when this returns."""
        self.update(answers)
        if self.path is None:
            return
        lines = "".join(json.dumps([key, answer]) + "\n" for key, answer in answers.items())
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines)
