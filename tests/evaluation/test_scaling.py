# SPDX-License-Identifier: Apache-2.0
"""Where a thought is cut and where it is not, with an evaluator that answers every cut thought wrongly."""

from __future__ import annotations

import random

import pytest
import small
from pairs_evaluation import CFG, TASK, TOKENS

from t1jax.evaluation import evaluator as evaluation
from t1jax.evaluation import scaling
from t1jax.evaluation.questions import ask
from t1jax.rewards.answers import RIGHT

BUDGETS = CFG.scaling.budgets


class Wrong(evaluation.Evaluator):
    """Remembers what it was asked, and answers with a pair that is never right."""

    def __init__(self):
        super().__init__(CFG, small.make_mesh(), TASK, TOKENS)
        self.asked, self._generate = [], self.answer

    def answer(self, params, prompts, name, *, length, new_tokens, responses, temperature, ids, **rest):
        assert (params, new_tokens, temperature, responses) == ("weights", CFG.scaling.answer_tokens, 1.0, 1)
        assert list(ids) == list(range(len(prompts)))
        assert all(len(prompt) <= length for prompt in prompts)
        self.asked.append(prompts)
        return [[[*TOKENS.encode("1+1}"), *TOKENS.stop_ids]] for _ in prompts]

    def judged(self, problem, ids):
        """The response with these token ids."""
        (response,) = self.judge(ask(TASK, TOKENS, [problem]), [[ids]])
        return response


@pytest.fixture
def evaluator():
    return Wrong()


def patient_chains(evaluator, count):
    """Right responses of the task's own writer, long and short."""
    chosen, seed = [], 0
    while len(chosen) < count:
        problem = TASK.problem(seed, "held_out")
        tokens = [*TOKENS.encode(TASK.chain(problem, random.Random(seed))), *TOKENS.stop_ids]
        response = evaluator.judged(problem, tokens)
        chosen += [response] * (response.outcome == RIGHT)
        seed += 1
    return chosen


def points(evaluator, responses):
    questions = ask(TASK, TOKENS, [TASK.problem(response.problem, "held_out") for response in responses])
    return scaling.inference_scaling(evaluator, "weights", questions, responses, "rl")


def test_a_thought_as_long_as_the_budget_keeps_its_own_answer(evaluator):
    """Thoughts of 8 and of 9 tokens at a budget of 8: the end of the first comes just in time, the second is cut."""
    problem = TASK.problem(0, "held_out")
    answer = TOKENS.encode(f"</think>\n\\boxed{{{TASK.gold(problem)}}}")
    filler = TOKENS.encode("7+7=14, need 15: too small\n")
    assert len(filler) >= 8 and 8 in BUDGETS
    for length, right in ((8, 1.0), (9, 0.0)):
        response = evaluator.judged(problem, [*(filler * 2)[:length], *answer, *TOKENS.stop_ids])
        assert response.right
        found = {point["budget"]: point["accuracy"] for point in points(evaluator, [response])}
        assert found[8] == right
        assert found[max(BUDGETS)] == 1.0


def test_a_response_that_ended_without_an_answer_is_not_asked_for_one(evaluator):
    """It stopped by itself in the middle of its thinking: nothing is cut but what is longer than the budget."""
    response = evaluator.judged(TASK.problem(0, "held_out"), [*TOKENS.encode("7+7=14"), *TOKENS.stop_ids])
    assert [point["accuracy"] for point in points(evaluator, [response])] == [0.0] * len(BUDGETS)
    thought = len(TOKENS.encode("7+7=14"))
    assert min(BUDGETS) < thought < BUDGETS[1]
    assert [len(prompts) for prompts in evaluator.asked] == [int(budget < thought) for budget in BUDGETS]
    assert all(TOKENS.stop_ids[0] not in prompt for prompts in evaluator.asked for prompt in prompts)


def test_accuracy_rises_with_the_budget_up_to_the_responses_own(evaluator):
    """Cut thoughts are answered wrongly here, so a response counts from the budget on that its thinking needs."""
    responses = patient_chains(evaluator, 30)
    found = points(evaluator, responses)
    closing, _ = TASK.forbid_giving_up(TOKENS)
    needed = [r.ids.tolist().index(closing) for r in responses]
    assert [point["accuracy"] for point in found] == [sum(n <= b for n in needed) / 30 for b in BUDGETS]
    assert 0 < found[-1]["accuracy"] and found[0]["accuracy"] < found[-1]["accuracy"]
    assert all((point["stage"], point["n"]) == ("rl", 30) for point in found)
    assert [point["budget"] for point in found] == list(BUDGETS)


def test_a_cut_text_is_one_that_a_writer_could_have_written(evaluator):
    """The question, the thought as it was sampled, a line end if the line was open, the end of the thinking, a box;
    in the tokens that the tokenizer gives the same text."""
    responses = patient_chains(evaluator, 10)
    points(evaluator, responses)
    seen = 0
    for budget, prompts in zip(BUDGETS, evaluator.asked, strict=True):
        texts = {TOKENS.decode(prompt) for prompt in prompts}
        assert len(texts) == len(prompts)
        for prompt in prompts:
            text = TOKENS.decode(prompt)
            question, _, thought = text.partition("<think>\n")
            thought, prefix, rest = thought.rpartition("\n</think>\n\\boxed{")
            assert prefix and not rest and not thought.endswith("\n")
            response = next(r for r in responses if r.prompt.startswith(question))
            assert TOKENS.decode(response.ids[:budget].tolist()) in (thought, thought + "\n")
            assert TOKENS.encode(text) == list(prompt)
            seen += 1
    assert seen > 10
