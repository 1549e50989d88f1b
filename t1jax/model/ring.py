# SPDX-License-Identifier: Apache-2.0
"""The sampler's cache: each prompt's keys and values once, and every lane's own in one ring of columns.

All lanes write the same column, one per token; a lane's own text is the last `length_B` columns. So a lane starts over
by resetting its length, without moving a key: rotary positions are applied before writing, and attention does not
depend on where a key is stored. The ring is split into blocks, each contiguous in memory for all lanes; attention reads
only the blocks from the oldest column that a lane still needs to the newest; on a TPU, lane by lane (ragged.py). Two
lanes, after columns 0 to 4:

    column       0   1   2   3   4
    lane 0       a   a   a   b   b      length 2: response a ended in column 2; b is the prompt's next
    lane 1       c   c   c   c   c      length 5, so attention reads back to column 0

Axes: P prompts, m lanes per prompt, B lanes in use (lane b reads prompt b // m), C prompt positions, T = 1, N query
heads, K kv heads (copies too: heads.py), G = N // K, H head dim, L layers, J blocks, S columns of a block, X shards of
the batch, M lanes of a shard; s rows of h values, S and H unless the columns of a block are folded (ragged.py).
Source: softmax over blocks one after another, arXiv 2205.14135.
Deliberately not here: which lane writes what (decode.py), the kernel (ragged.py), attention in a text (attention.py).
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from t1jax.config import ModelConfig
from t1jax.devices import scopes
from t1jax.devices.sharding import Layout
from t1jax.model import heads, ragged, ring_triton
from t1jax.model.precision import einsum, level, rounded
from t1jax.types import KVCache

OWN = (None, None, "batch", None, "kv_heads", None, None)  # how k_LJXMKHS and v_LJXMKsh are split
CPU_BLOCK = 32  # most columns of a block on CPU: its dots read a copy of the block, which is to fit into the cache
PROMPT = (None, "batch", "kv_heads", None, None)  # how prompt_k_LPKCH is split


# An unfinished softmax, float32: reference [B, K, G], sum of exp(score - reference), and of those times values [..., H]
Softmax = tuple[jax.Array, jax.Array, jax.Array]


@struct.dataclass
class Reach:
    """Which columns of the ring a forward reads, and how: the same for all layers."""

    column: jax.Array  # int32[] the column written now
    first_block: jax.Array  # int32[] counted like columns, since the beginning
    length_B: jax.Array  # int32[B] columns before `column` that a lane attends; ragged.IDLE: it is not read
    prompt_valid_PC: jax.Array
    lanes: ragged.Order | None  # for a TPU's kernel
    reader: str = struct.field(pytree_node=False)  # as `reader` gives it


def reader(cfg: ModelConfig, layout: Layout, columns: int) -> str:
    """What attends a ring with blocks of so many columns: ragged, a TPU's kernel; triton, a GPU's; or loop, XLA's.

    The kernels read of each lane its own columns, where they can, unless model.attention is xla; the loop reads the
    same blocks of all lanes.
    """
    if cfg.attention != "xla":
        for name, kernel in (("ragged", ragged), ("triton", ring_triton)):
            if kernel.suits(cfg, layout, columns):
                return name
    return "loop"


def columns(length: int, block: int) -> int:
    """S of a ring that holds at least `length` columns, in blocks of at most `block`.

    It has at least two: of a ring of one block XLA takes the slice out of the loop over blocks, and then copies the
    whole ring in each layer.
    """
    return min(block, -(-length // 2))


def start(
    cfg: ModelConfig,
    layout: Layout,
    prompt: tuple[jax.Array, jax.Array],
    valid_PC: jax.Array,
    *,
    lanes: int,
    length: int,
    block: int,
) -> KVCache:
    """A cache of `lanes` lanes, nothing written; its ring has `length` columns or more, at most `block` in a block."""
    S = columns(length, min(block, CPU_BLOCK) if layout.on_cpu else block)
    X, H = layout.batch_shards, cfg.head_dim
    shape = (cfg.num_layers, -(-length // S), X, lanes // X, heads.spread(cfg, layout.parts("kv_heads")))
    values = ragged.folded(S, H) if reader(cfg, layout, S) == "ragged" else (S, H)
    k, v = (layout.constrain(jnp.zeros((*shape, *last), cfg.compute_dtype), *OWN) for last in ((H, S), values))
    return KVCache(*prompt, valid_PC, k, v, jnp.zeros(lanes, jnp.int32), jnp.int32(0))


def reach(cfg: ModelConfig, layout: Layout, cache: KVCache) -> Reach:
    """What the next token of each lane attends."""
    how = reader(cfg, layout, cache.k_LJXMKHS.shape[6])
    lanes = ragged.order(layout, cache.length_B) if how == "ragged" else None
    return Reach(cache.column, _first_block(cache), cache.length_B, cache.prompt_valid_PC, lanes, how)


def _first_block(cache: KVCache) -> jax.Array:
    """The block, counted since the beginning, of the oldest column that a lane still needs."""
    return jnp.maximum(cache.column - jnp.max(cache.length_B), 0) // cache.k_LJXMKHS.shape[6]


def _write(
    k_LJXMKHS: jax.Array, v_LJXMKsh: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, layer: jax.Array, reach: Reach
) -> tuple[jax.Array, jax.Array]:
    """The rings with the new column of the lanes in use; that of keys is left to a kernel that writes it."""
    _, J, X, _, K, H, S = k_LJXMKHS.shape
    rows = v_LJXMKsh.shape[5]
    block, column, put = reach.column // S % J, reach.column % S, jax.lax.dynamic_update_slice
    k, v = (x.astype(v_LJXMKsh.dtype).reshape(1, 1, X, -1, K, H) for x in (k_BKTH, v_BKTH))
    if reach.reader != "ragged":
        k_LJXMKHS = put(k_LJXMKHS, k[..., :, None], (layer, block, 0, 0, 0, 0, column))
    return k_LJXMKHS, put(v_LJXMKsh, v[..., None, :], (layer, block, 0, 0, 0, column % rows, column // rows * H))


def written(cache: KVCache, k_LJXMKHS: jax.Array, v_LJXMKsh: jax.Array) -> KVCache:
    """The cache after a column was written in all layers."""
    return replace(
        cache, k_LJXMKHS=k_LJXMKHS, v_LJXMKsh=v_LJXMKsh, column=cache.column + 1, length_B=cache.length_B + 1
    )


def attend(
    layout: Layout,
    q_BNTH: jax.Array,
    k_BKTH: jax.Array,
    v_BKTH: jax.Array,
    k_LJXMKHS: jax.Array,
    v_LJXMKsh: jax.Array,
    layer: jax.Array,
    prompt_k_PKCH: jax.Array,
    prompt_v_PKCH: jax.Array,
    reach: Reach,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(H)) v over a lane's prompt and its own columns; [B, N, 1, H], softmax in float32.

    Of an idle lane, whatever is cheapest. The token's own k and v are written to the new column of the rings, which are
    returned too.
    """
    B, N, _, H = q_BNTH.shape
    K = k_LJXMKHS.shape[4]
    k_LJXMKHS, v_LJXMKsh = _write(k_LJXMKHS, v_LJXMKsh, k_BKTH, v_BKTH, layer, reach)
    q_BKGH, rings = q_BNTH.reshape(B, K, N // K, H), (k_LJXMKHS, v_LJXMKsh, layer)
    with jax.named_scope(scopes.PROMPT_ATTENTION):
        so_far = _of_prompt(q_BKGH, prompt_k_PKCH, prompt_v_PKCH, reach.prompt_valid_PC)
    with jax.named_scope(scopes.OWN_ATTENTION):
        if reach.lanes is not None:
            k_BKH = k_BKTH[:, :, 0].astype(k_LJXMKHS.dtype)
            out_BKGH, k_LJXMKHS = ragged.attend(
                layout, q_BKGH, so_far, k_BKH, *rings, reach.column, reach.length_B, reach.lanes
            )
            return out_BKGH.reshape(B, N, 1, H), k_LJXMKHS, v_LJXMKsh
        if reach.reader == "triton":
            done = _joined(so_far, ring_triton.own(layout, q_BKGH, *rings, reach.column, reach.length_B))
        else:
            done = _block_by_block(so_far, q_BKGH, *rings, reach)
    _, total_BKG, out_BKGH = done
    return rounded(out_BKGH / total_BKG[..., None], q_BNTH.dtype).reshape(B, N, 1, H), k_LJXMKHS, v_LJXMKsh


def _of_prompt(q_BKGH: jax.Array, k_PKCH: jax.Array, v_PKCH: jax.Array, valid_PC: jax.Array) -> Softmax:
    """Softmax over a lane's prompt, unfinished."""
    (B, K, G, H), P = q_BKGH.shape, len(k_PKCH)
    s = einsum("PmKGH,PKCH->PKmGC", q_BKGH.reshape(P, B // P, K, G, H), k_PKCH) * H**-0.5
    s = jnp.where(valid_PC[:, None, None, None], s, -1e30)
    highest = level(jnp.max(s, axis=-1), q_BKGH.dtype)
    w = jnp.exp(s - highest[..., None])
    out = einsum("PKmGC,PKCH->PKmGH", rounded(w, q_BKGH.dtype), v_PKCH)
    highest_BKG, total_BKG, out_BKGH = (
        x.swapaxes(1, 2).reshape(B, K, G, *x.shape[4:]) for x in (highest, w.sum(-1), out)
    )
    return highest_BKG, total_BKG, out_BKGH


def _block_by_block(
    so_far: Softmax, q_BKGH: jax.Array, k_LJXMKHS: jax.Array, v_LJXMKsh: jax.Array, layer: jax.Array, reach: Reach
) -> Softmax:
    """`so_far`, continued over the blocks that any lane needs, for all lanes."""
    _, J, X, _, K, H, S = k_LJXMKHS.shape
    B, rows = len(q_BKGH), v_LJXMKsh.shape[5]

    def one_block(j: jax.Array, so_far: Softmax) -> Softmax:
        highest_BKG, total_BKG, out_BKGH = so_far
        at, size = (layer, j % J, 0, 0, 0, 0, 0), (1, 1, X, B // X, K)
        k_BKHS = jax.lax.dynamic_slice(k_LJXMKHS, at, (*size, H, S)).reshape(B, K, H, S)
        v_BKsh = jax.lax.dynamic_slice(v_LJXMKsh, at, (*size, *v_LJXMKsh.shape[5:])).reshape(B, K, rows, -1, H)
        v_BKSH = v_BKsh.swapaxes(2, 3).reshape(B, K, S, H)
        s = einsum("BKGH,BKHS->BKGS", q_BKGH, k_BKHS) * H**-0.5
        ago_S = reach.column - j * S - jnp.arange(S)
        seen_BS = (ago_S >= 0)[None] & (ago_S[None] <= reach.length_B[:, None])
        s = jnp.where(seen_BS[:, None, None], s, -1e30)
        higher_BKG = jnp.maximum(highest_BKG, level(jnp.max(s, axis=-1), q_BKGH.dtype))
        w, less_BKG = jnp.exp(s - higher_BKG[..., None]), jnp.exp(highest_BKG - higher_BKG)
        o = einsum("BKGS,BKSH->BKGH", rounded(w, v_BKSH.dtype), v_BKSH)
        return higher_BKG, total_BKG * less_BKG + w.sum(-1), out_BKGH * less_BKG[..., None] + o

    done: Softmax = jax.lax.fori_loop(reach.first_block, reach.column // S + 1, one_block, so_far)
    return done


def _joined(a: Softmax, b: Softmax) -> Softmax:
    """One softmax over what two are over."""
    highest_BKG = jnp.maximum(a[0], b[0])
    of_a, of_b = jnp.exp(a[0] - highest_BKG), jnp.exp(b[0] - highest_BKG)
    return highest_BKG, of_a * a[1] + of_b * b[1], of_a[..., None] * a[2] + of_b[..., None] * b[2]


def pick(x: jax.Array, lane_XM: jax.Array, axis: int = 0) -> jax.Array:
    """The named lanes of each shard, of an array with lanes along `axis`; nothing crosses shards."""
    X, M = lane_XM.shape
    x_XB = jnp.moveaxis(x, axis, 0)
    x_XB = x_XB.reshape(X, -1, *x_XB.shape[1:])
    picked = jax.vmap(lambda x, lane: x[lane])(x_XB, lane_XM)
    return jnp.moveaxis(picked.reshape(X * M, *picked.shape[2:]), 0, axis)


def compact(layout: Layout, cache: KVCache, lane_XM: jax.Array, needed: jax.Array) -> KVCache:
    """The named lanes of each shard moved to its front, in place, and only they in use; each with a prompt of its own.

    Blocks that no lane reads any more stay as they are. Where `needed` is False no key is moved, and the cache is of no
    more use.
    """
    P, B = cache.prompt_k_LPKCH.shape[1], cache.length_B.shape[0]

    J, S = cache.k_LJXMKHS.shape[1], cache.k_LJXMKHS.shape[6]
    first = _first_block(cache)
    end = jnp.minimum(cache.column // S + 1, first + J)  # once each, also where the newest column is in the first block

    def one_block(j: jax.Array, rings: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        def moved(ring: jax.Array) -> jax.Array:
            x_LXM = jax.lax.dynamic_index_in_dim(ring, j % J, axis=1, keepdims=False)
            picked = jax.vmap(lambda x_LM, lane_M: x_LM[:, lane_M], (1, 0), 1)(x_LXM, lane_XM)
            return jax.lax.dynamic_update_slice(ring, picked[:, None], (0, j % J, 0, 0, 0, 0, 0))

        return tuple(moved(ring) for ring in rings)

    k, v = jax.lax.fori_loop(first, jnp.where(needed, end, first), one_block, (cache.k_LJXMKHS, cache.v_LJXMKsh))
    prompt_XM = lane_XM // (B // P)
    prompt_k, prompt_v = (
        layout.constrain(pick(x, prompt_XM, axis=1), *PROMPT) for x in (cache.prompt_k_LPKCH, cache.prompt_v_LPKCH)
    )
    return replace(
        cache,
        prompt_k_LPKCH=prompt_k,
        prompt_v_LPKCH=prompt_v,
        prompt_valid_PC=pick(cache.prompt_valid_PC, prompt_XM),
        k_LJXMKHS=k,
        v_LJXMKsh=v,
        length_B=pick(cache.length_B, lane_XM),
    )
