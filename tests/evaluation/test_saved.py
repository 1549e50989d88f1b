# SPDX-License-Identifier: Apache-2.0
"""Responses are saved as they are, the first ones, and go when their step is done again."""

from __future__ import annotations

import json
import types

import responses_files as made

from t1jax.evaluation import saved
from t1jax.evaluation.evaluator import Response
from t1jax.rewards.answers import UNSCORABLE
from t1jax.tasks.pairs.task import PairsTask


def evaluator(keep):
    tokenizer = types.SimpleNamespace(stop_ids=(2,))
    cfg = types.SimpleNamespace(eval=types.SimpleNamespace(keep_responses=keep))
    return types.SimpleNamespace(cfg=cfg, tokenizer=tokenizer, task=PairsTask(made.CFG.task))


def responses(count):
    problems = [made.TASK.problem(i, "held_out") for i in range(count)]
    ends = [(5, 2), (5, 5), ()]
    return [Response(p, ends[i % 3], f"text {i} \u2028 \ud800", UNSCORABLE, None) for i, p in enumerate(problems)]


def test_the_first_responses_are_kept_and_cut_ones_are_told(tmp_path):
    saved.save(tmp_path, evaluator(4), responses(6), "rl", 9)
    lines = (tmp_path / "responses/rl-000009.jsonl").read_bytes().decode("ascii").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["response"] for row in rows] == [f"text {i} \u2028 \ud800" for i in range(4)]
    assert [(row["tokens"], row["overlong"]) for row in rows] == [(2, False), (2, True), (0, True), (2, False)]
    assert {(row["stage"], row["step"], row["outcome"]) for row in rows} == {("rl", 9, "unscorable")}
    assert rows[1]["prompt"] == made.TASK.prompt(made.TASK.problem(1, "held_out"))


def test_none_are_kept_where_none_are_asked_for(tmp_path):
    saved.save(tmp_path, evaluator(0), responses(3), "rl", 9)
    saved.save(tmp_path, evaluator(4), [], "rl", 9)
    assert list(tmp_path.iterdir()) == []


def test_the_measurement_does_not_replace_the_last_glance(tmp_path):
    saved.save(tmp_path, evaluator(4), responses(1), "rl", 12)
    saved.save(tmp_path, evaluator(4), responses(2), "rl", 12, final=True)
    assert sorted(path.name for path in (tmp_path / "responses").iterdir()) == ["rl-000012.jsonl", "rl-final.jsonl"]


def test_what_is_done_again_goes_and_what_stands_stays(tmp_path):
    def left(step, last):
        for name in ("sft-000000", "rl-000003", "rl-000006", "rl-000012", "rl-final"):
            made.write(tmp_path / f"responses/{name}.jsonl", [])
        made.write(tmp_path / "responses/rl-of-mine.jsonl", [])
        saved.rewind(tmp_path, step, last)
        return sorted(path.stem for path in (tmp_path / "responses").iterdir())

    assert left(6, 12) == ["rl-000003", "rl-000006", "rl-of-mine", "sft-000000"]
    assert left(0, 12) == ["rl-of-mine", "sft-000000"]
    assert left(12, 12) == ["rl-000003", "rl-000006", "rl-000012", "rl-final", "rl-of-mine", "sft-000000"]
    saved.rewind(tmp_path / "new", 0, 12)  # nothing is there yet
