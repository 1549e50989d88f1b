# SPDX-License-Identifier: Apache-2.0
"""Matrix products of activations with weights, their gradients, and what devices exchange for them.

Weights are split over `fsdp`, and made whole in the compute dtype where a layer reads them. Over `tensor`, heads and
MLP are split, and between them the residual stream by positions: what a layer reads is gathered in the compute dtype,
and what it adds is summed in float32 where it is scattered. So norms are done once, and less crosses devices than if
the sums went to all of them. A row whose positions do not divide is not split. The backward is written out, since it
does the same the other way round.

Axes: B rows, T positions, D width, F mlp width, N query heads, K kv heads, H head dim.
Source: sequence parallelism, arXiv 2205.05198; SwiGLU, arXiv 2002.05202.
Deliberately not here: where numbers are rounded (precision.py), the head (logprobs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t1jax.devices.sharding import Layout
from t1jax.model.precision import einsum, rounded

Axes = tuple[str, ...]  # the logical axes of an array's dimensions
Terms = tuple[tuple[Axes, str], ...]  # of each weight its axes, and an einsum of activations with it
INTO_MLP, FROM_MLP = ("embed", "mlp"), ("mlp", "embed")  # the logical axes of gate and up, and of down
LETTERS = {"B": "batch", "T": "length", "N": "q_heads", "K": "kv_heads", "F": "mlp"}  # of activations and whole weights


def stream(layout: Layout, positions: int) -> str:
    """The logical axis of the positions of the residual stream: `stream`, or `length` where they do not divide."""
    return "length" if positions % layout.parts("stream") else "stream"


def whole(layout: Layout, axes: Axes, w: jax.Array, dtype: Any) -> jax.Array:
    """A weight cast to `dtype` and then made whole along `embed`: what crosses devices has `dtype`.

    Left split, XLA would multiply with a part of it at a time and read and write the activations for each part.
    """
    return layout.constrain(w.astype(dtype), *(None if axis == "embed" else axis for axis in axes))


def products(layout: Layout, terms: Terms, x: jax.Array, *weights: jax.Array) -> tuple[jax.Array, ...]:
    """float32 einsum(spec, x, w) for each weight, cast to the dtype of the activations x.

    Where outputs are split over `tensor`, the gradients of x by all weights are added up before devices exchange them.

    Args:
      layout: by which weights are split; one is made whole along `embed` for its product, its gradient split as it is.
      terms: for each weight its logical axes and the spec, as "BTD,DF->BTF"; a letter stands in two of the three terms.
      x: compute dtype; [B, T, D] may be split by positions, as the result is if it is [B, T, D].
      weights: float32 masters, or copies in compute dtype. Gradients are added up in float32 and have their dtype.
    """
    split = any("embed" in axes and layout.parts("embed") > 1 for axes, _ in terms) or layout.parts("stream") > 1
    if not split and all(w.dtype == x.dtype for w in weights):  # whole already, and no cast
        return tuple(einsum(spec, x, w) for (_, spec), w in zip(terms, weights, strict=True))
    return _products(layout, terms, x, *weights)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _products(layout: Layout, terms: Terms, x: jax.Array, *weights: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(
        _summed(layout, [(spec, x, whole(layout, axes, w, x.dtype))])
        for (axes, spec), w in zip(terms, weights, strict=True)
    )


def _products_forward(layout: Layout, terms: Terms, x: jax.Array, *weights: jax.Array) -> tuple[Any, Any]:
    return _products(layout, terms, x, *weights), (x, weights)


def _products_backward(layout: Layout, terms: Terms, saved: Any, douts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    x, weights = saved
    backwards, dweights = [], []
    for (axes, spec), w, dout in zip(terms, weights, douts, strict=True):
        operands, out = spec.split("->")
        of_x, of_w = operands.split(",")
        dout = rounded(dout, x.dtype)
        backwards.append((f"{out},{of_w}->{of_x}", dout, whole(layout, axes, w, x.dtype)))
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


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gated(layout: Layout, y_BTD: jax.Array, gate_DF: jax.Array, up_DF: jax.Array, down_FD: jax.Array) -> jax.Array:
    """(silu(y gate) * (y up)) down, float32; y and the result may be split by positions.

    The gradient is written out: it keeps two arrays [B, T, F] where automatic differentiation keeps five, and reads
    none of them transposed. A third faster on CPU.
    """
    return _gated_forward(layout, y_BTD, gate_DF, up_DF, down_FD)[0]


def _gated_forward(
    layout: Layout, y_BTD: jax.Array, gate_DF: jax.Array, up_DF: jax.Array, down_FD: jax.Array
) -> tuple[jax.Array, Any]:
    dtype = y_BTD.dtype
    a_BTF, b_BTF = (
        _summed(layout, [("BTD,DF->BTF", y_BTD, whole(layout, INTO_MLP, w_DF, dtype))]) for w_DF in (gate_DF, up_DF)
    )
    inner_BTF = rounded(nn.silu(a_BTF) * b_BTF, dtype)
    out_BTD = _summed(layout, [("BTF,FD->BTD", inner_BTF, whole(layout, FROM_MLP, down_FD, dtype))])
    return out_BTD, (y_BTD, a_BTF.astype(dtype), b_BTF.astype(dtype), gate_DF, up_DF, down_FD)


def _gated_backward(layout: Layout, saved: Any, dout_BTD: jax.Array) -> tuple[jax.Array, ...]:
    y_BTD, a_BTF, b_BTF, *masters = saved
    dtype, axes = y_BTD.dtype, (INTO_MLP, INTO_MLP, FROM_MLP)
    gate_DF, up_DF, down_FD = (whole(layout, of_w, w, dtype) for of_w, w in zip(axes, masters, strict=True))
    dout_BTD = rounded(dout_BTD, dtype)
    dinner_BTF = _summed(layout, [("BTD,FD->BTF", dout_BTD, down_FD)])
    a_BTF, b_BTF = a_BTF.astype(jnp.float32), b_BTF.astype(jnp.float32)
    s_BTF = nn.sigmoid(a_BTF)
    silu_BTF = a_BTF * s_BTF
    da_BTF = rounded(dinner_BTF * b_BTF * (s_BTF + silu_BTF * (1 - s_BTF)), dtype)
    db_BTF = rounded(dinner_BTF * silu_BTF, dtype)
    inner_BTF = rounded(silu_BTF * b_BTF, dtype)
    dy_BTD = _summed(layout, [("BTF,DF->BTD", da_BTF, gate_DF), ("BTF,DF->BTD", db_BTF, up_DF)])
    dmasters = (
        *(_of_weight(layout, "BTD,BTF->DF", y_BTD, d_BTF, INTO_MLP) for d_BTF in (da_BTF, db_BTF)),
        _of_weight(layout, "BTF,BTD->FD", inner_BTF, dout_BTD, FROM_MLP),
    )
    return dy_BTD.astype(dtype), *(d.astype(w.dtype) for d, w in zip(dmasters, masters, strict=True))


gated.defvjp(_gated_forward, _gated_backward)
