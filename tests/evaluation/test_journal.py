# SPDX-License-Identifier: Apache-2.0
"""Responses in a file: what a line says, batches, and a resume after a kill at any byte; the sampler is a stub."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import small
from rich.console import Console

from t1jax.config import ConfigError
from t1jax.evaluation import evaluator as evaluation
from t1jax.evaluation import journal
from t1jax.evaluation.journal import Journal
from t1jax.evaluation.questions import Question, digest
from t1jax.host.progress import Progress
from t1jax.model.parameters import checksum
from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG, Outcome
from t1jax.tasks.files.problems import Problem
from t1jax.tasks.files.task import FileGrader

CFG = small.make_config(eval__batch_size=4)
LENGTH, NEW = 6, 5
STOP, BOX = 0, 20  # BOX + d: \boxed{d}
PARAMS = {"w": jnp.arange(6.0), "v": jnp.ones((2, 3), jnp.bfloat16)}


class Tokens:
    """Ids to text: STOP to nothing, BOX + d to a box, others to a letter."""

    stop_ids, pad_id, vocab_size = (STOP,), STOP, 64

    def encode(self, text):
        return [BOX - 1 - ord("a") + ord(c) - 1 for c in text]

    def decode(self, ids):
        return "".join("" if i == STOP else f"\\boxed{{{i - BOX}}}" if i >= BOX else chr(ord("a") + i) for i in ids)

    def save(self, directory):
        raise AssertionError("nothing saves a tokenizer here")


class Verifier:
    """Numbers only; counts its calls."""

    def __init__(self):
        self.calls = []

    def check(self, pairs):
        self.calls.append(list(pairs))
        return [{True: RIGHT, False: WRONG, None: UNSCORABLE}[answers.quick(*pair)] for pair in pairs]

    def comparable(self, golds):
        return [True] * len(golds)


class Sampler:
    """Stands for generate.Generator: what it draws depends on names alone. It can be killed after some calls."""

    def __init__(self, cfg, mesh, tokenizer, on_progress=None):
        self.calls, self.lives = [], 10**9

    def __call__(self, params, prompts, name, *, length, new_tokens, responses, temperature, ids, truncate, forbid):
        if self.lives == 0:
            raise KeyboardInterrupt
        self.lives -= 1
        assert all(len(prompt) <= length for prompt in prompts) and truncate and forbid is None
        self.calls.append((name, list(ids), responses))
        return [[self.draw(f"{name} {i} {r}", new_tokens) for r in range(responses)] for i in ids]

    def draw(self, name, new_tokens):
        random = np.random.default_rng(zlib.crc32(name.encode()))
        ids = random.choice([1, 2, STOP, BOX + 1, BOX + 2, BOX + 3], new_tokens).tolist()
        return ids[: ids.index(STOP) + 1] if STOP in ids else ids


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(evaluation, "Generator", Sampler)

    def make(cfg=CFG, shape=small.ONE):
        progress = Progress(Console(file=io.StringIO()))
        grader = FileGrader(cfg, Tokens(), Verifier())
        return evaluation.Evaluator(cfg, small.make_mesh(shape), grader, Tokens(), progress)

    return make


def question(id, problem, prompt, gold="2", **more):
    asked = Problem(problem, "held_out", "", "2", "", {}, problem + 1, "f.jsonl")
    return Question(id, asked, prompt, gold, row=problem + 1, **more)


def questions(count, gold="2"):
    return [question(i, i, (3,) * (1 + i % LENGTH), gold) for i in range(count)]


def respond(evaluator, path, asked=None, params=PARAMS, checkpoint="somewhere", data="f.jsonl", **changes):
    journal = Journal(path, {"checkpoint": checkpoint, "weights": checksum(params), "data": data})
    settings = {"samples": 2, "truncate": True, "length": LENGTH, "new_tokens": NEW} | changes
    return evaluator.respond(params, "name", questions(5) if asked is None else asked, journal=journal, **settings)


def test_a_line_holds_all_of_a_response(tmp_path, make):
    found = respond(make(), tmp_path / "r.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(rows) == 10 and sorted((r["problem"], r["response"]) for r in rows) == [
        (p, r) for p in range(5) for r in range(2)
    ]
    for row, response in zip(rows, found, strict=True):
        assert list(row) == [
            "problem", "row", "response", "outcome", "answer", "gold", "tokens", "overlong", "text", "ids",
        ]  # fmt: skip
        assert row["row"] == row["problem"] + 1 and row["gold"] == "2"
        assert row["text"] == Tokens().decode(row["ids"]) and row["tokens"] == len(row["ids"])
        assert row["answer"] == answers.final_answer(row["text"])
        assert row["outcome"] == ("right" if row["answer"] == "2" else "wrong")
        assert row["overlong"] == (row["ids"][-1] != STOP)
        assert Outcome[row["outcome"].upper()] == response.outcome
    for column, least in (("outcome", 2), ("overlong", 2), ("answer", 3), ("tokens", 3)):
        assert len({row[column] for row in rows}) >= least, column


def test_without_a_gold_answer_all_is_unscorable_and_nothing_is_checked(tmp_path, make):
    evaluator = make()
    asked = [question(i, i, (3,), gold=None) for i in range(3)]
    evaluator.task._unscorable = {(q.problem.source, q.row) for q in asked}
    found = respond(evaluator, tmp_path / "r.jsonl", asked)
    assert {response.outcome for response in found} == {UNSCORABLE} and {response.gold for response in found} == {None}
    assert evaluator.task._verifier.calls == [[], []]  # two questions a call, then one


def test_a_begun_response_is_judged_as_a_whole(tmp_path, make):
    """The cut thought and the answer prefix are part of the response; overlong is said of what was sampled."""
    asked = [question(7 * 2 + 1, 7, (3, 4, BOX + 2), response=1, begun=(4, BOX + 2))]
    (found,) = respond(make(), tmp_path / "r.jsonl", asked, samples=1, new_tokens=1)
    (drawn,) = found.ids[2:]
    assert found.ids[:2].tolist() == [4, BOX + 2] and (found.problem, found.response) == (7, 1)
    assert found.answer == (str(drawn - BOX) if drawn > BOX else "2")
    assert found.overlong == (drawn != STOP)
    assert b'"begun"' not in found.line()


def test_batches_hold_as_many_rows_as_the_config_says(tmp_path, make):
    """4 rows a call: 2 questions of 2 samples; 6 samples in two rounds of 3 of one question."""
    evaluator = make()
    respond(evaluator, tmp_path / "two.jsonl")
    assert evaluator._generate.calls == [("name/0", ids, 2) for ids in ([0, 1], [2, 3], [4])]
    evaluator = make()
    found = respond(evaluator, tmp_path / "six.jsonl", questions(2), samples=6)
    assert evaluator._generate.calls == [(f"name/{first}", [i], 3) for first in (0, 3) for i in (0, 1)]
    assert sorted((r.problem, r.response) for r in found) == [(p, r) for p in range(2) for r in range(6)]
    assert len({tuple(r.ids) for r in found if r.problem == 0}) > 3


def test_batches_of_several_shards(tmp_path, make):
    evaluator = make(shape=(2, 2, 1))
    respond(evaluator, tmp_path / "r.jsonl")
    assert [call[1:] for call in evaluator._generate.calls] == [([0, 1, 2, 3], 1), ([4], 1)] * 2


def test_a_kill_at_any_byte_changes_nothing(tmp_path, make, monkeypatch):
    """Whatever the file was cut to, the next run makes it what an unbroken run would have made."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # a kill of the process loses nothing that was written
    path, asked = tmp_path / "r.jsonl", questions(3)
    evaluator = make()
    unbroken = respond(evaluator, path, asked)
    whole = path.read_bytes()
    calls = []
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        evaluator._generate.calls.clear()
        found = respond(evaluator, path, asked)
        assert path.read_bytes() == whole, end
        assert [r.line() for r in found] == [r.line() for r in unbroken]
        calls.append(len(evaluator._generate.calls))
    assert sorted(calls, reverse=True) == calls and set(calls) == {0, 1, 2}  # what is there is not sampled again


def test_a_kill_between_the_two_files(tmp_path, make):
    path = tmp_path / "r.jsonl"
    evaluator = make()
    evaluator._generate.lives = 0
    with pytest.raises(KeyboardInterrupt):
        respond(evaluator, path)
    assert path.with_suffix(".settings.json").exists() and not path.exists()
    assert len(respond(make(), path)) == 10


def test_what_is_sampled_is_written_before_the_next_batch(tmp_path, make):
    path = tmp_path / "r.jsonl"
    for batches, lines in ((1, 4), (1, 8), (9, 10)):
        evaluator = make()
        evaluator._generate.lives = batches
        try:
            respond(evaluator, path)
        except KeyboardInterrupt:
            pass
        assert path.read_bytes().count(b"\n") == lines


def test_a_run_samples_as_without_a_journal_and_a_kill_costs_a_batch(tmp_path, make):
    """What only the task knows of a response is found again for those that the journal holds."""
    asked = [dataclasses.replace(q, row=0, text=f"prompt {q.id}") for q in questions(5)]
    settings = {"samples": 2, "truncate": True, "length": LENGTH, "new_tokens": NEW}
    plain = make()
    plain.task.analyse = lambda problem, text: (problem.index, text)
    expected = plain.respond(PARAMS, "quick", asked, **settings)
    kept, told = journal.of_run(tmp_path, "rl", 50), []
    for lives in (1, 1, 9):
        evaluator = make()
        evaluator.task.analyse = plain.task.analyse
        evaluator._generate.lives = lives
        try:
            found = evaluator.respond(PARAMS, "quick", asked, journal=kept("quick"), tell=told.append, **settings)
        except KeyboardInterrupt:
            pass
        assert len(evaluator._generate.calls) == 1
    assert [r.line() for r in found] == [r.line() for r in expected] and found == expected
    assert [r.analysis for r in found] == [r.analysis for r in expected] and found[0].analysis is not None
    assert evaluator.sampled == plain.sampled == sum(r.tokens for r in expected)
    assert len(told[-1]) == 10
    with pytest.raises(ConfigError, match="temperature"):
        make().respond(PARAMS, "quick", asked, journal=kept("quick"), temperature=0.5, **settings)
    journal.forget(tmp_path, but="rl-000050-")
    assert len(list((tmp_path / "journal").iterdir())) == 2
    journal.forget(tmp_path, but="rl-000100-")
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_long_evaluation_of_a_run_says_how_long_it_takes(tmp_path, make, monkeypatch):
    monkeypatch.setattr(evaluation, "LONG", 0.0)
    evaluator, notes = make(), []
    evaluator._progress.note = notes.append
    evaluator.respond(
        PARAMS, "held_out", questions(9), journal=journal.of_run(tmp_path, "sft", 0)("x"), truncate=True,
        length=LENGTH, new_tokens=NEW,
    )  # fmt: skip
    assert len(notes) == 1 and notes[0].startswith("held_out: 9 responses, 0:0")


OTHERS = {
    "temperature": {"temperature": 0.5},
    "new_tokens": {"new_tokens": NEW + 1},
    "prompt_length": {"length": LENGTH + 1},
    "samples": {"samples": 4},
    "questions": {"asked": questions(4)},
}


@pytest.mark.parametrize("knob", OTHERS)
def test_a_resume_with_other_settings_is_refused(tmp_path, make, knob):
    path = tmp_path / "r.jsonl"
    respond(make(), path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"r\.jsonl was sampled with other settings: .*{knob} is \S+, not ") as error:
        respond(make(), path, **OTHERS[knob])
    assert "\n" not in str(error.value) and path.read_bytes() == before


@pytest.mark.parametrize(
    "knob, cfg",
    [
        ("seed", dataclasses.replace(CFG, seed=1)),
        ("top_k", small.with_rl(CFG, top_k=3)),
        ("top_p", small.with_rl(CFG, top_p=0.9)),
        ("min_p", small.with_rl(CFG, min_p=0.1)),
        ("compute_dtype", dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, compute_dtype="bfloat16"))),
        ("responses_per_call", dataclasses.replace(CFG, eval=dataclasses.replace(CFG.eval, batch_size=1))),
    ],
)
def test_a_resume_with_another_config_is_refused(tmp_path, make, knob, cfg):
    respond(make(), tmp_path / "r.jsonl")
    with pytest.raises(ConfigError, match=f"other settings: {knob} is "):
        respond(make(cfg), tmp_path / "r.jsonl")


def test_a_resume_with_other_weights_is_refused(tmp_path, make):
    respond(make(), tmp_path / "r.jsonl")
    with pytest.raises(ConfigError, match="other settings: weights is "):
        respond(make(), tmp_path / "r.jsonl", params={**PARAMS, "w": PARAMS["w"].at[3].add(1e-6)})


def test_another_question_is_another_digest():
    (one,) = questions(1)
    others = [
        dataclasses.replace(one, **change) for change in ({"gold": "3"}, {"prompt": (4,)}, {"id": 1}, {"begun": (3,)})
    ]
    assert len({digest([question]) for question in [one, *others]}) == 5


def test_questions_have_the_digest_that_older_versions_wrote():
    """Otherwise their files could not be continued."""
    assert digest([question(1, 2, (4, 5), "6")]) == "052e6643c240"


def test_a_checksum_sees_every_weight_and_no_sharding():
    mesh = small.make_mesh((1, 4, 1))
    cfg = small.make_config()
    one, four = (small.make_params(cfg, m) for m in (small.make_mesh(), mesh))
    assert checksum(one) == checksum(four)
    assert checksum(PARAMS) != checksum({**PARAMS, "v": PARAMS["v"].at[1, 2].set(0.5)})
    assert checksum(PARAMS) != checksum({"w": PARAMS["w"], "u": PARAMS["v"]})


DAMAGED = {
    "not JSON": (lambda lines: [b"{\n", *lines], "line 1: JSONDecodeError"),
    "no response": (lambda lines: [lines[0], b"{}\n", *lines[1:]], "line 2: KeyError"),
    "a list": (lambda lines: [b"[1]\n", *lines], "line 1: TypeError"),
    "an outcome of its own": (lambda lines: [re.sub(rb'"(wrong|right)"', b'"sure"', lines[0])], "line 1: KeyError"),
    "a missing line": (lambda lines: lines[1:], r"line 1: \(problem, response\) \(0, 1\); expected \(0, 0\)"),
    "a line twice": (lambda lines: [lines[0], *lines], r"line 2: .*\(0, 0\); expected \(0, 1\)"),
    "too many lines": (lambda lines: [*lines, lines[-1]], "line 11: .*expected no more lines"),
    "no tokens": (lambda lines: [re.sub(rb', "ids": .*]', b"", lines[0])], "line 1: ValueError"),
    "no row": (lambda lines: [re.sub(rb'"row": 1, ', b"", lines[0])], "line 1: ValueError"),
    "lost tokens": (lambda lines: [lines[0].replace(b'"ids": [', b'"ids": [7, ')], "line 1: ValueError"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_refused_and_kept(tmp_path, make, what):
    path = tmp_path / "r.jsonl"
    respond(make(), path)
    damage, message = DAMAGED[what]
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=message) as error:
        respond(make(), path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', "3"])
def test_damaged_settings_are_refused(tmp_path, make, content):
    path = tmp_path / "r.jsonl"
    respond(make(), path)
    path.with_suffix(".settings.json").write_text(content)
    with pytest.raises(ConfigError, match=r"r\.settings\.json"):
        respond(make(), path)


def test_responses_without_settings_are_refused(tmp_path, make):
    path = tmp_path / "r.jsonl"
    respond(make(), path)
    path.with_suffix(".settings.json").unlink()
    with pytest.raises(ConfigError, match=r"settings\.json: not found beside r\.jsonl"):
        respond(make(), path)


def test_the_checkpoint_may_move(tmp_path, make):
    """The weights are compared, not where they are; nor where the problems are."""
    path = tmp_path / "r.jsonl"
    respond(make(), path)
    evaluator = make()
    respond(evaluator, path, checkpoint="elsewhere", data="moved/f.jsonl")
    assert evaluator._generate.calls == []


def test_processes_that_see_different_files_are_refused(tmp_path, monkeypatch):
    from t1jax.devices import multihost

    monkeypatch.setattr(multihost, "to_host", lambda tree: np.array([0, 4]))
    with pytest.raises(ConfigError, match=r"processes see \[0, 4\] responses"):
        Journal(tmp_path / "r.jsonl", {}).resume({}, [])


def test_nothing_to_ask(tmp_path, make):
    assert respond(make(), tmp_path / "r.jsonl", []) == []
    assert respond(make(), tmp_path / "r.jsonl", []) == []
