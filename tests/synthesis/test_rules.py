# SPDX-License-Identifier: Apache-2.0
"""The program that is critic and merger for the embedded task: what it says of attempts, and what it makes of them."""

from __future__ import annotations

import random

import pytest

from configs import tiny
from t1jax import config
from t1jax.rewards.answers import RIGHT
from t1jax.synthesis.record import Attempt, Item, Piece, Story
from t1jax.synthesis.rules import EmbeddedSubject
from t1jax.tasks.pairs.task import PairsTask, Problem

CFG = config.load(tiny.get_config())
SUBJECT = EmbeddedSubject(PairsTask(CFG.task))
PROBLEM = Problem(0, (4, 6, 12, 14, 18), 20, 5, "train")
ITEM = Item(0, 0, SUBJECT.task.prompt(PROBLEM), "6+14", PROBLEM)
GAVE_UP = "4+6=10, need 20: too small\n4+12=16, need 20: too small\n</think>\n\\boxed{12+14}"
AGAIN = "4+6=10, need 20: too small\n4+14=18, need 20: too small\n</think>\n\\boxed{6+4}"
SLIPPED = "4+6=11, need 20: too small\n4+18=22, need 20: too big\n</think>\n\\boxed{6+13}"
SOLVED = (
    "4+6=10, need 20: too small\n6+12=18, need 20: too small\n6+14=20, need 20: yes\ncheck 20-6=14: yes\n</think>\n"
    "\\boxed{6+14}"
)


def story(*texts):
    made = Story(ITEM)
    for number, text in enumerate(texts):
        ((outcome, answer),) = SUBJECT.judge([ITEM], [text])
        made.attempts.append(Attempt(Piece(f"attempt/0/{number}", "local", "m", text, True), outcome, answer))
    return made


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (GAVE_UP, "gave up, attempts: 2; its answer was not checked: 12+14=26, need 20: too big"),
        (SLIPPED, "not true: 4+6=11, need 20: too small"),
        ("4+18=22, need 20: too big\n</think>\n\\boxed{6+13}", "the answer 6+13 is not a pair of the list"),
        ("so\n</think>\n\\boxed{4+6}", "not true: so"),
        (SOLVED, "check 20-6=14: yes"),
    ],
)
def test_the_critic_says_where_and_why(text, note):
    assert SUBJECT.note(ITEM, story(text).attempts[0]) == note


def test_a_chain_tries_what_failed_turns_back_and_verifies():
    assert SUBJECT.merge(story(SOLVED, GAVE_UP)).splitlines() == [
        "4+6=10, need 20: too small",
        "4+12=16, need 20: too small",
        "12+14=26, need 20: too big",  # what the wrong attempt had boxed
        "6+12=18, need 20: too small",
        "6+14=20, need 20: yes",
        "check 20-6=14: yes",
        "</think>",
        "\\boxed{6+14}",
    ]


def test_nothing_untrue_and_nothing_twice_comes_in():
    lines = SUBJECT.merge(story(GAVE_UP, AGAIN, SLIPPED, SOLVED)).splitlines()
    assert lines[:-4] == [
        "4+6=10, need 20: too small",
        "4+12=16, need 20: too small",
        "12+14=26, need 20: too big",
        "4+14=18, need 20: too small",  # 6+4 was tried as 4+6
        "4+18=22, need 20: too big",
        "6+12=18, need 20: too small",
    ]


def test_a_find_of_a_wrong_attempt_is_left_to_the_right_one():
    found = "6+14=20, need 20: yes\ncheck 20-6=14: yes\n</think>\n\\boxed{4+6}"
    assert SUBJECT.merge(story(found, SOLVED)).count("yes") == 2


def test_a_right_guess_is_written_out():
    lines = SUBJECT.merge(story("4+6=10, need 20: too small\n</think>\n\\boxed{14+6}")).splitlines()
    assert lines[1:3] == ["14+6=20, need 20: yes", "check 20-14=6: yes"]


def test_chains_of_any_attempts_are_true_right_and_without_repetition():
    """Whatever the writer of chains gives up on, and however its lines are damaged."""
    task, rng = SUBJECT.task, random.Random(0)
    for item in SUBJECT.items(60):
        texts = [task.chain(item.problem, rng) for _ in range(6)]
        texts += [text.replace(rng.choice("0123456789"), rng.choice("0123456789"), 1) for text in texts]
        made = Story(item)
        judged = SUBJECT.judge([item] * len(texts), texts)
        for number, (text, (outcome, answer)) in enumerate(zip(texts, judged, strict=True)):
            made.attempts.append(Attempt(Piece(str(number), "local", "m", text, True), outcome, answer))
        if not made.right:
            continue
        chain = SUBJECT.merge(made)
        read = task.analyse(item.problem, chain)
        assert task.score([item.problem], [chain]) == [RIGHT]
        assert all(step.true for step in (*read.attempts, *read.checks)) and not read.malformed
        assert read.repeated == 0 and len(read.checks) == 1 and not read.gave_up
        assert [step.verdict == "yes" for step in read.attempts] == [False] * (len(read.attempts) - 1) + [True]


def test_its_problems_are_those_of_training():
    for item in SUBJECT.items(20):
        assert item.problem == SUBJECT.task.problem(item.index, "train") and item.problem.split == "train"
        assert item.prompt == SUBJECT.task.prompt(item.problem)
