"""Answers that were given already, on disk as they come: what is interrupted goes on from there."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import explain_write_errors

Answer = str | float


class Memory:
    """Answers by a hash of the question, one JSON line each; kept in memory alone without a path.

    The path has to tell models apart, for the hash does not.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._answers: dict[str, Answer] = {}
        if path is not None and path.is_file():
            self._read(path)

    @staticmethod
    def key(*parts: str | None) -> str:
        """Hash of what is asked."""
        text = json.dumps(parts)
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Answer:
        return self._answers[key]

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, found: Mapping[str, Answer]) -> None:
        """Remember answers, on disk before this returns."""
        self._answers.update(found)
        if self.path is None:
            return
        lines = "".join(json.dumps([key, answer]) + "\n" for key, answer in found.items())
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines)

    def _read(self, path: Path) -> None:
        """Whole lines only: a process that was killed may have left half of one at the end."""
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        try:
            self._answers = dict(map(json.loads, whole.splitlines()))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is not a file of answers: delete it.") from error
