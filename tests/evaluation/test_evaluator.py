# SPDX-License-Identifier: Apache-2.0
"""Evaluation: numbers by hand, bans and temperatures that reach the sampler, and cuts of a thought at a budget."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import pytest
import small
from pairs_evaluation import CFG, TASK, TOKENS

from t1jax.evaluation import evaluator as evaluation
from t1jax.evaluation import figures, scaling
from t1jax.evaluation.opened import Opened
from t1jax.evaluation.questions import ask_held_out
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG


@pytest.fixture(scope="module")
def evaluator():
    return evaluation.Evaluator(CFG, small.make_mesh(), TASK, TOKENS)


@pytest.fixture(scope="module")
def params():
    return small.make_params(CFG, small.make_mesh())


def response(evaluator, index, text):
    (judged,) = evaluator.judge(questions(1, index), [[[*TOKENS.encode(text), *TOKENS.stop_ids]]])
    return judged


def questions(count, start=0):
    return ask_held_out(TASK, TOKENS, count, start)


def problems(count):
    return [question.problem for question in questions(count)]


def drawn(responses):
    return [response.ids.tolist() for response in responses]


def write(problem, verified=True):
    """A right answer to `problem`, verified or just boxed."""
    gold = TASK.gold(problem)
    left, right = gold.split("+")
    line = f"{gold}={problem.target}, need {problem.target}: yes\ncheck {problem.target}-{left}={right}: yes\n"
    return f"{line if verified else ''}</think>\n\\boxed{{{gold}}}"


def test_the_summary_by_hand(evaluator):
    """Two right and verified, one guessed right, one that claims what is not so."""
    first, second, third, last = problems(4)
    low, high = last.numbers[:2]
    lie = f"{low}+{high}={last.target}, need {last.target}: yes\n</think>\n\\boxed{{{low}+{high}}}"
    texts = [write(first), write(second), write(third, verified=False), lie]
    responses = [response(evaluator, i, text) for i, text in enumerate(texts)]
    assert low + high != last.target
    row = figures.summary(responses)
    assert (row["accuracy"], row["n"], row["gave_up"], row["false_claims"]) == (0.75, 4, 0.25, 0.25)
    assert 0.3 < row["low"] < 0.75 < row["high"] < 1
    assert row["response_length"] == sum(len(TOKENS.encode(text)) + 1 for text in texts) / 4
    assert row["skills"]["arithmetic"] == 4 / 5  # three sums and two checks, of which the lie's sum is wrong
    assert row["skills"]["late_arithmetic"] is None
    flat = figures.metrics_row(responses)
    assert flat["arithmetic"] == 4 / 5 and "skills" not in flat


def test_an_answer_without_a_box_counts_for_a_lenient_reader_only(evaluator):
    gold = TASK.gold(problems(1)[0])
    texts = {f"{gold}</think>": RIGHT, "1+1</think>": None, "</think>": None, f"</think>\\boxed{{1+1}}{gold}": None}
    for text, lenient in texts.items():
        found = response(evaluator, 0, text)
        assert (found.outcome, found.lenient) == (WRONG, lenient)


def test_an_unscorable_response_is_neither_right_nor_wrong(evaluator):
    right = response(evaluator, 0, write(problems(1)[0]))
    unscorable = dataclasses.replace(right, outcome=UNSCORABLE)
    assert figures.accuracy([right, unscorable])["n"] == 1
    assert figures.accuracy([right, unscorable])["accuracy"] == 1.0
    assert figures.summary([right, unscorable])["strict_accuracy"] == 0.5


def test_difficulties_share_out_all_responses(evaluator):
    responses = [response(evaluator, i, write(p, False)) for i, p in enumerate(problems(30))]
    parts = figures.by_difficulty(responses, "rl")
    assert sum(part["n"] for part in parts) == 30 and [part["stage"] for part in parts] == ["rl"] * len(parts)
    assert [part["difficulty"] for part in parts] == sorted({p.difficulty for p in problems(30)})


def test_batches_change_no_response(evaluator, params):
    """11 problems in batches of 8 and of 3, padded: the same responses, one a problem, in order."""
    asked = questions(11)
    cfg = dataclasses.replace(CFG, eval=dataclasses.replace(CFG.eval, batch_size=3))
    other = evaluation.Evaluator(cfg, small.make_mesh(), TASK, TOKENS)
    one, two = (e.respond(params, "x", asked) for e in (evaluator, other))
    assert drawn(one) == drawn(two)
    assert [r.problem for r in one] == list(range(11)) and len({*map(tuple, drawn(one))}) > 8
    assert [r.ids.tolist() for r in evaluator.respond(params, "y", asked)] != drawn(one)


def test_greedy_does_not_depend_on_the_random_stream(evaluator, params):
    one, two = (evaluator.respond(params, name, questions(8), temperature=0.0) for name in "ab")
    assert drawn(one) == drawn(two)


def test_forbidden_to_give_up_the_thinking_ends_only_after_a_yes(evaluator):
    """With weights that all but always end the thinking at once, only the ban keeps the token from coming."""
    token, allowed = TASK.forbid_giving_up(TOKENS)
    params = jax.tree.map(lambda x: x * 0, small.make_params(CFG, small.make_mesh()))
    params["final_norm"] = params["final_norm"] + 1
    params["embedding"] = params["embedding"].at[token].set(1.0) + 1e-2
    free = evaluator.respond(params, "x", questions(8), temperature=0.05)
    assert all(token in ids for ids in drawn(free))
    banned = evaluator.respond(params, "x", questions(8), temperature=0.05, forbid_giving_up=True)
    followed = [ids[i - 1] if i else None for ids in drawn(banned) for i, t in enumerate(ids) if t == token]
    assert all(before in allowed for before in followed)


class Answering:
    """Answers each prompt with the right pair if the prompt's thought is longer than six tokens, else wrongly."""

    def __init__(self):
        self.asked = []

    def __call__(self, params, prompts, name, *, length, **rest):
        self.asked.append((name, [TOKENS.decode(prompt) for prompt in prompts]))
        assert all(len(prompt) <= length for prompt in prompts)
        answers = []
        for prompt in prompts:
            question, thought = TOKENS.decode(prompt).split("<think>\n")
            problem = next(p for p in problems(4) if TASK.prompt(p).startswith(question))
            text = TASK.gold(problem) if len(TOKENS.encode(thought)) > 6 + 3 else "1+1"
            answers.append([[*TOKENS.encode(text + "}"), *TOKENS.stop_ids]])
        return answers


@pytest.fixture
def answering(monkeypatch):
    """(an evaluator that samples by an Answering, that)"""
    evaluator, sampler = evaluation.Evaluator(CFG, small.make_mesh(), TASK, TOKENS), Answering()
    monkeypatch.setattr(evaluator, "_generate", sampler)
    return evaluator, sampler


def test_a_thought_is_cut_at_the_budget_and_answered_from_there(answering):
    evaluator, sampler = answering
    responses = [response(evaluator, i, write(p)) for i, p in enumerate(problems(4))]  # 15 tokens, </think>
    points = scaling.inference_scaling(evaluator, None, questions(4), responses, "rl")
    assert [(p["budget"], p["accuracy"], p["n"]) for p in points] == [(3, 0, 4), (8, 1, 4), (16, 1, 4), (24, 1, 4)]
    asked, problem = dict(sampler.asked), problems(1)[0]
    first, gold = TASK.prompt(problem), TASK.gold(problem)
    assert asked["scaling/rl/3"][0] == f"{first}{gold}\n</think>\n\\boxed{{"  # cut within a line: the line is ended
    line = f"{gold}={problem.target}, need {problem.target}: yes\n"
    assert asked["scaling/rl/8"][0] == f"{first}{line}</think>\n\\boxed{{"  # cut after a line: nothing to end
    assert asked["scaling/rl/16"] == asked["scaling/rl/24"] == []  # thought within the budget: its own answer stands


def test_a_response_that_never_ended_is_answered_from_all_of_its_thought(answering):
    evaluator, sampler = answering
    (problem,) = problems(1)
    low, high = problem.numbers[:2]
    endless = f"{low}+{high}={low + high}, need {problem.target}: too small\n" * 3
    (cut,) = evaluator.judge(questions(1), [[TOKENS.encode(endless)[:24]]])
    points = scaling.inference_scaling(evaluator, None, questions(1), [cut], "sft")
    assert [p["accuracy"] for p in points] == [0, 1, 1, 1]
    assert sampler.asked[-1][1][0].endswith(f"{endless}</think>\n\\boxed{{")


def test_compiling_is_told_once_the_weights_are_read():
    """Else a log says for minutes that weights are read."""
    did = []
    opened = SimpleNamespace(cfg=CFG, params=lambda mesh: did.append("read"), evaluator_of=lambda *_: ("evaluator", {}))
    Opened.evaluator(opened, None, SimpleNamespace(doing=did.append))
    assert did == ["reading the weights", "read", "compiling"]
