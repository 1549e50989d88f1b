# SPDX-License-Identifier: Apache-2.0
"""LoRA: the merged weights by hand, and the gradients of the factors against autodiff of the plain form."""

from __future__ import annotations

import adapting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from t1jax.devices import sharding
from t1jax.model import lora, parameters, qwen
from t1jax.training import sft
from t1jax.training.setup import rl_setup


def config(**knobs):
    return small.make_config(**{"model__lora_rank": 4, "model__lora_alpha": 6.0, **knobs})


def delta(adapters, layer, name):
    """scale A B of one layer by loops over the matrix's own shape, float64."""
    a, b = (np.array(adapters["layers"][name][key][layer], np.float64) for key in ("lora_a", "lora_b"))
    flat = a.reshape(-1, a.shape[-1]) @ b.reshape(b.shape[0], -1)
    return (6.0 / 4) * flat.reshape(*a.shape[:-1], *b.shape[1:])


@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
def test_merged_weights_by_hand(targets):
    cfg = config(model__lora_targets=targets)
    policy = adapting.make_policy(cfg, small.make_mesh())
    merged = jax.jit(lambda policy: lora.merged(cfg.model, policy))(policy)
    assert jax.tree.structure(merged) == jax.tree.structure(policy.base)
    there = {"attention": {"q", "k", "v", "o"}, "mlp": {"gate", "up", "down"}}
    there["all"] = there["attention"] | there["mlp"]
    assert set(policy.adapters["layers"]) == there[targets]
    for name, w in policy.base["layers"].items():
        for layer in range(cfg.model.num_layers):
            more = delta(policy.adapters, layer, name) if name in there[targets] else 0.0
            expected = np.array(w[layer], np.float64) + more
            np.testing.assert_allclose(merged["layers"][name][layer], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(merged["embedding"], policy.base["embedding"])


def test_in_bfloat16_the_sum_is_rounded_once():
    cfg = config(model__compute_dtype="bfloat16")
    policy = adapting.make_policy(cfg, small.make_mesh())
    merged = jax.jit(lambda policy: lora.merged(cfg.model, policy))(policy)
    w = np.array(policy.base["layers"]["o"].astype(jnp.float32), np.float64)
    exact = np.stack([w[layer] + delta(policy.adapters, layer, "o") for layer in range(2)]).astype(np.float32)
    assert merged["layers"]["o"].dtype == jnp.bfloat16
    assert (np.array(jnp.asarray(exact).astype(jnp.bfloat16)) == np.array(merged["layers"]["o"])).mean() > 0.995
    assert merged["layers"]["attention_norm"].dtype == jnp.float32


def test_a_new_adapter_changes_nothing_and_is_within_its_bound():
    cfg, mesh = config(), small.make_mesh()
    learner = rl_setup(cfg, mesh).learner
    adapters = lora.init(learner, jax.random.key(1))
    assert not any(np.any(x["lora_b"]) for x in adapters["layers"].values())
    a = np.array(adapters["layers"]["down"]["lora_a"])
    assert 0.9 < np.abs(a).max() * cfg.model.mlp_size**0.5 <= 1
    assert len({float(x["lora_a"].ravel()[0]) for x in adapters["layers"].values()}) == 7
    elsewhere = lora.init(rl_setup(cfg, small.make_mesh((1, 2, 2))).learner, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, adapters, elsewhere)


def gradients(cfg, mesh, policy, rows, plain):
    """(loss, gradient of the adapters) of the cold start's loss: ours, or by autodiff through the merged weights."""
    model = qwen.Transformer(cfg.model, sharding.train_layout(mesh))

    def ours(adapters, merged):
        logprob_BT, counted_BT = sft.target_logprobs(model, merged, rows, 2, adapters)
        return jnp.where(counted_BT, logprob_BT, 0.0).sum()

    def by_autodiff(adapters, base):
        merged = lora.merged(cfg.model, policy.replace(base=base, adapters=adapters))
        return ours(None, merged) if plain else ours(adapters, jax.lax.stop_gradient(merged))

    return jax.jit(jax.value_and_grad(by_autodiff))(policy.adapters, policy.base)


KINDS = {
    "qwen2": {},
    "qwen3": {"model__qkv_bias": False, "model__qk_norm": True, "model__tie_embeddings": False},
    "glm": {"model__post_norms": True, "model__rope_share": 0.5, "model__rope_interleaved": True},
    "llama": {"model__qkv_bias": False, "model__tie_embeddings": False, "model__lora_targets": "mlp"},
}


@pytest.mark.parametrize("family", KINDS)
def test_gradients_of_the_factors_are_those_of_autodiff_of_the_plain_form(family):
    """In float32, every family, all targets or some: no dW is made, and yet nothing differs but rounding."""
    cfg, mesh = config(**KINDS[family]), small.make_mesh()
    policy, rows = adapting.make_policy(cfg, mesh), small.on_devices(small.packed_rows(cfg), mesh)
    (loss, found), (expected_loss, expected) = (gradients(cfg, mesh, policy, rows, plain) for plain in (False, True))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(other).max() > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(("shape", "kv_heads"), [((2, 2, 2), 4), ((1, 2, 4), 4), ((1, 2, 4), 2)])
def test_gradients_of_the_factors_do_not_depend_on_the_mesh(shape, kv_heads):
    """The last has kv heads that are copied."""
    cfg = config(model__num_kv_heads=kv_heads)
    found = []
    for mesh in (small.make_mesh(), small.make_mesh(shape)):
        policy, rows = adapting.make_policy(cfg, mesh), small.on_devices(small.packed_rows(cfg), mesh)
        found.append(gradients(cfg, mesh, policy, rows, plain=False))
    (_, one), (_, other) = found
    a = policy.adapters["layers"]["o"]["lora_a"]
    assert other["layers"]["o"]["lora_a"].sharding.is_equivalent_to(a.sharding, a.ndim)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(x).max())


@pytest.mark.slow
def test_in_bfloat16_gradients_on_a_mesh_are_near_those_on_one_device():
    cfg = config(model__compute_dtype="bfloat16")
    found = []
    with small.optimised():
        for mesh in map(small.make_mesh, (small.ONE, (1, 2, 2), (1, 1, 4))):
            policy, rows = adapting.make_policy(cfg, mesh), small.on_devices(small.packed_rows(cfg), mesh)
            found.append(small.to_numpy(gradients(cfg, mesh, policy, rows, plain=False)[1]))
    one, *others = map(jax.tree.leaves, found)
    for other in others:
        for x, y in zip(one, other, strict=True):
            assert y.dtype == np.float32
            assert np.linalg.norm(x - y) < 0.02 * np.linalg.norm(x)


def test_in_bfloat16_gradients_are_near_those_of_float32():
    with small.optimised():
        found = []
        for dtype in ("float32", "bfloat16"):
            cfg, mesh = config(model__compute_dtype=dtype), small.make_mesh()
            policy, rows = adapting.make_policy(cfg, mesh), small.on_devices(small.packed_rows(cfg), mesh)
            found.append(gradients(cfg, mesh, policy, rows, plain=False)[1])
    for x, y in zip(*map(jax.tree.leaves, found), strict=True):
        assert y.dtype == jnp.float32
        assert np.linalg.norm(x - y) < 0.05 * np.linalg.norm(x)


def matrices(text, shape):
    """Whether an array of a matrix's shape is made in the lowered text by a product or a sum."""
    kind = "x".join(map(str, shape)) + "xf32>"
    return [
        line for line in text.splitlines() if "dot_general" in line and line.rstrip().split("loc(")[0].endswith(kind)
    ]


def test_no_gradient_of_a_whole_matrix_is_made():
    """In the lowered text, before any compiler drops what is not used: neither of matrices nor of the head."""
    cfg = config(model__tie_embeddings=False, model__lora_targets="attention", model__mlp_size=56)
    mesh = small.make_mesh()
    policy, rows = adapting.make_policy(cfg, mesh), small.on_devices(small.packed_rows(cfg), mesh)
    model = qwen.Transformer(cfg.model, sharding.train_layout(mesh))
    merged = lora.merged(cfg.model, policy)

    def loss(trained, rest, frozen):
        logprob_BT, _ = sft.target_logprobs(model, rest if frozen else trained, rows, 2, trained if frozen else None)
        return logprob_BT.sum()

    texts = [
        jax.jit(jax.grad(lambda trained, f=frozen: loss(trained, merged, f))).lower(
            policy.adapters if frozen else merged
        )
        for frozen in (True, False)
    ]
    ours, full = (text.as_text() for text in texts)
    for shape in ((32, 56), (56, 32), (32, 4, 8), (4, 8, 32)):  # gate and up, down, q, o
        assert matrices(full, shape) and not matrices(ours, shape), shape
    assert matrices(full, (1, 32, 64)) and not matrices(ours, (1, 32, 64))  # the head's, a shard of the batch


def test_all_kinds_of_factors_are_decayed():
    cfg, mesh = config(), small.make_mesh()
    kinds = parameters.kinds(adapting.make_policy(cfg, mesh).adapters)
    assert set(jax.tree.leaves(kinds)) == {"factor"}
