# SPDX-License-Identifier: Apache-2.0
"""Rows of a file: JSON lines, one JSON array of objects, CSV, or Parquet; on this machine or behind a URL.

The format is detected from the content, CSV by the file's name. fsspec unpacks `.gz`, `.bz2`, `.xz` and `.zip` and
opens gs://, s3:// and memory:// (gcsfs and s3fs are optional packages, requested when a URL needs them). A JSON array
and a Parquet row group are read whole, so their size is limited; all else is read row by row. Anything wrong with a
file is a one-line error that names the file and the row.
Deliberately not here: which columns there are and what they mean (problems.py, demonstrations.py).
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any, TypeVar

from t1jax.config import ConfigError
from t1jax.host import place
from t1jax.host.bucket import Unreachable

Row = dict[str, Any]
T = TypeVar("T")

MAX_LINE = 64 * 2**20  # bytes of a row in JSON lines
MAX_ARRAY = 512 * 2**20  # bytes of a JSON array, unpacked; as Python objects it takes several times that
MAX_GROUP = 2 * 2**30  # bytes of a row group of Parquet, unpacked
PARQUET_MAGIC = b"PAR1"
PARQUET_ROWS = 256  # rows that are made Python objects at once
EXAMPLES = 3  # rows that a note names
BOM = b"\xef\xbb\xbf"
CONVERSATIONS = "conversations"  # the column of ShareGPT, and that of a row that is nothing but a conversation (ORZ)
FORMATS = "JSON lines, a JSON array of objects, CSV, or Parquet"


def read_rows(path: str) -> Iterator[tuple[int, Row]]:
    """(number, row) of each row of the file: the line in JSON lines, else the place in the file, from 1 on.

    Rows of a data set in several files are counted on from one to the next.

    Args:
      path: a local path, a URL that fsspec knows, or a data set of the Hugging Face hub, see place.data.

    Raises:
      ConfigError: the file is missing, empty or cannot be read; a row is no JSON object; at the row, not before.
      Unreachable: the hub's connection was cut, or a bucket does not serve it now.
    """
    path = str(path)
    rows = number = 0
    for file in place.data_files(path):
        before = number
        with _readable(file), place.open_data(file, compression="infer") as raw:
            for within, row in _rows(file, io.BufferedReader(raw)):  # those of gs:// and s3:// cannot bound a line
                if _is_conversation(row):
                    row = {CONVERSATIONS: row}
                if not isinstance(row, dict):
                    raise ConfigError(f"{file}: row {within} is {_kind(row)}; expected an object with named columns")
                rows, number = rows + 1, before + within
                yield number, row
    if not rows:
        raise ConfigError(f"{path}: has no rows; expected {FORMATS}")


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Whatever keeps a file from being read, as one line: each filesystem package has errors of its own."""
    try:
        yield
    except (ConfigError, Unreachable):
        raise
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: not found; expected a file of rows: {FORMATS}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; expected a file of rows: {FORMATS}") from error
    except ImportError as error:
        raise ConfigError(f"{path}: {place.needed(path, error)}") from error
    except Exception as error:
        raise ConfigError(f"{path}: cannot be read: {type(error).__name__}: {one_line(error)}") from error


def _rows(path: str, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """What each row holds, an object or not."""
    suffixes = {suffix.lower() for suffix in PurePosixPath(path).suffixes}
    first = _first_line(path, file)
    file.seek(0)
    if first.startswith(PARQUET_MAGIC) or ".parquet" in suffixes:
        return _parquet(path, file)
    if ".csv" in suffixes:
        return _csv(path, file)
    if first.lstrip().startswith(b"[") and not suffixes & {".jsonl", ".ndjson"}:
        return enumerate(_array(path, file), start=1)
    return _lines(path, file)


def _is_conversation(row: Any) -> bool:
    """Whether the row is a list of turns, as ORZ writes."""
    return isinstance(row, list) and bool(row) and all(isinstance(turn, dict) and "from" in turn for turn in row)


def _first_line(path: str, file: IO[bytes]) -> bytes:
    """The first line that is not blank, without the byte order mark."""
    for line in iter(lambda: file.readline(MAX_LINE), b""):
        if line := line.removeprefix(BOM).strip():
            return line
    raise ConfigError(f"{path}: is empty; expected {FORMATS}")


def _lines(path: str, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise ConfigError(f"{path}: line {number} is longer than {MAX_LINE} bytes; expected a JSON object a line")
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield number, _parse(path, line, number)


def _array(path: str, file: IO[bytes]) -> list[Any]:
    content = file.read(MAX_ARRAY + 1)
    if len(content) > MAX_ARRAY:
        raise ConfigError(f"{path}: a JSON array of more than {MAX_ARRAY} bytes; expected JSON lines at that size")
    return _parse(path, content.removeprefix(BOM), 1)


def _parquet(path: str, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet  # slow to import, and only some files need it

    opened = pyarrow.parquet.ParquetFile(file)
    for group in range(opened.metadata.num_row_groups):
        if (size := opened.metadata.row_group(group).total_byte_size) > MAX_GROUP:
            raise ConfigError(f"{path}: row group {group} has {size} bytes unpacked; expected at most {MAX_GROUP}")
    batches = opened.iter_batches(batch_size=PARQUET_ROWS)
    return enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _csv(path: str, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """Rows below a header of names; a quoted value may hold commas and line ends (RFC 4180). Every value is text."""
    number = 0
    try:
        rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        header = next(rows)
        if twice := [name for name, count in Counter(header).items() if count > 1]:
            raise ConfigError(f"{path}: has {shown_as(twice[0])} twice in its first row; expected names of columns")
        for number, row in enumerate((row for row in rows if row), start=1):
            if len(row) != len(header):
                raise ConfigError(f"{path}: row {number} has {len(row)} values; expected {len(header)}, as the header")
            yield number, dict(zip(header, row, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: row {number + 1}: {one_line(error)}; expected CSV in UTF-8") from error


def _parse(path: str, content: bytes, first: int) -> Any:
    """The JSON value of `content`, which begins on line `first` of the file."""

    def bad(offset: int, why: str) -> ConfigError:
        return ConfigError(f"{path}: line {first + content[:offset].count(10)}: {why}; expected {FORMATS}")

    if (nul := content.find(0)) >= 0:
        raise bad(nul, "holds a NUL byte")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad(error.start, f"invalid UTF-8 (byte 0x{content[error.start]:02x})") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {first + error.lineno - 1}, character {error.colno}"
        raise ConfigError(f"{path}: {place}: invalid JSON ({error.msg}); expected {FORMATS}") from error
    except RecursionError as error:
        raise bad(0, "JSON nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise bad(0, f"invalid JSON ({one_line(error)})") from error


def named(row: Any, name: str) -> list[str]:
    """The columns that `name` may mean: the one with this name, else all whose names differ from it in case only.

    `name` may be a path: "reward_model.ground_truth" looks into an object, "conversations.-1.value" into a list too.
    """
    head, dot, rest = name.partition(".")
    if isinstance(row, list) and head.removeprefix("-").isdecimal() and -len(row) <= int(head) < len(row):
        return [head + dot + below for below in (named(row[int(head)], rest) if dot else [""])]
    if not isinstance(row, dict):
        return []
    for part, below in ((name, ""), (head, rest)) if dot else ((name, ""),):
        keys = [part] if part in row else [key for key in row if key.casefold() == part.casefold()]
        found = [f"{key}.{path}" for key in keys for path in named(row[key], below)] if below else keys
        if found:
            return found
    return []


def value_of(row: Row, column: str) -> Any:
    """What stands in a column of `named`; of a list of one entry that entry. None if there is no such column."""
    value: Any = row if named(row, column) else None
    while column and value is not None:
        head, _, rest = column.partition(".")
        if isinstance(value, dict) and column in value:
            head, rest = column, ""
        value, column = (value[int(head)] if isinstance(value, list) else value.get(head)), rest
    return value[0] if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], dict) else value


def first_filled(row: Row, common: Iterable[str]) -> str | None:
    """The first of the columns `common` that is not null, "" or []; else the first that is there; None without any."""
    first = None
    for column in (found[0] for name in common if (found := named(row, name))):
        value = value_of(row, column)
        if not (value is None or value == [] or isinstance(value, str) and not value.strip()):
            return column
        first = first or column
    return first


def text_of(path: str, number: int, row: Row, column: str) -> str:
    """The text in a column of a row, or in a list of one there, without spaces around it; "" for null and [].

    Raises:
      ConfigError: there is no such column, or it holds no text that a tokenizer can read.
    """
    if column not in named(row, column):
        raise ConfigError(f"{path}: row {number} has no column {column!r}; it has {names(row)}")
    value = value_of(row, column)
    if value is None or value == []:
        return ""
    where = f"{path}: row {number}: column {column!r}"
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {_kind(value)}; expected text")
    if "\0" in value:
        raise ConfigError(f"{where} holds a NUL character; expected text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(f"{where} holds half of a surrogate pair; expected text")
    return value.strip()


def names(row: Row) -> str:
    """The columns of a row, for a message."""
    shown = ", ".join(shown_as(name) for name in itertools.islice(row, 12))
    return (shown + (", ..." if len(row) > 12 else "")) or "none"


def shown_as(text: str) -> str:
    """A text from a file, short, quoted, and inert on a terminal."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")


class Dropped:
    """Rows of a file that are left out, by reason: counted, with the first ones as examples."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._examples: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, row: int, what: str | None = None) -> None:
        """Leaves out `row`; `what` of it is shown, if anything."""
        self._counts[reason] += 1
        if self._counts[reason] <= EXAMPLES:
            shown = f"{row}" if what is None else f"{row}: {shown_as(what)}"
            self._examples.setdefault(reason, []).append(shown)

    def rest(self, kept: list[T], others: str = "dropped") -> tuple[list[T], list[str]]:
        """(`kept`, a line for each reason why others are not in it).

        Raises:
          ConfigError: nothing is kept.
        """
        lines = []
        for reason, count in self._counts.items():
            examples = ", ".join(self._examples[reason]) + (", ..." if count > EXAMPLES else "")
            rows = "row" if count == 1 else "rows"
            lines.append(f"{count} {rows} {others}: {reason} ({rows} {examples})")
        if not kept:
            raise ConfigError(f"{self.path}: nothing is left: {'; '.join(lines)}")
        return kept, [f"{self.path}: {line}" for line in lines]


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    words = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else words.get(type(value), f"a {type(value).__name__}")


def one_line(error: object) -> str:
    """The first line of a message, short and printable."""
    text = str(error).strip().partition("\n")[0]
    return "".join(character if character.isprintable() else "?" for character in text)[:200]
