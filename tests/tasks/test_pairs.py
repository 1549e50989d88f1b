# SPDX-License-Identifier: Apache-2.0
"""Problems are reproducible and split without overlap, answers are checked, and the writer keeps its promises."""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from configs import tiny
from t1jax import config
from t1jax.config import ConfigError
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.tasks.pairs import chains
from t1jax.tasks.pairs.task import PairsTask, Problem
from t1jax.text import tokenizer

CFG = config.load(tiny.get_config())
TASK = PairsTask(CFG.task)
ROOT = Path(__file__).parents[2]
EXAMPLE = Problem(index=0, numbers=(6, 13, 14, 16, 22), target=20, difficulty=5, split="train")


def judged(problem, response, task=TASK):
    (outcome,) = task.score([problem], [response])
    return outcome


def task_with(**knobs) -> PairsTask:
    return PairsTask(dataclasses.replace(CFG.task, **knobs))


@pytest.fixture(scope="module")
def trained() -> tokenizer.SentencePieceTokenizer:
    texts = TASK.corpus(500, 0)
    return tokenizer.SentencePieceTokenizer(
        tokenizer.train_sentencepiece(texts, CFG.model.vocab_size, TASK.symbols(), 0)
    )


def test_no_problem_is_in_both_splits():
    sets = {
        split: {(p.numbers, p.target) for p in (TASK.problem(i, split) for i in range(count))}
        for split, count in (("train", 20_000), ("held_out", 2_000))
    }
    assert len(sets["train"]) > 15_000 and len(sets["held_out"]) > 1_500  # they would meet by chance if allowed to
    assert not sets["train"] & sets["held_out"]


def test_the_split_holds_out_the_asked_share_of_all_problems():
    numbers = itertools.combinations(range(1, 21), 4)
    problems = [(four, sum(pair)) for four in numbers for pair in itertools.combinations(four, 2)]
    share = sum(TASK._is_held_out(*problem) for problem in problems) / len(problems)
    assert share == pytest.approx(0.05, abs=0.005)


def test_problems_are_well_formed_graded_and_solvable():
    seen = set()
    for split, index in itertools.product(("train", "held_out"), range(500)):
        problem = TASK.problem(index, split)
        numbers = problem.numbers
        assert numbers == tuple(sorted(set(numbers))) and numbers[0] >= 1 and numbers[-1] <= 20
        assert problem.target in {a + b for a, b in itertools.combinations(numbers, 2)}
        assert (problem.difficulty, problem.split, problem.index) == (len(numbers), split, index)
        seen.add(problem.difficulty)
    assert seen == set(range(CFG.task.min_numbers, CFG.task.max_numbers + 1))


def test_a_problem_is_the_same_in_another_process():
    program = (
        "from configs import tiny; from t1jax import config; from t1jax.tasks.pairs.task import PairsTask;"
        "t = PairsTask(config.load(tiny.get_config()).task);"
        "print([(p.numbers, p.target) for s in ('train', 'held_out') for p in (t.problem(i, s) for i in range(20))])"
    )
    here = [(p.numbers, p.target) for s in ("train", "held_out") for p in (TASK.problem(i, s) for i in range(20))]
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == str(here)
    # and in another year: a changed generator is a changed held-out set
    assert here[0] == ((2, 4, 5, 13, 17, 18, 19), 19)


@pytest.mark.parametrize("index, split", [(-1, "train"), (0, "test")])
def test_unknown_problem_is_an_error(index, split):
    with pytest.raises(ValueError, match="expected index >= 0"):
        TASK.problem(index, split)


@pytest.mark.parametrize(
    "knobs, named",
    [
        ({"min_numbers": 2}, "task.min_numbers"),
        ({"max_numbers": 21}, "task.max_value"),
        ({"min_numbers": 9}, "task.min_numbers"),
        ({"held_out_percent": 0}, "task.held_out_percent"),
    ],
)
def test_impossible_task_names_its_knob(knobs, named):
    with pytest.raises(ConfigError, match=named):
        task_with(**knobs)


def test_prompt_reads_as_documented():
    assert TASK.prompt(EXAMPLE) == "Pick two of 6, 13, 14, 16, 22 that sum to 20.\n<think>\n"


def test_patient_chains_in_both_orders_read_as_documented():
    rows = task_with(row_order_share=1.0, impatient_share=0.0).chain(EXAMPLE, random.Random(0))
    assert rows == ("6+13=19, need 20: too small\n6+14=20, need 20: yes\ncheck 20-6=14: yes\n</think>\n\\boxed{6+14}")
    pointers = task_with(row_order_share=0.0, impatient_share=0.0).chain(EXAMPLE, random.Random(0))
    assert pointers == (
        "6+22=28, need 20: too big\n"
        "6+16=22, need 20: too big\n"
        "6+14=20, need 20: yes\n"
        "check 20-6=14: yes\n"
        "</think>\n\\boxed{6+14}"
    )


def test_row_order_skips_the_rest_of_a_row_that_is_too_big():
    assert chains.row_order((1, 5, 6, 10), 15) == [(1, 5), (1, 6), (1, 10), (5, 6), (5, 10)]
    assert chains.row_order((2, 5, 6, 12, 20), 11) == [(2, 5), (2, 6), (2, 12), (5, 6)]  # 2+20 is skipped


@pytest.mark.parametrize("order", [chains.row_order, chains.two_pointers])
def test_both_orders_always_find_a_pair_without_repeating_one(order):
    for index in range(2000):
        problem = TASK.problem(index, "train")
        attempts = order(problem.numbers, problem.target)
        assert [sum(pair) == problem.target for pair in attempts] == [False] * (len(attempts) - 1) + [True]
        assert len(set(attempts)) == len(attempts)
        if order is chains.two_pointers:
            assert len(attempts) <= problem.difficulty - 1


def test_two_pointers_is_the_shorter_order():
    problems = [TASK.problem(index, "train") for index in range(2000)]
    rows, pointers = (
        statistics.mean(len(order(p.numbers, p.target)) for p in problems)
        for order in (chains.row_order, chains.two_pointers)
    )
    assert pointers < 0.5 * rows


def test_patient_writers_are_always_right():
    rng = random.Random(1)
    patient = task_with(impatient_share=0.0)
    for index in range(500):
        problem = patient.problem(index, "train")
        assert judged(problem, patient.chain(problem, rng), patient) == RIGHT


def test_impatient_writers_give_up_as_often_as_asked_and_guess_a_pair_they_have_not_tried():
    impatient = task_with(impatient_share=1.0, give_up=0.7)
    rng = random.Random(2)
    failed = given_up = 0
    for index in range(3000):
        problem = impatient.problem(index, "train")
        response = impatient.chain(problem, rng)
        found = impatient.analyse(problem, response)
        failed += sum(attempt.verdict != "yes" for attempt in found.attempts)
        given_up += found.gave_up
        assert found.gave_up != found.claimed
        box = response.split("{")[1][:-1]
        if found.gave_up:
            assert box not in {f"{attempt.left}+{attempt.right}" for attempt in found.attempts}
            assert all(int(number) in problem.numbers for number in box.split("+"))
        else:  # never after a yes
            assert judged(problem, response, impatient) == RIGHT and len(found.checks) == 1
    assert given_up / failed == pytest.approx(0.7, abs=0.03)


def test_shares_of_orders_and_of_impatience_are_as_asked():
    mixed = task_with(impatient_share=0.4, give_up=1.0, row_order_share=0.3)
    rng = random.Random(3)
    orders, gave_up, could = [], 0, 0
    for index in range(3000):
        problem = mixed.problem(index, "train")
        found = mixed.analyse(problem, mixed.chain(problem, rng))
        orders.append(found.order)
        if found.attempts[0].verdict != "yes":
            could += 1
            gave_up += found.gave_up
    assert orders.count("row") / len(orders) == pytest.approx(0.3, abs=0.03)
    assert orders.count("other") == 0
    assert gave_up / could == pytest.approx(0.4, abs=0.03)


def test_everything_the_writer_says_is_true():
    rng = random.Random(4)
    for index in range(1000):
        problem = TASK.problem(index, "train")
        found = TASK.analyse(problem, TASK.chain(problem, rng))
        assert all(step.true for step in (*found.attempts, *found.checks))
        assert found.closed and not found.false_claim and not found.malformed and not found.repeated


@pytest.mark.parametrize(
    "response, outcome",
    [
        ("\\boxed{6+14}", RIGHT),
        ("\\boxed{14 + 6}", RIGHT),
        ("</think>\n\\boxed{6+13}", WRONG),  # another sum
        ("\\boxed{10+10}", WRONG),  # not two members
        ("\\boxed{7+13}", WRONG),  # one is not a member
        ("\\boxed{20}", WRONG),
        ("\\boxed{6+14", WRONG),  # never closed
        ("6+14=20, need 20: yes\n", WRONG),  # no box
        ("\\boxed{6+14} no: \\boxed{6+13}", WRONG),  # the last box counts
        ("", WRONG),
    ],
)
def test_answers_are_checked(response, outcome):
    assert judged(EXAMPLE, response) == outcome


def test_many_responses_are_judged_at_once_each_by_its_own_problem():
    two = dataclasses.replace(EXAMPLE, numbers=(4, 6, 14, 16))
    impossible = dataclasses.replace(EXAMPLE, target=100)
    assert TASK.score([EXAMPLE, two, impossible], ["\\boxed{4+16}"] * 3) == [WRONG, RIGHT, UNSCORABLE]
    assert TASK.score([], []) == []
    with pytest.raises(ValueError):
        TASK.score([EXAMPLE], [])


def test_any_right_pair_is_right():
    two = dataclasses.replace(EXAMPLE, numbers=(4, 6, 14, 16))
    assert judged(two, "\\boxed{4+16}") == RIGHT == judged(two, "\\boxed{6+14}")


def test_a_number_may_not_be_used_twice():
    assert judged(dataclasses.replace(EXAMPLE, numbers=(6, 10, 14)), "\\boxed{10+10}") == WRONG


def test_a_problem_without_an_answer_is_unscorable_and_not_wrong():
    impossible = dataclasses.replace(EXAMPLE, target=100)
    assert TASK.gold(impossible) is None
    assert judged(impossible, "\\boxed{6+14}") == UNSCORABLE == judged(impossible, "")
    assert TASK.gold(EXAMPLE) == "6+14"


def test_an_attempt_is_eight_tokens_and_a_prompt_fits(trained):
    def pieces(text):
        return [trained.decode([token]) for token in trained.encode(text)]

    assert pieces("6+14=20, need 20: yes\n") == ["6", "+", "14", "=", "20", ", need ", "20", ": yes\n"]
    assert pieces("5+6=11, need 20: too small\n")[-1] == ": too small\n"
    assert pieces("check 20-6=14: yes\n") == ["check ", "20", "-", "6", "=", "14", ": yes\n"]
    assert pieces("</think>\n\\boxed{6+14}") == ["</think>", "\n", "\\boxed{", "6", "+", "14", "}"]
    lengths = [len(trained.encode(TASK.prompt(TASK.problem(index, "train")))) for index in range(300)]
    assert max(lengths) == 21 <= CFG.data.prompt_length


def test_corpus_is_training_text_and_survives_the_tokenizer(trained):
    texts = list(TASK.corpus(300, 1))
    assert texts == list(TASK.corpus(300, 1)) != list(TASK.corpus(300, 2))
    for text in texts:
        assert trained.decode(trained.encode(text)) == text
        numbers, target = text.split(chains.ASK)[1].split(chains.ASKED)[0].split(chains.GOAL)
        assert not TASK._is_held_out(tuple(map(int, numbers.split(", "))), int(target))


def test_the_end_of_thinking_may_follow_a_yes_alone(trained):
    token, allowed = TASK.forbid_giving_up(trained)
    assert trained.decode([token]) == "</think>"

    def before_the_end(response):
        tokens = trained.encode(TASK.prompt(EXAMPLE) + response)
        assert tokens.count(token) == 1
        return tokens[tokens.index(token) - 1]

    for verified in ("6+14=20, need 20: yes\n</think>", "6+14=20, need 20: yes\ncheck 20-6=14: yes\n</think>\n"):
        assert before_the_end(verified) in allowed
    for given_up in ("</think>", "6+13=19, need 20: too small\n</think>", "6+16=22, need 20: too big\n</think>"):
        assert before_the_end(given_up) not in allowed


def test_the_thought_ends_before_its_closing_token(trained):
    response = "6+14=20, need 20: yes\n</think>\n\\boxed{6+14}</think>"
    assert TASK.thought_end(trained.encode(response), trained) == len(trained.encode("6+14=20, need 20: yes\n")) == 8
    assert TASK.thought_end(trained.encode("</think>"), trained) == 0
    assert TASK.thought_end(trained.encode("6+14=20, need 20: yes\n"), trained) is None


def test_there_is_no_end_of_problems_and_each_has_a_demonstration():
    assert TASK.size("train") is TASK.size("held_out") is TASK.num_demonstrations() is None
    prompt, chain = TASK.demonstration(7, 3)
    problem = TASK.problem(7, "train")
    assert prompt == TASK.prompt(problem) and chain == TASK.chain(problem, random.Random("chain 3 7"))
    assert len({TASK.demonstration(7, seed)[1] for seed in range(20)}) > 1


def test_forbidding_needs_tokens_that_tell_the_verdicts_apart():
    texts = list(TASK.corpus(50, 0))
    coarse = tokenizer.SentencePieceTokenizer(tokenizer.train_sentencepiece(texts, 64, ["</think>"], 0))
    with pytest.raises(ValueError, match="train it with symbols"):
        TASK.forbid_giving_up(coarse)


def test_a_thought_cut_at_any_token_can_be_answered(trained):
    prompt = trained.encode(TASK.prompt(EXAMPLE))
    thought = trained.encode("6+13=19, need 20: too small\n6+14=20, need 20: yes\n")
    for budget in range(len(thought) + 1):
        cut = trained.decode(prompt + thought[:budget] + trained.encode(TASK.cut_answer_prefix))
        assert cut.endswith("\n</think>\n\\boxed{")
        response = cut.removeprefix(TASK.prompt(EXAMPLE)) + trained.decode(trained.encode("6+14}"))
        assert judged(EXAMPLE, response) == RIGHT
        assert TASK.analyse(EXAMPLE, response).closed


def test_right_only_chains_are_the_pair_that_works_and_nothing_else():
    task = task_with(chains="right_only", impatient_share=1.0, give_up=1.0)
    for index in range(50):
        problem = task.problem(index, "train")
        prompt, chain = task.demonstration(index, 0)
        found = task.analyse(problem, chain)
        assert len(found.attempts) == 1 and found.attempts[0].verdict == "yes" and found.attempts[0].true
        assert not found.gave_up and len(found.checks) == 1
        assert task.score([problem], [chain]) == [RIGHT]
