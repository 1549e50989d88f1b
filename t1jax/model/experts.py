# SPDX-License-Identifier: Apache-2.0
"""A mixture of experts in place of the MLP: each token goes through the k experts that a router scores highest.

    p = softmax(y router),   out = sum over the k largest p_e of  p_e (silu(y gate_e) * (y up_e)) down_e

The router's softmax is in float32; with `norm_topk_prob` the k shares are divided by their sum. A token has k copies,
sorted by expert, so that each expert multiplies rows that follow each other (`jax.lax.ragged_dot_general`, and on a GPU
the kernels of grouped_triton.py): no token is dropped, however uneven the routes are. Shares are applied before `down`,
whose output the backward then does not need.

Experts are split over `tensor`. Each device of a group scores all tokens of its rows, takes the copies that go to its
own experts, and the outputs are added up over `tensor` in float32, as those of a dense MLP are. At rest weights are
split over `fsdp` too, and made whole as in products.py. The backward is written out, as there: weight gradients are
added up in float32, and devices exchange them once.

Axes: L layers, B rows, T positions, D width, E experts, F mlp width of an expert; of a device: n tokens with k experts
each, c = n * k copies of tokens, e experts.
Source: Qwen3, arXiv 2505.09388; grouped products instead of capacities, arXiv 2211.15841.
Deliberately not here: a loss that balances experts, which neither T1 nor this model's inference has.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from t1jax.config import ModelConfig
from t1jax.devices.sharding import Layout
from t1jax.model import grouped_triton
from t1jax.model.blocked import SAVED
from t1jax.model.precision import einsum, rounded
from t1jax.model.products import Frozen, Weight, read, stream, whole

ROUTER = ("embed", "experts_whole")  # the logical axes of the router, of gate and up, and of down
INTO_EXPERT, FROM_EXPERT = ("experts", "embed", "expert_mlp"), ("experts", "expert_mlp", "embed")
AXES = (ROUTER, INTO_EXPERT, INTO_EXPERT, FROM_EXPERT)
ROUTES, MARK = "routes", "mark"  # Flax's names of the collection with each layer's marks, and of its variable


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def mixture(
    layout: Layout,
    k: int,
    normed: bool,
    y_BTD: jax.Array,
    router_DE: Weight,
    gate_EDF: Weight,
    up_EDF: Weight,
    down_EFD: Weight,
) -> tuple[jax.Array, jax.Array]:
    """What the experts add to the residual stream, float32[B, T, D], and each token's route as `mark` has it.

    Args:
      layout: by which weights and rows are split.
      k: experts of a token.
      normed: whether a token's k shares are divided by their sum.
      y_BTD: compute dtype; y and the result may be split by positions.
      router_DE: and the experts' matrices: float32 masters, or copies in compute dtype, or Frozen without factors.
    """
    return _forward(layout, k, normed, y_BTD, router_DE, gate_EDF, up_EDF, down_EFD)[0]


def mark(expert_nk: jax.Array) -> jax.Array:
    """uint32[n]: a hash of each token's set of experts, whatever their order."""
    x = (expert_nk.astype(jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 15)) * jnp.uint32(0x85EBCA6B)
    return (x ^ (x >> 13)).sum(-1, dtype=jnp.uint32)


def routes(made: Mapping[str, Any]) -> jax.Array | None:
    """uint32[B, T]: a hash of each token's route through all layers, from the collection; None without experts."""
    if ROUTES not in made:
        return None
    (mark_LBT,) = made[ROUTES]["layers"][MARK]
    odd_L = 2 * jnp.arange(len(mark_LBT), dtype=jnp.uint32) + 1
    return (mark_LBT * odd_L[:, None, None]).sum(0, dtype=jnp.uint32)


def note(cfg: ModelConfig, platform: str) -> str:
    """What is said where experts are not multiplied as plans count them; nothing where they are, or there are none."""
    sizes = cfg.hidden_size, cfg.mlp_size
    if not cfg.num_experts or platform == "tpu" or grouped_triton.suits(platform, *sizes):
        return ""
    why = f"with sizes that are no multiples of {grouped_triton.LEAST}, {sizes}" if platform == "gpu" else "on a CPU"
    return f"each row is multiplied by every expert, in memory that is not counted: {why}"


def shares(score_nE: jax.Array, k: int, normed: bool) -> tuple[jax.Array, jax.Array]:
    """The k largest of softmax(scores), float32[n, k], over their sum if `normed`; and whose they are, int32[n, k]."""
    share_nk, expert_nk = lax.top_k(jax.nn.softmax(score_nE, axis=-1), k)
    return share_nk / share_nk.sum(-1, keepdims=True) if normed else share_nk, expert_nk


class _Copies:
    """The copies of a device's tokens in the order of its experts; copies for other devices are last, and read as 0."""

    def __init__(self, expert_nk: jax.Array, held: int, tiled: bool) -> None:
        n, self.k = expert_nk.shape
        self.tiled = tiled  # by the kernels
        mine = expert_nk.reshape(-1) - lax.axis_index("tensor") * held
        group = jnp.where((mine >= 0) & (mine < held), mine, held)
        self.order_c = jnp.argsort(group, stable=True)  # the copy at each place
        self.place_c = jnp.argsort(self.order_c)  # the place of each copy
        self.sizes_e = (group[:, None] == jnp.arange(held)[None]).sum(0, dtype=jnp.int32)
        self.here_c1 = (jnp.arange(n * self.k) < self.sizes_e.sum())[:, None]

    def of_tokens(self, x_nD: jax.Array) -> jax.Array:
        """Each token's row at the places of its copies, [c, D]."""
        return x_nD[self.order_c // self.k]

    def added(self, x_cD: jax.Array) -> jax.Array:
        """The sum of each token's copies, [n, D]; not a scatter, whose order of summands is not the same everywhere."""
        return x_cD[self.place_c].reshape(-1, self.k, x_cD.shape[-1]).sum(1)

    def times(self, x_c: jax.Array, w_e: jax.Array, transposed: bool = False) -> jax.Array:
        """x w of each copy's expert, float32; x [c, i] and w [e, i, o], or if transposed [e, o, i]."""
        if self.tiled:
            out = grouped_triton.times(x_c, w_e, self.sizes_e, transposed)
        else:
            out = self._ragged(x_c, w_e, (((1,), (2 if transposed else 1,)), ((), ())), rhs_group_dimensions=[0])
        return jnp.where(self.here_c1, out, 0.0)

    def outer(self, x_c: jax.Array, y_c: jax.Array) -> jax.Array:
        """x^T y over the copies of each expert, float32[e, i, o]: the gradient of w from x and that of x w."""
        if self.tiled:
            return grouped_triton.outer(x_c, y_c, self.sizes_e)
        return self._ragged(x_c, y_c, (((0,), (0,)), ((), ())), rhs_group_dimensions=[])

    def _ragged(self, x: jax.Array, y: jax.Array, dot: Any, rhs_group_dimensions: list[int]) -> jax.Array:
        numbers = lax.RaggedDotDimensionNumbers(dot, [0], rhs_group_dimensions)
        precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        return lax.ragged_dot_general(x, y, self.sizes_e, numbers, precision, jnp.float32)


def _tiled(layout: Layout, gate_eDF: jax.Array) -> bool:
    return grouped_triton.suits(layout.mesh.devices.flat[0].platform, *gate_eDF.shape[1:])


def _specs(layout: Layout, positions: int) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
    """How [B, T, ...] is split, whole along T; the same by positions, if they divide; and copies, of each device."""
    tail = stream(layout, positions)
    return layout.spec("batch", "length", None), layout.spec("batch", tail, None), layout.spec("batch", "experts", None)


def _summed(layout: Layout, x_BTD: jax.Array) -> jax.Array:
    """The sum over the devices of a tensor group, left with positions that are split as the residual stream is."""
    if layout.parts("stream") > 1 and stream(layout, x_BTD.shape[1]) == "stream":
        return lax.psum_scatter(x_BTD, "tensor", scatter_dimension=1, tiled=True)
    return lax.psum(x_BTD, "tensor")


def _weights(layout: Layout, weights: tuple[Weight, ...], dtype: Any) -> list[jax.Array]:
    """Each made whole along `embed`, in compute dtype."""
    return [whole(layout, axes, read(w), dtype) for axes, w in zip(AXES, weights, strict=True)]


def _split(layout: Layout) -> list[PartitionSpec]:
    """How whole weights are split."""
    return [layout.spec(*(None if axis == "embed" else axis for axis in axes)) for axes in AXES]


def _forward(layout: Layout, k: int, normed: bool, y_BTD: jax.Array, *weights: Weight) -> tuple[Any, Any]:
    dtype = y_BTD.dtype
    rows, streamed, copies = _specs(layout, y_BTD.shape[1])

    def here(y_BTD: jax.Array, router_DE: jax.Array, *experts: jax.Array) -> tuple[jax.Array, ...]:
        B, T, D = y_BTD.shape
        gate_eDF, up_eDF, down_eFD = experts
        y_nD = y_BTD.reshape(-1, D)
        score_nE = einsum("nD,DE->nE", y_nD, router_DE)
        share_nk, expert_nk = shares(score_nE, k, normed)
        mine = _Copies(expert_nk, len(gate_eDF), _tiled(layout, gate_eDF))
        y_cD = mine.of_tokens(y_nD)
        a_cF, b_cF = mine.times(y_cD, gate_eDF), mine.times(y_cD, up_eDF)
        share_c1 = share_nk.reshape(-1)[mine.order_c][:, None]
        out_cD = mine.times(rounded(nn.silu(a_cF) * b_cF * share_c1, dtype), down_eFD)
        out_BTD = _summed(layout, mine.added(out_cD).reshape(B, T, D))
        a, b = (x.astype(dtype).reshape(B, T * k, -1) for x in (a_cF, b_cF))
        return out_BTD, mark(expert_nk).reshape(B, T), score_nE.reshape(B, T, -1), a, b

    out = (streamed, layout.spec("batch", "length"), rows, copies, copies)
    split = (rows, *_split(layout))
    call = jax.shard_map(here, mesh=layout.mesh, in_specs=split, out_specs=out, check_vma=False)
    out_BTD, mark_BT, *kept = call(y_BTD, *_weights(layout, weights, dtype))
    kept = [checkpoint_name(x, SAVED) for x in kept]  # model.remat = "dots" keeps no ragged product by itself
    return (out_BTD, mark_BT), (y_BTD, weights, *kept)


def _backward(layout: Layout, k: int, normed: bool, saved: Any, douts: tuple[jax.Array, Any]) -> tuple[Any, ...]:
    y_BTD, weights, *kept = saved
    dtype, frozen = y_BTD.dtype, isinstance(weights[0], Frozen)
    rows, streamed, copies = _specs(layout, y_BTD.shape[1])

    def here(
        dout_BTD: jax.Array, y_BTD: jax.Array, score: jax.Array, a: jax.Array, b: jax.Array, *weights: jax.Array
    ) -> tuple[jax.Array, ...]:
        router_DE, gate_eDF, up_eDF, down_eFD = weights
        y_nD, dout_nD, score_nE = (x.reshape(-1, x.shape[-1]) for x in (y_BTD, dout_BTD, score))
        share_nk, to_scores, expert_nk = jax.vjp(lambda x: shares(x, k, normed), score_nE, has_aux=True)
        mine = _Copies(expert_nk, len(gate_eDF), _tiled(layout, gate_eDF))
        y_cD, dout_cD = mine.of_tokens(y_nD), mine.of_tokens(dout_nD)
        a_cF, b_cF = (x.reshape(-1, x.shape[-1]).astype(jnp.float32) for x in (a, b))
        share_c1 = share_nk.reshape(-1)[mine.order_c][:, None]
        s_cF = nn.sigmoid(a_cF)
        silu_cF = a_cF * s_cF
        shared_cF = mine.times(dout_cD, down_eFD, transposed=True)
        dshare_c = (shared_cF * silu_cF * b_cF).sum(-1)
        dinner_cF = shared_cF * share_c1
        da_cF = rounded(dinner_cF * b_cF * (s_cF + silu_cF * (1 - s_cF)), dtype)
        db_cF = rounded(dinner_cF * silu_cF, dtype)
        dy_cD = mine.times(da_cF, gate_eDF, transposed=True) + mine.times(db_cF, up_eDF, transposed=True)
        # Of the scores each device has what its own experts say. All that follows is linear, so sums come last.
        (dscore_nE,) = to_scores(dshare_c[mine.place_c].reshape(share_nk.shape))
        dscore_nE = rounded(dscore_nE, dtype)
        dy_nD = mine.added(dy_cD) + einsum("nE,DE->nD", dscore_nE, router_DE)
        dy_BTD = _summed(layout, dy_nD.reshape(y_BTD.shape)).astype(dtype)
        if frozen:
            return (dy_BTD,)
        inner_cF = rounded(silu_cF * b_cF * share_c1, dtype)
        drouter_DE = lax.psum(einsum("nD,nE->DE", y_nD, dscore_nE), "tensor")
        dweights = drouter_DE, mine.outer(y_cD, da_cF), mine.outer(y_cD, db_cF), mine.outer(inner_cF, dout_cD)
        return dy_BTD, *(_over_batch(layout, dw, axes) for dw, axes in zip(dweights, AXES, strict=True))

    out = (streamed,) if frozen else (streamed, *(layout.spec(*axes) for axes in AXES))
    split = (rows, rows, rows, copies, copies, *_split(layout))
    call = jax.shard_map(here, mesh=layout.mesh, in_specs=split, out_specs=out, check_vma=False)
    dy_BTD, *dweights = call(rounded(douts[0], dtype), y_BTD, *kept, *_weights(layout, weights, dtype))
    if frozen:
        return dy_BTD, None, None, None, None
    return dy_BTD, *(dw.astype(read(w).dtype) for dw, w in zip(dweights, weights, strict=True))


def _over_batch(layout: Layout, dw: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The sum over the shards of the batch, of a weight with these axes: each of `fsdp` keeps its part of `embed`."""
    if layout.parts("embed") > 1:
        dw = lax.psum_scatter(dw, "fsdp", scatter_dimension=axes.index("embed"), tiled=True)
        return lax.psum(dw, "data")
    return lax.psum(dw, ("data", "fsdp"))


mixture.defvjp(_forward, _backward)
