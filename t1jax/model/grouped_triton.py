# SPDX-License-Identifier: Apache-2.0
"""Products of rows with the weights of their experts on a GPU, by kernels in Pallas that XLA compiles with Triton.

XLA for GPUs makes a `ragged_dot` a product of every row with every expert (jaxlib 0.10.2): for 128 experts, 128 times
the work, in memory for as many copies of the rows. Here a program multiplies rows of one expert alone.

Axes: c rows in the order of their experts, e experts, i inputs, o outputs; of a program: r rows, k inputs, n outputs.
Source: grouped products, arXiv 2211.15841.
Deliberately not here: which rows go to which expert, other platforms (experts.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from t1jax.model.triton import dot

LEAST = 16  # of each side of a tile
MOST = {2: (128, 64, 128), 4: (32, 32, 64)}  # rows, inputs, outputs of one, by bytes of a value: no register is spilled
INTERPRET = False  # run without a GPU: for tests


def suits(platform: str, *sizes: int) -> bool:
    """Whether the kernels can multiply with weights of these sizes: on a GPU, what tiles can be made of."""
    return (platform == "gpu" or INTERPRET) and all(size % LEAST == 0 for size in sizes)


def times(x_ci: jax.Array, w_eio: jax.Array, sizes_e: jax.Array, transposed: bool = False) -> jax.Array:
    """float32[c, o]: each row times its expert's weight. What is in rows beyond the last expert's is not defined.

    Args:
      x_ci: compute dtype.
      w_eio: of the same dtype; [e, o, i] if `transposed`.
      sizes_e: int32, rows of each expert; those of the first expert are first.
    """
    given, x_ci = len(x_ci), _enough(x_ci)
    c, i = x_ci.shape
    o = w_eio.shape[1 if transposed else 2]
    rows, deep, wide = MOST[x_ci.dtype.itemsize]
    r, k, n = _rows(c, len(sizes_e), rows), _tile(i, deep), _tile(o, wide)
    tiles_e = -(-sizes_e // r)
    last_e, end_e = jnp.cumsum(tiles_e), jnp.cumsum(sizes_e)
    tile_g = jnp.arange(pl.cdiv(c, r) + len(sizes_e), dtype=jnp.int32)  # an expert's last tile may not be full
    before_g = (last_e[None] <= tile_g[:, None]).sum(1, dtype=jnp.int32)  # experts; searchsorted would be a loop
    expert_g = jnp.minimum(before_g, len(sizes_e) - 1)
    first_g = (end_e - sizes_e)[expert_g] + (tile_g - (last_e - tiles_e)[expert_g]) * r
    end_g = end_e[expert_g]  # beyond the last tile nothing is left
    kernel = partial(_times_kernel, r=r, k=k, n=n, transposed=transposed)
    like, grid = jax.ShapeDtypeStruct((c, o), jnp.float32), (o // n, len(tile_g))
    out: jax.Array = _call(kernel, like, grid, 5, "rows_of_experts")(x_ci, w_eio, expert_g, first_g, end_g)
    return out[:given]


def outer(x_ci: jax.Array, y_co: jax.Array, sizes_e: jax.Array) -> jax.Array:
    """float32[e, i, o]: x^T y over the rows of each expert; 0 for one that has none. Arguments as for `times`."""
    x_ci, y_co = _enough(x_ci), _enough(y_co)
    (c, i), o, e = x_ci.shape, y_co.shape[1], len(sizes_e)
    rows, deep, wide = MOST[x_ci.dtype.itemsize]
    r, k, n = _rows(c, e, deep), _tile(i, rows), _tile(o, wide)
    end_e = jnp.cumsum(sizes_e)
    kernel = partial(_outer_kernel, r=r, k=k, n=n)
    like = jax.ShapeDtypeStruct((e, i, o), jnp.float32)
    out: jax.Array = _call(kernel, like, (o // n, i // k, e), 4, "gradients_of_experts")(
        x_ci, y_co, end_e - sizes_e, end_e
    )
    return out


def _enough(x_ci: jax.Array) -> jax.Array:
    """With rows of 0 after it if there are too few for a tile."""
    return jnp.pad(x_ci, ((0, LEAST - len(x_ci)), (0, 0))) if len(x_ci) < LEAST else x_ci


def _tile(size: int, most: int) -> int:
    """The largest power of 2 that divides `size`, at most `most`."""
    return min(size & -size, most)


def _rows(c: int, experts: int, most: int) -> int:
    """Rows of a tile: about as many as an expert has, so that few tiles are mostly empty; at most c."""
    return max(LEAST, min(pl.next_power_of_2(pl.cdiv(c, experts)), most, 1 << c.bit_length() - 1))


def _call(kernel: Any, like: Any, grid: tuple[int, ...], arrays: int, name: str) -> Any:
    called = pl.pallas_call(
        kernel,
        out_shape=like,
        grid=grid,
        in_specs=[pl.BlockSpec()] * arrays,
        compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=3),
        interpret=INTERPRET,
        name=name,
    )
    return jax.jit(called)  # JAX drops a jitted call whose results nobody reads, but no pallas_call


def _some_rows(ref: Any, first: jax.Array, end: jax.Array, r: int) -> tuple[Any, jax.Array]:
    """r rows of `ref` that hold those from `first` to `end`, as many as r; and which of them are, bool[r, 1]."""
    begin = jnp.minimum(first, ref.shape[0] - r)  # none is outside
    at_r = begin + jnp.arange(r, dtype=jnp.int32)
    return pl.ds(begin, r), ((at_r >= first) & (at_r < end))[:, None]


def _times_kernel(
    x_ref: Any,
    w_ref: Any,
    expert_ref: Any,
    first_ref: Any,
    end_ref: Any,
    out_ref: Any,
    *,
    r: int,
    k: int,
    n: int,
    transposed: bool,
) -> None:
    """r rows of one expert, and n of the outputs."""
    outputs, g = pl.ds(pl.program_id(0) * n, n), pl.program_id(1)
    expert, first, end = expert_ref[g], first_ref[g], end_ref[g]
    rows, there_r1 = _some_rows(x_ref, first, end, r)

    def more(i: jax.Array, so_far_rn: jax.Array) -> jax.Array:
        inputs = pl.ds(i * k, k)
        x_rk = plgpu.load(x_ref.at[rows, inputs], mask=there_r1, other=0.0)
        w_kn = w_ref[expert, outputs, inputs].T if transposed else w_ref[expert, inputs, outputs]
        return so_far_rn + dot(x_rk, w_kn)

    @pl.when(first < end)
    def _() -> None:
        out_rn = jax.lax.fori_loop(0, x_ref.shape[1] // k, more, jnp.zeros((r, n), jnp.float32))
        plgpu.store(out_ref.at[rows, outputs], out_rn, mask=there_r1)


def _outer_kernel(
    x_ref: Any, y_ref: Any, first_ref: Any, end_ref: Any, out_ref: Any, *, r: int, k: int, n: int
) -> None:
    """k inputs and n outputs of one expert, over all its rows."""
    outputs, inputs, e = pl.ds(pl.program_id(0) * n, n), pl.ds(pl.program_id(1) * k, k), pl.program_id(2)
    first, end = first_ref[e], end_ref[e]

    def more(j: jax.Array, so_far_kn: jax.Array) -> jax.Array:
        rows, there_r1 = _some_rows(x_ref, first + j * r, jnp.minimum(first + (j + 1) * r, end), r)
        x_rk = plgpu.load(x_ref.at[rows, inputs], mask=there_r1, other=0.0)
        y_rn = plgpu.load(y_ref.at[rows, outputs], mask=there_r1, other=0.0)
        return so_far_kn + dot(x_rk.T, y_rn)

    turns = jax.lax.div(end - first + r - 1, r)
    out_ref[e, inputs, outputs] = jax.lax.fori_loop(0, turns, more, jnp.zeros((k, n), jnp.float32))
