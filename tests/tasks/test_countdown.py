# SPDX-License-Identifier: Apache-2.0
"""Countdown: problems split without overlap, answers parsed and checked exactly, chains true, lies seen."""

from __future__ import annotations

import dataclasses
import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
import small

from configs import study_countdown
from t1jax import config
from t1jax.config import ConfigError
from t1jax.evaluation import figures
from t1jax.evaluation.responses import Response
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.rewards.verifier import Verifier
from t1jax.tasks.countdown import chains as writer
from t1jax.tasks.countdown.expressions import evaluate
from t1jax.tasks.countdown.task import CountdownTask, Problem
from t1jax.tasks.embedded import make_embedded
from t1jax.text import tokenizer

CFG = config.load(study_countdown.get_config())
TASK = CountdownTask(CFG.task)
ROOT = Path(__file__).parents[2]
EXAMPLE = Problem(index=0, numbers=(1, 7, 8), target=14, difficulty=3, split="train")
END = "</think>\n\\boxed{7-1+8}"
VERIFIED = "7-1=6, then 6+8=14, need 14: yes\ncheck 14-8=6: yes\n"


def task_with(**knobs) -> CountdownTask:
    return CountdownTask(dataclasses.replace(CFG.task, **knobs))


def judged(answer, problem=EXAMPLE):
    (outcome,) = TASK.score([problem], [answer])
    return outcome


def read(response):
    return TASK.analyse(EXAMPLE, response)


@pytest.fixture(scope="module")
def tokens() -> tokenizer.SentencePieceTokenizer:
    task, tokens = make_embedded(CFG, None, Verifier(CFG.verifier))
    assert isinstance(task, CountdownTask) and isinstance(tokens, tokenizer.SentencePieceTokenizer)
    return tokens


# expressions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7-1+8", (14, (7, 1, 8))),
        ("7-(1+8)", (-2, (7, 1, 8))),
        (" ( 12 - 10 )*3 ", (6, (12, 10, 3))),
        ("2+3*4", (14, (2, 3, 4))),
        ("12-3-4", (5, (12, 3, 4))),
        ("((5))", (5, (5,))),
        ("999999999*999999999", (999999998000000001, (999999999,) * 2)),
    ],
)
def test_expressions_have_their_usual_value(text, found):
    assert evaluate(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "7+", "+7", "-7", "(7", "7)", "7 8", "7**8", "7/8", "7^8", "7+x", "1234567890", "٣+4", "7+8=15", "()", "1e3",
     "__import__('os')", "(" * 90 + "1" + ")" * 90 + "+" * 30, "1" + "+1" * 100],
)  # fmt: skip
def test_what_is_no_expression_has_no_value(text):
    assert evaluate(text) is None


def test_any_expression_of_the_writer_is_read_as_it_was_meant():
    for numbers in itertools.islice(itertools.combinations(range(1, 17), 4), 0, None, 37):
        for join in writer.joins(numbers, 99):
            for expression in writer.completions(*join, 99):
                used = (expression.a, expression.b, expression.c)
                value, found = evaluate(str(expression))
                assert value == expression.value and sorted(found) == sorted(used), expression
                assert 0 <= value <= 99 and 1 <= expression.joined <= 99


# problems


def test_no_problem_is_in_both_splits_and_each_is_solvable_and_graded():
    seen = {"train": set(), "held_out": set()}
    for split, count in (("train", 4000), ("held_out", 600)):
        for index in range(count):
            problem = TASK.problem(index, split)
            numbers = problem.numbers
            assert numbers == tuple(sorted(set(numbers))) and 1 <= numbers[0] and numbers[-1] <= CFG.task.max_value
            assert problem.difficulty == len(numbers) in TASK.difficulties == (3, 4)
            assert 1 <= problem.target <= 99
            assert judged(f"\\boxed{{{TASK.gold(problem)}}}", problem) == RIGHT
            for a, b in itertools.combinations(numbers, 2):
                assert problem.target not in (a, b, a + b, b - a, a * b), problem
            seen[split].add((numbers, problem.target))
    assert len(seen["train"]) > 3000 and not seen["train"] & seen["held_out"]


def test_a_problem_is_the_same_in_another_process_and_another_year():
    program = (
        "from configs import study_countdown; from t1jax import config;"
        "from t1jax.tasks.countdown.task import CountdownTask;"
        "t = CountdownTask(config.load(study_countdown.get_config()).task);"
        "print([(p.numbers, p.target) for s in ('train', 'held_out') for p in (t.problem(i, s) for i in range(9))])"
    )
    here = [(p.numbers, p.target) for s in ("train", "held_out") for p in (TASK.problem(i, s) for i in range(9))]
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == str(here)
    assert here[0] == PINNED


PINNED = ((4, 7, 13, 16), 68)  # a changed generator is a changed held-out set


@pytest.mark.parametrize("index, split", [(-1, "train"), (0, "test")])
def test_unknown_problem_is_an_error(index, split):
    with pytest.raises(ValueError, match="expected index >= 0"):
        TASK.problem(index, split)


def test_a_split_without_problems_is_an_error_and_no_hang():
    with pytest.raises(ConfigError, match="task.max_value is 3: .* gave no problem of the held_out split"):
        task_with(max_value=3, max_numbers=3, max_target=50).problem(0, "held_out")


# chains


def test_prompt_and_patient_chain_read_as_documented():
    assert TASK.prompt(EXAMPLE) == "Make 14 from 1, 7, 8.\n<think>\n"
    chain = task_with(impatient_share=0.0).chain(EXAMPLE, random.Random(0))
    assert chain == "1+7=8, then 8+8=16, need 14: too big\n" + VERIFIED + END


def test_patient_writers_are_always_right_and_all_writers_tell_the_truth():
    rng, patient, impatient = random.Random(1), task_with(impatient_share=0.0), task_with(impatient_share=1.0)
    gave_up = 0
    for index in range(600):
        problem = TASK.problem(index, "train")
        chain = patient.chain(problem, rng)
        assert judged(chain, problem) == RIGHT
        for text in (chain, impatient.chain(problem, rng)):
            found = TASK.analyse(problem, text)
            assert all(step.true for step in (*found.attempts, *found.checks)), text
            assert found.closed and not found.false_claim and not found.malformed and not found.repeated
            assert found.gave_up != found.claimed and found.order == "row"
            gave_up += found.gave_up
            if found.gave_up:  # a guess of something new
                box = text.split("boxed{")[1][:-1]
                assert box not in {attempt.expression for attempt in found.attempts} and evaluate(box)
            else:
                assert judged(text, problem) == RIGHT and len(found.checks) == 1
    assert 200 < gave_up < 600


def test_the_shorter_order_begins_with_the_pair_that_comes_nearest_to_the_target():
    """By hand: 7+8=15 is one from 14; then 9, 8, 7, 6, 1 and 56, in the order 1+8, 1+7, 8-1, 7-1, 8-7, 7*8."""
    chain = task_with(impatient_share=0.0, row_order_share=0.0).chain(EXAMPLE, random.Random(0))
    assert chain == "7+8=15, then 15-1=14, need 14: yes\ncheck 14+1=15: yes\n</think>\n\\boxed{7+8-1}"
    tried = [expression.joined for expression in writer.attempts((1, 7, 8), 99, 99, nearest_first=True)]
    assert tried == [56, 15, 9, 8, 7, 6, 1]


def test_shares_of_orders_are_as_asked_and_the_second_is_shorter():
    mixed, rng = task_with(impatient_share=0.0, row_order_share=0.3), random.Random(3)
    found, same, lengths = [], 0, [0, 0]
    for index in range(2000):
        problem = mixed.problem(index, "train")
        found.append(mixed.analyse(problem, mixed.chain(problem, rng)).order)
        row, short = (writer.attempts(problem.numbers, problem.target, 99, nearest) for nearest in (False, True))
        same += short == row[: len(short)]  # which is told as the order row by row
        lengths = [lengths[0] + len(row), lengths[1] + len(short)]
    assert found.count("row") / 2000 == pytest.approx(0.3 + 0.7 * same / 2000, abs=0.03)
    assert found.count("other") == 0
    assert lengths[1] < 0.8 * lengths[0]


def test_with_one_order_the_chains_are_those_that_the_findings_were_made_with():
    """By hand: a patient chain with one failed attempt draws twice, for impatience and after the failure."""

    class Counting(random.Random):
        drawn = 0

        def random(self):
            self.drawn += 1
            return super().random()

    for share, drawn in ((1.0, 2), (0.999, 3)):
        rng = Counting(0)
        assert task_with(impatient_share=0.0, row_order_share=share).chain(EXAMPLE, rng).startswith("1+7=8, ")
        assert rng.drawn == drawn


@pytest.mark.parametrize(
    ("lines", "order"),
    [
        ("1+7=8, then 8+8=16, need 14: too big\n", "row"),
        ("1+7=8, then 8+8=16, need 14: too big\n7-1=6, then 6+8=14, need 14: yes\n", "row"),
        ("7+8=15, then 15-1=14, need 14: yes\n", "short"),
        ("7-1=6, then 6+8=14, need 14: yes\n", "other"),
        ("1+7=8, then 8+8=16, need 14: too big\n7+8=15, then 15-1=14, need 14: yes\n", "other"),
        ("", "other"),
    ],
)
def test_the_order_is_read_from_all_attempts(lines, order):
    assert read(lines + END).order == order


def test_right_only_chains_are_the_expression_that_works_and_nothing_else():
    task = task_with(chains="right_only", impatient_share=1.0, give_up=1.0)
    for index in range(50):
        problem = task.problem(index, "train")
        _, chain = task.demonstration(index, 0)
        found = task.analyse(problem, chain)
        assert len(found.attempts) == 1 and found.attempts[0].verdict == "yes" and found.attempts[0].true
        assert not found.gave_up and len(found.checks) == 1
        assert task.score([problem], [chain]) == [RIGHT]


@pytest.mark.parametrize(
    ("numbers", "target", "check"),
    [
        ((1, 7, 8), 14, "check 14-8=6: yes"),  # 6+8
        ((5, 7, 9), 3, "check 3+9=12: yes"),  # 12-9
        ((2, 3, 16), 11, "check 11+5=16: yes"),  # 16-(2+3)
        ((2, 4, 9), 54, "check 54/9=6: yes"),  # 6*9
    ],
)
def test_a_check_takes_the_last_operation_back(numbers, target, check):
    problem = Problem(0, numbers, target, 3, "train")
    text = task_with(impatient_share=0.0).chain(problem, random.Random(0))
    assert check in text.split("\n") and judged(text, problem) == RIGHT
    assert TASK.analyse(problem, text).checks[0].true


# answers


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (VERIFIED + END, RIGHT),
        ("\\boxed{8+7-1}", RIGHT),
        ("\\boxed{ 8 + (7 - 1) }", RIGHT),
        ("\\boxed{7+7}", WRONG),  # a number twice
        ("\\boxed{7+8}", WRONG),
        ("\\boxed{14}", WRONG),  # not one of the numbers
        ("\\boxed{6+8}", WRONG),
        ("\\boxed{7+8-1=14}", WRONG),
        ("\\boxed{7+8-1} no: \\boxed{7+8}", WRONG),  # the last box counts
        ("\\boxed{7+8-1", WRONG),
        ("7+8-1", WRONG),
        ("", WRONG),
    ],
)
def test_answers_are_checked(response, outcome):
    assert judged(response) == outcome


def test_a_problem_without_an_answer_is_unscorable():
    assert judged("\\boxed{7+8-1}", dataclasses.replace(EXAMPLE, target=98)) == UNSCORABLE


# reading back


@pytest.mark.parametrize(
    ("line", "copied", "arithmetic", "verdict_right"),
    [
        ("7+8=15, then 15-1=14, need 14: yes", True, True, True),
        ("8*7=56, then 56-1=55, need 14: too big", True, True, True),
        ("8-7=1, then 1-1=0, need 14: too small", True, True, True),
        ("7+8=16, then 16-1=15, need 14: too big", True, False, True),
        ("7+8=15, then 15-1=13, need 14: too small", True, False, True),
        ("7+8=15, then 15-1=14, need 14: too big", True, True, False),
        ("7+9=16, then 16-1=15, need 14: too big", False, True, True),  # 9 is not in the list
        ("7+7=14, then 14*1=14, need 14: yes", False, True, True),  # a number twice
        ("7+8=15, then 13+1=14, need 14: yes", False, True, True),  # goes on from another number
        ("7+8=15, then 15-1=14, need 15: too small", False, True, False),  # the target is 14: it is a yes
        ("7+8=15, then 15-1=14, need 15: yes", False, True, True),
    ],
)
def test_the_three_skills_of_an_attempt_are_judged_apart(line, copied, arithmetic, verdict_right):
    (attempt,) = read(f"{line}\n{END}").attempts
    assert (attempt.copied, attempt.arithmetic, attempt.verdict_right) == (copied, arithmetic, verdict_right)


@pytest.mark.parametrize(
    ("line", "copied", "arithmetic", "verdict_right"),
    [
        ("check 14-8=6: yes", True, True, True),
        ("check 14-6=8: yes", True, True, True),
        ("check 14-8=5: yes", True, False, False),
        ("check 14-7=7: yes", True, True, False),  # not what was tried
        ("check 14+8=22: yes", True, True, False),
        ("check 14/7=2: yes", True, True, False),
        ("check 14/0=0: yes", True, False, False),
        ("check 15-8=7: yes", False, True, False),
        ("check 14-8=6: too big", True, True, False),
    ],
)
def test_the_three_skills_of_a_check_are_judged_apart(line, copied, arithmetic, verdict_right):
    (check,) = read(VERIFIED.split("\n")[0] + f"\n{line}\n{END}").checks
    assert (check.copied, check.arithmetic, check.verdict_right) == (copied, arithmetic, verdict_right)


@pytest.mark.parametrize(
    "thought",
    [
        "7-1=6, then 6+7=14, need 14: yes\n",
        "1+7=8, then 8+8=16, need 14: yes\n",
        "7-1=6, then 6+8=14, need 14: yes\ncheck 14-7=7: yes\n",
        "check 14-8=6: yes\n",  # of nothing
        "7-1=6 and 6+8=14: yes\n",  # cannot be read
        "7+8=16, then 16-2=14, need 14: yes\n" + VERIFIED,
    ],
)
def test_a_claim_that_is_not_true_is_a_false_claim(thought):
    found = read(thought + END)
    assert found.claimed and found.false_claim and not found.gave_up


def test_attempts_at_the_same_are_repeated_however_they_are_written():
    lines = ["1+7=8, then 8+8=16", "7+1=8, then 8+8=16", "7-1=6, then 8-6=2", "7-1=6, then 6+8=14"]
    found = read("".join(f"{line}, need 14: too big\n" for line in lines) + END)
    assert found.repeated == 1 and found.malformed == 0
    assert [a.expression for a in found.attempts] == ["1+7+8", "7+1+8", "8-(7-1)", "7-1+8"]


def test_the_summary_has_the_orders():
    analysed = [
        Response(problem=0, text=text, outcome=RIGHT, tokens=1, overlong=False, analysis=read(text))
        for text in (VERIFIED + END, "</think>\n\\boxed{1+7}")
    ]
    row = figures.summary(analysed)
    assert row["orders"] == {"row": 0.0, "short": 0.0, "other": 1.0}
    assert row["gave_up"] == 0.5 and row["skills"]["verdicts"] == 1.0
    assert figures.metrics_row(analysed)["order_other"] == 1.0


# tokens


def test_an_attempt_is_fourteen_tokens_and_texts_survive(tokens):
    pieces = [tokens.decode([token]) for token in tokens.encode("7+8=15, then 15-1=14, need 14: yes\n")]
    assert pieces == ["7", "+", "8", "=", "15", ", then ", "15", "-", "1", "=", "14", ", need ", "14", ": yes\n"]
    longest = 0
    for index in range(400):
        prompt, chain = TASK.demonstration(index, 0)
        ids = tokens.encode(prompt + chain)
        assert tokens.decode(ids) == prompt + chain and len(tokens.encode(prompt)) <= CFG.data.prompt_length
        longest = max(longest, len(ids) + 1)
    assert longest <= CFG.sft.sequence_length


def test_the_end_of_thinking_may_follow_a_yes_alone(tokens):
    token, (yes,) = TASK.forbid_giving_up(tokens)
    ids = tokens.encode(VERIFIED + END)
    place = TASK.thought_end(ids, tokens)
    assert ids[place] == token and ids[place - 1] == yes == tokens.encode(": yes\n")[0]
    given_up = tokens.encode("1+7=8, then 8+8=16, need 14: too big\n" + END)
    assert given_up[TASK.thought_end(given_up, tokens) - 1] != yes
    assert TASK.thought_end(tokens.encode(VERIFIED), tokens) is None


def test_the_tiny_config_still_means_the_demo():
    cfg = small.make_config()
    assert cfg.task.name == "pairs" and cfg.task.curriculum == 0 and cfg.rl.filter_pass_rate == 1
