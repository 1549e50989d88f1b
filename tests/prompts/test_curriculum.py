# SPDX-License-Identifier: Apache-2.0
"""Easy problems first: when which difficulty is asked, resumed alike, and nothing where it is off."""

from __future__ import annotations

import collections
import itertools
import json

import pytest
import small

from t1jax import validation
from t1jax.config import ConfigError
from t1jax.prompts import curriculum, streams
from t1jax.tasks.pairs.task import PairsTask
from t1jax.text import tokenizer

BATCH = 4
KNOBS = {"data__prompt_length": 24, "rl__num_steps": 40, "rl__prompts_per_step": BATCH, "rl__micro_batches": 1}
CFG = small.make_config(**KNOBS, task__curriculum=0.5)
OFF = small.make_config(**KNOBS)
TASK = PairsTask(CFG.task)
TOKENS = tokenizer.SentencePieceTokenizer(
    tokenizer.train_sentencepiece(TASK.corpus(300, 0), CFG.model.vocab_size, TASK.symbols())
)


def indices(count, cfg=CFG, task=TASK, skip=None):
    stream = streams.prompt_stream(cfg, task, TOKENS, "train", BATCH, 3)
    if skip is not None:
        stream.set_state(skip)
    batches = [batch.problem_P.tolist() for batch in itertools.islice(stream, count)]
    state = stream.get_state()
    stream.close()
    return batches, state


def difficulties(batches, task=TASK):
    return [[task.problem(index, "train").difficulty for index in batch] for batch in batches]


def test_the_hardest_rises_in_equal_parts_to_the_last():
    assert [curriculum.hardest((5, 6, 7, 8), step, 6.0) for step in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [curriculum.hardest("ab", step, 3.0) for step in range(4)] == [0, 0, 0, 1]
    assert curriculum.hardest((5,), 0, 9.0) == 0 and curriculum.hardest((5, 6), 0, 0.0) == 1


def test_training_begins_with_the_easiest_and_ends_with_all():
    """Half of 40 steps over four difficulties: a new one after steps 6, 13 and 19."""
    batches, _ = indices(40)
    found = difficulties(batches)
    for step, asked in enumerate(found):
        assert max(asked) <= (5 if step < 7 else 6 if step < 14 else 7 if step < 20 else 8), step
    assert {d for asked in found[:7] for d in asked} == {5} and {d for asked in found[7:14] for d in asked} == {5, 6}
    assert {d for asked in found[14:20] for d in asked} == {5, 6, 7}
    assert {d for asked in found[20:] for d in asked} == {5, 6, 7, 8}


def test_what_is_easy_enough_already_stays_and_later_steps_are_those_of_a_run_without():
    eased, _ = indices(40)
    plain, _ = indices(40, OFF)
    assert eased[20:] == plain[20:] and eased[:20] != plain[:20]
    for mine, theirs, asked in zip(eased[:7], plain[:7], difficulties(plain[:7]), strict=True):
        assert [a == b for a, b in zip(mine, theirs, strict=True)] == [difficulty == 5 for difficulty in asked]


@pytest.mark.parametrize("done", [0, 5, 13])
def test_a_resumed_stream_goes_on_as_the_unbroken_one(done):
    whole, _ = indices(22)
    _, state = indices(done)
    rest, _ = indices(22 - done, skip=json.loads(json.dumps(state)))
    assert rest == whole[done:]


class Few(PairsTask):
    """The first problems only, as a filter leaves them."""

    def __init__(self, count):
        super().__init__(CFG.task)
        self.count = count

    def size(self, split):
        return self.count


def test_of_few_problems_each_is_the_next_that_is_easy_enough():
    batches, _ = indices(24, task=Few(16))
    found = difficulties(batches)
    assert max(d for asked in found[:7] for d in asked) == 5 and 8 in {d for asked in found[20:] for d in asked}
    assert all(0 <= index < 16 for batch in batches for index in batch)


def test_where_all_are_hard_they_are_asked_as_they_come():
    hard = [i for i in range(200) if TASK.problem(i, "train").difficulty == 8][:6]

    class Hard(Few):
        def problem(self, index, split):
            return super().problem(hard[index], split)

    eased, _ = indices(6, task=Hard(6))
    assert eased == indices(6, OFF, task=Hard(6))[0]
    assert set(collections.Counter(sum(eased, [])).values()) == {4}


def test_only_tasks_with_difficulties_have_a_curriculum():
    validation.validate(CFG, 1)
    for knobs in ({"task__name": "gym", "task__gym_dataset": "chain_sum"}, {"data__train": "a", "data__eval": "b"}):
        with pytest.raises(ConfigError, match="task.curriculum is 0.5; expected 0: only pairs and countdown have"):
            validation.validate(small.make_config(**KNOBS, task__curriculum=0.5, **knobs), 1)
