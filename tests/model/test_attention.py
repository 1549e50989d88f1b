# SPDX-License-Identifier: Apache-2.0
"""Every kernel against attention written out, on ragged rows with padding; which is used when; remat and the mesh.

The kernels of accelerators run as they can without one: those in Pallas interpreted, cuDNN's call computed by XLA.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn
from jax.interpreters import partial_eval

from configs import tiny
from t1jax import config
from t1jax.devices import sharding
from t1jax.model import attention, blocked, cudnn, qwen, splash, triton

CFG = config.load(tiny.get_config()).model
N, K, H = 4, 2, 8
KERNELS = [("xla", 100), ("xla", 300), ("splash", 301), ("cudnn", 301), ("triton", 301)]


def knobs(**changes):
    return dataclasses.replace(CFG, **{"attention": "auto", "compute_dtype": "bfloat16", "head_dim": 128, **changes})


@pytest.mark.parametrize(
    ("changes", "platform", "length", "kernel", "reason"),
    [
        ({}, "cpu", 2000, "xla", "the platform is cpu"),
        ({}, "tpu", 2000, "splash", "the platform is tpu"),
        ({"compute_dtype": "float32"}, "tpu", 99999, "splash", "the platform is tpu"),
        ({"compute_dtype": "float16"}, "tpu", 2000, "xla", "not splash: model.compute_dtype is float16"),
        ({}, "tpu", 256, "xla", "256 positions are few"),
        ({}, "gpu", 4096, "cudnn", "the platform is gpu"),
        ({}, "gpu", 4097, "triton", "not cudnn: a row has 4097 positions, expected at most 4096; the platform is g"),
        ({"compute_dtype": "float16"}, "gpu", 99999, "triton", "the platform is gpu"),
        ({"compute_dtype": "float32"}, "gpu", 4097, "xla", "not triton: model.compute_dtype is float32"),
        ({"head_dim": 96}, "gpu", 4097, "xla", "not triton: model.head_dim is 96, expected one of 16, 32, 64, 128"),
        ({"compute_dtype": "float32"}, "gpu", 2000, "xla", "compute_dtype is float32, expected bfloat16"),
        ({"compute_dtype": "float16"}, "gpu", 2000, "cudnn", "the platform is gpu"),
        ({"head_dim": 132}, "gpu", 2000, "xla", "model.head_dim is 132, expected a multiple of 8 of at most 128"),
        ({"head_dim": 192}, "gpu", 2000, "xla", "model.head_dim is 192, expected a multiple of 8 of at most 128"),
        ({"attention": "xla"}, "tpu", 2000, "xla", "model.attention asks for it"),
        ({"attention": "splash"}, "tpu", 5, "splash", "model.attention asks for it"),
        ({"attention": "cudnn"}, "gpu", 4096, "cudnn", "model.attention asks for it"),
        ({"attention": "triton"}, "gpu", 9, "triton", "model.attention asks for it"),
    ],
)
def test_a_kernel_is_chosen_by_platform_and_shape(changes, platform, length, kernel, reason):
    chosen, why = attention.choose(knobs(**changes), platform, length)
    assert chosen == kernel and reason in why


@pytest.mark.parametrize(
    ("changes", "platform", "length", "message"),
    [
        ({"attention": "splash"}, "cpu", 2000, "splash, but the platform is cpu, expected tpu; set model.att"),
        ({"attention": "splash", "compute_dtype": "float16"}, "tpu", 9, "splash, but model.compute_dtype is float16"),
        ({"attention": "cudnn"}, "tpu", 2000, "cudnn, but the platform is tpu, expected gpu; set model.att"),
        ({"attention": "cudnn", "head_dim": 12}, "gpu", 9, "cudnn, but model.head_dim is 12, expected a mult"),
        ({"attention": "triton"}, "cpu", 2000, "triton, but the platform is cpu, expected gpu; set model.att"),
        ({"attention": "triton", "head_dim": 80}, "gpu", 9, "triton, but model.head_dim is 80, expected one of"),
        ({"attention": "cudnn"}, "gpu", 5000, "cudnn, but a row has 5000 positions, expected at most 4096;"),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused(changes, platform, length, message):
    with pytest.raises(config.ConfigError, match=re.escape(f"model.attention is {message}")):
        attention.choose(knobs(**changes), platform, length)


def test_rows_are_packed_as_long_as_their_kernel_takes_them():
    pairs = [("auto", "cpu"), ("auto", "gpu"), ("auto", "tpu"), ("xla", "tpu"), ("triton", "gpu")]
    longest = [attention.longest_row(knobs(attention=knob), platform) for knob, platform in pairs]
    assert longest == [2**31 - 1, attention.CUDNN_LENGTH, splash.LONG, 2**31 - 1, 2**31 - 1]


def test_more_tiles_than_can_be_listed_are_refused():
    rows = jax.ShapeDtypeStruct((100, splash.LONG), jnp.int32)
    with pytest.raises(
        config.ConfigError, match=r"100 rows of 128 blocks each can have 825600 tiles, expected at most"
    ):
        jax.eval_shape(splash.tiles, rows, rows)
    one = jax.ShapeDtypeStruct((1, splash.LONG), jnp.int32)
    assert jax.eval_shape(splash.tiles, one, one).by_key.other_x.shape == (8256,)


def test_the_model_refuses_a_kernel_before_it_has_parameters():
    model = qwen.Transformer(knobs(attention="splash"), make_layout())
    with pytest.raises(config.ConfigError, match=r"model.attention is splash, but the platform is cpu"):
        qwen.init_params(model, jax.random.key(0))


def make_layout(shape=(1, 1, 1)):
    mesh = sharding.make_mesh(config.MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    return sharding.train_layout(mesh)


def make_rows(B, T, seed=0):
    """Ragged rows of prompts and, after each, some responses, padding among them; row 0 is nothing but padding.

    A prompt's parent is itself or nothing.
    """
    random = np.random.default_rng(seed)
    segment, parent = np.zeros((2, B, T), np.int32)
    for b in range(1, B):
        at, prompt = 0, 1
        while at < T - T // 8:
            new = at == 0 or random.random() < 0.3
            prompt = at + 1 if new else prompt
            stop = min(at + int(random.integers(1, T // 4)), T - 3)
            segment[b, at:stop], parent[b, at:stop] = at + 1, prompt
            if new and b % 2:
                parent[b, at:stop] = 0
            at = stop + int(random.integers(3))
    return segment, parent


def make_arrays(segment, seed=1):
    """q, k, v and the gradient of the output; NaN in q, k and v where there is padding."""
    random = np.random.default_rng(seed)
    B, T = segment.shape
    arrays = [random.normal(size=(B, heads, T, H)).astype(np.float32) for heads in (N, K, K, N)]
    return [np.where((segment > 0)[:, None, :, None], x, np.nan) for x in arrays[:3]] + arrays[3:]


@pytest.fixture
def without_accelerators(monkeypatch):
    """All kernels on a CPU, in blocks that short rows have several of; gives a function that says which is used."""
    monkeypatch.setattr(splash, "BLOCK", 16)
    for kernel in (splash, triton):
        monkeypatch.setattr(kernel, "INTERPRET", True)
    for size, smaller in (("QUERIES", 64), ("KEYS", 32), ("BACK", 32)):
        monkeypatch.setattr(triton, size, smaller)
    by_cudnn = cudnn.attend

    def by_xla(*args):
        with jax.numpy_dtype_promotion("standard"):  # JAX's own code promotes there
            return by_cudnn(*args, implementation="xla")

    monkeypatch.setattr(cudnn, "attend", by_xla)
    return lambda kernel: monkeypatch.setattr(attention, "choose", lambda *_: (kernel, "the test says so"))


def there_and_back(layout, q, k, v, segment, parent, gradient):
    """The output, and the gradients of q, k and v."""

    def run(q, k, v):
        return attention.attend(layout, q, k, v, attention.texts(CFG, layout, segment, parent))

    out, back = jax.vjp(run, q, k, v)
    return out, *back(gradient)


attend = jax.jit(there_and_back, static_argnums=0)


@jax.jit
def written_out(q, k, v, segment, parent, gradient):
    """What `attend` should return, from a table of which token attends which."""
    T = segment.shape[1]
    there = (segment > 0)[:, None, :, None]

    def run(q, k, v):
        q, k, v = (jnp.where(there, x, 0) for x in (q, k, v))
        k, v = (jnp.repeat(x, N // K, axis=1) for x in (k, v))
        pairs = jnp.stack([segment[:, None] == segment[:, :, None], segment[:, None] == parent[:, :, None]]).any(0)
        pairs &= (np.arange(T)[None] <= np.arange(T)[:, None])[None] & (segment > 0)[:, None]
        pairs |= np.eye(T, dtype=bool)[None]  # padding, of which nothing is left
        s = jnp.einsum("BNTH,BNSH->BNTS", q, k) / np.sqrt(H)
        w = jax.nn.softmax(s, axis=-1, where=pairs[:, None])
        return jnp.where(there, jnp.einsum("BNTS,BNSH->BNTH", w, v), 0)

    out, back = jax.vjp(run, q, k, v)
    return out, *back(gradient)


@pytest.mark.parametrize(("kernel", "T"), KERNELS)
def test_kernels_agree_forward_and_backward(kernel, T, without_accelerators):
    """Padding that holds NaN among the rows, a row of nothing else, parents."""
    without_accelerators(kernel)
    segment, parent = make_rows(3, T)
    arrays = make_arrays(segment)
    attend.clear_cache()
    found = attend(make_layout(), *arrays[:3], segment, parent, arrays[3])
    for one, expected in zip(found, written_out(*arrays[:3], segment, parent, arrays[3]), strict=True):
        assert np.abs(expected[1:]).max() > 0.5
        np.testing.assert_allclose(one, expected, atol=1e-5)
        np.testing.assert_array_equal(np.where((segment > 0)[:, None, :, None], 0, one), 0)


@pytest.mark.parametrize("shape", [(2, 2, 2), pytest.param((8, 1, 1), marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernel", ["xla", "splash", "cudnn", "triton"])
def test_the_mesh_changes_no_number(kernel, shape, without_accelerators):
    """Nor does anything cross devices: each has its rows and heads."""
    without_accelerators(kernel)
    layout = make_layout(shape)
    segment, parent = make_rows(8, 150)
    arrays = make_arrays(segment)
    heads, rows = layout.sharding("batch", "q_heads", None, None), layout.sharding("batch", None)
    q, k, v, gradient = (jax.device_put(x, heads) for x in arrays)
    attend.clear_cache()
    program = attend.lower(layout, q, k, v, *jax.device_put((segment, parent), rows), gradient).compile()
    assert not re.findall(r"all-gather|all-to-all|all-reduce|collective-permute", program.as_text())
    found = program(q, k, v, *jax.device_put((segment, parent), rows), gradient)
    for one, expected in zip(found, written_out(*arrays[:3], segment, parent, arrays[3]), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_bfloat16_stays_bfloat16(without_accelerators):
    segment, parent = make_rows(2, 150)
    *qkv, gradient = (x.astype(jnp.bfloat16) for x in make_arrays(segment))
    expected = written_out(*(x.astype(np.float32) for x in qkv), segment, parent, gradient.astype(np.float32))
    for kernel in ("xla", "splash", "cudnn", "triton"):
        without_accelerators(kernel)
        with small.optimised():
            attend = jax.jit(lambda *arrays: there_and_back(make_layout(), *arrays))
        with jax.numpy_dtype_promotion("standard" if kernel == "cudnn" else "strict"):  # JAX's own code promotes there
            found = attend(*qkv, segment, parent, gradient)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == jnp.bfloat16
            np.testing.assert_allclose(one.astype(np.float32), other, atol=0.1)


@pytest.fixture
def on_accelerators(monkeypatch):
    """JAX believes that there is cuDNN, and a GPU that it is for: enough to lower a program, not to compile it."""
    cudnn = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{cudnn}.check_cudnn_version", lambda: 91400)
    monkeypatch.setattr(f"{cudnn}.check_compute_capability", lambda _: True)
    monkeypatch.setattr(f"{cudnn}.is_cuda_compute_capability_equal", lambda _: False)


def count(jaxpr, primitive):
    """How often a primitive is called in a program, parts of it counted once."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == primitive
        for part in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            part = getattr(part, "jaxpr", part)
            found += count(part, primitive) if hasattr(part, "eqns") else 0
    return found


FORWARDS = [("xla", "exp"), ("splash", "pallas_call"), ("cudnn", cudnn.FORWARD), ("triton", "pallas_call")]


@pytest.mark.parametrize(("kernel", "primitive"), FORWARDS)
def test_the_backward_does_not_attend_again_unless_a_layer_is_made_again(
    kernel, primitive, on_accelerators, monkeypatch
):
    monkeypatch.setattr(attention, "choose", lambda *_: (kernel, "the test says so"))
    tokens = np.zeros((1, attention.PLAIN + 44), np.int32)

    def calls(remat):
        model = qwen.Transformer(dataclasses.replace(CFG, remat=remat, compute_dtype="bfloat16"), make_layout())
        params = jax.eval_shape(lambda key: nn.unbox(model.init(key, tokens, tokens, tokens, None)), jax.random.key(0))

        def loss(params):
            return jnp.sum(model.apply(params, tokens, tokens, tokens + 1, None)[0].astype(jnp.float32))

        jaxpr = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
        return count(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0], primitive)

    assert 0 < calls("dots") == calls("none") < calls("full")


@pytest.mark.parametrize(
    ("kernel", "platform", "calls"),
    [
        (splash.attend, "tpu", ["attention_forward", "attention_dq", "attention_dkv"]),
        (cudnn.attend, "cuda", ["__cudnn$fmhaScaleBiasSoftmax(", "__cudnn$fmhaScaleBiasSoftmaxBackward("]),
        (triton.attend, "cuda", ["triton", "attention_forward", "attention_dq", "attention_dkv"]),
    ],
)
def test_a_program_for_an_accelerator_calls_its_kernel(kernel, platform, calls, on_accelerators):
    """Of a length that the kernel cannot do by itself."""
    T = 301
    q, k, v = (jax.ShapeDtypeStruct((2, heads, T, 64), jnp.bfloat16) for heads in (4, 2, 2))
    texts = jax.ShapeDtypeStruct((2, T), jnp.int32)
    where = {
        splash.attend: lambda: jax.eval_shape(splash.tiles, texts, texts),
        cudnn.attend: lambda: jax.ShapeDtypeStruct((2, T, T), bool),
        triton.attend: lambda: jax.eval_shape(triton.tiles, texts, texts),
    }[kernel]()
    gradient = jax.jit(jax.grad(lambda *x: kernel(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2)))
    text = gradient.trace(q, k, v, where).lower(lowering_platforms=(platform,)).as_text()
    assert [call for call in calls if call not in text] == []


def test_tiles_that_no_text_needs_are_left_out(monkeypatch):
    """A prompt of one block, a response of two and one of one, which skips the first; then nothing."""
    for size in ("QUERIES", "KEYS", "BACK"):
        monkeypatch.setattr(triton, size, 64)
    begins, parents = (jnp.repeat(jnp.asarray([x]), 64, axis=1) for x in ([1, 65, 65, 193, 0, 0], [1, 1, 1, 1, 0, 0]))
    where = triton.tiles(begins, parents)

    def lists(order, count):
        return [list(x[:n]) for x, n in zip(order[0], count[0], strict=True)]

    keys = [[0], [0, 1], [0, 1, 2], [0, 3], [], []]
    assert lists(where.keys_Bnm, where.keys_count_Bn) == keys == lists(where.back_keys_Bnm, where.back_keys_count_Bn)
    assert lists(where.back_queries_Bmn, where.back_queries_count_Bm) == [[0, 1, 2, 3], [1, 2], [2], [3], [], []]
    uneven = blocked.needed(begins, parents, 128, 64)[0].sum(-1)
    np.testing.assert_array_equal(uneven, [2, 4, 0])


def test_a_tpu_visits_what_is_needed_and_masks_where_not_all_attend_all(monkeypatch):
    """The same after an empty row, the first response a token shorter: its second block is not all of one text."""
    monkeypatch.setattr(splash, "BLOCK", 64)
    begins, parents = (jnp.repeat(jnp.asarray([x]), 64, axis=1) for x in ([1, 65, 65, 193, 0, 0], [1, 1, 1, 1, 0, 0]))
    begins, parents = (jnp.concatenate([x * 0, x.at[:, 191].set(0)]) for x in (begins, parents))
    where = splash.tiles(begins, parents)

    def listed(visits):
        """(block, other, whole)."""
        count = int(visits.count_1[0])
        return list(zip(*(x[:count].tolist() for x in visits[:3]), strict=True))

    diagonal = [(i, i, 0) for i in range(6)]
    row = [
        (6, 0, 0),
        (7, 0, 1),
        (7, 1, 0),
        (8, 0, 0),
        (8, 1, 0),
        (8, 2, 0),
        (9, 0, 1),
        (9, 3, 0),
        (10, 4, 0),
        (11, 5, 0),
    ]
    assert listed(where.by_query) == diagonal + row
    assert sorted((other + 6, block - 6, whole) for block, other, whole in row) == listed(where.by_key)[6:]
    assert listed(where.by_key)[:6] == diagonal
