# SPDX-License-Identifier: Apache-2.0
"""The measurement before and after RL: what it says of its length, before it begins and meanwhile."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
import small
from rich.console import Console

from t1jax.config import ConfigError
from t1jax.evaluation import measurement
from t1jax.host.progress import Progress

CFG = small.make_config(
    eval__num_problems=6, eval__keep_responses=0, scaling__budgets=(4, 16), scaling__answer_tokens=3,
    rl__max_new_tokens=12,
)  # fmt: skip


class Clock:
    """Seconds: one for each whole response, a quarter for each answer to a cut thought."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def evaluator(monkeypatch):
    """Stands for Evaluator: samples in batches of 4 and 2."""
    clock = Clock()

    def batches(tell, seconds):
        for done, more in ((4, 4), (6, 2)):
            clock.now += more * seconds
            tell(list(range(done)))
        return list(range(6))

    def curve(evaluator, params, questions, responses, stage, kept, tell):
        for budget in CFG.scaling.budgets:
            batches(lambda done, budget=budget: tell(budget, done), 0.25)
        return []

    nothing = {"summary": lambda _: {}, "accuracy": lambda _: {}, "by_difficulty": lambda *_: []}
    monkeypatch.setattr(measurement, "figures", SimpleNamespace(**nothing))
    monkeypatch.setattr(measurement, "ask_held_out", lambda task, tokenizer, count: list(range(count)))
    monkeypatch.setattr(measurement, "scaling", SimpleNamespace(inference_scaling=curve))
    monkeypatch.setattr(measurement, "sample", lambda response, stage: {})

    def respond(params, name, questions, tell, journal, **how):
        return batches(tell, 1.0)

    return SimpleNamespace(cfg=CFG, tokenizer=None, sampled=0, respond=respond, clock=clock)


def measured(evaluator: Any, folder: Any, stage: str, forbids: Any) -> str:
    """What is printed."""
    out = io.StringIO()
    task: Any = SimpleNamespace(size=lambda split: None, forbid_giving_up=lambda tokenizer: forbids)
    with Progress(Console(file=out, width=200), every=0.0, clock=evaluator.clock) as progress:
        measurement.measured(stage, folder, progress, evaluator, task, None)
    return out.getvalue()


def test_it_says_how_much_it_samples_and_then_the_time_left(evaluator, tmp_path):
    first, *lines = measured(evaluator, tmp_path, "sft", object()).splitlines()
    assert first == (
        "measure sft: 18 responses of at most 12 tokens, at most 12 answers of at most 3; eval.num_problems bounds it, "
        "eval.before = False skips it"
    )
    words = [line.removeprefix("measure sft ").split("  ") for line in lines]
    assert [count for count, *_ in words] == [f"{n}/21" for n in (4, 6, 10, 12, 16, 18, 19, 19, 20, 21, 21)]
    assert words[1][-1] == "0:15 left" and words[5][-1] == "0:03 left" and words[-1][-1] == "0:21 in all"
    assert "seconds" in json.loads((tmp_path / "measured/sft.json").read_text())


def test_after_rl_nothing_can_be_skipped_and_few_problems_are_few(evaluator, tmp_path):
    first = measured(evaluator, tmp_path, "rl", None).splitlines()[0]
    assert first.startswith("measure rl: 12 responses") and first.endswith("eval.num_problems bounds it")
    task: Any = SimpleNamespace(size=lambda split: 5, forbid_giving_up=lambda tokenizer: None)
    assert measurement.amount(CFG, task, None) == (5, 2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="delete it"):
        (tmp_path / "measured/rl.json").write_text('{"summary": 1}')
        measured(evaluator, tmp_path, "rl", None)


@pytest.mark.parametrize(
    ("knob", "before", "after"),
    [
        ("rl.learning_rate", False, True),
        ("eval.every", False, True),
        ("checkpoint.every", False, True),
        ("rl.max_new_tokens", True, True),
        ("eval.num_problems", True, True),
        ("scaling.budgets", True, True),
    ],
)
def test_only_what_is_measured_otherwise_is_measured_again(knob, before, after):
    assert measurement.depends("sft", [knob]) == before
    assert measurement.depends("rl", [knob]) == after
    assert not measurement.depends("sft", []) and not measurement.depends("rl", [])
