# SPDX-License-Identifier: Apache-2.0
"""A mixture of experts against a loop over tokens, its gradient against autodiff of the plain form, and on meshes."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from t1jax import config
from t1jax.devices import sharding
from t1jax.model import experts, grouped_triton, products, qwen

B, T, D, E, F = 4, 8, 6, 8, 5
SHAPES = {"router": (D, E), "gate": (E, D, F), "up": (E, D, F), "down": (E, F, D)}
KINDS = {"top-1": (1, False), "top-2": (2, True), "top-8": (8, False)}


def layout_of(shape=(1, 1, 1), decode=False):
    mesh = sharding.make_mesh(config.MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    return sharding.decode_layout(mesh) if decode else sharding.train_layout(mesh)


def arrays(seed=0, lopsided=False, shapes=SHAPES):
    """y [B, T, D] and weights of these shapes; `lopsided`: the router sends nearly every token to the first experts."""
    random = np.random.default_rng(seed)
    y = random.normal(size=(B, T, shapes["router"][0])).astype(np.float32)
    weights = {name: random.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}
    if lopsided:
        y[..., 0] = 3.0
        weights["router"][0] += np.linspace(8, -8, E)
    return y, weights


def mixed(layout, kind, y, weights, dtype="float32"):
    return experts.mixture(layout, *KINDS[kind], jnp.asarray(y, dtype), *(weights[name] for name in SHAPES))


def by_loop(kind, y, weights):
    """float64, one token and one expert at a time."""
    k, normed = KINDS[kind]
    y, router, gate, up, down = (np.asarray(x, np.float64) for x in (y, *(weights[name] for name in SHAPES)))
    out, chosen = np.zeros_like(y), np.zeros((*y.shape[:2], E), bool)
    for b, t in itertools.product(range(y.shape[0]), range(y.shape[1])):
        score = np.exp(y[b, t] @ router - (y[b, t] @ router).max())
        share = score / score.sum()
        best = sorted(range(E), key=lambda e, share=share: -share[e])[:k]
        for e in best:
            a = y[b, t] @ gate[e]
            inner = a / (1 + np.exp(-a)) * (y[b, t] @ up[e])
            out[b, t] += share[e] / (share[best].sum() if normed else 1.0) * (inner @ down[e])
            chosen[b, t, e] = True
    return out, chosen


def plain(kind, y, router, gate, up, down):
    """Every token through every expert, weighted by shares that are 0 for most: autodiff's rules alone."""
    k, normed = KINDS[kind]
    share = jax.nn.softmax(y @ router, axis=-1)
    best, _ = jax.lax.top_k(share, k)
    share = jnp.where(share >= best[..., -1:], share, 0.0)
    share = share / share.sum(-1, keepdims=True) if normed else share
    inner = jax.nn.silu(jnp.einsum("btd,edf->btef", y, gate)) * jnp.einsum("btd,edf->btef", y, up)
    return jnp.einsum("btef,efd,bte->btd", inner, down, share)


@pytest.mark.parametrize("lopsided", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_token_goes_through_its_experts_and_none_is_dropped(kind, lopsided):
    y, weights = arrays(lopsided=lopsided)
    out, mark = jax.jit(lambda y, weights: mixed(layout_of(), kind, y, weights))(y, weights)
    expected, chosen = by_loop(kind, y, weights)
    if lopsided and KINDS[kind][0] < 3:  # one expert has far more than its share, others have none
        assert chosen[..., 0].mean() > 0.9 and not chosen[..., -1].any()
    np.testing.assert_allclose(out, expected, atol=1e-5)
    sets, marks = {row.tobytes() for row in chosen.reshape(-1, E)}, set(np.asarray(mark).ravel().tolist())
    assert len(marks) == len(sets)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_autodiff_of_the_plain_form(kind):
    y, weights = arrays(1)
    direction = np.random.default_rng(2).normal(size=y.shape).astype(np.float32)

    def ours(y, weights):
        return (mixed(layout_of(), kind, y, weights)[0] * direction).sum()

    def theirs(y, weights):
        with jax.default_matmul_precision("highest"):
            return (plain(kind, y, **weights) * direction).sum()

    found, expected = (jax.jit(jax.grad(of, argnums=(0, 1)))(y, weights) for of in (ours, theirs))
    found, expected = ({"y": of_y} | of_weights for of_y, of_weights in (found, expected))
    for name, other in expected.items():
        x = found[name]
        assert np.abs(other).max() > 1e-2, name
        np.testing.assert_allclose(x, other, atol=1e-5 * np.abs(other).max(), err_msg=name)


def outcome(shape, kind, T, dtype, lopsided=False):
    """A mixture's output and marks, and the gradients of its sum of squares by the stream and by all weights."""
    layout, (y, weights) = layout_of(shape), arrays(3, lopsided)

    def loss(y, weights):
        y = layout.constrain(y, "batch", products.stream(layout, T), None)
        out, mark = mixed(layout, kind, y, weights, dtype)
        out = layout.constrain(out, "batch", products.stream(layout, T), None)
        return (out**2).mean(), (out, mark)

    (_, (out, mark)), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(y[:, :T], weights)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((out, grads[1])))
    return np.asarray(mark), [np.asarray(x) for x in jax.tree.leaves((out, grads))]


@pytest.mark.parametrize(
    ("shape", "T", "lopsided", "dtype"),
    [
        ((1, 2, 2), 8, False, "float32"),
        ((1, 1, 4), 8, True, "float32"),
        ((1, 1, 4), 6, False, "float32"),
        pytest.param((2, 1, 2), 8, False, "float32", marks=pytest.mark.slow),
        ((2, 2, 2), 8, True, "bfloat16"),
        *(pytest.param((1, 2, 2), T, False, "bfloat16", marks=pytest.mark.slow) for T in (8, 5)),
    ],
)
def test_a_mesh_changes_no_number(shape, T, lopsided, dtype):
    """Also where positions do not divide, and where most tokens go to one device's experts."""
    tolerance = {"float32": 1e-5, "bfloat16": 0.03}[dtype]
    with small.optimised():
        mark, found = outcome(shape, "top-2", T, dtype, lopsided)
        expected_mark, expected = outcome((1, 1, 1), "top-2", T, dtype, lopsided)
    if dtype == "float32":
        np.testing.assert_array_equal(mark, expected_mark)
    for x, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, other, atol=tolerance * np.abs(other).max())


def test_frozen_experts_have_no_gradient_and_pass_it_on():
    y, weights = arrays(4)
    frozen = {name: products.Frozen(w) for name, w in weights.items()}

    def total(y, weights):
        return (mixed(layout_of(), "top-2", y, weights)[0] ** 2).sum()

    found = jax.jit(jax.grad(total))(y, frozen)
    np.testing.assert_array_equal(found, jax.jit(jax.grad(total))(y, weights))

    def made(lowered):
        lines = lowered.as_text().splitlines()
        return [line for line in lines if "dot_general" in line and line.endswith(f"-> tensor<{E}x{D}x{F}xf32>")]

    assert not made(jax.jit(jax.grad(total)).lower(y, frozen))
    assert len(made(jax.jit(jax.grad(total, argnums=(0, 1))).lower(y, weights))) == 2  # of gate and up


def test_a_token_alone_is_what_it_is_in_a_batch_and_other_tokens_do_not_matter():
    """So padding costs nothing but time: whatever it holds, and wherever it is sent."""
    y, weights = arrays(5)
    run = jax.jit(lambda y: mixed(layout_of(decode=True), "top-2", y, weights)[0])
    whole = np.asarray(run(y))
    y[1::2] = 1e4
    other = np.asarray(run(y))
    np.testing.assert_allclose(other[::2], whole[::2], atol=1e-6)
    for b in range(0, B, 2):
        np.testing.assert_allclose(run(y[b : b + 1, :1]), whole[b : b + 1, :1], atol=1e-5)


def test_a_mark_is_of_the_set_and_all_sets_differ():
    sets = np.array(list(itertools.combinations(range(12), 3)))
    marks = np.asarray(experts.mark(jnp.asarray(sets)))
    assert len(set(marks.tolist())) == len(sets)
    np.testing.assert_array_equal(experts.mark(jnp.asarray(sets[:, ::-1])), marks)


def test_a_route_is_of_all_layers_in_their_order():
    marks = jnp.asarray([[[3, 3]], [[5, 5]]], jnp.uint32)
    collection = {"routes": {"layers": {"mark": (marks,)}}}
    swapped = {"routes": {"layers": {"mark": (marks[::-1],)}}}
    assert (np.asarray(experts.routes(collection)) != np.asarray(experts.routes(swapped))).all()
    assert experts.routes({}) is None


def test_experts_are_born_split_over_tensor_and_fsdp():
    cfg = small.make_config(**small.MOE).model
    shape = (1, 2, 4)
    split, whole = (
        qwen.init_params(qwen.Transformer(cfg, layout_of(shape)), jax.random.key(0)) for shape in (shape, (1, 1, 1))
    )
    jax.tree.map(np.testing.assert_array_equal, small.to_numpy(split), small.to_numpy(whole))
    layers = split["layers"]
    assert layers["expert_gate"].addressable_shards[0].data.shape == (2, 2, 16, 24)
    assert layers["expert_down"].addressable_shards[0].data.shape == (2, 2, 24, 16)
    assert layers["router"].addressable_shards[0].data.shape == (2, 16, 8)
    assert "gate" not in layers and layers["expert_up"].shape == (2, 8, 32, 24)


@pytest.mark.parametrize(("remat", "ragged"), [("none", 9), ("dots", 9), ("full", 11)])
def test_remat_of_dots_keeps_what_experts_multiply(remat, ragged):
    """Products of a layer: 3 forward, 6 backward, and gate and up again where only the layer's input is kept."""
    cfg = small.make_config(**small.MOE, model__remat=remat).model
    model = qwen.Transformer(cfg, layout_of((1, 1, 2)))
    rows = np.zeros((2, 8), np.int32)

    def loss(params):
        return qwen.forward(model, params, rows, rows, segment_BT=rows + 1)[0].sum()

    shapes = qwen.nn.unbox(qwen.boxed_shapes(model))
    assert str(jax.make_jaxpr(jax.grad(loss))(shapes)).count("ragged_dot_general[") == ragged


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_remat_changes_no_number(remat):
    cfg = small.make_config(**small.MOE, model__remat=remat).model
    model = qwen.Transformer(cfg, layout_of((1, 1, 2)))
    params = small.make_params(small.make_config(**small.MOE), model.layout.mesh)
    tokens = np.random.default_rng(0).integers(0, small.V, (2, 8)).astype(np.int32)
    position = np.broadcast_to(np.arange(8, dtype=np.int32), tokens.shape)

    def loss(model, params):
        hidden, _, route = qwen.forward_and_routes(model, params, tokens, position, segment_BT=np.ones_like(tokens))
        return qwen.logits(model, params, hidden)[..., 3].sum(), route

    gradient, route = jax.jit(jax.grad(lambda p: loss(model, p), has_aux=True))(params)
    one = qwen.Transformer(small.make_config(**small.MOE).model, layout_of())
    expected, expected_route = jax.jit(jax.grad(lambda p: loss(one, p), has_aux=True))(small.to_numpy(params))
    np.testing.assert_array_equal(route, expected_route)
    assert len(np.unique(np.asarray(route))) > 4
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (2, 1, 4)])
def test_a_mixture_by_the_gpus_kernels_is_that_of_ragged_dot(shape, monkeypatch):
    """Value, route and all gradients, with experts split over devices; the kernels are interpreted."""
    layout = layout_of(shape)
    y, weights = arrays(shapes={"router": (32, E), "gate": (E, 32, 16), "up": (E, 32, 16), "down": (E, 16, 32)})
    called = []

    def times(*given, kernel=grouped_triton.times, **named):
        called.append(given)
        return kernel(*given, **named)

    def found():
        def loss(y, weights):
            out, mark = mixed(layout, "top-2", y, weights)
            return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), mark

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(y, weights)

    expected = found()
    monkeypatch.setattr(grouped_triton, "INTERPRET", True)
    monkeypatch.setattr(grouped_triton, "times", times)
    assert not called
    ours = found()
    assert called
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * max(np.abs(other).max(), 1))


def test_what_is_said_where_each_row_is_multiplied_by_every_expert():
    cfg = small.make_config(model__num_experts=4, model__experts_per_token=2, model__hidden_size=32).model
    wide, odd = (dataclasses.replace(cfg, mlp_size=size) for size in (48, 40))
    assert not experts.note(wide, "gpu") and not experts.note(odd, "tpu")
    assert experts.note(odd, "gpu").endswith("not counted: with sizes that are no multiples of 16, (32, 40)")
    assert experts.note(wide, "cpu").endswith("not counted: on a CPU")
    assert not experts.note(dataclasses.replace(cfg, num_experts=0), "cpu")
