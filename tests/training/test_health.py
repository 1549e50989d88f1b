# SPDX-License-Identifier: Apache-2.0
"""Sick numbers: nothing is learnt from them, the user is told, the step is kept and can be done again, the run ends."""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from gcsfs.retry import HttpError
from small import ONE, STOPS, P, R, V, poison
from tiny_run import KNOBS

from t1jax import replay
from t1jax.host.bucket import Bucket
from t1jax.host.stopping import EXIT_FAILED, EXIT_SICK, Signals, Stopped
from t1jax.rewards.score import HostScores
from t1jax.training import health, loop, stages, step
from t1jax.training.scoring import make_score
from t1jax.training.setup import RlSetup
from t1jax.update import optim


def moments(state):
    """The optimiser's state but for its count of steps, which skipped ones have too."""
    return [x for x in state.opt_state if not isinstance(x, optax.ScaleByScheduleState)]


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weight", "norm", "anchor", "log-probability", "gradient of one response"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_step(where, value):
    one = small.fused(ONE)
    state = one.start()
    prompts, rollouts, scores, plan = small.drawn()
    if where == "weight":
        state = state.replace(params=poison(state.params, value, "layers", "gate"))
    elif where == "norm":
        state = state.replace(params=poison(state.params, value, "final_norm"))
    elif where == "anchor":
        state = state.replace(anchor_offset=poison(state.anchor_offset, value, "layers", "o"))
    elif where == "log-probability":
        rollouts = dataclasses.replace(rollouts, logprob_BT=rollouts.logprob_BT.at[3, 0].set(np.nan))
    else:
        state = state.replace(params=poison(state.params, value, "embedding"))
    before = small.to_numpy(state)
    after, report = small.update()(state, prompts, rollouts, scores, plan)
    assert report["skipped"] == 1 and not np.isfinite(report["grad_norm"])
    for name in ("params", "anchor_offset", "rng"):
        same(getattr(before, name), getattr(after, name))
    same(moments(before), moments(after))
    assert after.step == before.step + 1


def test_a_finite_step_is_not_skipped_and_the_whole_step_survives_a_sick_one():
    """One NaN step in the fused program, then health: the weights are those of the healthy steps alone."""
    one = small.fused(ONE)
    state, (report,) = one.run(one.start(), [0])
    assert report["skipped"] == 0
    healthy = small.to_numpy(state)
    sick = state.replace(anchor_offset=poison(state.anchor_offset, np.nan, "final_norm"))
    after, (report,) = one.run(sick, [1])
    assert report["skipped"] == 1
    same(after.params, healthy.params)
    same(moments(after), moments(healthy))


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_the_rate_that_is_told_is_the_one_applied_after_skipped_steps_too(stage):
    """Adam's update is the rate times a direction that equal gradients leave alone: 2 of 5 steps are skipped."""
    section = getattr(small.make_config(sft__warmup_steps=0), stage)
    name = "cosine" if stage == "sft" else "constant"
    if stage == "rl":
        section = dataclasses.replace(section, warmup_fraction=1.0)
    section = dataclasses.replace(section, weight_decay=0.0, grad_clip=1e9)
    schedule = optim.make_schedule(section, 5, name)
    optimizer = optim.make_optimizer(section, schedule)
    params = {"final_norm": jnp.zeros(3)}
    state = optimizer.init(params)
    for number, value in enumerate([1.0, np.nan, np.inf, 1.0, 1.0]):
        after, state, _, applied = optim.apply_finite(optimizer, {"final_norm": jnp.full(3, value)}, state, params)
        change = np.asarray(params["final_norm"] - after["final_norm"])
        np.testing.assert_allclose(change, schedule(number) if applied else 0.0, rtol=1e-4)
        params = after


@pytest.mark.parametrize("gap", [1000.0, -1000.0])
def test_a_log_ratio_of_1000_is_clamped(gap):
    one = small.fused(ONE)
    prompts, rollouts, scores, plan = small.drawn()
    shifted = dataclasses.replace(rollouts, logprob_BT=rollouts.logprob_BT + gap)
    _, report = small.update()(one.start(), prompts, shifted, scores, plan)
    assert report["skipped"] == 0 and np.isfinite(report["loss"]) and np.isfinite(report["kl_anchor"])


def scores_of(problem, outcome, overlong=False):
    n = len(problem)
    no = np.zeros(n, bool)
    return HostScores(np.broadcast_to(outcome, n).astype(np.int8), no | overlong, no, no)


@pytest.mark.parametrize(
    ("rule", "learns"),
    [
        (lambda problem, *_: scores_of(problem, 1), False),
        (lambda problem, *_: scores_of(problem, -1), False),
        (lambda problem, *_: scores_of(problem, np.where(np.arange(len(problem)) % R, -1, 1)), False),
        (lambda problem, *_: scores_of(problem, 0, overlong=True), False),
        (lambda problem, *_: scores_of(problem, np.arange(len(problem)) % 2), True),
    ],
    ids=["all rewards equal", "none scorable", "one scorable a group", "all overlong", "mixed"],
)
def test_groups_with_nothing_to_learn_from_are_finite(rule, learns):
    one = small.fused(ONE)
    with small.scoring(one.scorer, rule):
        state, (report,) = one.run(one.start(), [0])
    assert report["skipped"] == 0 and np.isfinite(report["grad_norm"]) and np.isfinite(report["loss"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(small.to_numpy(state.params)))
    assert (report["mixed_groups"] > 0) == learns


def test_an_empty_response_counts_for_nothing():
    one = small.fused(ONE)
    prompts, rollouts, scores, _ = small.drawn()
    empty = dataclasses.replace(rollouts, sampled_BT=rollouts.sampled_BT.at[5].set(False))
    plan = jax.jit(make_score(one.setup, small.parity))(prompts, empty)[1]
    _, report = small.update()(one.start(), prompts, empty, scores, plan)
    assert report["skipped"] == 0 and np.isfinite(report["loss"])
    assert int(report["tokens"]) == int(empty.sampled_BT.sum())


def test_a_sampler_of_sick_weights_still_draws_tokens():
    """Whatever the scores are, an id that does not exist is never drawn: the step can be judged, and skipped."""
    one = small.fused(ONE)
    sample = jax.jit(step.make_sample(one.setup, STOPS))
    for value in (np.nan, np.inf):
        for path in (("final_norm",), ("layers", "gate"), ("embedding",)):
            state = one.start()
            rollouts = sample(poison(state.params, value, *path), one.prompts(), state.rng, state.step)
            tokens = np.asarray(rollouts.tokens_BT)
            assert tokens.min() >= 0 and tokens.max() < V and tokens.shape[0] == P * R


def row(**columns):
    healthy = {"entropy": 1.0, "kl_anchor": 0.1, "unscorable": 0.0, "overlong": 0.0, "response_length": 100.0}
    return healthy | {"skipped": 0.0} | columns


def test_the_run_ends_after_so_many_skipped_steps_in_a_row():
    notes: list[str] = []
    watch = health.Health(small.make_config(rl__max_skipped=3), "rl", notes.append)
    for number, skipped in enumerate((1, 1, 0, 1, 1)):
        watch.look(number, row(skipped=float(skipped)))
    assert sum("nothing was updated" in note for note in notes) == 4
    with pytest.raises(Stopped, match=r"rl step 5: .* for 3 steps in a row \(rl\.max_skipped\)") as error:
        watch.look(5, row(skipped=1.0))
    assert error.value.code == EXIT_SICK
    endless = health.Health(small.make_config(rl__max_skipped=0), "rl", notes.append)
    for number in range(50):
        endless.look(number, row(skipped=1.0))


@pytest.mark.parametrize(
    ("column", "value", "knob"),
    [
        ("entropy", 0.005, "rl.entropy_coef"),
        ("kl_anchor", 11.0, "rl.kl_coef"),
        ("unscorable", 0.6, "verifier.deadline"),
        ("overlong", 0.9, "rl.max_new_tokens"),
    ],
)
def test_a_figure_beyond_its_limit_is_told_once_with_the_knob_and_again_after_it_was_well(column, value, knob):
    notes: list[str] = []
    watch = health.Health(small.make_config(), "rl", notes.append)
    watch.look(1, row())
    assert not notes
    for number in (2, 3):
        watch.look(number, row(**{column: value}))
    assert len(notes) == 1 and notes[0].startswith("WARNING: rl step 2: ") and knob in notes[0]
    watch.look(4, row())
    watch.look(5, row(**{column: value}))
    assert len(notes) == 2 and "step 5" in notes[1]
    watch.look(6, row(**{column: None}))  # a figure that is itself not finite


def gaps(dtype, values, **knobs):
    """What is said of steps with these values of logprob_gap."""
    notes: list[str] = []
    watch = health.Health(small.make_config(model__compute_dtype=dtype, **knobs), "rl", notes.append)
    for number, gap in enumerate(values, 1):
        watch.look(number, row(logprob_gap=gap))
    return notes


def test_with_experts_a_gap_is_a_warning_in_float32_too():
    """Rounding may send a token to another expert, whatever the dtype."""
    (note,) = gaps("float32", [5e-6, 0.77], model__num_experts=4, model__experts_per_token=2)
    assert "rl step 2: logprob_gap is 0.77, " in note and note.endswith("that went through other experts")


def test_a_gap_that_float32_cannot_explain_ends_the_run_before_the_step_is_saved():
    """0.77 was the gap of two processes that were fed different prompts of one shard."""
    assert gaps("float32", [5e-6, 7e-3, None]) == []
    with pytest.raises(
        Stopped, match=r"rl step 2: logprob_gap is 0.77, .*expected at most 0.1, the most that .*t1jax.plan"
    ) as error:
        gaps("float32", [5e-6, 0.77])
    assert error.value.code == EXIT_FAILED
    assert gaps("float32", [0.77], rl__logprob_temperature=0.7) == []  # an ablation: they differ on purpose
    assert gaps("float32", [0.01] * 5 + [0.9]) == []  # weights that amplify rounding, as this run's own rows show
    with pytest.raises(Stopped, match="expected at most 1, "):
        gaps("float32", [0.01] * 5 + [1.1])

    kept: list[int] = []
    fake = types.SimpleNamespace(
        save=lambda step, *_, **__: kept.append(step), update=lambda *_: None, sync=lambda: None
    )
    fake.write, fake.get_state = lambda stage, step, row, **_: row, lambda: None
    log = loop.StepLog("rl", fake, fake, health.Health(small.make_config(), "rl", print))
    saving = loop.Saving(log, fake, fake, Signals())
    for number, gap in ((1, 1e-6), (2, 0.77)):
        report = {name: jnp.float32(x) for name, x in row(logprob_gap=gap, tokens=9.0).items()}
        if number == 1:
            log.write(number, report)
            saving.after(number, None, due=True)
    with pytest.raises(Stopped, match="rl step 2"):
        log.write(2, report)
        saving.after(2, None, due=True)
    assert kept == [1]


def test_a_sick_step_that_a_bucket_does_not_take_is_a_warning_and_the_run_goes_on(cloud, monkeypatch):
    def refuse(*args):
        raise HttpError({"code": 503, "message": "as told"})  # what Orbax lets through

    monkeypatch.setattr(health.Health, "_write", refuse)
    notes: list[str] = []
    watch = health.Health(small.make_config(), "rl", notes.append)
    none: Any = None
    watch.dump(Bucket("gs://bkt/sick"), 3, none, np.zeros(1), {}, none)  # type: ignore[arg-type]
    (note,) = notes
    assert note.startswith("WARNING: rl step 3 could not be saved in gs://bkt/sick: ") and "as told, 503" in note


def test_a_skipped_step_has_no_gap_to_speak_of():
    watch = health.Health(small.make_config(), "rl", lambda note: None)
    watch.look(1, row(logprob_gap=50.0, skipped=1.0))


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_in_half_precision_a_gap_out_of_line_with_the_run_is_told_at_once(dtype):
    assert gaps(dtype, [0.04, 0.05, 0.3, 0.49]) == []
    (note,) = gaps(dtype, [1.5])
    assert (
        note.startswith("WARNING: rl step 1: ")
        and "expected at most 0.5;" in note
        and "model.compute_dtype=float32" in note
    )
    usual = [0.2, 0.25, 0.2, 0.3, 0.25]
    (note,) = gaps(dtype, [*usual, 0.99, 1.01])
    assert "rl step 7: logprob_gap is 1.01, " in note and "expected at most 1;" in note


def test_a_sick_step_is_kept_and_the_run_ends_and_the_step_can_be_done_again(tmp_path, monkeypatch, capsys):
    begin = RlSetup.init_state

    def with_a_sick_anchor(setup, params):
        state = begin(setup, params)
        return state.replace(anchor_offset=poison(state.anchor_offset, jnp.nan, "final_norm"))

    monkeypatch.setattr(RlSetup, "init_state", with_a_sick_anchor)
    cfg = small.make_config(**KNOBS, rl__max_skipped=2)
    with pytest.raises(Stopped, match="for 2 steps in a row") as error:
        stages.run(cfg, tmp_path / "run")
    assert error.value.code == EXIT_SICK
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(x["step"], x["skipped"]) for x in rows if x["stage"] == "rl"] == [(1, 1.0), (2, 1.0)]
    kept = tmp_path / "run/sick"
    said = capsys.readouterr().out
    assert f"python -m t1jax.replay {kept}" in said and "rl step 1: the gradient is not finite" in said

    assert replay.main(["t1jax.replay", str(kept)]) == 0
    said = capsys.readouterr().out
    assert "anchor: ['final_norm']: 1 of 32 not finite" in said and "parameters: finite" in said
    assert "log-probabilities of the samples: finite" in said and "step 1: the same happened" in said
    told = json.loads((kept / "report.json").read_text())
    (kept / "report.json").write_text(json.dumps(told | {"response_length": told["response_length"] + 1}))
    assert replay.main(["t1jax.replay", str(kept)]) == 1
    assert "response_length is" in capsys.readouterr().out


def test_replay_of_something_else_is_one_line(tmp_path, capsys):
    assert replay.main(["t1jax.replay", str(tmp_path)]) == 2
    assert "no prompts.npz; expected the folder `sick` of a workdir" in capsys.readouterr().err
    assert replay.main(["t1jax.replay"]) == 2
    (tmp_path / "prompts.npz").write_bytes(b"")
    (tmp_path / "config.json").write_text("{")
    assert replay.main(["t1jax.replay", str(tmp_path)]) == 2
    assert "config.json: " in capsys.readouterr().err
