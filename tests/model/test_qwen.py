# SPDX-License-Identifier: Apache-2.0
"""The cache, packing, remat and the mesh against the plain full forward. Against transformers: test_parity.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from t1jax import config
from t1jax.devices import sharding
from t1jax.model import heads, qwen, ring

SMALL = {
    "vocab_size": 40,
    "num_layers": 3,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_size": 48,
}
QWEN3 = {"qkv_bias": False, "qk_norm": True}
YARN = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 4, "rope_low": 0.02, "rope_high": 0.6}


def make_model(mesh_shape=(1, 1, 1), decode=False, **changes):
    cfg = dataclasses.replace(config.load(tiny.get_config()).model, **{**SMALL, **changes})
    sizes = dict(zip(sharding.MESH_AXES, mesh_shape, strict=True))
    mesh = sharding.make_mesh(config.MeshConfig(**sizes), jax.devices()[: int(np.prod(mesh_shape))])
    layout = sharding.decode_layout(mesh) if decode else sharding.train_layout(mesh)
    return qwen.Transformer(cfg, layout)


def randomised(params, seed=1):
    """All parameters random, biases and norms too, so that a swapped or forgotten one shows."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


def token_loss(logits_BTV, tokens_BT):
    logprob = jax.nn.log_softmax(logits_BTV[:, :-1])
    return -jnp.take_along_axis(logprob, tokens_BT[:, 1:, None], axis=-1).mean()


def test_packed_texts_do_not_see_each_other():
    model = make_model()
    params = randomised(qwen.init_params(model, jax.random.key(0)))
    forward = jax.jit(functools.partial(qwen.forward, model))
    tokens = np.random.default_rng(0).integers(0, 40, (1, 12)).astype(np.int32)
    segment = np.array([[1] * 5 + [2] * 6 + [0]], np.int32)
    position = np.array([[*range(5), *range(6), 0]], np.int32)
    packed, _ = forward(params, tokens, position, segment_BT=segment)
    for start, stop in ((0, 5), (5, 11)):
        alone, _ = qwen.forward(
            model, params, tokens[:, start:stop], position[:, start:stop], segment_BT=segment[:, start:stop]
        )
        np.testing.assert_allclose(packed[:, start:stop], alone, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, QWEN3, pytest.param(YARN, marks=pytest.mark.slow)], ids=["qwen2", "qwen3", "yarn"]
)
def test_prefill_and_cache_equal_the_full_forward(changes):
    """Two prompts of different length, two lanes each; two columns a block, and the ring goes round."""
    model = make_model(decode=True, **changes)
    params = randomised(qwen.init_params(model, jax.random.key(0)))
    forward = jax.jit(functools.partial(qwen.forward, model))
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 40, (2, 5)).astype(np.int32)
    valid = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    first, second = rng.integers(0, 40, (2, 4, 4)).astype(np.int32)
    prompt_hidden, prompt_kv, _ = jax.jit(functools.partial(qwen.prefill, model))(params, prompt, valid)
    cache = ring.start(model.cfg, model.layout, prompt_kv, jnp.asarray(valid), lanes=4, length=4, block=2)
    length = valid.sum(1)
    start = np.repeat(length, 2)[:, None].astype(np.int32)
    lanes = np.zeros((2, 4, 4, model.cfg.hidden_size), np.float32)
    for text, tokens in enumerate((first, second)):  # the second in the place of the first, one column later
        for t in range(4):
            hidden, cache = forward(params, tokens[:, t : t + 1], start + t, cache=cache)
            lanes[text, :, t] = hidden[:, 0]
        cache = cache.replace(length_B=jnp.zeros(4, jnp.int32), column=cache.column + 1)
    for p in range(2):
        full, _ = forward(params, prompt[p : p + 1], np.arange(5)[None], segment_BT=valid[p : p + 1].astype(np.int32))
        np.testing.assert_allclose(prompt_hidden[p, : length[p]], full[0, : length[p]], atol=1e-5)
    for text, rows in enumerate((first, second)):
        for b in range(4):
            p = b // 2
            tokens = np.concatenate([prompt[p, : length[p]], rows[b]])[None].astype(np.int32)
            position = np.arange(tokens.shape[1], dtype=np.int32)[None]
            full, _ = forward(params, tokens, position, segment_BT=np.ones_like(tokens))
            np.testing.assert_allclose(lanes[text, b], full[0, length[p] :], atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", pytest.param("full", marks=pytest.mark.slow)])
def test_remat_changes_no_number(remat):
    tokens = np.random.default_rng(0).integers(0, 40, (2, 9)).astype(np.int32)
    position = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)

    def gradient(remat):
        model = make_model(remat=remat)
        params = randomised(qwen.init_params(model, jax.random.key(0)))

        def loss(params):
            hidden, _ = qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(position))
            return token_loss(qwen.logits(model, params, hidden), tokens)

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient("none"), gradient(remat))


@pytest.mark.parametrize(
    "mesh_shape", [(2, 2, 2), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((1, 4, 2), (8, 1, 1)))]
)
def test_parameters_are_born_sharded_and_the_mesh_changes_no_logit(mesh_shape):
    tokens = np.random.default_rng(0).integers(0, 40, (8, 9)).astype(np.int32)
    position = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)

    def run(mesh_shape):
        model = make_model(mesh_shape)
        params = qwen.init_params(model, jax.random.key(0))
        hidden, _ = jax.jit(
            lambda params: qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(position))
        )(params)
        return params, hidden

    params, hidden = run(mesh_shape)
    q = params["layers"]["q"]
    _, fsdp, tensor = mesh_shape
    assert q.addressable_shards[0].data.shape == (3, 32 // fsdp, 4 // tensor, 8)
    _, single = run((1, 1, 1))
    np.testing.assert_allclose(hidden, single, atol=1e-4)


def test_the_mesh_changes_no_gradient_of_the_norms_of_q_and_k():
    """Heads are split over the mesh, their norms are not: each device adds its heads' part."""
    tokens = np.random.default_rng(0).integers(0, 40, (8, 9)).astype(np.int32)
    position = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)

    def gradient(mesh_shape):
        model = make_model(mesh_shape, **QWEN3)
        params = qwen.init_params(model, jax.random.key(0))

        def loss(params):
            hidden, _ = qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(position))
            return token_loss(qwen.logits(model, params, hidden), tokens)

        return jax.jit(jax.value_and_grad(loss))(params)

    (loss, grads), (single_loss, single) = gradient((2, 2, 2)), gradient((1, 1, 1))
    np.testing.assert_allclose(loss, single_loss, rtol=1e-5)
    for name in ("q_norm", "k_norm"):
        assert grads["layers"][name].shape == (3, 8)
        assert np.abs(single["layers"][name]).max() > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, single)


COPIED = {  # heads, kv heads, mesh -> kv heads that a device has
    "each on two devices": (4, 2, (1, 2, 4), 1),
    "each on three of four": (12, 3, (2, 1, 4), 3),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", COPIED)
def test_kv_heads_that_do_not_divide_are_copied_and_their_gradients_added_once(case, dtype):
    """Logits and every gradient of a replica and its shards, against one device."""
    num_heads, num_kv_heads, mesh_shape, held = COPIED[case]
    tokens = np.random.default_rng(0).integers(0, 40, (8, 8)).astype(np.int32)
    position = np.broadcast_to(np.arange(8, dtype=np.int32), tokens.shape)
    sizes = {"num_layers": 1, "num_heads": num_heads, "num_kv_heads": num_kv_heads, "compute_dtype": dtype}

    def run(mesh_shape):
        model = make_model(mesh_shape, **sizes)
        random = np.random.default_rng(1)
        boxes, lie = qwen.boxed_shapes(model), qwen.shardings(model)
        values = [random.normal(0, 0.3, box.shape).astype(np.float32) for box in jax.tree.leaves(boxes)]
        params = jax.device_put(jax.tree.unflatten(jax.tree.structure(lie), values), lie)

        def loss(params):
            hidden, _ = qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(position))
            return token_loss(qwen.logits(model, params, hidden), tokens)

        return model, params, *jax.jit(jax.value_and_grad(loss))(params)

    model, params, loss, found = run(mesh_shape)
    _, _, expected_loss, expected = run((1, 1, 1))
    heads_held = heads.spread(model.cfg, mesh_shape[2]) // mesh_shape[2]
    assert heads_held == held and heads.axis(model.cfg, model.layout) == heads.WHOLE
    for name in ("k", "v"):
        shard = (1, 32 // mesh_shape[1], num_kv_heads, 8)  # all heads, of a part of the width
        assert params["layers"][name].addressable_shards[0].data.shape == shard
        assert params["layers"][f"{name}_bias"].addressable_shards[0].data.shape == (1, num_kv_heads, 8)
    rounding = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(loss, expected_loss, rtol=rounding)
    for name, value in expected["layers"].items():
        size = np.abs(value).max()
        if name != "k_bias":  # softmax does not see it
            assert size > 1e-4, name
            np.testing.assert_allclose(found["layers"][name], value, atol=rounding * 2 * size, err_msg=name)


def test_an_indivisible_parameter_is_named():
    with pytest.raises(ValueError, match=r"layers.*'down'.*mlp"):
        qwen.shardings(make_model((1, 1, 4), mlp_size=50))
