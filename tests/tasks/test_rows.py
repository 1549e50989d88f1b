# SPDX-License-Identifier: Apache-2.0
"""Rows come out of every format and place as they went in; what is wrong with a file is one line that says where."""

from __future__ import annotations

import gzip
import json
import sys

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from t1jax.config import ConfigError
from t1jax.host import bucket
from t1jax.tasks.files import rows
from t1jax.tasks.files.rows import Dropped, read_rows, text_of

ROWS = [{"problem": "one\n1", "answer": 1}, {"problem": "zwölf 十二", "answer": None}, {"problem": "", "answer": 2.5}]
LINES = "\n".join(json.dumps(row) for row in ROWS)


def zipped(content: bytes) -> bytes:
    """Without the time: it would be part of a test's name, and differ between processes."""
    return gzip.compress(content, mtime=0)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(path):
    return list(read_rows(path))


def refused(path):
    with pytest.raises(ConfigError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.isprintable() and len(message) < 400
    return message.removeprefix(f"{path}: ")


# formats and places


@pytest.mark.parametrize(
    "name, content",
    [
        ("rows.jsonl", LINES),
        ("rows.jsonl", LINES + "\n"),
        ("rows.jsonl", LINES.replace("\n", "\r\n")),
        ("rows.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("rows.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        ("rows.json", LINES),  # the content tells
        ("rows", LINES),
        ("rows.json", json.dumps(ROWS)),
        ("rows.json", "\n \n" + json.dumps(ROWS, indent=2)),
        ("rows.txt", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("rows.jsonl.gz", zipped(LINES.encode())),
        ("rows.json.gz", zipped(json.dumps(ROWS).encode())),
    ],
)  # fmt: skip
def test_json_in_all_its_forms(tmp_path, name, content):
    assert read(write(tmp_path / name, content)) == list(enumerate(ROWS, start=1))


def test_a_row_is_numbered_by_its_line(tmp_path):
    path = write(tmp_path / "rows.jsonl", LINES.replace("\n", "\n\n \n"))
    assert read(path) == [(1, ROWS[0]), (4, ROWS[1]), (7, ROWS[2])]


@pytest.mark.parametrize("name", ["rows.parquet", "rows"])
def test_parquet_comes_back_with_lists_of_messages(tmp_path, name):
    many = [row | {"messages": [{"role": "user", "content": str(i)}]} for i in range(300) for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(many), tmp_path / name, row_group_size=170)
    assert read(str(tmp_path / name)) == list(enumerate(many, start=1))


@pytest.mark.parametrize("name", ["rows.csv", "rows.CSV", "rows.csv.gz"])
def test_csv_as_spreadsheets_write_it(tmp_path, name):
    """Values with commas, quotes and line ends; a byte order mark; \\r\\n; blank lines. Numbers stay text."""
    content = b'\xef\xbb\xbfproblem,Correct Answer,n\r\n"a, ""b""\nc",zw\xc3\xb6lf,1\r\n\r\n,,2.50\r\n'
    found = read(write(tmp_path / name, zipped(content) if name.endswith("gz") else content))
    assert found == [
        (1, {"problem": 'a, "b"\nc', "Correct Answer": "zw\u00f6lf", "n": "1"}),
        (2, {"problem": "", "Correct Answer": "", "n": "2.50"}),
    ]


def test_a_url_is_read_like_a_path():
    for name, content in (("rows.jsonl", LINES.encode()), ("rows.jsonl.gz", zipped(LINES.encode()))):
        with fsspec.open(f"memory://test_rows/{name}", "wb") as file:
            file.write(content)
        assert read(f"memory://test_rows/{name}") == list(enumerate(ROWS, start=1))
    assert refused("memory://test_rows/missing.jsonl").startswith("not found")


class Bucket(AbstractFileSystem):
    """Files as gs:// and s3:// give them: read in blocks, and `readline` takes no limit."""

    protocol = "testbucket"
    content = b""

    def _open(self, path, mode="rb", **options):
        return self.File(self, path, mode, block_size=16, size=len(self.content), cache_type="readahead")

    class File(AbstractBufferedFile):
        def _fetch_range(self, start, end):
            return self.fs.content[start:end]


def test_files_of_a_bucket_are_read_as_well(tmp_path):
    fsspec.register_implementation("testbucket", Bucket, clobber=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    for Bucket.content in (LINES.encode(), json.dumps(ROWS).encode(), (tmp_path / "rows.parquet").read_bytes()):
        assert read("testbucket://bucket/rows") == list(enumerate(ROWS, start=1))


def test_rows_come_one_by_one(tmp_path):
    """A bad row is met when it is reached, not before: nothing reads the whole of a large file first."""
    found = read_rows(write(tmp_path / "rows.jsonl", LINES + "\nbroken"))
    assert [next(found)[0] for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ConfigError, match="line 4"):
        next(found)


# what is wrong with a file


DEEP = 100_000


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "is empty; expected JSON lines, a JSON array of objects, CSV, or Parquet"),
        (" \n\n", "is empty"),
        ("[]", "has no rows"),
        (LINES + "\n{'problem': 1}", "line 4, character 2: invalid JSON"),
        (LINES + '\n{"problem": ', "line 4, character 1"),
        (LINES + "\n" + json.dumps({"a": 1}) * 2, "line 4, character 9: invalid JSON (Extra data)"),
        ('{\n"problem": 1\n}', "line 2, character 1: invalid JSON"),
        ("problem,answer\n1,2", "line 1, character 1: invalid JSON"),
        (LINES + "\n[1]", "row 4 is a list; expected an object"),
        (LINES + "\nnull", "row 4 is null"),
        (LINES + "\n7", "row 4 is a number"),
        (LINES + "\ntrue", "row 4 is true or false"),
        ('[{"a": 1},\n "two"]', "row 2 is text"),
        ('[{"a": 1},\n {"a": }]', "line 2, character 8: invalid JSON"),
        ('[{"a": 1}', "line 1, character 10: invalid JSON"),
        (LINES.encode() + b'\n{"a": "\xff\xfe"}', "line 4: invalid UTF-8 (byte 0xff)"),
        (b'[{"a": 1},\n{"a": "\xc3"}]', "line 2: invalid UTF-8 (byte 0xc3)"),
        (LINES.encode("utf-16"), "line 1: holds a NUL byte"),
        (LINES + "\n\0\0\0", "line 4: holds a NUL byte"),
        (LINES + '\n{"a": "\0"}', "line 4: holds a NUL byte"),
        (LINES + '\n{"a": "x\ty"}', "line 4, character 9: invalid JSON (Invalid control character"),
        (LINES + '\n{"a": ' + "[" * DEEP + "]" * DEEP + "}", "line 4: JSON nested too deeply"),
        ("[" * DEEP, "line 1: JSON nested too deeply"),
        (LINES + '\n{"a": ' + "1" * 5000 + "}", "line 4: invalid JSON (Exceeds the limit"),
        (b"PAR1" + b"x" * 50, "cannot be read: ArrowInvalid: "),
        (b"\x1f\x8b\x08 gzip without its name", "line 1: invalid UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_file_says_where(tmp_path, content, message):
    found = refused(write(tmp_path / "rows", content))
    assert found.startswith(message), found


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("rows.jsonl", "[1, 2]\n", "row 1 is a list"),
        ("rows.csv", "a,b\n1,2\n3\n", "row 2 has 1 values; expected 2, as the header"),
        ("rows.csv", "a,b,a\n1,2,3\n", "has 'a' twice in its first row; expected names of columns"),
        ("rows.csv", 'a,b\n1,2\n3,"4', "row 2: unexpected end of data; expected CSV in UTF-8"),
        ("rows.csv", 'a,b\n"1"x,2\n', "row 1: ',' expected after '\"'; expected CSV in UTF-8"),
        ("rows.csv", b"a,b\n1,2\n3,\xff\n", "row 1: 'utf-8' codec can't decode byte 0xff in position 10"),
        ("rows.csv", "a,b\n", "has no rows"),
        ("rows.csv.gz", LINES, "cannot be read: BadGzipFile"),
        ("rows.parquet", LINES, "cannot be read: ArrowInvalid"),
        ("rows.jsonl.gz", LINES, "cannot be read: BadGzipFile"),
        ("rows.jsonl.gz", zipped(LINES.encode())[:-9], "cannot be read: EOFError"),
    ],
)
def test_the_name_counts_where_it_says_more(tmp_path, name, content, message):
    assert refused(write(tmp_path / name, content)).startswith(message)


def test_a_cut_parquet_file_is_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    assert refused(write(tmp_path / "cut.parquet", content[:-9])).startswith("cannot be read: Arrow")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS)[:0], tmp_path / "none.parquet")
    assert refused(str(tmp_path / "none.parquet")).startswith("has no rows")


def test_no_file_a_folder_and_unknown_places(tmp_path):
    assert refused(str(tmp_path / "missing")).startswith("not found; expected a file of rows")
    assert refused(str(tmp_path)).startswith("is a folder")
    assert refused("no_such_thing://a/b").startswith("cannot be read: ValueError: Protocol not known")


@pytest.mark.parametrize("protocol, package", [("gs", "gcsfs"), ("s3", "s3fs")])
def test_a_missing_package_is_named(monkeypatch, protocol, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    bucket.storage.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)  # importing it raises, installed or not
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    assert refused(f"{protocol}://bucket/rows.jsonl").endswith(f"run: pip install {package}")


def test_what_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_LINE", 40)
    monkeypatch.setattr(rows, "MAX_ARRAY", 60)
    long = json.dumps({"a": "x" * 50})
    assert refused(write(tmp_path / "rows.jsonl", f'{{"a": 1}}\n{long}')).startswith("line 2 is longer than 40 bytes")
    assert refused(write(tmp_path / "rows.json", f"[{long}]")).startswith("a JSON array of more than 60 bytes")
    assert len(read(write(tmp_path / "fits.json", f'[{long[:-20]}"}}]'))) == 1


def test_an_error_of_the_reader_of_rows_is_not_taken_for_one_of_the_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        for _ in read_rows(write(tmp_path / "rows.jsonl", LINES)):
            raise ZeroDivisionError


# columns


def test_text_of_a_column():
    assert text_of("f", 3, {"a": "  é x\n"}, "a") == "é x"
    assert text_of("f", 3, {"a": None}, "a") == ""


@pytest.mark.parametrize(
    "row, message",
    [
        ({"b": 1, "c": 2}, "f: row 3 has no column 'a'; it has 'b', 'c'"),
        ({}, "f: row 3 has no column 'a'; it has none"),
        ({f"b{i}": 1 for i in range(99)}, "f: row 3 has no column 'a'; it has 'b0', 'b1',"),
        ({"\x1b[2J" + "b" * 99: 1}, r"f: row 3 has no column 'a'; it has '\x1b[2Jbbb"),
        ({"a": 1}, "f: row 3: column 'a' is a number; expected text"),
        ({"a": ["x", "y"]}, "f: row 3: column 'a' is a list; expected text"),
        ({"a": {"x": 1}}, "f: row 3: column 'a' is a dict; expected text"),
        ({"a": b"x"}, "f: row 3: column 'a' is a bytes; expected text"),
        ({"a": "x\0y"}, "f: row 3: column 'a' holds a NUL character"),
        ({"a": "x\ud83dy"}, "f: row 3: column 'a' holds half of a surrogate pair"),
    ],
)
def test_a_column_without_text_says_so(row, message):
    with pytest.raises(ConfigError) as error:
        text_of("f", 3, row, "a")
    assert str(error.value).startswith(message) and len(str(error.value)) < 300 and str(error.value).isprintable()


# what is left out


def test_dropped_rows_are_counted_with_three_examples():
    dropped = Dropped("f")
    for row in (4, 5, 9, 12):
        dropped.add("too long", row)
    dropped.add("odd", 7, "\x1b]0;title\x07" + "y" * 99)
    kept, notes = dropped.rest(["kept"], "left out")
    assert kept == ["kept"]
    assert notes[0] == "f: 4 rows left out: too long (rows 4, 5, 9, ...)"
    assert notes[1].startswith(r"f: 1 row left out: odd (row 7: '\x1b]0;title\x07yyy") and len(notes[1]) < 100


def test_nothing_left_is_an_error_that_says_why():
    dropped = Dropped("f")
    dropped.add("too long", 4)
    dropped.add("odd", 7)
    with pytest.raises(
        ConfigError, match=r"^f: nothing is left: 1 row dropped: too long \(row 4\); 1 row dropped: odd"
    ):
        dropped.rest([])
