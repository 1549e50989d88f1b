# SPDX-License-Identifier: Apache-2.0
"""A task is what its Protocol says, and a wrapped one is the other but for what it changes."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from small import make_config

from t1jax.tasks import embedded
from t1jax.tasks import task as tasks
from t1jax.tasks.countdown.task import CountdownTask
from t1jax.tasks.files.task import ProblemsTask
from t1jax.tasks.gym.task import GymTask
from t1jax.tasks.pairs.task import PairsTask
from t1jax.tasks.task import Task, Wrapped
from t1jax.tasks.written import WrittenTask
from t1jax.training.selection import Selected

NAMES = {name for name in dir(Task) if not name.startswith("_")}
HERE = Path(tasks.__file__).parent


def test_a_wrapped_task_passes_on_everything_that_a_task_has():
    assert len(NAMES) > 10
    assert NAMES == {name for name in vars(Wrapped) if not name.startswith("_")}
    for name in NAMES:
        asked = getattr(Task, name)
        if not isinstance(asked, property):
            of_task = str(inspect.signature(asked)).replace("P_in", "P")  # a Grader only takes problems
            assert of_task == str(inspect.signature(getattr(Wrapped, name))), name


@pytest.mark.parametrize(("name", "numbers"), [("pairs", 8), ("countdown", 4)])
def test_a_question_as_it_is_typed_becomes_the_prompt_of_the_task(name, numbers):
    cfg = make_config(task__name=name, task__max_numbers=numbers, task__min_numbers=3)
    task = CountdownTask(cfg.task) if name == "countdown" else PairsTask(cfg.task)
    for index in range(20):
        prompt = task.prompt(task.problem(index, "held_out"))
        question = prompt.splitlines()[0]
        assert embedded.ask(question) == embedded.ask(f"{question}\n") == embedded.ask(prompt) == prompt
    assert embedded.ask(embedded.example(cfg)) == task.prompt(task.problem(0, "held_out"))


def test_what_is_wrapped_answers_as_the_task_itself():
    task = PairsTask(make_config().task)
    wrapped = Wrapped(task)
    problem = task.problem(3, "train")
    right = "\\boxed{" + str(task.gold(problem)) + "}"
    assert wrapped.problem(3, "train") == problem and wrapped.prompt(problem) == task.prompt(problem)
    assert wrapped.score([problem], [right]) == task.score([problem], [right])
    assert wrapped.analyse(problem, right) == task.analyse(problem, right)
    assert wrapped.demonstration(2, 0) == task.demonstration(2, 0)
    assert (wrapped.size("train"), wrapped.num_demonstrations()) == (None, None)
    for name in ("difficulties", "cut_answer_prefix", "notes"):
        assert getattr(wrapped, name) == getattr(task, name)


def test_a_selected_or_written_task_changes_only_what_it_says():
    task = PairsTask(make_config().task)
    written = WrittenTask(task, [("prompt", "response")], ["a row is left out"])
    selected = Selected(written, [5, 8])
    assert selected.problem(1, "train") == task.problem(8, "train")
    assert selected.problem(1, "held_out") == task.problem(1, "held_out")
    assert (selected.size("train"), selected.size("held_out")) == (2, None)
    assert selected.num_demonstrations() == 1 and selected.demonstration(0, 7) == ("prompt", "response")
    assert selected.notes == ["a row is left out"] and selected.difficulties == task.difficulties


@pytest.mark.parametrize("kind", [PairsTask, CountdownTask, GymTask, ProblemsTask, WrittenTask, Selected])
def test_every_task_has_the_methods_of_a_task_with_their_arguments(kind):
    for name in NAMES:
        asked = getattr(Task, name)
        if not isinstance(asked, property):
            assert list(inspect.signature(getattr(kind, name)).parameters) == list(inspect.signature(asked).parameters)


@pytest.mark.parametrize("name", ["task.py", "written.py", "generated.py", "embedded.py"])
def test_the_type_checker_sees_all_of_it(name):
    words = {node.id for node in ast.walk(ast.parse((HERE / name).read_text())) if isinstance(node, ast.Name)}
    assert not words & {"Any", "cast", "getattr"}
