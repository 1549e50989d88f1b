# SPDX-License-Identifier: Apache-2.0
"""KL to another policy on the policy's own samples: zero to itself, and what the two distributions say it is."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from small import C, T, V, make_config, make_mesh, make_params

from t1jax.devices import sharding
from t1jax.model import qwen
from t1jax.studies.divergence import make_divergence

CFG = make_config(eval__batch_size=4)
PROMPTS = [[3, 5, 9], [7], [1, 2, 3, 4, 5, 6, 7], [9, 9], [11, 4], [60]]
RESPONSES = [[4, 4, 0], [1], [8] * T, [5, 6], [2, 2, 2, 2], [33, 17]]  # more than a batch


def reference(cfg, mesh, params, other):
    """Token by token through the whole forward, in float64."""
    model = qwen.Transformer(cfg.model, sharding.train_layout(mesh))
    total = 0.0
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        tokens = jnp.array([[*prompt, *response] + [0] * (C + T - len(prompt) - len(response))], jnp.int32)
        ones = jnp.ones_like(tokens)
        for weights, sign in ((params, 1), (other, -1)):
            hidden, _ = qwen.forward(model, weights, tokens, jnp.arange(C + T)[None], segment_BT=ones)
            z = np.asarray(hidden[0] @ qwen.head_weight(model, weights), np.float64)
            log_p = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
            total += sign * sum(log_p[len(prompt) + i - 1, token] for i, token in enumerate(response))
    return total / len(PROMPTS)


def test_it_is_the_mean_log_ratio_of_the_responses():
    mesh = make_mesh()
    params, other = make_params(CFG, mesh), make_params(CFG, mesh, seed=1)
    divergence = make_divergence(CFG, mesh)
    assert divergence(params, params, PROMPTS, RESPONSES) == 0.0
    found = divergence(params, other, PROMPTS, RESPONSES)
    assert abs(found) > 0.5
    np.testing.assert_allclose(found, reference(CFG, mesh, params, other), rtol=1e-5)
    np.testing.assert_allclose(divergence(other, params, PROMPTS, RESPONSES), -found, rtol=1e-5)


def test_the_size_of_a_batch_and_the_mesh_change_nothing():
    one, eight = make_mesh(), make_mesh((2, 2, 2))
    assert V % 2 == 0
    found = []
    for mesh, batch in ((one, 6), (eight, 4)):
        cfg = dataclasses.replace(CFG, eval=dataclasses.replace(CFG.eval, batch_size=batch))
        params, other = make_params(cfg, mesh), make_params(cfg, mesh, seed=1)
        found.append(make_divergence(cfg, mesh)(params, other, PROMPTS, RESPONSES))
        jax.clear_caches()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
