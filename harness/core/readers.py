"""Read files of users: text, JSON, JSON lines, CSV, YAML. Every error names the file and the line.

Text is UTF-8. What JSON can write and UTF-8 cannot, halves of surrogate pairs and NUL, is read as
U+FFFD.
"""

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from steelyard.harness.core.errors import UserError

# A page's text may be longer than the 131,072 characters that the library allows by default.
csv.field_size_limit(2**31 - 1)
UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of a file in UTF-16 or UTF-32."""
NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that no file in UTF-8 has: NUL and halves of surrogate pairs."""
ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""Escapes of JSON that may stand for such a character."""
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|[{}]|-?Infinity|NaN')
"""Strings of JSON (keys with their colon), braces, and numbers that are not finite."""
JSON_SPACE = " \t\r\n"
"""All white space of JSON: a line of another kind, such as U+2028, is no blank one."""
FILE_CELL = re.compile(r"\w\.(?:jpe?g|png|gif|bmp|webp|tiff?|avif|jp2|txt)\s*$", re.IGNORECASE)
"""A file's name at the end of a cell."""
SEPARATORS = (";", "\t", "|")
"""Separators of tables that are no commas."""
SHOWN = 60
"""Most characters of a value that an error shows."""

OnFault = Callable[[str, str], object]
"""Called with a row's place (``file:line``) and why it cannot be used."""


class CsvRow(NamedTuple):
    """Row of a table, which cannot be used if it has a fault."""

    where: str
    cells: Sequence[str]
    fault: str = ""


def refuse(where: str, reason: str) -> NoReturn:
    """Raise the UserError ``where: reason.``"""
    raise UserError(f"{where}: {reason}.") from None


def short_repr(value: object) -> str:
    """Return a value's ``repr``, shortened for an error of one line."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacked if its name ends in ``.gz``; an error names the file."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None


def decode(content: bytes, path: Path | str) -> str:
    """Decode UTF-8 with or without a byte-order mark; line ends become newlines.

    Raises:
        UserError: it is in another encoding, or has a NUL byte.
    """
    if content.startswith(UTF16):
        refuse(f"{path}:1", "the file is in UTF-16: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _lines(content[: error.start].decode(errors="replace")).count("\n") + 1
        byte = f"byte 0x{content[error.start]:02x}"
        refuse(f"{path}:{line}", f"{byte} is not UTF-8 (Latin-1?): save the file as UTF-8")
    text = _lines(text)
    if (index := text.find("\0")) >= 0:
        line = text.count("\n", 0, index) + 1
        refuse(f"{path}:{line}", "a NUL byte, which no text has: save the file as UTF-8")
    return text


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path, *, lenient: bool = False) -> str:
    """Read a UTF-8 file; see ``read_bytes`` and ``decode``.

    ``lenient`` reads what is not UTF-8 as U+FFFD: pages of the web mix encodings.
    """
    content = read_bytes(path)
    if lenient:
        return NO_TEXT.sub("\ufffd", _lines(content.decode("utf-8-sig", errors="replace")))
    return decode(content, path)


# --- JSON ------------------------------------------------------------------------------------


class _NotJson(Exception):
    """Fault of a JSON text, with its line from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has the key {short_repr(key)} twice")
    return content


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _decode_json(text: str) -> Any:
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _NotJson(error.lineno, f"not valid JSON ({error.msg})") from None
    except RecursionError:
        raise _NotJson(1, "not valid JSON (nested too deeply)") from None
    except ValueError as error:  # of the hooks, or a number of thousands of digits
        raise _NotJson(text.count("\n", 0, _locate(text)) + 1, str(error).split(";")[0]) from None
    return without_surrogates(value) if ESCAPED.search(text) else value


def _locate(text: str) -> int:
    """Return where a JSON text first repeats a key of an object or has a number like NaN."""
    keys: list[set[str]] = []
    for token in TOKEN.finditer(text):
        if token[0] == "{":
            keys.append(set())
        elif token[0] == "}":
            keys.pop()
        elif token[1]:
            if (key := token[0].removesuffix(token[1])) in keys[-1]:
                return token.start()
            keys[-1].add(key)
        elif not token[0].startswith('"'):
            return token.start()
    return 0


def without_surrogates(value: Any) -> Any:
    """Return a value of JSON whose texts UTF-8 can write."""
    if isinstance(value, str):
        return NO_TEXT.sub("\ufffd", value)
    if isinstance(value, list):
        return [without_surrogates(part) for part in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(part) for key, part in value.items()}
    return value


def parse_json(text: str, path: Path | str) -> Any:
    """Parse a JSON text.

    Raises:
        UserError: a syntax error, a key twice in an object, or NaN or Infinity, by file and line.
    """
    try:
        return _decode_json(text)
    except _NotJson as fault:
        refuse(f"{path}:{fault.line}", str(fault))


def read_json(path: Path) -> Any:
    """Read a JSON file; see ``parse_json``."""
    return parse_json(read_text(path), path)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must be an object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, found {type(content).__name__}.")
    return content


def is_document(text: str, path: Path | str) -> bool:
    """Test whether a text is a list or one object over several lines, and not one a line."""
    line = text.lstrip().partition("\n")[0].rstrip()
    if Path(str(path).removesuffix(".gz")).suffix == ".jsonl":
        return line == "[" or line.startswith("[{")
    return line.startswith("[") or line.endswith(("{", "[", ",", ":"))


def json_rows(
    text: str, path: Path | str, on_fault: OnFault = refuse, key: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``("file:line", row)`` of objects, one a line, or ``("file: row n", row)`` of a list.

    With a ``key`` the list may also be in an object under it. A row that is no valid object is
    passed to ``on_fault``.

    Raises:
        UserError: a list or an object over several lines is not valid JSON.
    """
    for place, value in json_lines(text, path, on_fault):
        is_holder = key and isinstance(value, dict) and isinstance(value.get(key), list)
        for where, row in _numbered(value[key], path) if is_holder else [(place, value)]:
            if isinstance(row, dict):
                yield where, row
            else:
                on_fault(where, f"expected an object, found {type(row).__name__}")


def json_lines(text: str, path: Path | str, on_fault: OnFault) -> Iterator[tuple[str, Any]]:
    """Yield the values of a text with one a line, or of a list, and their places."""
    if is_document(text, path):
        content = parse_json(text, path)
        if isinstance(content, list):
            yield from _numbered(content, path)
        else:
            yield f"{path}:1", content
        return
    # Not splitlines(): that also breaks at separators such as U+2028, which JSON allows in strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip(JSON_SPACE):
            continue
        try:
            row = _decode_json(line)
        except _NotJson as fault:
            on_fault(f"{path}:{number}", str(fault))
        else:
            yield f"{path}:{number}", row


def _numbered(rows: Sequence[Any], path: Path | str) -> Iterator[tuple[str, Any]]:
    return ((f"{path}: row {number}", row) for number, row in enumerate(rows, start=1))


def read_rows(path: Path, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a JSON file with their places; see ``json_rows``."""
    return json_rows(read_text(path), path, key=key)


# --- CSV -------------------------------------------------------------------------------------


def csv_rows(text: str, path: Path | str) -> list[CsvRow]:
    """Parse rows of cells separated by commas; blank lines are left out.

    Quoted cells may span lines. A row has a fault if its quotation mark is left open, which would
    add the next rows to a cell, or if it has more or fewer cells than most rows.

    Raises:
        UserError: the cells are separated by something else.
    """
    lines = text.split("\n")
    rows: list[CsvRow] = []
    start = 0
    while start < len(lines):
        # From here on: a fault ends one line, not the reading.
        reader = csv.reader(f"{lines[index]}\n" for index in range(start, len(lines)))
        first = start
        for cells in reader:
            end = first + reader.line_num
            where = f"{path}:{start + 1}"
            if end > start + 1 and _is_open(lines[start:end]):
                rows.append(CsvRow(where, lines[start].split(","), "a quotation mark is left open"))
                start += 1
                break
            if any(cell.strip() for cell in cells):
                rows.append(CsvRow(where, cells))
            start = end
    widths = Counter(len(row.cells) for row in rows if not row.fault)
    width = max(widths, key=lambda size: widths[size], default=0)
    if width == 1 and (separator := next((s for s in SEPARATORS if s in rows[0].cells[0]), "")):
        refuse(rows[0].where, f"cells are separated by {separator!r}: separate them by commas")
    return [
        row if row.fault or len(row.cells) == width else row._replace(
            fault=f"{len(row.cells)} cells, and {width} in other rows"
        )
        for row in rows
    ]  # fmt: skip


def _is_open(lines: Sequence[str]) -> bool:
    """Test whether the lines of a row are several rows that an open quotation mark has merged."""
    try:
        next(csv.reader((f"{line}\n" for line in lines), strict=True))
    except csv.Error:
        return True
    # A cell that spans lines has words in them, and no names of files.
    singles = (next(csv.reader([line]), []) for line in lines[1:])
    return any(len(cells) > 1 and any(map(FILE_CELL.search, cells)) for cells in singles)


# --- YAML ------------------------------------------------------------------------------------


class TextLoader(yaml.CSafeLoader):
    """Loader that reads every scalar as text: its key and not its looks decide what it is.

    A mapping that has a key twice is refused.
    """

    # But not the key of merged mappings.
    yaml_implicit_resolvers = {"<": yaml.CSafeLoader.yaml_implicit_resolvers["<"]}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in keys:
                    problem = f"the key {short_repr(key.value)} twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        return str(without_surrogates(self.construct_scalar(node)))


TextLoader.add_constructor("tag:yaml.org,2002:str", TextLoader.construct_yaml_str)


def read_yaml(path: Path, loader: type[yaml.CSafeLoader] = TextLoader) -> Any:
    """Read a YAML file; a fault names file and line."""
    text = read_text(path)
    try:
        return yaml.load(text, loader)
    except yaml.MarkedYAMLError as error:
        mark, reason = error.problem_mark, error.problem or error.context
        refuse(f"{path}:{mark.line + 1 if mark else 1}", f"not valid YAML ({reason})")
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        refuse(str(path), f"not valid YAML ({' '.join(str(error).split())})")
