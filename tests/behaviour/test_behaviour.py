# SPDX-License-Identifier: Apache-2.0
"""What responses do is read as defined, by the task's rules and by keywords, and counted with true intervals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from configs import tiny
from t1jax import config
from t1jax.behaviour import behaviour, phrases, prose
from t1jax.evaluation.statistics import wilson
from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.tasks import honesty
from t1jax.tasks.pairs.task import PairsTask

NUMBERS, TARGET = (6, 13, 14, 16, 22), 20
BIG, SMALL, YES = "6+22=28, need 20: too big\n", "6+13=19, need 20: too small\n", "6+14=20, need 20: yes\n"
CHECK, END = "check 20-6=14: yes\n", "</think>\n\\boxed{6+14}"


def of(text, outcome=RIGHT, overlong=False):
    return behaviour.of_lines(honesty.analyse(NUMBERS, TARGET, text), outcome, 30, overlong)


# the embedded task


def test_a_chain_that_fails_twice_turns_back_and_verifies():
    b = of(BIG + SMALL + YES + CHECK + END)
    assert (b.attempts, b.reflections, b.backtracks, b.verifications, b.repeated) == (3, 2, 2, 1, 0)
    assert (b.first_right, b.stop, b.false_claim) == (False, "verified", False)
    assert b.recovered and not b.lost


def test_giving_up_is_a_rejected_attempt_without_another():
    b = of(BIG + "</think>\n\\boxed{13+16}", WRONG)
    assert (b.attempts, b.reflections, b.backtracks, b.stop) == (1, 1, 0, "gave up")
    assert b.first_right is False and not b.recovered


@pytest.mark.parametrize(
    "text, stop",
    [
        (YES + CHECK + END, "verified"),
        (YES + END, "unverified"),
        (YES + "check 20-6=14: too big\n" + END, "unverified"),  # the check does not agree
        (YES + CHECK + YES + END, "unverified"),  # checked before the last claim
        (BIG + END, "gave up"),
        ("", "gave up"),
    ],
)
def test_how_a_response_ends(text, stop):
    assert of(text).stop == stop
    assert of(text, overlong=True).stop == "cut off"  # whatever else holds


def test_a_first_attempt_is_right_only_if_it_says_so_truly():
    assert of(YES + CHECK + END).first_right is True
    assert of(YES.replace("yes", "too big") + END).first_right is False  # a right pair, not seen
    assert of("6+13=20, need 20: yes\n" + END, WRONG).first_right is False  # a false claim
    assert of(END).first_right is None
    lost = of(YES + "</think>\n\\boxed{6+13}", WRONG)
    assert lost.lost and not lost.recovered


def test_repeats_and_false_claims_are_those_of_the_analysis():
    b = of(BIG + BIG + "22+6=28, need 20: yes\n" + END, WRONG)
    assert (b.repeated, b.false_claim) == (2, True)


def test_every_chain_of_the_writer_is_read_as_it_was_written():
    """Who gives up never verifies; who finds a pair always does; each attempt but the last is turned back from."""
    import random

    task = PairsTask(config.load(tiny.get_config()).task)
    seen = set()
    for index in range(200):
        problem = task.problem(index, "train")
        text = task.chain(problem, random.Random(index))
        (outcome,) = task.score([problem], [text])
        b = behaviour.of_lines(task.analyse(problem, text), outcome, 1, False)
        found = ": yes\n" in text
        assert b.stop == ("verified" if found else "gave up")
        assert b.backtracks == b.attempts - 1 and b.reflections == b.attempts - found
        assert b.first_right == (found and b.attempts == 1) and not b.lost
        assert b.recovered == (outcome == RIGHT and not b.first_right)
        seen.add((b.stop, b.recovered))
    assert {("verified", True), ("verified", False), ("gave up", False)} <= seen  # a last guess may be lucky, too


# running text

TWO = (
    "Six times 7. It is 6 * 7 = 48. The answer is 48.\nWait, that's wrong. I add seven six times: 42. "
    "Let me verify: 42 / 6 = 7. So \\boxed{42}."
)


def test_an_attempt_ends_where_the_text_turns_back():
    reading = prose.read(TWO, "42", RIGHT)
    first, second = reading.attempts
    assert (first.answer, first.right, second.answer, second.right) == ("48", False, "42", True)
    assert TWO[first.start : first.end].strip().endswith("is 48.") and TWO[second.start :].startswith("Wait")
    assert (reading.reflections, reading.backtracks, reading.verifications) == (1, 1, 1)
    assert reading.verified and not reading.gave_up and reading.turns == ("wait",)


@pytest.mark.parametrize(
    "text, found",
    [
        ("Two ways. One is 5. So \\boxed{5}. It is \\boxed{5}.", ["5"]),  # said twice
        ("So \\boxed{5}. No: \\boxed{6}.", ["5", "6"]),  # changed without a word
        ("So \\boxed{5} or \\boxed{6}.", ["5", "6"]),  # within a sentence
        ("Alternatively, try again.\nIt is \\boxed{5}.", ["5"]),  # nothing was tried before
        ("I add: 2 + 2 = 5. That is wrong. Go on. 2 + 2 = 4.", ["5", "4"]),  # behind the last "="
        ("Let x = 3 + 4. That is wrong. Now x = 1 so x = 2*3", [None, "1"]),  # "3 +" is no result
        ("Hmm. That's wrong. Done.", [None, None]),
        ("The answer is $\\boxed{\\frac{1}{2}}$.", ["\\frac{1}{2}"]),
        ("**Answer:** (B)", ["(B)"]),
        ("The answer is a secret. The answer is A bit odd.", [None]),
        ("所以答案是 12。不对，再算。答案是：15。", ["12", "15"]),
        ("<answer> 7 </answer>", ["7"]),
        ("", [None]),
    ],
)
def test_what_attempts_come_to(text, found):
    assert [attempt.answer for attempt in prose.read(text, "9", WRONG).attempts] == found


def test_attempts_cover_the_text_in_order():
    for text in (TWO, "So \\boxed{5} or \\boxed{6}. Wait. That's wrong. \\boxed{7}", "x"):
        attempts = prose.read(text, None, UNSCORABLE).attempts
        assert attempts[0].start == 0 and attempts[-1].end == len(text)
        assert all(a.end == b.start and a.start < a.end for a, b in zip(attempts, attempts[1:], strict=False))


def test_the_final_answer_is_as_right_as_the_verifier_says():
    """Only algebra tells that x+x is 2x: the verdict on the whole holds for the attempt that comes to the same."""
    text = "First $\\boxed{x+x}$. Alternatively: \\boxed{y}. No, \\boxed{x+x}."
    assert [a.right for a in prose.read(text, "2x", RIGHT).attempts] == [True, None, True]
    assert [a.right for a in prose.read(text, "2x", UNSCORABLE).attempts] == [None, None, None]
    assert [a.right for a in prose.read(text, None, UNSCORABLE).attempts] == [None, None, None]


def test_an_answer_that_comes_again_is_repeated():
    assert prose.read("It is \\boxed{5}. Try again. \\boxed{6}. No, \\boxed{5}.", "5", RIGHT).repeated == 1


@pytest.mark.parametrize(
    "text, stop",
    [
        ("It is 4. Let me check: yes. The answer is 4.", "verified"),
        ("Let me check: no. That's wrong. I see. The answer is 4.", "unverified"),  # in an attempt before
        ("The answer is 4. 检查一下。", "verified"),
        ("The answer is 4.", "unverified"),
        ("I cannot find it. I'll guess: \\boxed{4}.", "gave up"),
        ("I will guess 3. That's wrong. I compute. The answer is 4.", "unverified"),  # gave up, and came back
        ("No idea.", "gave up"),
    ],
)
def test_how_a_text_ends(text, stop):
    assert behaviour.of_text(text, "4", RIGHT, 9, False).stop == stop
    assert behaviour.of_text(text, "4", RIGHT, 9, True).stop == "cut off"


def test_words_are_whole_and_in_any_case():
    assert prose.read("The waiter awaits. Maybelline. Recheck the resultant.", "1", WRONG).reflections == 0
    assert prose.read("WAIT! Hmmm, maybe. It’s fine. 等等, 也许", "1", WRONG).reflections == 5
    assert prose.read("that’s wrong; that's wrong", "1", WRONG).backtracks == 2


def test_turns_are_told_of_right_responses_alone():
    assert prose.read(TWO.replace("42}", "43}"), "42", WRONG).turns == ()
    assert phrases.opening("**Perhaps** the sum") == "perhaps" and phrases.opening("We see, then") == "we see"


def test_marks_are_phrases_and_boxes_in_order():
    assert [(TWO[a:b], kind) for a, b, kind in phrases.marks(TWO)] == [
        ("Wait", "reflection"),
        ("that's wrong", "backtrack"),
        ("Let me verify", "verification"),
        ("\\boxed{42}", "answer"),
    ]
    assert [kind for _, _, kind in phrases.marks("So \\boxed{maybe 5}, perhaps")] == ["answer", "reflection"]
    places = [place for start, end, _ in phrases.marks(TWO * 3) for place in (start, end)]
    assert places == sorted(places)


HOSTILE = (
    *(
        "answer" + " " * 40_000,
        "\\boxed{" * 5_000,
        "wait " * 8_000,
        " " * 40_000 + "\n",
        "\\boxed{1}\\boxed{2}" * 2_000,
    ),
    *("alternatively. so. " * 2_000, "<answer>" * 5_000, "= 1" * 12_000, "{" * 20_000 + "}" * 20_000),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_read_in_time_that_its_length_allows(text):
    """Each of these takes minutes or for ever where something is quadratic; no clock is asked."""
    assert prose.read(text, "1", WRONG).attempts
    phrases.marks(text)


def test_the_last_box_of_all_boxes_is_the_final_answer():
    for text, held in (
        ("\\boxed{a\\}b{c}d} \\fbox 5 so \\boxed{{x}}", ["a\\}b{c}d", "5", "{x}"]),
        ("\\boxed {\\frac{1}{2}} \\boxed{", ["\\frac{1}{2}"]),
        ("} \\boxed{2} {", ["2"]),
        ("\\\\boxed{3}", ["3"]),
        ("talk of \\boxed alone", []),
    ):
        closed = answers.boxes(text)
        assert [box for _, _, box in closed] == held
        assert all(text[start] == "\\" and box in text[start:end] for start, end, box in closed)
        if not text.endswith("\\boxed{"):  # a last box that never closes is no answer
            assert answers.final_answer(text) == (held[-1] if held else None)


# many responses


def make(outcome=RIGHT, first_right=False, stop="verified", tokens=10, **more):
    zeros = {"attempts": 2, "reflections": 0, "backtracks": 0, "verifications": 0, "repeated": 0, "false_claim": None}
    return behaviour.Behaviour(outcome=outcome, first_right=first_right, stop=stop, tokens=tokens, **(zeros | more))


def test_each_share_is_over_those_that_can_show_it():
    many = [
        make(),
        make(first_right=True, tokens=20, reflections=3),
        make(WRONG, tokens=40, stop="gave up", repeated=1),
        make(WRONG, first_right=True, stop="unverified"),
        make(first_right=None, turns=("wait",)),
        make(UNSCORABLE, first_right=None, stop="cut off", tokens=1000),
    ]
    s = behaviour.summarise(many)
    assert (s["responses"], s["unscorable"]) == (6, 1)
    counts = {name: (s[name]["count"], s[name]["n"]) for name in ("accuracy", "first_attempt", "recovery", "loss")}
    assert counts == {"accuracy": (3, 5), "first_attempt": (2, 4), "recovery": (1, 2), "loss": (1, 2)}
    assert (s["repeated"]["count"], s["repeated"]["n"]) == (1, 12)
    assert s["habits"]["reflects"]["value"] == 1 / 6 and s["habits"]["repeats"]["count"] == 1
    assert {name: share["count"] for name, share in s["stops"].items()} == {
        "verified": 3, "unverified": 1, "gave up": 1, "cut off": 1,
    }  # fmt: skip
    assert s["length_right"]["value"] == pytest.approx(40 / 3) and s["length_wrong"]["value"] == 25
    assert s["means"]["reflections"]["value"] == 0.5
    assert s["turns"] == [["wait", 1]] and s["false_claims"] is None
    assert (s["recovery"]["low"], s["recovery"]["high"]) == wilson(1, 2)


def test_lengths_are_counted_by_correctness():
    tokens = [1, 1, 5, 9, 10, 100]
    s = behaviour.summarise([make(tokens=n) for n in tokens] + [make(WRONG, tokens=119), make(UNSCORABLE, tokens=500)])
    edges, right, wrong = (s["lengths"][name] for name in ("edges", "right", "wrong"))
    assert edges == list(range(0, 121, 5)) and len(right) == len(wrong) == len(edges) - 1
    assert {edges[i]: n for i, n in enumerate(right) if n} == {0: 2, 5: 2, 10: 1, 100: 1}
    assert {edges[i]: n for i, n in enumerate(wrong) if n} == {115: 1}
    assert sum(behaviour.summarise([])["lengths"]["right"]) == 0


def test_nothing_can_be_said_of_nothing():
    s = behaviour.summarise([make(WRONG, first_right=True)])
    assert s["recovery"]["value"] is None and s["length_right"]["value"] is None
    assert s["length_wrong"]["value"] == 10 and s["length_wrong"]["low"] is None  # one response has no spread
    assert behaviour.summarise([])["accuracy"]["value"] is None


def test_the_interval_of_a_mean_is_that_of_its_spread():
    found = behaviour.mean([0.0, 10.0] * 200)
    assert found["value"] == 5 and 5 - found["low"] == pytest.approx(1.96 * 5 / 20, rel=0.15)
    assert found["high"] - 5 == pytest.approx(1.96 * 5 / 20, rel=0.15)


def test_the_document_lists_the_words():
    text = (Path(__file__).parents[2] / "docs/behaviour.md").read_text(encoding="utf-8")
    for english, chinese in phrases.KINDS.values():
        for phrase in (*english, *chinese):
            assert f"`{phrase}`" in text.replace("\\|", "|"), phrase
    listed = re.findall(r"^\| (reflection|backtrack|verification|giving up) \|", text, re.MULTILINE)
    assert listed == list(phrases.KINDS)
