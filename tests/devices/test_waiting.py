# SPDX-License-Identifier: Apache-2.0
"""Devices wait for a slow scorer: XLA is told to, a config is held to what it is told, and what happens otherwise."""

from __future__ import annotations

import importlib
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import several
import small

from t1jax import config, validation
from t1jax.config import ConfigError
from t1jax.devices import waiting
from t1jax.host import command_line
from t1jax.rewards.verifier import Verifier
from t1jax.training.scoring import make_score
from t1jax.training.setup import rl_setup
from t1jax.types import Rollouts

ENDS_SOON = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=1 --xla_cpu_collective_call_terminate_timeout_seconds=2"
)


def score(seconds: float, patient: bool) -> float:
    """Two shards score, one of them for so long; the mean outcome. The XLA_FLAGS of the process are the user's."""
    if patient:
        waiting.be_patient()

    def slow(problem: np.ndarray, *rest: np.ndarray):
        time.sleep(seconds if 100 in problem else 0)
        return small.parity(problem, *rest)

    mesh = small.make_mesh((1, 2, 1))
    judge = make_score(rl_setup(small.make_config(), mesh), slow)
    ones = np.ones((small.P * small.R, small.T), np.int32)
    rows = small.prompt_rows(), Rollouts(ones, ones > 0, 0.0 * ones, 0.0 * ones, ones[:, 0] > 0)
    mean = jax.jit(lambda prompts, rollouts: judge(prompts, rollouts)[0].outcome_B.mean(dtype=jnp.float32))
    return float(mean(*(small.on_devices(each, mesh) for each in rows)))


def test_a_shard_that_scores_longer_than_xla_waits_ends_the_process():
    """So the flag is the one that rules, and it is needed."""
    (process,) = several.start("test_waiting.score", 6.0, False, processes=1, devices=2, flags=ENDS_SOON)
    process.communicate(timeout=600)
    assert process.returncode < 0


@pytest.mark.slow
def test_a_shard_may_score_longer_than_xla_waits_by_itself():
    assert several.said(several.start("test_waiting.score", 75.0, True, processes=1, devices=2)) == [1.0]


@pytest.mark.slow
def test_several_processes_wait_as_well():
    assert several.said(several.start("test_waiting.score_twice", 75.0, processes=2, devices=1)) == [1.0, 1.0]


def score_twice(seconds: float) -> float:
    """As in a step, where processes have met before they score; the communicator itself is made within 30 s."""
    waiting.be_patient()
    assert score(0.0, False) == 1.0
    return score(seconds, False)


def test_every_command_line_is_patient_and_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_cpu_collective_timeout_seconds=5")
    seen = []
    assert command_line.call("program", "", lambda argv: seen.append(os.environ["XLA_FLAGS"]), ["program"]) == 0
    first, second, third = waiting.FLAGS
    assert second == "xla_cpu_collective_timeout_seconds"
    expected = f"--a=1 --{second}=5 --{first}={validation.LONGEST_SCORING} --{third}={validation.LONGEST_SCORING}"
    assert seen == [expected]
    waiting.be_patient()
    assert os.environ["XLA_FLAGS"] == expected
    monkeypatch.delenv("XLA_FLAGS")
    waiting.be_patient()
    assert os.environ["XLA_FLAGS"].split() == [f"--{flag}={validation.LONGEST_SCORING}" for flag in waiting.FLAGS]


def test_a_config_whose_scoring_may_take_longer_is_refused():
    """By the time on the clock that an answer may take, which is far above its deadline."""
    knobs = {"rl__prompts_per_step": 8, "rl__responses_per_prompt": 4, "verifier__workers": 2}
    fits = validation.LONGEST_SCORING / 16 / (20 if sys.platform == "linux" else 1)
    validation.validate(small.make_config(**knobs, verifier__deadline=fits), 1)
    with pytest.raises(
        ConfigError,
        match=r"verifier.deadline is .* s on the clock: scoring the 32 answers .* may take 173120 s with 2 workers; "
        "expected at most 172800 s.*raise verifier.workers",
    ):
        validation.validate(small.make_config(**knobs, verifier__deadline=fits + 1), 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a process to some of the cores")
def test_the_bound_counts_the_workers_that_there_will_be(monkeypatch):
    """As many as the process may use cores; a plan for other machines does not go by this one's."""
    cfg = small.make_config(verifier__workers=0, verifier__deadline=1000.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    with Verifier(cfg.verifier) as verifier:
        assert verifier._size == 3
    with pytest.raises(ConfigError, match=r"may take 220000 s with 3 workers"):
        validation.validate(cfg, 1)
    validation.validate(cfg, 1, elsewhere=True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4))
    validation.validate(cfg, 1)


@pytest.mark.parametrize("name", ["base", "qwen32b", "qwen7b", "smollm2_135m", "tiny"])
def test_the_configs_that_come_with_t1jax_fit_with_one_worker(name):
    cfg = importlib.import_module(f"configs.{name}").get_config()
    cfg.verifier.workers = 1
    validation._validate_scoring(config.load(cfg))
