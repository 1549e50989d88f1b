# SPDX-License-Identifier: Apache-2.0
"""Below float32: what is added up stays float32, what two programs round they round alike, float16 is scaled."""

import collections
import dataclasses
import functools
import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import small

from t1jax import config
from t1jax.devices import sharding
from t1jax.model import attention, parameters, precision, products, qwen
from t1jax.planning import slices
from t1jax.training import sft, step
from t1jax.training.setup import rl_setup, sft_setup
from t1jax.training.step_report import mismatch
from t1jax.types import LossScale, Packed
from t1jax.update import losses, optim

HALVES = ["bfloat16", "float16"]
TERMS = ((("embed", "mlp"), "BD,DF->BF"),)


def relative(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# Sums


@pytest.mark.parametrize("dtype", HALVES)
def test_4096_ones_are_4096(dtype):
    """A sum in bfloat16 would stand still at 256, one in float16 at 2,048."""
    layout, same = sharding.train_layout(small.make_mesh()), jnp.zeros((1, 4096), jnp.int32)

    def embedded(table):
        return precision.lookup(layout, dtype, table, same).sum(dtype=jnp.float32)

    table = jnp.ones((3, 2))
    np.testing.assert_array_equal(jax.jit(jax.grad(embedded))(table), [[4096, 4096], [0, 0], [0, 0]])

    def picked(x):
        return precision.pick(x.astype(dtype), same).sum(dtype=jnp.float32)

    np.testing.assert_array_equal(jax.jit(jax.grad(picked))(jnp.ones((1, 3, 2))), [[[4096, 4096], [0, 0], [0, 0]]])
    x, w = jnp.ones((4096, 2), dtype), jnp.ones((2, 3))
    multiplied = jax.jit(jax.grad(lambda w: products.products(layout, TERMS, x, w)[0].sum()))(w)
    assert multiplied.dtype == jnp.float32
    np.testing.assert_array_equal(multiplied, np.full((2, 3), 4096))


def test_a_product_is_that_of_rounded_numbers_added_up_in_float64():
    random = np.random.default_rng(0)
    x, w, dout = (random.normal(size=shape).astype(np.float32) for shape in ((5, 64), (64, 3), (5, 3)))
    half = [z.astype(ml_dtypes.bfloat16).astype(np.float64) for z in (x, w, dout)]
    layout = sharding.train_layout(small.make_mesh())

    def run(x, w):
        return products.products(layout, TERMS, precision.rounded(x, "bfloat16"), w)[0]

    out, pull = jax.vjp(run, x, w)
    np.testing.assert_allclose(out, half[0] @ half[1], rtol=1e-5, atol=1e-5)
    dx, dw = pull(dout)
    np.testing.assert_allclose(dw, half[0].T @ half[2], rtol=1e-5, atol=1e-5)  # not rounded
    np.testing.assert_allclose(dx, half[2] @ half[1].T, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_are_whole_along_embed_where_a_layer_reads_them(dtype):
    """In the program before it is split: each matrix of a layer twice, forward and backward; its gradient split."""
    cfg, mesh = small.make_config(model__compute_dtype=dtype), small.make_mesh((1, 2, 2))
    model = qwen.Transformer(cfg.model, sharding.train_layout(mesh))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), small.make_params(cfg, mesh))
    ids = jax.ShapeDtypeStruct((4, 6), jnp.int32)

    def loss(params, ids):
        return qwen.forward(model, params, ids, ids, segment_BT=ids)[0].astype(jnp.float32).sum()

    found = collections.Counter(constraints(jax.make_jaxpr(jax.grad(loss))(params, ids).jaxpr))
    whole, split = collections.Counter(), collections.Counter()
    for path, spec in jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda x: x.spec, qwen.shardings(model))):
        if path[-1].key in parameters.MATRICES:
            shape, axes = params["layers"][path[-1].key].shape[1:], tuple(spec)[1:]
            axes += (None,) * (len(shape) - len(axes))
            whole[shape, dtype, tuple(None if axis == "fsdp" else axis for axis in axes)] += 2
            split[shape, "float32", axes] += 1
    assert sum(split.values()) == 7
    assert {key: found[key] for key in whole} == whole and {key: found[key] for key in split} == split


def constraints(jaxpr):
    """(shape, dtype, mesh axis of each dimension) of all arrays that a jaxpr, at any depth, holds to a sharding."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "sharding_constraint":
            shape, spec = eqn.outvars[0].aval.shape, tuple(eqn.params["sharding"].spec)
            yield shape, str(eqn.outvars[0].aval.dtype), spec + (None,) * (len(shape) - len(spec))
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from constraints(inner)


def test_the_gradients_of_activations_by_several_weights_are_added_up_before_they_are_rounded():
    random = np.random.default_rng(0)
    x = random.normal(size=(5, 64)).astype(ml_dtypes.bfloat16)
    ws = [random.normal(size=(64, 3)).astype(np.float32) for _ in range(2)]
    layout = sharding.train_layout(small.make_mesh())
    outs, pull = jax.vjp(lambda x: products.products(layout, TERMS * 2, x, *ws), jnp.asarray(x))
    douts = [random.normal(size=(5, 3)).astype(ml_dtypes.bfloat16).astype(np.float32) for _ in outs]
    (dx,) = pull(tuple(map(jnp.asarray, douts)))
    exact = sum(
        d.astype(np.float64) @ w.astype(ml_dtypes.bfloat16).astype(np.float64).T for d, w in zip(douts, ws, strict=True)
    )
    np.testing.assert_array_equal(dx.astype(np.float32), exact.astype(np.float32).astype(ml_dtypes.bfloat16))


def added_in(jaxpr, dtype):
    """The names of operations of a jaxpr, at any depth, that add many numbers up into one of `dtype`."""
    found = []
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    found += added_in(inner, dtype)
        adds = eqn.primitive.name in ("scatter-add", "reduce_sum", "cumsum", "dot_general", "psum")
        if adds and any(x.aval.dtype == dtype for x in eqn.outvars):
            found.append(eqn.primitive.name)
    return found


def test_nothing_is_added_up_in_bfloat16():
    """Of the whole step and of the cold start's: every sum, scatter and product has a float32 result."""
    for remat in ("dots", "full"):
        cfg = small.make_config(model__compute_dtype="bfloat16", model__remat=remat, model__qkv_bias=True)
        mesh = small.make_mesh()
        state = small.start(cfg, mesh)
        train = step.make_train_step(rl_setup(cfg, mesh), small.parity, stop_tokens=small.STOPS)
        cold = sft.make_sft_step(sft_setup(cfg, mesh))
        jaxprs = (
            jax.make_jaxpr(train)(state, small.prompt_rows()),
            jax.make_jaxpr(cold)(dataclasses.replace(state, anchor_offset=None), small.packed_rows(cfg)),
        )
        for jaxpr in jaxprs:
            assert not added_in(jaxpr.jaxpr, jnp.bfloat16)
    plain = jax.make_jaxpr(jax.grad(lambda t: jnp.take(t, jnp.zeros(9, int), axis=0).sum(dtype="float32")))
    assert "scatter-add" in added_in(plain(jnp.ones((3, 2), jnp.bfloat16)).jaxpr, jnp.bfloat16)  # it would be seen


def make_long(cfg, length):
    """Two rows, a text each, in which a few tokens are very frequent, as in any language."""
    random = np.random.default_rng(0)
    tokens = np.minimum(random.zipf(1.3, (2, length)) - 1, cfg.model.vocab_size - 1).astype(np.int32)
    ones, position = np.ones((2, length), np.int32), np.tile(np.arange(length, dtype=np.int32), (2, 1))
    return Packed(tokens, ones, position, position >= 8)


def errors_of_gradients(length):
    """Parameter -> relative error of its gradient in bfloat16, of a cold start's two rows."""
    cfg = small.make_config(
        sft__sequence_length=length, sft__batch_size=2, sft__vocab_chunks=8, model__remat="full",
        model__vocab_size=64, model__qkv_bias=True,
    )  # fmt: skip
    mesh = small.make_mesh()
    params, packed = small.make_params(cfg, mesh), make_long(cfg, length)

    def gradient(dtype):
        model = qwen.Transformer(dataclasses.replace(cfg.model, compute_dtype=dtype), sharding.train_layout(mesh))

        def loss(params):
            return losses.sft_loss(*sft.target_logprobs(model, params, packed, cfg.sft.vocab_chunks), jnp.float32(1e3))

        return jax.jit(jax.grad(loss))(params)

    errors = jax.tree.map(relative, gradient("bfloat16"), gradient("float32"))
    return {jax.tree_util.keystr(path): error for path, error in jax.tree_util.tree_leaves_with_path(errors)}


def test_each_gradient_of_long_rows_is_float32s_within_1_percent():
    errors = errors_of_gradients(1024)
    assert max(errors.values()) < 0.01, errors


@pytest.mark.slow
def test_each_gradient_of_rows_of_16384_tokens_is_float32s_within_1_percent():
    errors = errors_of_gradients(16384)
    assert max(errors.values()) < 0.01, errors


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'")
@pytest.mark.parametrize("shape", [(1, 4, 1), (1, 2, 2)])
def test_a_tpu_adds_up_no_gradient_in_bfloat16(shape):
    """In what libtpu makes of the cold start's step: bfloat16 crosses devices as weights and as activations only."""
    length = 1024
    cfg = small.make_config(
        model__compute_dtype="bfloat16", model__remat="full", model__hidden_size=256, model__head_dim=128,
        model__mlp_size=512, model__vocab_size=512, sft__sequence_length=length,
    )  # fmt: skip
    mesh = sharding.make_mesh(config.MeshConfig(*shape), slices.find("v5e:2x2").devices)
    rows = sharding.train_layout(mesh).sharding("batch")
    packed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((8, length), x.dtype, sharding=rows), small.packed_rows(small.make_config())
    )
    state = sft_setup(cfg, mesh).state_shapes()
    text = sft.make_sft_step(sft_setup(cfg, mesh)).lower(state, packed).compile().as_text()
    found = re.findall(r" = \(?(\w+)\[([\d,]*)\][^=]*? (scatter|all-reduce|reduce-scatter)(?:-start)?\(", text)
    rounded = {(name, dims) for dtype, dims, name in found if dtype == "bf16"}
    activations = {(name, dims) for name, dims in rounded if {"1024", "512"} & set(dims.split(",")[1:-1])}
    assert rounded == activations, rounded - activations
    assert {"scatter", "all-reduce"} <= {name for dtype, _, name in found if dtype == "f32"}


# Sampler and learner


def test_rounding_is_kept_and_its_gradient_is_not_rounded():
    x = jnp.float32(1 + 2**-9)
    there_and_back = jax.jit(lambda x: precision.rounded(x, "bfloat16").astype(jnp.float32))
    assert there_and_back(x) == 1 and precision.rounded(x, "float32") is x
    assert jax.grad(lambda x: precision.rounded(x, "bfloat16").astype(jnp.float32) * (1 + 2**-9))(x) == 1
    assert "reduce_precision" in str(jax.make_jaxpr(there_and_back)(x))


@pytest.mark.parametrize("dtype", HALVES)
def test_weights_of_a_softmax_round_alike_over_any_reference(dtype):
    scores = jnp.asarray(np.random.default_rng(0).normal(0, 3, (200, 64)), jnp.float32)

    highest = scores.max(-1, keepdims=True)

    def rounded(reference):
        w = precision.rounded(jnp.exp(scores - reference), dtype).astype(jnp.float32) * jnp.exp(reference)
        return w[scores > highest - 4]  # far below, float16 has fewer digits

    level = precision.level(highest, dtype)
    assert (level >= highest).all() and (level - highest <= math.log(2)).all()
    higher = precision.level(highest + 3.3, dtype)

    def apart(a, b):
        return np.mean(np.abs(a / b - 1) > 1e-4)

    assert apart(rounded(level), rounded(higher)) < 0.02 < 0.5 < apart(rounded(highest), rounded(highest + 3.3))


def test_the_sampler_reads_norms_and_biases_as_the_learner_does():
    cfg = small.make_config(model__compute_dtype="bfloat16", model__qkv_bias=True)
    mesh = small.make_mesh()
    params = small.make_params(cfg, mesh)
    cast = parameters.cast_for_decode(qwen.Transformer(cfg.model, sharding.decode_layout(mesh)), params)
    for (path, x), kind in zip(
        jax.tree_util.tree_leaves_with_path(cast), jax.tree.leaves(parameters.kinds(params)), strict=True
    ):
        assert x.dtype == ("float32" if kind == "vector" else "bfloat16"), path


def test_kl_is_of_like_with_like_so_0_at_the_first_step():
    """Whatever the sampler said: its log-probabilities are moved by 0.01 here, as by rounding."""
    one, (prompts, rollouts, *rest) = small.fused(small.ONE), small.drawn()
    rollouts = dataclasses.replace(rollouts, logprob_BT=rollouts.logprob_BT + 0.01)
    cfg = dataclasses.replace(one.cfg, model=dataclasses.replace(one.cfg.model, compute_dtype="bfloat16"))
    state = dataclasses.replace(one.start(), anchor_offset=jax.tree.map(jnp.zeros_like, one.start().params))
    report = jax.jit(step.make_update(rl_setup(cfg, one.mesh)))(state, prompts, rollouts, *rest)[1]
    assert abs(report["kl_anchor"]) < 1e-6
    np.testing.assert_allclose(report["log_ratio_mean"], -0.01, atol=0.005)


def test_kl_of_the_advantage_by_the_learner_does_not_see_what_the_sampler_said():
    one, (prompts, rollouts, *rest) = small.fused(small.ONE), small.drawn()
    noise = np.random.default_rng(0).normal(0, 0.1, rollouts.logprob_BT.shape).astype(np.float32)
    moved = dataclasses.replace(rollouts, logprob_BT=rollouts.logprob_BT + noise)

    def losses_of(update):
        return [float(update(one.start(), prompts, x, *rest)[1]["loss"]) for x in (rollouts, moved)]

    first, second = losses_of(
        jax.jit(step.make_update(rl_setup(small.with_rl(one.cfg, kl_logprobs="learner"), one.mesh)))
    )
    assert first == second
    first, second = losses_of(small.update())
    assert abs(first - second) > 1e-4


def test_mismatch_by_hand():
    sampler = jnp.array([[-1.0, -2.0, -3.0], [-1.0, -1.0, jnp.nan], [jnp.nan] * 3])
    learner = jnp.array([[-0.9, -2.0, -2.8], [-1.1, -1.0, 5.0], [7.0] * 3])
    counted = jnp.array([[True] * 3, [True, True, False], [False] * 3])
    of_response = jnp.where(counted, learner - sampler, 0).sum(-1)
    report = mismatch(learner - sampler, counted, of_response, counted.any(-1))
    differences = np.array([0.1, 0, 0.2, -0.1, 0])
    expected = {
        "logprob_gap": 0.2,
        "log_ratio_mean": differences.mean(),
        "log_ratio_std": differences.std(),
        "log_ratio_std_response": np.std([0.3, -0.1]),
        "ratio_outside": 0.5,  # exp(0.3) = 1.35
    }
    assert report.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(report[name], value, rtol=1e-5, err_msg=name)


# float16


def test_a_scale_halves_doubles_and_stops_by_hand():
    scale = optim.start_loss_scale("float16")
    assert scale.scale == 2**15 and optim.start_loss_scale("bfloat16") is None
    after = optim.next_loss_scale
    halved = after(dataclasses.replace(scale, steps=jnp.int32(5)), jnp.bool_(False))
    assert (halved.scale, halved.steps) == (2**14, 0)
    assert (after(halved, jnp.bool_(True)).scale, after(halved, jnp.bool_(True)).steps) == (2**14, 1)
    last = LossScale(jnp.float32(2**14), jnp.int32(optim.SCALE_STEPS - 1))
    assert (after(last, jnp.bool_(True)).scale, after(last, jnp.bool_(True)).steps) == (2**15, 0)
    largest = LossScale(jnp.float32(2**15), jnp.int32(optim.SCALE_STEPS - 1))
    assert after(largest, jnp.bool_(True)).scale == 2**15
    assert after(None, jnp.bool_(True)) is None


@pytest.fixture(scope="module")
def cold():
    """A cold start's step in a dtype, as a function of (dtype, scale, change of the parameters)."""

    @functools.cache
    def compiled(dtype):
        cfg, mesh = small.make_config(model__compute_dtype=dtype, sft__weight_decay=0.0), small.make_mesh()
        with small.optimised():
            return cfg, mesh, sft.make_sft_step(sft_setup(cfg, mesh))

    def run(dtype, scale=None, change=lambda params: params):
        cfg, mesh, sft_step = compiled(dtype)
        params = change(small.make_params(cfg, mesh))
        state = sft_setup(cfg, mesh).init_state(params)
        if scale is not None:
            state = dataclasses.replace(state, loss_scale=LossScale(jnp.float32(scale), jnp.int32(0)))
        before = small.to_numpy(state)
        state, report = sft_step(state, small.on_devices(small.packed_rows(cfg), mesh))
        return before, state, report

    return run


def test_float16_learns_what_float32_learns(cold):
    _, half, half_report = cold("float16")
    before, whole, report = cold("float32")
    assert half.loss_scale.steps == 1 and whole.loss_scale is None
    np.testing.assert_allclose(half_report["loss"], report["loss"], rtol=1e-3)
    np.testing.assert_allclose(half_report["grad_norm"], report["grad_norm"], rtol=5e-3)
    moved = [jax.tree.map(lambda a, b: np.asarray(a) - b, x.params, before.params) for x in (half, whole)]
    same = [np.sign(a) == np.sign(b) for a, b in zip(*map(jax.tree.leaves, moved), strict=True)]
    assert np.concatenate([x.ravel() for x in same]).mean() > 0.99  # Adam's first update is a matter of signs
    assert all(x.mean() > 0.9 for x in same)  # k_bias has 32 numbers, whose gradients are near 0


def test_an_overflow_changes_nothing_and_halves_the_scale(cold):
    before, state, report = cold("float16", scale=1e30)
    assert report["skipped"] == 1 and state.loss_scale.scale == np.float32(1e30) / 2 and state.step == 1
    jax.tree.map(np.testing.assert_array_equal, state.params, before.params)


def test_without_a_scale_small_gradients_would_be_lost(cold):
    """Rows of little weight: their gradients lie below what float16 knows, unless they are scaled."""

    def tiny(params):
        return params | {"embedding": params["embedding"] * 1e-6}

    def lost(scale):
        _, state, report = cold("float16", scale, tiny)
        return float(report["grad_norm"])

    true = float(cold("float32", None, tiny)[2]["grad_norm"])
    assert abs(lost(2**10) / true - 1) < 0.05 < abs(lost(2**-12) / true - 1)


# float32


def test_float32_products_are_float32_on_every_platform():
    """A TPU multiplies float32 in bfloat16 unless it is told otherwise: every product of the model must tell."""
    cfg, mesh = small.make_config(), small.make_mesh()
    model = qwen.Transformer(cfg.model, sharding.train_layout(mesh))
    packed = make_long(cfg, attention.PLAIN + 8)

    def loss(params):
        return losses.sft_loss(*sft.target_logprobs(model, params, packed, 2), jnp.float32(1))

    def products(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield eqn.params["precision"]
            for value in eqn.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from products(inner)

    found = list(products(jax.make_jaxpr(jax.grad(loss))(small.make_params(cfg, mesh)).jaxpr))
    assert len(found) > 20 and set(found) == {(jax.lax.Precision.HIGHEST,) * 2}
