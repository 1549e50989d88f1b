# SPDX-License-Identifier: Apache-2.0
"""What holds for any input, on inputs that hypothesis makes: answers, rules of form, and rows of files.

Masks, packing and conversion are in test_properties_arrays.py. The inputs are the same on each run (derandomize). A
counterexample that hypothesis finds belongs into the module's own test, by hand. Longer and wilder texts: fuzz.py.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import fuzz
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from t1jax.config import ConfigError
from t1jax.reports.page import escape, visible
from t1jax.rewards import answers, penalties
from t1jax.tasks.files.rows import read_rows

# Answers.

PIECES = st.one_of(st.sampled_from(fuzz.PIECES), st.sampled_from(fuzz.WHOLE), st.text(max_size=8))
TEXTS = st.lists(PIECES, max_size=12).map("".join)
FLAT = st.text(st.characters(exclude_characters="{}\\"), max_size=8)
BALANCED = st.recursive(
    FLAT,
    lambda inner: st.builds("{0}{{{1}}}{2}".format, FLAT, inner, st.sampled_from(["", "\\}", "\\{", "x"])),
    max_leaves=4,
)


def box_by_hand(text: str) -> str | None:
    """The last box, a character at a time."""
    start = text.rfind(answers.BOX)
    if start < 0:
        return None
    place = first = start + len(answers.BOX)
    depth = 1
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] in "{}":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return text[first:place]
        place += 1
    return None


@given(TEXTS)
def test_the_last_box_is_the_one_that_a_plain_reader_finds(text):
    found = answers.last_box(text)
    assert found == box_by_hand(text)
    if found is not None:
        assert answers.last_box(f"{answers.BOX}{found}}}") == found


@given(TEXTS, BALANCED, FLAT)
def test_a_box_behind_any_text_is_the_answer(text, answer, rest):
    assume(not rest.startswith("}"))
    response = f"{text} {answers.BOX}{answer}}} {rest}"
    assert answers.final_answer(response) == answers.last_box(response) == answer


@given(TEXTS, TEXTS | st.sampled_from(["5", "1/2"]))
def test_any_two_texts_compare_without_an_error_either_way_round(answer, gold):
    said = answers.quick(answer, gold)
    assert said in (True, False, None)
    assert answers.quick(answer, answer) is not False
    blank = [not answers._LOOSE_SPACE.sub("", answers.tidy(text)) for text in (answer, gold)]
    assert any(blank) or answers.quick(gold, answer) is said


WHOLE = st.integers(-(10**7), 10**7)


@st.composite
def written(draw: Any) -> tuple[Fraction, str]:
    """A number, and one of the ways to write it."""
    top, bottom = draw(WHOLE), draw(st.integers(1, 999))
    sign, size = "-" * (top < 0), abs(top)
    ways = {
        f"{top}": Fraction(top),
        f"{top:,}": Fraction(top),
        f"\\frac{{{top}}}{{{bottom}}}": Fraction(top, bottom),
        f"{sign}\\dfrac{{{size}}}{{{bottom}}}": Fraction(top, bottom),
        f"{top}/{bottom}": Fraction(top, bottom),
        f"{sign}{size // 1000}.{size % 1000:03d}": Fraction(top, 1000),
        f"$ {top} $": Fraction(top),
        f"\\text{{{top}}}.": Fraction(top),
        f"{top}.0": Fraction(top),
    }
    text = draw(st.sampled_from(sorted(ways)))
    return ways[text], text


@given(written(), written())
def test_numbers_are_equal_exactly_if_their_values_are(one, other):
    (x, left), (y, right) = one, other
    said = answers.quick(left, right)
    if x == y:
        assert said is True
    elif said is None:  # commas may be those of a list; what is nearly equal is left to math-verify
        assert abs(x - y) < Fraction(1, 10**5) or ("," in left and "," in right)
    else:
        assert said is False


@given(written(), st.integers(2, 99))
def test_a_number_written_in_another_way_is_the_same_number(number, times):
    value, text = number
    assert answers.quick(f"\\frac{{{value.numerator * times}}}{{{value.denominator * times}}}", text) is True


@given(WHOLE, st.integers(1, 999), st.integers(1, 9))
def test_a_rounded_decimal_is_right_only_if_exact_and_left_to_math_verify_if_near(top, bottom, digits):
    value = Fraction(top, bottom)
    rounded = round(value, digits)
    said = answers.quick(f"{top}/{bottom}", f"{'-' * (rounded < 0)}{float(abs(rounded)):.{digits}f}")
    off = abs(value - Fraction(f"{float(rounded):.{digits}f}"))
    assert said is (True if off == 0 else None if off < Fraction(1, 10**5) else False)


@given(TEXTS)
def test_the_report_shows_any_text_and_does_nothing_else(text):
    assert html.unescape(escape(text)) == visible(text)
    assert not set("<>\"'\x00\x1b\x9b\u202e") & set(escape(text))


# Rules of form.

WORDS = st.lists(st.sampled_from(["a", "ab", "ba", "so ", "是", "𝔸", "\n", "\ud800"]), max_size=40).map("".join)
LOOPS = st.builds("{0}{1}{2}".format, WORDS, st.builds(str.__mul__, WORDS, st.integers(0, 9)), WORDS)


@pytest.mark.parametrize("bits", [1, penalties._BITS])  # with one bit, every other substring has the same hash
@given(text=LOOPS, length=st.integers(1, 70), count=st.integers(1, 9))
def test_a_text_is_repetitive_if_a_counter_of_its_substrings_says_so(bits, text, length, count):
    counted = Counter(text[i : i + length] for i in range(len(text) - length + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(penalties, "_BITS", bits)
        assert penalties.repetitive(text, length, count) == (max(counted.values(), default=0) >= count)


@given(TEXTS | st.text("a\n是\x00\ud800𝔸"), st.sampled_from([0.0, 0.05, 0.3, 0.5]))
def test_a_text_is_garbled_if_so_many_of_its_characters_are_strange(text, share):
    strange = sum(not penalties._expected(character) for character in text)
    assert penalties.garbled(text, share) == (strange > share * len(text))


# Rows of files.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def content_of(path: Path, content: bytes) -> list[tuple[int, dict[str, Any]]]:
    path.write_bytes(content)
    return list(read_rows(str(path)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows") / "rows"


OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4), min_size=1, max_size=4)
ENDS = st.sampled_from(["\n", "\r\n", "\n\n \n"])


@given(rows=OBJECTS, array=st.booleans(), ascii=st.booleans(), bom=st.booleans(), end=ENDS)
def test_rows_come_back_as_they_were_written(place, rows, array, ascii, bom, end):
    texts = [json.dumps(row, ensure_ascii=ascii) for row in rows]
    text = f"[{','.join(texts)}]" if array else end.join(texts) + end
    found = content_of(place, b"\xef\xbb\xbf" * bom + text.encode())
    assert [row for _, row in found] == rows
    lines = 1 if array else end.count("\n")
    assert [number for number, _ in found] == [1 + lines * i for i in range(len(rows))]


BYTES = st.lists(
    st.sampled_from([b"[", b"]", b"{", b"}", b'"a"', b":", b",", b"1", b"\n", b"null", b"PAR1", b"\xff", b"\0", b"\\u"])
    | st.binary(max_size=5),
    max_size=20,
).map(b"".join)


@given(content=BYTES)
def test_any_bytes_are_rows_or_one_line(place, content):
    try:
        assert all(isinstance(row, dict) for _, row in content_of(place, content))
    except ConfigError as error:
        assert str(error).startswith(str(place)) and "\n" not in str(error) and len(str(error)) < 600


# So that the fuzz tool itself is known to work.


def test_the_fuzz_tool_finds_nothing_in_a_thousand_texts_and_would_find_something(monkeypatch):
    found = fuzz.fuzz(1000, seed=1)
    assert found.crashes == [] and found.inputs == 1000 and found.characters > 10**5
    assert 0 < found.slowest_ms < fuzz.BOUND_MS
    monkeypatch.setattr(answers, "last_box", lambda text: 1 // (len(text) % 7))
    assert any(crash.startswith("last_box: 'ZeroDivisionError") for crash in fuzz.fuzz(100, seed=1).crashes)
    monkeypatch.setattr(answers, "last_box", lambda text: "nowhere")
    assert any(crash.startswith("last_box: 'inconsistent'") for crash in fuzz.fuzz(100, seed=1).crashes)


def test_fuzz_texts_are_the_same_for_a_seed_and_reach_the_longest():
    one, other = ([next(texts) for _ in range(400)] for texts in (fuzz.texts(3), fuzz.texts(3)))
    assert one == other and max(map(len, one)) == fuzz.LONGEST and sorted(map(len, one))[200] < 400
