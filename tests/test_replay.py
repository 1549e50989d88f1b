# SPDX-License-Identifier: Apache-2.0
"""A replay asks and judges the problems that the run asked, whatever they were chosen from and whoever judges them."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
import small
from small import poison
from tiny_run import KNOBS

from t1jax import replay
from t1jax.config import ConfigError
from t1jax.host import place, workdir
from t1jax.host.files import write_json
from t1jax.host.stopping import Stopped
from t1jax.rewards.score import make_scorer
from t1jax.training import health, selection, stages, step
from t1jax.training.setup import RlSetup, rl_setup
from t1jax.types import Prompts, Rollouts

FILTERED = {"rl__filter_pass_rate": 0.3, "rl__filter_samples": 2, "rl__filter_problems": 24}
GYM = {
    "task__name": "gym",
    "task__gym_dataset": "chain_sum",
    "task__gym_options": ("max_terms=2", "max_digits=1"),
    "model__vocab_size": 140,
    "data__prompt_length": 40,
    "tokenizer__corpus_texts": 200,
    "verifier__workers": 1,
}
KEPT = [3 * index + 1 for index in range(10)]


def judged_step(task, tokens, golds):
    """In place of the compiled step: answers every problem by `golds`, and reports what the scorer says of each."""

    def make(setup, scorer, **_):
        def train_step(state, prompts):
            ids = [tokens.encode(f"\\boxed{{{gold}}}") for gold in golds]
            sampled = np.array([[place < len(row) for place in range(99)] for row in ids])
            drawn = np.array([row + [0] * (99 - len(row)) for row in ids], np.int32)
            scores = scorer(np.asarray(prompts.problem_P), drawn, sampled, np.ones(len(ids), bool))
            return state, {f"outcome_{i}": float(outcome) for i, outcome in enumerate(scores.outcome)}

        return train_step

    return make


def draw_nothing(setup, stop_tokens):
    nothing = jnp.zeros((1, 1))
    return lambda params, prompts, rng, number: Rollouts(nothing, nothing > 0, nothing, nothing, nothing[0] > 0)


@pytest.mark.parametrize(("knobs", "where"), [(FILTERED, ""), (GYM, ""), (FILTERED, "gs://bkt/replay")])
def test_the_same_problems_are_judged_by_the_same_judge(tmp_path, monkeypatch, request, knobs, where):
    """A step is kept as a run keeps it, and done again; every second problem was answered as it wants it."""
    if knobs is GYM:
        pytest.importorskip("reasoning_gym", reason="reasoning-gym is missing: pip install '.[gym]'")
    cfg, mesh = small.make_config(**knobs), small.make_mesh()
    if where:
        request.getfixturevalue("cloud")
    run = place.of(where or tmp_path / "run", "run")
    run.mkdir(exist_ok=True)
    write_json(run / "filter.json", {"pass_rates": [[i, 0.0 if i in KEPT else 1.0] for i in range(31)]})
    with stages.open_task(cfg, run, print) as (whole, tokens):
        task = selection.choose(cfg, whole, run)
        numbers = list(range(8))
        golds = [task.gold(task.problem(i, "train")) if i % 2 else "99+99" for i in numbers]
        rows = np.zeros((8, cfg.data.prompt_length), np.int32)
        batch = small.on_devices(Prompts(rows, rows == 0, np.array(numbers, np.int32)), mesh)
        setup = rl_setup(cfg, mesh)
        make = judged_step(task, tokens, golds)
        state = setup.init_state(small.make_params(cfg, mesh))
        _, report = make(setup, make_scorer(task, "train", tokens, cfg.rl))(state, batch)
        assert list(report.values()) == [0.0, 1.0] * 4
        health.Health(cfg, "rl", print).dump(run / "sick", 1, state, batch, report, tokens)
    monkeypatch.setattr(step, "make_train_step", make)
    monkeypatch.setattr(step, "make_sample", draw_nothing)
    assert replay.main(["t1jax.replay", str(run / "sick")]) == 0
    if knobs is FILTERED:
        (run / "sick" / "filter.json").unlink()
        assert replay.main(["t1jax.replay", str(run / "sick")]) == 2


def test_another_file_than_that_of_the_run_is_refused(tmp_path):
    """What the dump says of its files is compared before anything is judged."""
    (tmp_path / "train.jsonl").write_text('{"problem": "a", "answer": "1"}\n')
    cfg = small.make_config(data__sft=str(tmp_path / "train.jsonl"))
    write_json(tmp_path / "inputs.json", workdir.digests(cfg))
    write_json(tmp_path / "config.json", cfg.to_dict())
    (tmp_path / "prompts.npz").write_bytes(b"")
    write_json(tmp_path / "report.json", {"step": 1})
    (tmp_path / "train.jsonl").write_text('{"problem": "b", "answer": "1"}\n')
    with pytest.raises(ConfigError, match=r"train.jsonl \(data.sft\) is not the file that"):
        replay.replay(tmp_path)


@pytest.mark.slow
def test_a_step_of_a_filtered_run_is_done_again(tmp_path, monkeypatch, capsys):
    """The same through a whole run, with everything compiled."""
    begin = RlSetup.init_state

    def with_a_sick_anchor(setup, params):
        state = begin(setup, params)
        return state.replace(anchor_offset=poison(state.anchor_offset, jnp.nan, "final_norm"))

    monkeypatch.setattr(RlSetup, "init_state", with_a_sick_anchor)
    knobs = KNOBS | FILTERED | {"sft__num_steps": 0, "rl__max_skipped": 1, "rl__filter_pass_rate": 0.9}
    with pytest.raises(Stopped):
        stages.run(small.make_config(**knobs), tmp_path / "run")
    assert json.loads((tmp_path / "run/sick/report.json").read_text())["step"] == 1
    assert replay.main(["t1jax.replay", str(tmp_path / "run/sick")]) == 0
    assert "step 1: the same happened" in capsys.readouterr().out
