# SPDX-License-Identifier: Apache-2.0
"""The embedded task with a cold start from a file: what it takes, what it leaves out, and that training reads it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import small

from t1jax.config import ConfigError
from t1jax.prompts import streams
from t1jax.tasks.pairs.task import PairsTask
from t1jax.tasks.written import read_written
from t1jax.training import stages

CFG = small.make_config(data__prompt_length=24, sft__sequence_length=160, sft__batch_size=2)
TASK = PairsTask(CFG.task)


class Letters:
    def encode(self, text):
        if "\u2713" in text:
            raise ValueError("no piece")
        return list(text.encode())


def row(index, split="train", **values):
    problem = TASK.problem(index, split)
    return {
        "problem": index,
        "prompt": TASK.prompt(problem),
        "response": f"</think>\n\\boxed{{{TASK.gold(problem)}}}",
    } | values


def read(tmp_path, rows):
    path = tmp_path / "sft.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = read_written(str(path), TASK, Letters())
    return task, [note.removeprefix(f"{path}: ") for note in task.notes]


def test_the_demonstrations_are_the_files_and_all_else_is_the_tasks(tmp_path):
    task, notes = read(tmp_path, [row(3), row(1)])
    assert task.num_demonstrations() == 2 and notes == []
    assert task.demonstration(0, 5) == (row(3)["prompt"], row(3)["response"])
    assert task.demonstration(1, 0)[0] == row(1)["prompt"]
    assert task.problem(3, "held_out") == TASK.problem(3, "held_out")
    assert task.cut_answer_prefix == TASK.cut_answer_prefix
    assert not hasattr(task, "no_such_thing")


def test_only_training_problems_in_the_tasks_words_come_in(tmp_path):
    bad = [
        row(2, "held_out"), row(4, problem=5), row(4, problem="4"), row(4, problem=-1), row(4, problem=True),
        row(4, prompt=row(4)["prompt"].strip()), row(4, response=""), row(4, response=None),
        row(4, response="\u2713"), row(0),
    ]  # fmt: skip
    task, notes = read(tmp_path, [row(0), *bad])
    assert task.num_demonstrations() == 1
    assert [note.partition(" (")[0] for note in notes] == [
        "6 rows dropped: its prompt is not that of the training problem with this number",
        "3 rows dropped: a response that the tokenizer cannot write",
        "1 row dropped: the same text as an earlier row",
    ]


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"row 1 has no column 'problem'; expected rows of t1jax.synthesize; it has"):
        read(tmp_path, [{"prompt": "p", "response": "r"}])
    with pytest.raises(ConfigError, match="nothing is left"):
        read(tmp_path, [row(2, "held_out")])


def test_the_cold_start_of_the_embedded_task_trains_on_the_file(tmp_path):
    path = tmp_path / "sft.jsonl"
    path.write_text("".join(json.dumps(row(index)) + "\n" for index in range(6)))
    cfg = small.make_config(data__sft=str(path), data__prompt_length=24, sft__sequence_length=160, sft__batch_size=2)
    task, tokens = stages.make_task(cfg, tmp_path / "run", None)
    assert len(task.notes) == 0 and task.num_demonstrations() == 6
    stream = streams.sft_stream(cfg, task, tokens)
    (batch,) = itertools.islice(stream, 1)
    stream.close()
    texts = {
        tokens.decode(batch.tokens_BT[b][batch.segment_BT[b] == s])
        for b in range(2)
        for s in range(1, 1 + batch.segment_BT[b].max())
    }
    assert texts <= {row(index)["prompt"] + row(index)["response"] for index in range(6)} and len(texts) > 2
    assert np.any(batch.target_BT)
    plain, _ = stages.make_task(small.make_config(sft__num_steps=0), tmp_path / "other", None)
    assert plain.num_demonstrations() is None
