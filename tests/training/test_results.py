# SPDX-License-Identifier: Apache-2.0
"""The bookkeeping of tokens: all that were generated, and what became of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import small

from t1jax.training import results
from t1jax.training.step_report import fates
from t1jax.types import Rollouts


@pytest.mark.parametrize("applied", [True, False])
def test_each_token_has_one_fate(applied):
    lengths = np.array([1, 2, 4, 8])
    sampled_BT = np.arange(10) < lengths[:, None]
    zeros = np.zeros((4, 10), np.float32)
    rollouts = Rollouts(zeros.astype(np.int32), jnp.asarray(sampled_BT), zeros, zeros, np.ones(4, bool))
    scorable, packed = jnp.array([True, True, False, False]), jnp.array([True, False, True, False])
    found = {name: int(value) for name, value in fates(rollouts, scorable, packed, jnp.bool_(applied)).items()}
    assert found == {
        "tokens_trained": 1 if applied else 0,
        "tokens_skipped": 0 if applied else 1,
        "tokens_unscorable": 4 + 8,
        "tokens_no_advantage": 2,
    }


def test_generated_is_the_sum_of_all_fates():
    step = {"stage": "rl", "tokens_trained": 5, "tokens_skipped": 1, "tokens_unscorable": 2, "tokens_no_advantage": 3}
    rows = [{"stage": "sft", "tokens": 99}, step, step, {"stage": "evaluate", "tokens": 7}]
    assert results.tokens(rows, {"tokens": 100}, {"tokens": 200}, 1000) == {
        "generated": 1329, "trained": 10, "skipped": 2, "unscorable": 4, "no_advantage": 6, "evaluation": 307,
        "filter": 1000,
    }  # fmt: skip
    assert results.tokens([{"stage": "rl"}], {"tokens": 1}, {"tokens": 1}, 0) is None  # of an older version
    assert results.tokens([step], {}, {"tokens": 1}, 0) is None
    assert results.tokens([step], None, {"tokens": 1}, 0)["generated"] == 12


def test_without_a_measurement_before_rl_the_results_are_those_after_it():
    last = {"summary": {"accuracy": 0.5, "skills": {"a": 1}}, "greedy": {"accuracy": 0.6}, "seconds": 3.0, "tokens": 4}
    last |= {name: [name] for name in results.LISTS}
    found = results.collect(small.make_config(eval__before=False), [], None, last)
    assert found["sft"] is None and found["rl"] is last["summary"] and found["greedy"] == {"rl": last["greedy"]}
    assert found["skills"] == {"rl": {"a": 1}} and found["seconds"]["total"] == 3.0 and found["scaling"] == ["scaling"]
    assert "measure_sft" not in found["seconds"] and found["tokens"]["generated"] == 4
