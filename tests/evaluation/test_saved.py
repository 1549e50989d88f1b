# SPDX-License-Identifier: Apache-2.0
"""Responses are saved as they are, the first ones, and go when their step is done again."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import responses_files as made

from t1jax.evaluation import saved
from t1jax.evaluation.responses import Response
from t1jax.rewards.answers import UNSCORABLE


def responses(count):
    return [
        Response(
            problem=i, text=f"text {i} \u2028 \ud800", outcome=UNSCORABLE, tokens=2, overlong=i % 2 == 1,
            prompt=f"ask {i}", difficulty=4, ids=np.array([5, 6], np.int32),
        )
        for i in range(count)
    ]  # fmt: skip


def test_the_first_responses_are_kept_and_read_back(tmp_path):
    saved.save(tmp_path, responses(6), "rl", 9, keep=4)
    lines = (tmp_path / "responses/rl-000009.jsonl").read_bytes().decode("ascii").splitlines()
    assert len(lines) == 4 and "ids" not in json.loads(lines[0])
    (found,), notes = saved.collect(tmp_path)
    assert (found.name, found.stage, found.step, found.final, notes) == ("rl-000009", "rl", 9, False, [])
    assert list(found.responses) == [dataclasses.replace(r, stage="rl", step=9) for r in responses(4)]


def test_files_as_runs_used_to_write_them_are_read(tmp_path):
    """`response` was the text, and there was no `answer`."""
    made.workdir(tmp_path / "new")
    for path in (tmp_path / "new/responses").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        before = (
            "stage",
            "step",
            "problem",
            "difficulty",
            "prompt",
            "response",
            "gold",
            "outcome",
            "tokens",
            "overlong",
        )
        rows = [{name: (row | {"response": row["text"]})[name] for name in before} for row in rows]
        made.write(tmp_path / "old/responses" / path.name, rows)
    new, _ = saved.collect(tmp_path / "new")
    old, notes = saved.collect(tmp_path / "old")
    assert notes == [] and [(e.name, e.stage, e.step, e.final) for e in old] == [
        (e.name, e.stage, e.step, e.final) for e in new
    ]
    for one, other in zip(old, new, strict=True):
        assert one.responses == tuple(dataclasses.replace(r, answer=None) for r in other.responses)
        assert any(r.answer for r in other.responses)


def test_none_are_kept_where_none_are_asked_for(tmp_path):
    saved.save(tmp_path, responses(3), "rl", 9, keep=0)
    saved.save(tmp_path, [], "rl", 9, keep=4)
    assert list(tmp_path.iterdir()) == []


def test_the_measurement_does_not_replace_the_last_glance(tmp_path):
    saved.save(tmp_path, responses(1), "rl", 12, keep=4)
    saved.save(tmp_path, responses(2), "rl", 12, keep=4, final=True)
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
