# SPDX-License-Identifier: Apache-2.0
"""Schedules by hand, what decays, what Muon touches and how much, and the anchor against float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs import tiny
from t1jax import config
from t1jax.devices import sharding
from t1jax.model import parameters, qwen
from t1jax.update import optim

CFG = config.load(tiny.get_config())
SFT = dataclasses.replace(CFG.sft, learning_rate=0.1, warmup_steps=4, weight_decay=0.0, grad_clip=1e9)
RL = dataclasses.replace(CFG.rl, learning_rate=0.1, warmup_fraction=0.05, weight_decay=0.0, grad_clip=1e9)


def make_params(seed=0, layers=2, **knobs):
    """Every parameter of a small model by its real name and shape, random."""
    mesh = sharding.make_mesh(config.MeshConfig(1, 1, 1), jax.devices()[:1])
    cfg = dataclasses.replace(
        CFG.model,
        vocab_size=11,
        num_layers=layers,
        hidden_size=8,
        num_heads=4,
        num_kv_heads=2,
        head_dim=2,
        mlp_size=12,
        tie_embeddings=False,
        **knobs,
    )
    shapes = qwen.boxed_shapes(qwen.Transformer(cfg, sharding.train_layout(mesh)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape), jnp.float32), nn.unbox(shapes))


PARAMS, GRADIENT = make_params(0), make_params(1)


@functools.cache
def compiled(section, total, schedule):
    optimizer = optim.make_optimizer(section, optim.make_schedule(section, total, schedule))
    return jax.jit(optimizer.init), jax.jit(optimizer.update)


def step(section, gradient, params=PARAMS, total=100, schedule="constant"):
    init, update = compiled(section, total, schedule)
    return update(gradient, init(params), params)


def flat(tree):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


# ---- schedule


def test_cosine_by_hand():
    rate = optim.make_schedule(SFT, 12, "cosine")
    got = [float(rate(s)) for s in (0, 1, 3, 4, 6, 8, 12, 99)]
    half = 0.1 * (1 + np.sqrt(0.5)) / 2  # a quarter of the way down
    np.testing.assert_allclose(got, [0.025, 0.05, 0.1, 0.1, half, 0.05, 0.0, 0.0], atol=1e-7)


def test_constant_after_a_share_of_the_steps():
    rate = optim.make_schedule(dataclasses.replace(RL, warmup_fraction=0.1), 40, "constant")
    np.testing.assert_allclose(
        [float(rate(s)) for s in (0, 1, 2, 3, 4, 39)], [0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rtol=1e-6
    )


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_no_warm_up_starts_at_the_peak(schedule):
    rate = optim.make_schedule(dataclasses.replace(SFT, warmup_steps=0), 10, schedule)
    assert float(rate(0)) == np.float32(0.1)


def test_the_update_follows_the_schedule():
    """Adam's first update is the learning rate times the gradient's sign: a quarter of the peak, warming up in four."""
    change, _ = step(dataclasses.replace(SFT, optimizer="adamw"), GRADIENT)
    for name, x in flat(change).items():
        np.testing.assert_allclose(x, -0.025 * np.sign(flat(GRADIENT)[name]), rtol=1e-3, err_msg=name)


# ---- clip and decay


def test_the_gradient_is_clipped_by_its_global_norm():
    norm = np.sqrt(sum((x**2).sum() for x in flat(GRADIENT).values()))
    _, state = step(dataclasses.replace(RL, grad_clip=0.5), GRADIENT)
    mu = optax.tree.get(state, "mu")
    for name, x in flat(mu).items():
        np.testing.assert_allclose(x, 0.1 * flat(GRADIENT)[name] * 0.5 / norm, rtol=1e-5)
    _, state = step(dataclasses.replace(RL, grad_clip=norm * 2), GRADIENT)
    np.testing.assert_allclose(flat(optax.tree.get(state, "mu"))["['head']"], 0.1 * GRADIENT["head"], rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_matrices_decay(optimizer):
    """No gradient: a matrix shrinks by lr * decay of itself; norms and biases, stacked ones too, stay."""
    section = dataclasses.replace(SFT, optimizer=optimizer, weight_decay=0.2, warmup_steps=0)
    change, _ = step(section, jax.tree.map(jnp.zeros_like, PARAMS))
    params, seen = flat(PARAMS), set()
    for name, x in flat(change).items():
        vector = "norm" in name or "bias" in name
        np.testing.assert_allclose(x, 0.0 if vector else -0.1 * 0.2 * params[name], atol=1e-7, err_msg=name)
        seen.add(vector)
    assert seen == {True, False}


# ---- Muon


def as_matrices(name, x):
    """[L, rows, columns]: the input axes as rows, the output axes as columns."""
    inputs = 2 if name == "o" else 1
    return x.reshape(x.shape[0], int(np.prod(x.shape[1 : 1 + inputs])), -1)


def test_muon_makes_each_layers_matrix_orthogonal_at_adams_size():
    change, _ = step(dataclasses.replace(SFT, optimizer="muon", warmup_steps=0), GRADIENT)
    for name in ("q", "k", "v", "o", "gate", "up", "down"):
        matrices = as_matrices(name, np.asarray(change["layers"][name]))
        gradients = as_matrices(name, np.asarray(GRADIENT["layers"][name]))
        assert len(matrices) == 2
        for matrix, gradient in zip(matrices, gradients, strict=True):
            values = np.linalg.svd(matrix, compute_uv=False) / (0.1 * 0.2 * np.sqrt(max(matrix.shape)))
            assert values.min() > 0.5 and values.max() < 1.5, name  # Newton-Schulz: near 1, never exactly
            u, _, v = np.linalg.svd(gradient, full_matrices=False)
            exact = -0.1 * 0.2 * np.sqrt(max(matrix.shape)) * (u @ v)
            cosine = (matrix * exact).sum() / np.linalg.norm(matrix) / np.linalg.norm(exact)
            assert cosine > 0.97, name


def test_muon_leaves_tables_and_vectors_to_adam():
    section = dataclasses.replace(SFT, optimizer="muon", warmup_steps=0)
    change, _ = step(section, GRADIENT)
    adam, _ = step(dataclasses.replace(section, optimizer="adamw"), GRADIENT)
    names = [name for name, kind in flat(parameters.kinds(PARAMS)).items() if kind != "matrix"]
    assert len(names) == 8  # embedding, head, three biases, three norms
    for name in names:
        np.testing.assert_array_equal(flat(change)[name], flat(adam)[name])


def test_a_layers_muon_update_does_not_see_the_other_layers():
    section = dataclasses.replace(SFT, optimizer="muon")
    other = jax.tree.map(lambda g: g.at[1].multiply(-3.0), GRADIENT["layers"])
    got, _ = step(section, {**GRADIENT, "layers": other})
    expected, _ = step(section, GRADIENT)
    np.testing.assert_allclose(got["layers"]["q"][0], expected["layers"]["q"][0], atol=1e-6)
    assert np.abs(got["layers"]["q"][1] - expected["layers"]["q"][1]).max() > 1e-3


def test_muon_takes_each_expert_for_itself():
    """An orthogonal update each, of the size of Adam's, that does not see the layer's other experts."""
    section = dataclasses.replace(SFT, optimizer="muon", warmup_steps=0)
    params, gradient = (make_params(seed, num_experts=3, experts_per_token=1) for seed in (0, 1))
    change, _ = step(section, gradient, params)
    for name in ("expert_gate", "expert_up", "expert_down"):
        assert change["layers"][name].shape[:2] == (2, 3)
        for matrix in np.asarray(change["layers"][name]).reshape(6, *change["layers"][name].shape[2:]):
            values = np.linalg.svd(matrix, compute_uv=False) / (0.1 * 0.2 * np.sqrt(max(matrix.shape)))
            assert values.min() > 0.5 and values.max() < 1.5, name
    other = {name: x.at[:, 1].multiply(-3.0) if "expert" in name else x for name, x in gradient["layers"].items()}
    found, _ = step(section, {**gradient, "layers": other}, params)
    up, expected = (np.asarray(x["layers"]["expert_up"]) for x in (found, change))
    np.testing.assert_allclose(up[:, ::2], expected[:, ::2], atol=1e-6)
    assert np.abs(up[:, 1] - expected[:, 1]).max() > 1e-3


def test_rl_has_no_choice_but_adam():
    change, _ = step(dataclasses.replace(RL, warmup_fraction=0.0), GRADIENT)
    np.testing.assert_allclose(change["layers"]["q"], -0.1 * np.sign(GRADIENT["layers"]["q"]), rtol=1e-3)


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match=r"\['layers'\]\['gates'\].*MATRICES, TABLES, FACTORS or VECTORS"):
        parameters.kinds({"layers": {"gates": jnp.zeros((2, 2))}})


# ---- anchor


def follow(params, update, decay, steps=1000):
    """The anchor by `update_anchor`, and theta_ref <- gamma theta_ref + (1 - gamma) theta in float64."""
    one = jax.jit(lambda d, old, new: optim.update_anchor(d, old, new, decay))
    offset, reference = optim.start_anchor(params), np.asarray(params["w"], np.float64)
    for i in range(steps):
        new = {"w": params["w"] + jnp.asarray(update(i), jnp.float32)}
        offset, params = one(offset, params, new), new
        reference = decay * reference + (1 - decay) * np.asarray(params["w"], np.float64)
    return optim.anchor_params(offset, params)["w"], params["w"], reference


@pytest.mark.parametrize("decay", [0.98, 0.992, 0.999])
@pytest.mark.parametrize("kind", ["drift", "random", "stop"])
def test_anchor_equals_float64_after_1000_small_updates(kind, decay):
    rng = np.random.default_rng(0)
    size = 500
    params = {"w": jnp.asarray(np.sign(rng.normal(size=size)) * (0.5 + rng.random(size)), jnp.float32)}
    drift = rng.choice([-1e-6, 1e-6], size)
    update = {
        "drift": lambda i: drift,
        "random": lambda i: rng.choice([-1e-6, 1e-6], size),
        "stop": lambda i: drift * (i < 500),
    }[kind]
    anchor, params, reference = follow(params, update, decay)
    assert anchor.dtype == jnp.float32
    np.testing.assert_allclose(anchor, reference, rtol=2e-7)  # a rounding or two; the requirement is 1e-6
    lag = np.abs(np.asarray(params, np.float64) - reference).max()
    assert kind == "stop" or lag > 3e-6  # it is elsewhere than the parameters: there is something to get right


def test_anchor_by_hand():
    before, after = {"w": jnp.array([1.0, 4.0])}, {"w": jnp.array([2.0, 0.0])}
    offset = optim.start_anchor(before)
    np.testing.assert_array_equal(optim.anchor_params(offset, before)["w"], before["w"])
    offset = optim.update_anchor(offset, before, after, 0.75)
    np.testing.assert_allclose(optim.anchor_params(offset, after)["w"], [1.25, 3.0])
    last = {"w": jnp.array([2.0, 8.0])}
    offset = optim.update_anchor(offset, after, last, 0.75)
    np.testing.assert_allclose(optim.anchor_params(offset, last)["w"], [0.75 * 1.25 + 0.25 * 2, 0.75 * 3 + 0.25 * 8])


def test_anchor_inside_a_compiled_update_is_that_of_the_stored_parameters():
    """The update and the anchor in one program: the offset is against the rounded parameters that leave it."""
    before = jnp.asarray(1.0 + np.random.default_rng(0).random(1000), jnp.float32)
    rate = jnp.float32(1e-7)

    @jax.jit
    def both(before, gradient, offset):
        after = before - rate * gradient
        return after, optim.update_anchor(offset, before, after, 0.5)

    after, offset = both(before, before * 3.7, jnp.zeros_like(before))
    np.testing.assert_array_equal(offset, 0.5 * (np.asarray(before) - np.asarray(after)))
