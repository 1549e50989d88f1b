# SPDX-License-Identifier: Apache-2.0
"""The last box, and what text and exact numbers can say of an answer: right, wrong, or nothing."""

from __future__ import annotations

import time

import pytest

from t1jax.rewards import answers


@pytest.mark.parametrize(
    "text, box",
    [
        ("so \\boxed{6+14}.", "6+14"),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{{a}{b{c}}} }", "{a}{b{c}}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{x \\} y}", "x \\} y"),
        ("\\boxed{}", ""),
        ("\\boxed{1", None),
        ("\\boxed{1} and \\boxed{2", None),  # the last one counts, and it never closes
        ("\\boxed{1\\}", None),
        ("\\boxed{1\\", None),
        ("boxed{1}", None),
        ("", None),
    ],
)
def test_last_box_matches_braces(text, box):
    assert answers.last_box(text) == box


@pytest.mark.parametrize(
    "text, answer",
    [
        ("... \\boxed{6}. Wait, that is not it: \\boxed{5}", "5"),
        ("\\boxed{6} and \\fbox{5}", "6, 5"),  # one answer, a list
        ("$\\boxed{6}$,\n$\\boxed 5$", "6, 5"),
        ("\\boxed{5} or \\boxed{5}", "5"),
        ("\\boxed{6} apples and \\boxed{5}", "5"),
        ("\\boxed{1+\\boxed{5}}", "5"),
        ("\\boxed {\\frac{1}{2}}", "\\frac{1}{2}"),
        ("so $\\boxed 5$", "5"),
        ("so \\boxed -3/4 apples", "-3/4"),
        ("\\boxed{5}. I wrote it in \\boxed as you asked", "5"),
        ("\\boxed{1} or \\boxed{2", None),
        ("The answer is 5", None),
        ("<answer>5</answer>", "5"),
        ("<answer>6</answer> no: <answer>\n 5 </answer>", "5"),
        ("<answer>6</answer> no: <answer>5", None),
        ("</answer> 5 <answer>", None),
        ("<answer>\\boxed{5}</answer>", "5"),
        ("\\boxed{5} <answer>6</answer>", "5"),
        ("\\boxed{<answer>5</answer>}", "<answer>5</answer>"),
        ("", None),
    ],
)
def test_final_answer_is_the_last_one_that_is_marked(text, answer):
    assert answers.final_answer(text) == answer


@pytest.mark.parametrize(
    "answer, equal",
    [
        ("6+14", True),
        (" 14 + 6\n", True),
        ("06+14", True),
        ("6+13", False),
        ("10+10", False),
        ("20", False),
        ("6+14+0", False),
        ("-6+26", False),
        ("6-14", False),
        ("٦+14", False),  # digits of another script
        ("6+14=20", False),
        ("", False),
    ],
)
def test_compare(answer, equal):
    assert answers.compare(answer, (6, 10, 13, 14), 20) is equal


def test_compare_wants_two_different_members():
    assert not answers.compare("10+10", (10, 11), 20)
    assert not answers.compare("9+11", (10, 11), 20)
    assert not answers.compare("11+9", (10, 11), 20)


@pytest.mark.parametrize(
    "answer, gold, equal",
    [
        # integers
        ("5", "5", True),
        ("5", "6", False),
        ("-5", "5", False),
        ("\u22125", "-5", True),
        ("+5", "5", True),
        ("007", "7", True),
        ("-0", "0", True),
        ("142", "142.0", True),
        ("142.", "142.0", True),
        ("1,000", "1000", True),
        ("1{,}000", "1000", True),
        ("10,\\!080", "10080", True),
        ("1\\,000", "1,000", True),
        ("1,000,000", "1000000", True),
        ("1,000", "1001", False),
        ("1,000", "1,001", None),  # could be two lists
        ("2, 500", "2500", None),  # is a list
        ("2, 500", "2,500", True),
        ("proof", "\\text{Proof}", False),
        ("(1,000)", "1000", None),  # a pair
        ("1,00", "100", None),
        ("1 2", "12", None),
        ("12", "1 2", None),
        ("1011_2", "11", None),
        ("9" * 5000, "9" * 5000 + "0", False),  # more digits than Python turns into a number
        ("0" * 5000 + "1", "1", True),
        # decimals and fractions
        ("0.5", "\\frac12", True),
        (".5", "1/2", True),
        ("\\dfrac{1}{2}", "\\frac 12", True),
        ("-\\tfrac{3}{5}", "\\frac{-3}{5}", True),
        ("\\frac{2}{4}", "0.5", True),
        ("\\frac123", "1/2", None),  # one half times three
        ("1/0", "0", None),
        ("2/3", "3/2", False),
        ("0.5", "0.51", False),
        ("0.333333", "1/3", None),  # near: rounding is for math-verify
        ("0.33", "1/3", False),
        ("11 1/2", "23/2", True),
        ("1\\frac{1}{2}", "1.5", True),
        ("1 \\frac12", "11/2", False),
        ("111/2", "11 1/2", False),
        ("3,14", "3.14", None),
        ("\\sqrt{4}", "2", None),
        ("x=5", "5", None),
        ("5x", "5", None),
        ("5 m", "5", None),  # metres, or five times m
        ("5 pi", "5", None),
        ("5\\text{ million}", "5", None),
        ("1.5e3", "1500", None),
        # percent
        ("50\\%", "1/2", True),
        ("0.5", "50%", True),
        ("50\\%", "50 percent", True),
        ("50\\%", "51\\%", False),
        ("50", "50\\%", None),
        ("49", "50\\%", False),
        # units
        ("5\\text{ cm}", "5", True),
        ("5", "5\\mathrm{cm}^2", True),
        ("5 cm", "5\\text{ centimeters}", True),
        ("34\\text{ sq. units}", "34 square units", True),
        ("5\\text{ cm}", "5\\text{ m}", None),
        ("5\\text{ cm}^2", "5\\text{ cm}^3", None),
        ("60^\\circ", "60", True),
        ("60°", "60^{\\circ}", True),
        ("60^\\circ", "61", False),
        ("\\$5", "5", True),
        ("$5", "5 dollars", True),
        ("\\$32,\\!348.50", "32348.5", True),
        ("50 cents", "\\$0.50", None),
        ("5 dollars", "6", False),
        # text
        ("$x+1$", "x + 1", True),
        ("\\(x+1\\).", "x+1", True),
        ("\\left(3, \\frac{\\pi}{2}\\right)", "(3,\\frac{\\pi}{2})", True),
        ("\\text{Evelyn}", "Evelyn", True),
        ("\\text{tuesday}.", "\\text{Tuesday}", True),
        ("Evelyn", "Carl", None),
        ("(B)", "\\text{(B)},", True),
        ("B", "C", False),
        ("\\textbf{(B)}", "B", True),
        ("b", "B", None),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", True),
        ("sin x", "sinx", None),
        ("a\\\\,b", "a\\\\b", None),  # \\ ends a row, it is no thin space
        ("", "5", False),
        ("$$", "5", None),
        ("", "", None),
        (" ", "", None),
    ],
)
def test_quick_says_only_what_it_knows(answer, gold, equal):
    assert answers.quick(answer, gold) is equal


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" + "{" * 2000,
        "\\boxed{" * 30_000,
        "\\boxed" * 30_000,
        ("\\boxed" + " " * 50) * 3000,
        "\\boxed{" + "7" * 200_000 + "}",
        "<answer>" * 30_000,
        "\\boxed{" + "\\frac{1}{1+" * 20_000 + "}" * 20_000 + "}",
    ],
    ids=["braces", "open", "bare", "spaces", "digits", "tags", "nested"],
)
def test_long_hostile_text_takes_no_time(text):
    """Linear time is about 0.05 s here; anything quadratic is minutes."""
    start = time.process_time()
    answer = answers.final_answer(text)
    for candidate in (answer or "", text):
        answers.quick(candidate, "5")
        answers.quick("1/2", candidate)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "piece", ["$", "\\(", "\\[", "**", "{", "\\text{", " ", "~", "\\!", "\\,", "1,", "1 ", ".", "0/", "^", "\\left"]
)
def test_tidying_is_linear(piece):
    start = time.process_time()
    for text in (piece * 20_000, "5" + piece * 20_000, piece * 20_000 + "5"):
        answers.quick(text, "5")
    assert time.process_time() - start < 3


def test_tidy_keeps_what_has_a_meaning():
    assert answers.tidy("$\\text{(A)}.$") == "(A)"
    assert answers.tidy("\\left[ \\dfrac{1}{2}, 3 \\right).") == "[ \\frac{1}{2}, 3 )"
    assert answers.tidy("2\\text{ or }3") == "2\\text{ or }3"
    assert answers.tidy("\\begin{matrix}1\\\\ 2\\end{matrix}") == "\\begin{matrix}1\\\\ 2\\end{matrix}"
    assert answers.tidy("\\(a\\) and \\(b\\)") == "\\(a\\) and \\(b\\)"
    assert answers.tidy("$a$ and $b$") == "$a$ and $b$"
    assert answers.tidy("\\leftarrow \\cfrac{1}{2}") == "\\leftarrow \\frac{1}{2}"
    assert answers.tidy("1, 2, ...") == "1, 2, ..."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so 6+14=20, and that is 20.", ("6+14", "20")),
        ("I take 6+14.", ("6+14", "14")),
        ("She has 1,234 apples, at $5.50 each", ("5.50",)),
        ("it is 3 * (4 - 1) of 12 or -7", ("3 * (4 - 1)", "-7")),
        ("no number", ()),
    ],
)
def test_what_a_lenient_reader_may_take_for_the_answer(text, found):
    assert answers.loose(text) == found
