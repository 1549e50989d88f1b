# SPDX-License-Identifier: Apache-2.0
"""Tasks with the rewards of functions: what a row holds, rewards beside right and wrong, problems without answers."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from letters import LETTERS

from configs import base, tiny
from t1jax import config
from t1jax.config import ConfigError, RewardConfig, VerifierConfig
from t1jax.rewards.answers import RIGHT, SCORED, UNSCORABLE, WRONG
from t1jax.rewards.score import Judged
from t1jax.tasks.files.task import FileGrader, ProblemsTask
from t1jax.tasks.pairs.task import PairsTask
from t1jax.tasks.rewarded import rewarded, row_of

FUNCTIONS = """
import json

def columns(prompt, response, row):
    return {"nothing": None}.get(response, float(json.dumps(row, sort_keys=True) in response))

def length(prompt, response, row):
    return None if "?" in response else len(response)

def target(prompt, response, row):
    assert str(row["target"]) in prompt
    return row["target"]
"""


@pytest.fixture
def made(tmp_path):
    """A config, by knobs of reward and of data."""
    (tmp_path / "mine.py").write_text(FUNCTIONS)

    def make(*names, weights=(), file=base, **data):
        cfg = config.load(file.get_config())
        named = ",".join(name if name == "correct" else f"{tmp_path / 'mine.py'}:{name}" for name in names)
        return dataclasses.replace(
            cfg,
            reward=RewardConfig(named, weights),
            data=dataclasses.replace(cfg.data, **data),
            verifier=VerifierConfig(workers=1, deadline=3.0, memory=1024, recycle=5000),
        )

    return make


class Nobody:
    """A verifier that must not be asked."""

    def check(self, pairs):
        raise AssertionError("asked")

    comparable = check


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_problems_without_answers_and_a_row_with_all_its_columns(made, tmp_path):
    rows = [{"question": f"q{i}", "tests": [i, {"deep": None}], "level": i} for i in range(3)]
    rows.append(rows[0])  # the same problem again
    train, held_out = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", [{"question": "other", "n": 1.5}])
    cfg = made("columns", train=train, eval=held_out)
    task = ProblemsTask(cfg, LETTERS, Nobody())
    assert task.size("train") == 3 and task.gold(task.problem(0, "train")) is None
    assert [note.partition(": ")[2] for note in task.notes] == ["1 row dropped: an earlier row's problem (row 4)"]
    problems = [task.problem(i, "train") for i in range(3)]
    assert [row_of(problem, None) for problem in problems] == rows[:3]
    with rewarded(task, cfg, lambda: problems[0]) as judging:
        said = json.dumps(rows[1], sort_keys=True)
        found = judging.score([problems[1], problems[2], problems[0]], [said, said, "nothing"])
    assert found[:2] == [Judged(SCORED, 1.0), Judged(SCORED, 0.0)]
    assert found[2].outcome == UNSCORABLE and math.isnan(found[2].reward)
    asked = [{"question": "q", "city": city} for city in ("Rome", "rome", "Oslo")] + [{"question": "Q", "city": "Rome"}]
    asked += [{"city": "Rome", "question": "q"}, {"question": "q "}]  # the first again, in another order
    kept, notes = FileGrader(cfg, LETTERS, Nobody()).read(write(tmp_path / "d.jsonl", asked))
    assert [problem.row for problem in kept] == [1, 2, 3, 4, 6] and "earlier row's problem (row 5)" in "".join(notes)
    graded = made("correct", "columns", train=train, eval=held_out)
    with pytest.raises(ConfigError, match="data.answer_column"):
        ProblemsTask(graded, LETTERS, Nobody())
    problems, _ = FileGrader(cfg, LETTERS, Nobody()).read(train)
    assert len(problems) == 3
    plain = config.load(base.get_config())
    assert row_of(FileGrader(plain, LETTERS, Equal()).read(write(tmp_path / "c.jsonl", [ROW]))[0][0], "1") == {}


def test_choices_in_columns_are_asked_with_letters_although_nobody_compares_them(made, tmp_path):
    row = {"Question": "Which?", "Correct Answer": "one", "Incorrect Answer 1": "two", "Incorrect Answer 2": "three"}
    rows = [row, row | {"Question": "Who?", "Incorrect Answer 2": "one"}]
    cfg = made("columns", train=(file := write(tmp_path / "a.jsonl", rows)))
    problems, notes = FileGrader(cfg, LETTERS, Nobody()).read(file)
    (asked,), _ = FileGrader(made("correct"), LETTERS, Equal()).read(file)
    assert [problem.text for problem in problems] == [asked.text] and "\n(C) " in asked.text
    assert (problems[0].gold, row_of(problems[0], None)) == ("", row)
    assert [note.partition(": ")[2] for note in notes] == ["1 row dropped: choices that are empty or the same (row 2)"]
    (bare, _), _ = FileGrader(made("columns", answer_column="Correct Answer"), LETTERS, Nobody()).read(file)
    assert bare.text == "Which?"


ROW = {"problem": "p", "answer": "1"}


class Equal:
    def check(self, pairs):
        return [RIGHT] * len(pairs)

    def comparable(self, golds):
        return [True] * len(golds)


def test_correctness_and_a_function_are_summed(made):
    cfg = made("correct", "length", weights=(10.0, 0.5), file=tiny)
    task = PairsTask(cfg.task)
    problem = task.problem(0, "train")
    right = f"\\boxed{{{task.gold(problem)}}}"
    with rewarded(task, cfg, lambda: problem) as judging:
        found = judging.score([problem] * 3, [right, "\\boxed{}", f"{right}?"])
        assert judging.prompt(problem) == task.prompt(problem)
    assert found[:2] == [Judged(RIGHT, 10 + 0.5 * len(right)), Judged(WRONG, 0.5 * 8)]
    assert found[2].outcome == UNSCORABLE
    impossible = dataclasses.replace(problem, target=1000)
    assert task.gold(impossible) is None
    with rewarded(task, cfg, lambda: problem) as judging:
        (lost,) = judging.score([impossible], [right])  # whatever the function says
    assert lost.outcome == UNSCORABLE and math.isnan(lost.reward)


def test_embedded_problems_tell_what_they_are_made_of(made):
    cfg = made("target", file=tiny)
    task = PairsTask(cfg.task)
    problems = [task.problem(i, "train") for i in range(2)]
    assert set(row_of(problems[0], "x")) == {"index", "numbers", "target", "difficulty", "split", "answer"}
    with rewarded(task, cfg, lambda: problems[0]) as judging:
        assert judging.score(problems, ["", ""]) == [Judged(SCORED, float(p.target)) for p in problems]


def test_a_plain_reward_leaves_the_task_as_it_is(made):
    task = PairsTask(made("correct").task)
    with rewarded(task, made("correct"), lambda: task.problem(0, "train")) as same:
        assert same is task
