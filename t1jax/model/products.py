# SPDX-License-Identifier: Apache-2.0
"""Matrix products of activations with weights, their gradients, and what devices exchange for them.

Weights are split over `fsdp`, and made whole in the compute dtype where a layer reads them. Over `tensor`, heads and
MLP are split, and between them the residual stream by positions: what a layer reads is gathered in the compute dtype,
and what it adds is summed in float32 where it is scattered. So norms are done once, and less crosses devices than if
the sums went to all of them. A row whose positions do not divide is not split. The backward is written out, since it
does the same the other way round. A weight may be frozen, with or without an adapter of LoRA: then its own gradient is
never made.

Axes: B rows, T positions, D width, F mlp width, N query heads, K kv heads, H head dim; r rank of an adapter.
Source: sequence parallelism, arXiv 2205.05198; SwiGLU, arXiv 2002.05202; LoRA, arXiv 2106.09685.
Deliberately not here: where numbers are rounded (precision.py), the head (logprobs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from t1jax.devices.sharding import Layout
from t1jax.model.precision import einsum, rounded

Axes = tuple[str, ...]  # the logical axes of an array's dimensions
Terms = tuple[tuple[Axes, str], ...]  # of each weight its axes, and an einsum of activations with it
INTO_MLP, FROM_MLP = ("embed", "mlp"), ("mlp", "embed")  # the logical axes of gate and up, and of down
LETTERS = {"B": "batch", "T": "length", "N": "q_heads", "K": "kv_heads", "F": "mlp"}  # of activations and whole weights


@struct.dataclass
class Frozen:
    """A weight W + scale A B of which only the factors A and B get a gradient: float32 masters, or None."""

    weight: jax.Array  # as the products read it, A B in it, in compute dtype
    a: jax.Array | None = None  # [in ..., r] with the axes that the weight takes from its input
    b: jax.Array | None = None  # [r, out ...] with those that it gives to its output
    scale: float = struct.field(pytree_node=False, default=1.0)


Weight = jax.Array | Frozen


def read(w: Weight) -> jax.Array:
    """What is multiplied with."""
    return w.weight if isinstance(w, Frozen) else w


def stream(layout: Layout, positions: int) -> str:
    """The logical axis of the positions of the residual stream: `stream`, or `length` where they do not divide."""
    return "length" if positions % layout.parts("stream") else "stream"


def whole(layout: Layout, axes: tuple[str | None, ...], w: jax.Array, dtype: Any) -> jax.Array:
    """A weight cast to `dtype` and then made whole along `embed`: what crosses devices has `dtype`.

    Left split, XLA would multiply with a part of it at a time and read and write the activations for each part.
    """
    return layout.constrain(w.astype(dtype), *(None if axis == "embed" else axis for axis in axes))


def products(layout: Layout, terms: Terms, x: jax.Array, *weights: Weight) -> tuple[jax.Array, ...]:
    """float32 einsum(spec, x, w) for each weight, cast to the dtype of the activations x.

    Where outputs are split over `tensor`, the gradients of x by all weights are added up before devices exchange them.

    Args:
      layout: by which weights are split; one is made whole along `embed` for its product, its gradient split as it is.
      terms: for each weight its logical axes and the spec, as "BTD,DF->BTF"; a letter stands in two of the three terms.
      x: compute dtype; [B, T, D] may be split by positions, as the result is if it is [B, T, D].
      weights: float32 masters, or copies in compute dtype. Gradients are added up in float32 and have their dtype.
        Or Frozen.
    """
    split = any("embed" in axes and layout.parts("embed") > 1 for axes, _ in terms) or layout.parts("stream") > 1
    if not split and all(not isinstance(w, Frozen) and w.dtype == x.dtype for w in weights):  # whole already, no cast
        return tuple(einsum(spec, x, read(w)) for (_, spec), w in zip(terms, weights, strict=True))
    return _products(layout, terms, x, *weights)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _products(layout: Layout, terms: Terms, x: jax.Array, *weights: Weight) -> tuple[jax.Array, ...]:
    return tuple(
        _summed(layout, [(spec, x, whole(layout, axes, read(w), x.dtype))])
        for (axes, spec), w in zip(terms, weights, strict=True)
    )


def _products_forward(layout: Layout, terms: Terms, x: jax.Array, *weights: Weight) -> tuple[Any, Any]:
    return _products(layout, terms, x, *weights), (x, weights)


def _products_backward(layout: Layout, terms: Terms, saved: Any, douts: tuple[jax.Array, ...]) -> tuple[Any, ...]:
    x, weights = saved
    backwards: list[tuple[str, jax.Array, jax.Array]] = []
    dweights: list[Any] = []
    for (axes, spec), w, dout in zip(terms, weights, douts, strict=True):
        operands, out = spec.split("->")
        of_x, of_w = operands.split(",")
        dout = rounded(dout, x.dtype)
        backwards.append((f"{out},{of_w}->{of_x}", dout, whole(layout, axes, read(w), x.dtype)))
        if isinstance(w, Frozen):
            dweights.append(_of_factors(layout, spec, x, dout, w, axes))
        else:
            dweights.append(_of_weight(layout, f"{out},{of_x}->{of_w}", dout, x, axes).astype(w.dtype))
    return _summed(layout, backwards).astype(x.dtype), *dweights


_products.defvjp(_products_forward, _products_backward)


def _axes(letters: str) -> list[str | None]:
    """The logical axes of an operand: of activations with all their positions, or of a weight that is whole."""
    return [LETTERS.get(x) for x in letters]


def _summed(layout: Layout, products: Sequence[tuple[str, jax.Array, jax.Array]]) -> jax.Array:
    """The sum of einsums of activations with whole weights, float32.

    [B, T, D] that is summed over devices is scattered to them by positions where these divide.
    """
    specs = [spec.replace("->", ",").split(",") for spec, *_ in products]
    out, along = specs[0][-1], stream(layout, products[0][1].shape[1])
    if layout.parts("stream") == 1:
        total = sum((einsum(*product) for product in products[1:]), start=einsum(*products[0]))
        return layout.constrain(total, *_axes(out)) if "F" in out else total
    operands = [layout.constrain(x, *_axes(letters[0])) for (_, x, _), letters in zip(products, specs, strict=True)]

    def here(*operands: jax.Array) -> jax.Array:
        pairs = zip(operands[::2], operands[1::2], strict=True)
        parts = [einsum(spec, x, w) for (spec, *_), (x, w) in zip(products, pairs, strict=True)]
        return sum(parts[1:], start=parts[0])

    pairs = tuple(x for x, (_, _, w) in zip(operands, products, strict=True) for x in (x, w))
    if out != "BTD" or along != "stream":
        return layout.constrain(here(*pairs), *_axes(out))

    def scattered(*operands: jax.Array) -> jax.Array:
        return jax.lax.psum_scatter(here(*operands), "tensor", scatter_dimension=1, tiled=True)

    split = tuple(layout.spec(*_axes(letters)) for pair in specs for letters in pair[:2])
    by_positions = layout.spec("batch", along, None)
    return jax.shard_map(scattered, mesh=layout.mesh, in_specs=split, out_specs=by_positions, check_vma=False)(*pairs)


def _of_weight(layout: Layout, spec: str, x: jax.Array, y: jax.Array, axes: Axes) -> jax.Array:
    """einsum(spec, x, y), the gradient of a weight with these axes, in float32, between devices too."""
    if layout.parts("stream") > 1:
        of_x, of_y = spec.split("->")[0].split(",")
        x, y = layout.constrain(x, *_axes(of_x)), layout.constrain(y, *_axes(of_y))
    return layout.constrain(einsum(spec, x, y), *axes)


def _of_factors(layout: Layout, spec: str, x: jax.Array, dout: jax.Array, w: Frozen, axes: Axes) -> Frozen | None:
    """The gradients of A and B, of a weight with these axes: from its input x and its output's gradient dout.

        dA = scale x^T (dout B^T),  dB = scale (x A)^T dout

    dW = x^T dout is never made. Both are added up in float32, between devices too. None: the weight has no factors.

    Args:
      spec: of the product, as "BTD,DF->BTF".
      x, dout: compute dtype.
    """
    if w.a is None or w.b is None:
        return None
    of_x, of_w, out = spec.replace("->", ",").split(",")
    into, onto = ("".join(letter for letter in of_w if letter in operand) for operand in (of_x, out))
    named = dict(zip(of_w, axes, strict=True))
    axes_a, axes_b = (*(named[letter] for letter in into), None), (None, *(named[letter] for letter in onto))
    a, b = whole(layout, axes_a, w.a, x.dtype), whole(layout, axes_b, w.b, x.dtype)
    x, dout = layout.constrain(x, *_axes(of_x)), layout.constrain(dout, *_axes(out))

    def narrow(spec: str, y: jax.Array, factor: jax.Array) -> jax.Array:
        return rounded(layout.constrain(w.scale * einsum(spec, y, factor), *_axes("BTr")), x.dtype)

    da = einsum(f"{of_x},BTr->{into}r", x, narrow(f"{out},r{onto}->BTr", dout, b))
    db = einsum(f"BTr,{out}->r{onto}", narrow(f"{of_x},{into}r->BTr", x, a), dout)
    da, db = layout.constrain(da, *axes_a), layout.constrain(db, *axes_b)
    return Frozen(None, da.astype(w.a.dtype), db.astype(w.b.dtype), w.scale)  # type: ignore[arg-type]  # None: no dW


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gated(layout: Layout, y_BTD: jax.Array, gate_DF: Weight, up_DF: Weight, down_FD: Weight) -> jax.Array:
    """(silu(y gate) * (y up)) down, float32; y and the result may be split by positions.

    The gradient is written out: it keeps two arrays [B, T, F] where automatic differentiation keeps five, and reads
    none of them transposed. A third faster on CPU.
    """
    return _gated_forward(layout, y_BTD, gate_DF, up_DF, down_FD)[0]


def _gated_forward(
    layout: Layout, y_BTD: jax.Array, gate_DF: Weight, up_DF: Weight, down_FD: Weight
) -> tuple[jax.Array, Any]:
    dtype = y_BTD.dtype
    a_BTF, b_BTF = (
        _summed(layout, [("BTD,DF->BTF", y_BTD, whole(layout, INTO_MLP, read(w_DF), dtype))])
        for w_DF in (gate_DF, up_DF)
    )
    inner_BTF = rounded(nn.silu(a_BTF) * b_BTF, dtype)
    out_BTD = _summed(layout, [("BTF,FD->BTD", inner_BTF, whole(layout, FROM_MLP, read(down_FD), dtype))])
    return out_BTD, (y_BTD, a_BTF.astype(dtype), b_BTF.astype(dtype), gate_DF, up_DF, down_FD)


def _gated_backward(layout: Layout, saved: Any, dout_BTD: jax.Array) -> tuple[Any, ...]:
    y_BTD, a_BTF, b_BTF, *weights = saved
    dtype, axes = y_BTD.dtype, (INTO_MLP, INTO_MLP, FROM_MLP)
    gate_DF, up_DF, down_FD = (whole(layout, of_w, read(w), dtype) for of_w, w in zip(axes, weights, strict=True))
    dout_BTD = rounded(dout_BTD, dtype)
    dinner_BTF = _summed(layout, [("BTD,FD->BTF", dout_BTD, down_FD)])
    a_BTF, b_BTF = a_BTF.astype(jnp.float32), b_BTF.astype(jnp.float32)
    s_BTF = nn.sigmoid(a_BTF)
    silu_BTF = a_BTF * s_BTF
    da_BTF = rounded(dinner_BTF * b_BTF * (s_BTF + silu_BTF * (1 - s_BTF)), dtype)
    db_BTF = rounded(dinner_BTF * silu_BTF, dtype)
    inner_BTF = rounded(silu_BTF * b_BTF, dtype)
    dy_BTD = _summed(layout, [("BTF,DF->BTD", da_BTF, gate_DF), ("BTF,DF->BTD", db_BTF, up_DF)])

    def of(w: Weight, of_x: str, x: jax.Array, out: str, dout: jax.Array, axes: Axes) -> Any:
        of_w = f"{of_x[-1]}{out[-1]}"
        if isinstance(w, Frozen):
            return _of_factors(layout, f"{of_x},{of_w}->{out}", x, dout, w, axes)
        return _of_weight(layout, f"{of_x},{out}->{of_w}", x, dout, axes).astype(w.dtype)

    dgate_DF, dup_DF = (
        of(w, "BTD", y_BTD, "BTF", d_BTF, INTO_MLP) for w, d_BTF in zip(weights, (da_BTF, db_BTF), strict=False)
    )
    ddown_FD = of(weights[2], "BTF", inner_BTF, "BTD", dout_BTD, FROM_MLP)
    return dy_BTD.astype(dtype), dgate_DF, dup_DF, ddown_FD


gated.defvjp(_gated_forward, _gated_backward)
