"""Change one file of a folder at random, as broken exports, editors and downloads do."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

NASTY = (
    "", " ", "\0", "\ufeff", "\ud83d", "\u2028", "é", "日本", "\u202egpj", "\x1b[2J", '"', "'", ",",
    "null", "NaN", "-1", "1e999", "0x10", "007", "true", "[]", "{}", "../../x", "C:\\x", "a=b",
    "<script>", "%s", "%(x)s", "{0}", "=1+1", "!!python/object:os.system", "x" * 5000,
)  # fmt: skip
"""Texts that some reader somewhere took for something else."""
ODD: tuple[Any, ...] = (None, True, 0, -1, 10**400, 0.5, [], {}, [[]], "x", *NASTY)
"""Values of JSON of another type than most keys have."""
JUNK = ("._{}", ".DS_Store", "Thumbs.db", "__MACOSX/._{}", "desktop.ini", "copy of {}", "~${}")


def mutate(folder: Path, rng: random.Random) -> Path:
    """Change a random file below ``folder`` once or a few times; return the file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # Tables before images: they are few, and most readers are theirs.
    tables = [path for path in files if path.suffix not in (".jpg", ".png")]
    path = rng.choice(tables if tables and rng.random() < 0.75 else files)
    if rng.random() < 0.1:
        rng.choice(TREE)(path, rng)
        return path
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        changes = [_bytes, _bytes]
        if path.suffix in (".json", ".jsonl"):
            changes += [_json] * 4
        if path.suffix not in (".jpg", ".png", ".zip", ".parquet"):
            changes += [_text] * 3
        rng.choice(changes)(path, rng)
    return path


def _bytes(path: Path, rng: random.Random) -> None:
    """Flip, cut, insert, repeat or remove bytes."""
    content = path.read_bytes()
    at = rng.randrange(len(content) + 1)
    end = min(len(content), at + rng.randrange(1, 64))
    new = rng.choice((
        content[:at],
        content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:],
        content[:at] + rng.randbytes(end - at) + content[end:],
        content[:at] + content[at:end] * 3 + content[end:],
        content[:at] + content[end:],
        b"\xff\xfe" + content,
        b"",
    ))  # fmt: skip
    path.write_bytes(new)


def _text(path: Path, rng: random.Random) -> None:
    """Change a word, a line, the line ends or the encoding."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    line = rng.randrange(len(lines))
    words = lines[line].split(" ")
    word = rng.randrange(len(words))
    kind = rng.randrange(7)
    if kind == 0:
        words[word] = rng.choice(NASTY)
        lines[line] = " ".join(words)
    elif kind == 1:
        words[word] += rng.choice(NASTY)
        lines[line] = " ".join(words)
    elif kind == 2:
        lines.insert(line, lines[rng.randrange(len(lines))])
    elif kind == 3:
        del lines[line]
    elif kind == 4:
        lines.insert(line, rng.choice(NASTY))
    text = ("\r\n" if kind == 5 else "\n").join(lines)
    encoding = rng.choice(("utf-16", "latin-1", "utf-8-sig")) if kind == 6 else "utf-8"
    path.write_bytes(text.encode(encoding, "replace" if kind == 6 else "surrogatepass"))


def _json(path: Path, rng: random.Random) -> None:
    """Remove, rename or replace a value somewhere in a document of JSON, or in one of its lines."""
    text = path.read_bytes().decode("utf-8", "replace")
    lines = text.split("\n") if path.suffix == ".jsonl" or "\n{" in text else [text]
    line = rng.randrange(len(lines))
    try:
        document = json.loads(lines[line])
    except ValueError:
        return
    lines[line] = json.dumps(_changed(document, rng))
    path.write_bytes("\n".join(lines).encode())


def _changed(value: Any, rng: random.Random) -> Any:
    """Return a document of JSON with one value changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        rest = {name: part for name, part in value.items() if name != key}
        kind = rng.random()
        if kind < 0.15:
            return rest
        if kind < 0.25:
            return {**rest, rng.choice(NASTY): value[key]}
        return {**value, key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        part = _changed(value[index], rng)
        return [*value[:index], *([part] * rng.randrange(3)), *value[index + 1 :]]
    return rng.choice(ODD)


def _remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def _rename(path: Path, rng: random.Random) -> None:
    path.rename(path.with_name(rng.choice((path.name.upper(), f"{path.name}.bak", "x y%20#é.txt"))))


def _replace_by_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _replace_by_link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(rng.choice((path.name, "nowhere", "/etc/passwd", ".")))


def _add_junk(path: Path, rng: random.Random) -> None:
    junk = path.parent / rng.choice(JUNK).format(path.name)
    junk.parent.mkdir(exist_ok=True)
    junk.write_bytes(rng.randbytes(99))


def _move_down(path: Path, rng: random.Random) -> None:
    target = path.parent / "inner" / path.name
    target.parent.mkdir(exist_ok=True)
    shutil.move(path, target)


TREE: tuple[Callable[[Path, random.Random], None], ...] = (
    _remove, _rename, _replace_by_folder, _replace_by_link, _add_junk, _move_down
)  # fmt: skip
"""Changes of the tree of files and not of a file's content."""
