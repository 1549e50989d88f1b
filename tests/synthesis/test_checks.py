# SPDX-License-Identifier: Apache-2.0
"""What makes a chain unfit to learn from: each reason by a chain that has only that fault."""

from __future__ import annotations

import pytest
from scribes import TEXTS

from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.synthesis import checks
from t1jax.synthesis.checks import Context, Limits, fault, mentions

BAKER = TEXTS[0]
LIMITS = Limits(tokens=200, repeat_length=20, repeat_count=5, garbled_share=0.05)


def context(text=BAKER, **values):
    answers = {"31": BAKER, "-7": TEXTS[1], "\\frac{7}{5}": TEXTS[2]}
    given = [(t["wrong"], answer) for answer, t in answers.items() if t is text]
    made = {"problem": text["problem"], "golds": (text["gold"],), "wrong": given, "words": checks.ENGLISH}
    return Context(**(made | values))


def found(thinking, context=None, end="\n\nThe answer is \\boxed{41}.", outcome=RIGHT, finished=True, tokens=100):
    return fault(thinking, thinking + end, outcome, finished, tokens, context or globals()["context"](), LIMITS)


THINKING = BAKER["merge"].rpartition("\n\n")[0]


@pytest.mark.parametrize("text", TEXTS, ids=["number", "short number", "fraction"])
def test_a_good_chain_passes(text):
    thinking, _, end = text["merge"].rpartition("\n\n")
    assert found(thinking, context(text), end) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"finished": False}, checks.CUT),
        ({"end": "\n\nSo it is 41."}, checks.NO_BOX),
        ({"outcome": WRONG}, checks.NOT_RIGHT),
        ({"outcome": UNSCORABLE}, checks.NOT_JUDGED),
        ({"thinking": " \n"}, checks.NO_REASONING),
        ({"tokens": 201}, checks.TOO_LONG),
        ({"thinking": THINKING + " Проверка" * 5}, checks.GARBLED),
        ({"thinking": THINKING + " \0"}, checks.GARBLED),
        ({"thinking": THINKING + " \ud800"}, checks.GARBLED),
        ({"thinking": THINKING + " Let me check again." * 6}, checks.REPETITIVE),
        ({"thinking": THINKING + " That is the expected answer."}, checks.KNOWS),
        ({"thinking": THINKING + " It agrees with the reference solution."}, checks.KNOWS),
        ({"thinking": THINKING + " We are given that the answer is so."}, checks.KNOWS),
        ({"thinking": THINKING + " as Attempt 2 does."}, checks.SOURCES),
        ({"thinking": THINKING + "\n<note number='1'>"}, checks.SOURCES),
        ({"thinking": "3 * 12 = 36 and 36 + 5 = 41."}, checks.NO_TURN),
        ({"thinking": "Wait, 12 + 12 is 24. 3 * 12 = 36 and 36 + 5 = 41."}, checks.NO_TURN),
        ({"thinking": "3 * 12 = 26, so 31 rolls. Also 3 * 12 = 36 and 36 + 5 = 41."}, checks.NO_TURN),
        ({"thinking": "I aim at 41. " + THINKING}, checks.LEAK),
        ({"thinking": THINKING.replace("Wait,", "Wait, it should be 41,")}, checks.LEAK),
        ({"thinking": THINKING.replace("31 rolls leave", "31 rolls leave, not 41")}, checks.LEAK),
    ],
)
def test_each_fault_has_its_reason(values, reason):
    assert found(**({"thinking": THINKING} | values)) == reason


@pytest.mark.parametrize(
    "thinking",
    [
        "The 7x says something. " + TEXTS[1]["merge"],  # a short answer stands in the problem as well
        TEXTS[1]["merge"].replace("Hmm", "Both 2 and 7 are prime. Hmm"),
    ],
)
def test_an_answer_that_is_also_a_number_of_the_problem_may_be_named_as_such(thinking):
    thinking = thinking.rpartition("\n\n")[0]
    assert found(thinking, context(TEXTS[1]), "\n\nSo \\boxed{7}") is None
    leaked = thinking.replace("that is -7", "that is -7, but the result must be 7")
    assert found(leaked, context(TEXTS[1]), "\n\nSo \\boxed{7}") == checks.LEAK


def test_an_answer_of_one_character_is_everywhere():
    short = context(golds=("9",))
    assert found("In step 9 I begin. " + THINKING, short) is None
    assert found("In step 19 I begin. " + THINKING, context(golds=("19",))) == checks.LEAK


def test_without_wrong_attempts_nothing_must_be_turned_back_and_the_answer_may_not_come_first():
    alone = context(wrong=[])
    assert found("3 * 12 = 36, and 36 + 5 = 41.", alone) is None
    assert found("The answer is 41. Indeed 3 * 12 = 36, and 36 + 5 = 41.", alone) == checks.LEAK


def test_after_two_wrong_attempts_the_answer_waits_for_the_second_turn():
    two = context(wrong=[(BAKER["wrong"], "31"), ("3 + 12 + 5 = 20", "20")])
    first = "3 * 12 = 26, so 31 rolls leave. Wait, a third tray cannot add 2. "
    second = "Or 3 + 12 + 5 = 20. No, that is wrong: one tray has 12. "
    rest = "3 * 12 = 36 and 36 + 5 = 41."
    assert found(first + second + rest, two) is None
    assert found(first + rest + " " + second + rest, two) == checks.LEAK


def test_a_small_wrong_answer_is_named_where_the_chain_comes_to_it():
    """A 2 that only counts something does not end the wrong track at the first turn after it."""
    small = context(wrong=[("It is \\boxed{2}.", "2")])
    leak = "There are 2 kinds, and I count trays instead. It must be 41. I get 2. Wait, no. 36 + 5 = 41."
    assert found(leak, small) == checks.LEAK
    assert found(leak.replace("It must be 41. ", ""), small) is None
    assert found("2 trays would do. No, that is wrong. 36 + 5 = 41. Yes, 5 - 3 = 2 is the rest.", small) is None


def test_a_right_answer_written_otherwise_leaks_as_well():
    many = context(golds=("4100",), wrong=[("It is \\boxed{3100}.", "3100")])
    good = "Adding up, 3,100 rolls. Wait, a carry is missing: 4,100 rolls."
    assert found(good, many) is None
    for way in ("4,100", "4100.0", "4{,}100", "$4\\,100$"):
        assert found(f"I would like {way}. {good}", many) == checks.LEAK, way


@pytest.mark.parametrize(
    ("text", "answer", "places"),
    [
        ("4,100 4100.0 4{,}100 4\\,100 4.100 14,100 4,1000", "4100", [0, 6, 13, 21]),
        ("41, 41.0, 41.5, 82/2", "41", [0, 4]),
        ("0.50 .5 1/2 \\dfrac12 \\frac{2}{4} 10.5 11/2", "0.5", [0, 5, 8, 12, 21]),
        ("-7, - 7.0, \u22127 and 7", "-7", [0, 4, 11]),
        ("12, 112, 1.12, 12.5, 12. and x12", "12", [0, 21]),
        ("\\dfrac{3}{4} or \\frac{ 3 }{4} or 3/4", "\\frac{3}{4}", [0, 16, 33]),
        ("is $(2,\\,3)$ or ( 2, 3 )", "(2, 3)", [4, 16]),
        ("16+14=30, 6+14=20", "6+14", [10]),
        ("nothing", "  ", []),
    ],
)
def test_an_answer_is_found_where_it_stands_by_itself(text, answer, places):
    assert mentions(text, answer) == places


def test_chains_of_the_embedded_task_turn_back_at_a_verdict():
    lines = "4+20=24, need 20: too big\n4+18=22, need 20: too big\n6+14=20, need 20: yes\n"
    given = Context("Pick two", ("6+14",), [("4+20=24, need 20: too big", "4+18")], checks.EMBEDDED)
    assert found(lines, given, "\\boxed{6+14}") is None
    assert found("6+14=20, need 20: yes\n" + lines, given, "\\boxed{6+14}") == checks.LEAK
    assert found("6+14=20, need 20: yes\n", given, "\\boxed{6+14}") == checks.NO_TURN
