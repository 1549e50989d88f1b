# SPDX-License-Identifier: Apache-2.0
"""Several responses in one row of the update, each after a copy of its prompt, so that padding is not computed.

prompts -> rollouts -> rewards -> advantages -> UPDATE.

`plan` runs on the host, right after a shard's responses are scored: first fit, the longest first. `pack` lays the rows
out on the devices by it. Every shard packs its own responses into its own rows; nothing moves between devices. Rows
are filled from the front, and parts (micro-batches) are made of rows that follow each other: parts beyond the last
filled row hold nothing.

Axes: P prompts, R responses per prompt, B = P * R responses, C prompt positions, T response positions; j parts,
b rows of a part, S positions of a row; n, p: responses and prompts of one shard.
Source: first-fit decreasing, D. S. Johnson, 1973.
Deliberately not here: how scores are made (rewards/), what is learnt from a row (losses.py, step.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from t1jax.config import RlConfig
from t1jax.sharding import Layout
from t1jax.types import Plan, Prompts, Rollouts


class Grid(NamedTuple):
    """The rows of one shard that are allocated; how many of them are computed, the plan says."""

    parts: int  # j, at most so many are computed
    rows: int  # b, rows of a part, of one shard
    length: int  # S, positions of a row


def make_grid(cfg: RlConfig, responses: int, prompt_length: int, shards: int) -> Grid:
    """Rows enough for any lengths. Where a row holds k of the longest, all but the last hold k responses or more.

    Args:
      cfg: pack_length, max_new_tokens, micro_batches, prompts_per_step, responses_per_prompt.
      responses: of all shards.
      prompt_length: C.
      shards: of the batch.
    """
    longest = prompt_length + cfg.max_new_tokens
    length = cfg.pack_length or longest
    if length < longest:
        raise ValueError(f"rl.pack_length is {length}; expected at least {longest}, a prompt and its response")
    needed = -(-responses // shards // (length // longest))
    rows = responses // cfg.micro_batches // shards
    return Grid(-(-needed // rows), rows, length)


def plan(length_n: np.ndarray, wanted_n: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(row, start) of each response, int32[n]: first fit, the longest first; row -1 if not wanted. On the host.

    Args:
      length_n: positions that a response takes, its prompt included.
      wanted_n: bool, responses to place.
      grid: `make_grid`.
    """
    free = np.full(grid.parts * grid.rows, grid.length)
    row_n, start_n = np.full(len(length_n), -1, np.int32), np.zeros(len(length_n), np.int32)
    for i in np.argsort(-length_n, kind="stable"):
        if wanted_n[i]:
            row = int(np.argmax(free >= length_n[i]))
            row_n[i], start_n[i] = row, grid.length - free[row]
            free[row] -= length_n[i]
            if free[row] < 0:
                raise ValueError(f"a response of {length_n[i]} positions fits in no row of {grid}")
    return row_n, start_n


def wanted(scores: Any, cfg: RlConfig) -> np.ndarray:
    """bool[n]: responses that can have a gradient; all, unless entropy_coef and kl_coef are 0. On the host.

    Without the two, only an advantage gives one: it is 0 for what is unscorable, and for all of a group whose rewards
    are equal. The rules are those of advantages.py.

    Args:
      scores: outcome, overlong, repetition, garbled, NumPy, of whole groups.
      cfg: entropy_coef, kl_coef, penalty, penalty_site, responses_per_prompt.
    """
    outcome_n, *flags = (np.asarray(x) for x in scores)
    if cfg.entropy_coef or cfg.kl_coef:
        return np.ones(len(outcome_n), bool)
    valid_n, penalised_n = outcome_n >= 0, np.logical_or.reduce(flags)
    in_reward = cfg.penalty_site == "reward"
    reward_n = np.where(penalised_n & in_reward, cfg.penalty, outcome_n == 1)
    groups = (-1, cfg.responses_per_prompt)
    highest_p = np.where(valid_n, reward_n, -np.inf).reshape(groups).max(-1)
    lowest_p = np.where(valid_n, reward_n, np.inf).reshape(groups).min(-1)
    learns_n = np.repeat(highest_p > lowest_p, cfg.responses_per_prompt)
    if not in_reward and cfg.penalty:
        learns_n |= penalised_n
    return learns_n & valid_n


@struct.dataclass
class Rows:
    """Responses in their rows. A part is one index of the first axis; its rows are split over the shards."""

    tokens_jbS: jax.Array  # int32, 0 where nothing stands
    position_jbS: jax.Array  # int32 position within the prompt and its response
    segment_jbS: jax.Array  # int32 1 + number of the response in its shard; 0 where nothing stands
    sampled_jbS: jax.Array  # bool, tokens that the sampler drew: what the loss counts
    logprob_jbS: jax.Array  # float32 the sampler's; 0 where not sampled


def part(tree: Any, index: jax.Array) -> Any:
    """One part of `Rows`, or of any tree of [j, b, ...]: [b, ...]."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree)


def _by_shard(layout: Layout, function: Any, *arguments: Any, to_rows: bool, packed: int = 0) -> Any:
    """`function` on each shard's own share; the first `packed` arguments are [j, b, S], the others [B or P, ...]."""
    rows, flat = layout.spec(None, "batch"), layout.spec("batch")
    specs = (rows,) * packed + (flat,) * (len(arguments) - packed)
    out = rows if to_rows else flat
    return jax.shard_map(function, mesh=layout.mesh, in_specs=specs, out_specs=out, check_vma=False)(*arguments)


def pack(layout: Layout, grid: Grid, where: Plan, prompts: Prompts, rollouts: Rollouts) -> Rows:
    """The rows of the update: prompt and response of each segment stand next to each other, without padding."""

    def local(where: Plan, prompts: Prompts, rollouts: Rollouts) -> Rows:
        n, T = rollouts.tokens_BT.shape
        p, C = prompts.tokens_PC.shape
        prompt_n = jnp.repeat(prompts.valid_PC.sum(-1, dtype=jnp.int32), n // p)
        total_n = prompt_n + rollouts.sampled_BT.sum(-1, dtype=jnp.int32)
        slots = grid.parts * grid.rows * grid.length
        first_n = jnp.where(where.row_B >= 0, where.row_B * grid.length + where.start_B, slots)
        begins_rS = jnp.full(slots, -1).at[first_n].set(jnp.arange(n), mode="drop").reshape(-1, grid.length)
        at_S = jnp.arange(grid.length, dtype=jnp.int32)
        start_rS = jax.lax.cummax(jnp.where(begins_rS >= 0, at_S[None], 0), axis=1)  # of the segment a position is in
        own_rS = jnp.take_along_axis(begins_rS, start_rS, axis=1)  # its response; -1 in a row where nothing begins
        n_rS = jnp.maximum(own_rS, 0)
        position_rS = at_S[None] - start_rS
        there_rS = (own_rS >= 0) & (position_rS < total_n[n_rS])
        t_rS = position_rS - prompt_n[n_rS]
        sampled_rS = there_rS & (t_rS >= 0)
        token_rS = jnp.where(
            sampled_rS,
            rollouts.tokens_BT[n_rS, jnp.clip(t_rS, 0, T - 1)],
            prompts.tokens_PC[n_rS // (n // p), jnp.minimum(position_rS, C - 1)],
        )
        logprob_rS = rollouts.logprob_BT[n_rS, jnp.clip(t_rS, 0, T - 1)]
        rows = Rows(
            tokens_jbS=jnp.where(there_rS, token_rS, 0),
            position_jbS=jnp.where(there_rS, position_rS, 0),
            segment_jbS=jnp.where(there_rS, own_rS + 1, 0).astype(jnp.int32),
            sampled_jbS=sampled_rS,
            logprob_jbS=jnp.where(sampled_rS, logprob_rS, 0.0),
        )
        return jax.tree.map(lambda x: x.reshape(grid.parts, grid.rows, grid.length), rows)

    return _by_shard(layout, local, where, prompts, rollouts, to_rows=True)


def unpack(layout: Layout, where: Plan, prompts: Prompts, sampled_BT: jax.Array, x_jbS: jax.Array) -> jax.Array:
    """[B, T]: what stands in `x_jbS` at each response's tokens; 0 elsewhere and for what is not packed."""

    def local(x_jbS: jax.Array, where: Plan, prompts: Prompts, sampled_nT: jax.Array) -> jax.Array:
        n, T = sampled_nT.shape
        prompt_n = jnp.repeat(prompts.valid_PC.sum(-1, dtype=jnp.int32), n // prompts.valid_PC.shape[0])
        there_nT = sampled_nT & (where.row_B >= 0)[:, None]
        first_n = where.row_B * x_jbS.shape[-1] + where.start_B + prompt_n
        at_nT = first_n[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
        return jnp.where(there_nT, x_jbS.reshape(-1)[jnp.where(there_nT, at_nT, 0)], 0)

    return _by_shard(layout, local, x_jbS, where, prompts, sampled_BT, to_rows=False, packed=1)


def spread(layout: Layout, rows: Rows, x_B: jax.Array) -> jax.Array:
    """[j, b, S]: of each response, at each of its positions; 0 or False where nothing stands."""

    def local(segment_jbS: jax.Array, x_n: jax.Array) -> jax.Array:
        return jnp.where(segment_jbS > 0, x_n[jnp.maximum(segment_jbS - 1, 0)], jnp.zeros((), x_n.dtype))

    return _by_shard(layout, local, rows.segment_jbS, x_B, to_rows=True, packed=1)


def filled(layout: Layout, grid: Grid, where: Plan) -> tuple[jax.Array, jax.Array]:
    """int32[] parts to compute, of the shard with the most; and float32[], the share of all allocated rows in use."""
    rows_s = _by_shard(layout, lambda row_n: row_n.max(keepdims=True) + 1, where.row_B, to_rows=False)
    parts = -(-rows_s.max() // grid.rows)
    return parts, rows_s.sum().astype(jnp.float32) / (rows_s.size * grid.parts * grid.rows)
