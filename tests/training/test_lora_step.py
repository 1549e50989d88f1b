# SPDX-License-Identifier: Apache-2.0
"""A step with LoRA beside the same step of all weights: what is sampled, the ratio, the anchor, the first update."""

from __future__ import annotations

import dataclasses
import re

import adapting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from t1jax.model import lora
from t1jax.training import sft, step
from t1jax.training.setup import rl_setup, sft_setup
from t1jax.types import Adapted, Packed

OFF = ("grad_norm", "loss_scale")


def whole(cfg, mesh, state):
    """The state of training all weights that says and anchors the same as `state`, of adapters."""
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, lora_rank=0))
    with_lora = rl_setup(dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, lora_rank=4)), mesh)

    @jax.jit
    def merge(state):
        anchor = jax.tree.map(jnp.add, state.params, state.anchor_offset)
        return with_lora.read(state.policy), with_lora.read(Adapted(state.base, anchor))

    policy, anchor = (jax.tree.map(lambda x: x.astype(jnp.float32), tree) for tree in merge(state))
    full = rl_setup(cfg, mesh).init_state(small.copy(policy))
    return cfg, full.replace(anchor_offset=jax.tree.map(jnp.subtract, anchor, policy))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_step_reports_what_the_step_of_all_weights_reports(dtype):
    """The same samples, the same ratio of learner to sampler, the same KL to the anchor: only the gradient differs."""
    mesh = small.make_mesh()
    cfg = small.make_config(model__compute_dtype=dtype, model__lora_rank=4, rl__kl_logprobs="learner")
    with small.optimised():
        state = adapting.start(cfg, mesh)
        full_cfg, full = whole(cfg, mesh, state)
        reports = []
        for each, start in ((cfg, state), (full_cfg, full)):
            _, (report,) = small.Fused(rl_setup(each, mesh), small.Recorder()).run(start, range(1))
            reports.append(report)
    ours, expected = reports
    assert ours.keys() == expected.keys()
    assert expected["kl_anchor"] > 1e-4 and expected["grad_norm"] != ours["grad_norm"]
    for name in ours.keys() - {"grad_norm"}:
        np.testing.assert_allclose(ours[name], expected[name], rtol=2e-4, atol=2e-6, err_msg=name)
    assert ours["logprob_gap"] == expected["logprob_gap"]  # to the bit: both read the same weights


@pytest.mark.slow
def test_two_steps_on_a_mesh_are_those_on_one_device():
    cfg = small.make_config(model__lora_rank=4, model__lora_targets="all")
    found = []
    for shape in (small.ONE, (2, 2, 2)):
        mesh = small.make_mesh(shape)
        state = adapting.start(cfg, mesh)
        base = small.to_numpy(state.base)
        state, reports = small.Fused(rl_setup(cfg, mesh), small.Recorder()).run(state, range(2))
        jax.tree.map(np.testing.assert_array_equal, base, small.to_numpy(state.base))
        found.append((small.to_numpy((state.params, state.anchor_offset)), reports))
    (one, reports), (other, elsewhere) = found
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5)
    for name in ("loss", "grad_norm", "kl_anchor", "reward"):
        np.testing.assert_allclose(reports[1][name], elsewhere[1][name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_cold_start_learns_and_leaves_the_base_alone():
    cfg = small.make_config(model__lora_rank=8, sft__micro_batches=2)
    mesh = small.make_mesh()
    setup = sft_setup(cfg, mesh)
    state = setup.init_state(adapting.make_policy(cfg, mesh))
    base = small.to_numpy(state.base)
    update, rows = sft.make_sft_step(setup), small.on_devices(small.packed_rows(cfg), mesh)
    losses = []
    for _ in range(8):
        state, report = update(state, rows)
        losses.append(float(report["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, base, small.to_numpy(state.base))


def test_a_rank_of_the_full_width_repeats_the_first_update_of_all_weights():
    """One factor is the identity and the other 0, alpha = r: then the gradient of the other is that of the matrix."""
    knobs = {"model__num_kv_heads": 4, "sft__weight_decay": 0.0, "sft__grad_clip": 1e9}
    mesh, D = small.make_mesh(), 32  # every matrix has 32 inputs or 32 outputs, and no rank above 32
    cfg = small.make_config(**knobs, model__lora_rank=D, model__lora_alpha=float(D))
    full_cfg = small.make_config(**knobs)
    rows = small.on_devices(small.packed_rows(cfg), mesh)
    base = small.make_params(cfg, mesh)
    layers = {}
    for name, factors in adapting.make_policy(cfg, mesh).adapters["layers"].items():
        a, b = (np.zeros(x.shape, np.float32) for x in (factors["lora_a"], factors["lora_b"]))
        into = int(np.prod(a.shape[1:-1])) == D
        kept = a if into else b
        kept.reshape(2, D, D)[:] = np.eye(D)
        layers[name] = jax.device_put({"lora_a": a, "lora_b": b}, jax.tree.map(lambda x: x.sharding, factors))
    setup, full_setup = sft_setup(cfg, mesh), sft_setup(full_cfg, mesh)
    state = setup.init_state(Adapted(small.copy(base), {"layers": layers}))
    state, _ = sft.make_sft_step(setup)(state, rows)
    full, _ = sft.make_sft_step(full_setup)(full_setup.init_state(small.copy(base)), rows)
    merged = lora.merged(cfg.model, state.policy)["layers"]
    for name in lora.TARGETS["all"]:
        ours, expected = (np.array(x[name]) - np.array(base["layers"][name]) for x in (merged, full.params["layers"]))
        assert np.abs(expected).max() > 5e-3  # Adam's first step is the learning rate
        cosine = (ours * expected).sum() / np.linalg.norm(ours) / np.linalg.norm(expected)
        assert cosine > 0.9999, (name, cosine)


def lowered(cfg):
    """The text of the programs of both loops."""
    mesh = small.make_mesh((2, 2, 2))
    setup, cold = rl_setup(cfg, mesh), sft_setup(cfg, mesh)
    prompts = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, small.prompt_rows()))
    rows = jax.ShapeDtypeStruct((cfg.sft.batch_size, cfg.sft.sequence_length), jnp.int32)
    packed = Packed(rows, rows, rows, jax.ShapeDtypeStruct(rows.shape, jnp.bool_))
    train_step = step.make_train_step(setup, small.parity, stop_tokens=small.STOPS)
    texts = (
        train_step.lower(setup.state_shapes(), prompts).as_text(),
        sft.make_sft_step(cold).lower(cold.state_shapes(), packed).as_text(),
    )
    return [re.sub(r'backend_config = "\d+"', "", text) for text in texts]  # addresses of callbacks


def test_rank_0_reads_no_other_knob_of_lora():
    plain = lowered(small.make_config())
    assert lowered(small.make_config(model__lora_alpha=7.0, model__lora_targets="mlp")) == plain
    adapted = lowered(small.make_config(model__lora_rank=4))
    assert all(one != other for one, other in zip(plain, adapted, strict=True))
