"""A guesser that never looks: it says yes to objects that are more often there than not."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

ASKED = re.compile(r"(?:Is|Are) there (?:an?|some) (.+) in the ima\w*\?")


def guesses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Answers to POPE's rows from what the other images' rows say of the object asked for.

    A level object, and one that no other image is asked about, gets a yes.
    """
    asked = [ASKED.fullmatch(row["text"]) for row in rows]
    objects = [
        match.group(1) if match else row["text"] for match, row in zip(asked, rows, strict=True)
    ]
    votes: defaultdict[str, int] = defaultdict(int)
    own: defaultdict[tuple[str, str], int] = defaultdict(int)
    for name, row in zip(objects, rows, strict=True):
        vote = 1 if row["label"] == "yes" else -1
        votes[name] += vote
        own[name, row["image"]] += vote
    return [
        "yes" if votes[name] - own[name, row["image"]] >= 0 else "no"
        for name, row in zip(objects, rows, strict=True)
    ]
