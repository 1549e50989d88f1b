# SPDX-License-Identifier: Apache-2.0
"""Several responses in one row of the update, so that padding is not computed, and a prompt only once a row.

prompts -> rollouts -> rewards -> advantages -> UPDATE.

A row is [prompt a | responses to a ... | prompt b | responses to b ... | nothing]. Each response attends its prompt and
itself: the prompt's segment is the parent of its own.

`plan` runs on the host, right after a shard's responses are scored. `pack` lays the rows out on the devices by it.
Every shard packs its own responses into its own rows; nothing moves between devices. Rows are filled from the front,
and parts (micro-batches) are made of rows that follow each other: parts beyond the last filled row hold nothing.

Axes: P prompts, R responses per prompt, B = P * R responses, C prompt positions, T response positions; j parts,
b rows of a part, r rows of a shard, S positions of a row; n, p: responses and prompts of one shard.
Source: first-fit decreasing, D. S. Johnson, 1973.
Deliberately not here: how scores are made (rewards/), what is learnt from a row (losses.py, step.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from t1jax.config import Config
from t1jax.devices.sharding import Layout
from t1jax.model import attention
from t1jax.types import Plan, Prompts, Rollouts


class Grid(NamedTuple):
    """The rows of one shard that are allocated; how many of them are computed, the plan says."""

    parts: int  # j, at most so many are computed
    rows: int  # b, rows of a part, of one shard
    length: int  # S, positions of a row


def make_grid(cfg: Config, layout: Layout) -> Grid:
    """Rows enough for any lengths. Where a row has room for k of the longest, all but the last hold k or more.

    A part of a shard has room for responses / micro_batches / shards of the longest responses with their prompts: in
    one row, which leaves the fewest gaps, as far as the kernel of attention takes such a row.

    Args:
      cfg: rl.pack_length, prompts_per_step, responses_per_prompt, max_new_tokens and micro_batches,
        data.prompt_length, and what chooses the kernel.
      layout: of the update.
    """
    platform, shards = layout.mesh.devices.flat[0].platform, layout.batch_shards
    responses = cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt
    longest = cfg.data.prompt_length + cfg.rl.max_new_tokens
    room = responses // cfg.rl.micro_batches // shards
    most = max(longest, attention.longest_row(cfg.model, platform))
    length = cfg.rl.pack_length or min(longest * room, most)
    if length < longest:
        raise ValueError(f"rl.pack_length is {length}; expected at least {longest}, a prompt and its response")
    rows = max(1, room * longest // length)
    needed = -(-responses // shards // (length // longest))
    return Grid(-(-needed // rows), rows, length)


def plan(
    prompt_n: np.ndarray, length_n: np.ndarray, wanted_n: np.ndarray, responses: int, grid: Grid
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, start, prompt_start) of each response, int32[n]; row -1: in none. On the host.

    Prompt after prompt, the one with the most tokens first; of each the longest response first, into the first row that
    has the prompt and room, else into the first with room for both.

    Args:
      prompt_n: tokens of the response's prompt.
      length_n: tokens of the response; one without any has no place.
      wanted_n: bool, responses to place.
      responses: R, of a prompt; they follow each other.
      grid: `make_grid`.
    """
    n = len(length_n)
    wanted_n = wanted_n & (length_n > 0)
    free = np.full(grid.parts * grid.rows, grid.length)
    row_n = np.full(n, -1, np.int32)
    groups = np.where(wanted_n, length_n, 0).reshape(-1, responses).sum(-1).argsort(kind="stable")[::-1]
    for group in groups:
        has = np.zeros(len(free), bool)
        members = np.arange(group * responses, (group + 1) * responses)
        for i in members[np.argsort(-length_n[members], kind="stable")]:
            if not wanted_n[i]:
                continue
            need = length_n[i] + np.where(has, 0, prompt_n[i])
            fits = free >= need
            if not fits.any():
                raise ValueError(f"a response of {prompt_n[i]} + {length_n[i]} positions fits in no row of {grid}")
            row = int(np.argmax(fits & has)) if (fits & has).any() else int(np.argmax(fits))
            free[row] -= need[row]
            row_n[i], has[row] = row, True
    return row_n, *_places(row_n, prompt_n, length_n, responses)


def _places(
    row_n: np.ndarray, prompt_n: np.ndarray, length_n: np.ndarray, responses: int
) -> tuple[np.ndarray, np.ndarray]:
    """(start, prompt_start) in their rows, in the order of the responses' numbers."""
    start_n, prompt_start_n = np.zeros((2, len(row_n)), np.int32)
    end = np.zeros(row_n.max(initial=-1) + 1, np.int32)
    last: dict[int, tuple[int, int]] = {}  # of each row: the prompt that was put there last, and where
    for i, row in enumerate(row_n):
        if row < 0:
            continue
        prompt = i // responses
        if last.get(row, (-1, 0))[0] != prompt:
            last[row] = (prompt, end[row])
            end[row] += prompt_n[i]
        prompt_start_n[i], start_n[i] = last[row][1], end[row]
        end[row] += length_n[i]
    return start_n, prompt_start_n


@struct.dataclass
class Rows:
    """Responses in their rows. A part is one index of the first axis; its rows are split over the shards.

    What the model reads stands in the order of the row. What the loss reads is one entry a sampled token, those of a
    row first, then nothing: so that the head is computed for sampled tokens only.
    """

    tokens_jbS: jax.Array  # int32, 0 where nothing stands
    position_jbS: jax.Array  # int32 position within the prompt and its response
    segment_jbS: jax.Array  # int32 1 + where the segment begins; 0 where nothing stands
    parent_jbS: jax.Array  # int32 the segment of its prompt
    sampled_jbS: jax.Array  # bool, entries of the loss that hold a token
    target_jbS: jax.Array  # int32 that token
    state_jbS: jax.Array  # int32 the position in the row whose state predicts it
    response_jbS: jax.Array  # int32 the number of its response in its shard
    logprob_jbS: jax.Array  # float32 the sampler's; 0 where no token
    route_jbS: jax.Array | None = None  # uint32 the sampler's, of that state; None: no experts


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
    """The rows of the update."""

    def local(where: Plan, prompts: Prompts, rollouts: Rollouts) -> Rows:
        n, T = rollouts.tokens_BT.shape
        p, C = prompts.tokens_PC.shape
        prompt_p = prompts.valid_PC.sum(-1, dtype=jnp.int32)
        # texts x: the shard's responses, then its prompts
        of_prompt_x = jnp.concatenate([jnp.arange(n) // (n // p), jnp.arange(p)])
        length_x = jnp.concatenate([rollouts.sampled_BT.sum(-1, dtype=jnp.int32), prompt_p])
        text_rS, start_rS = _texts(grid, where, n + of_prompt_x[:n])
        at_S = jnp.arange(grid.length, dtype=jnp.int32)[None]
        x_rS = jnp.maximum(text_rS, 0)
        there_rS = (text_rS >= 0) & (at_S - start_rS < length_x[x_rS])
        sampled_rS = there_rS & (text_rS < n)
        n_rS = jnp.minimum(x_rS, n - 1)
        t_rS = jnp.clip(at_S - start_rS, 0, T - 1)
        prompt_rS, prompt_start_rS = of_prompt_x[x_rS], where.prompt_start_B[n_rS]
        token_rS = jnp.where(
            sampled_rS,
            rollouts.tokens_BT[n_rS, t_rS],
            prompts.tokens_PC[prompt_rS, jnp.clip(at_S - start_rS, 0, C - 1)],
        )
        first_rS = sampled_rS & (at_S == start_rS)
        state_rS = jnp.where(first_rS, prompt_start_rS + prompt_p[prompt_rS] - 1, at_S - 1)
        order_rS = jnp.argsort(~sampled_rS, axis=1, stable=True)

        def in_row(x_rS: jax.Array) -> jax.Array:
            return jnp.where(there_rS, x_rS, 0).astype(jnp.int32)

        def entries(x_rS: jax.Array) -> jax.Array:
            zero = jnp.zeros((), x_rS.dtype)
            return jnp.take_along_axis(jnp.where(sampled_rS, x_rS, zero), order_rS, axis=1)

        rows = Rows(
            tokens_jbS=in_row(token_rS),
            position_jbS=in_row(at_S - start_rS + jnp.where(sampled_rS, prompt_p[prompt_rS], 0)),
            segment_jbS=in_row(start_rS + 1),
            parent_jbS=in_row(jnp.where(sampled_rS, prompt_start_rS, start_rS) + 1),
            sampled_jbS=entries(sampled_rS),
            target_jbS=entries(token_rS),
            state_jbS=entries(state_rS),
            response_jbS=entries(n_rS),
            logprob_jbS=entries(rollouts.logprob_BT[n_rS, t_rS]),
            route_jbS=jax.tree.map(lambda x_BT: entries(x_BT[n_rS, t_rS]), rollouts.route_BT),
        )
        return jax.tree.map(lambda x: x.reshape(grid.parts, grid.rows, grid.length), rows)

    packed: Rows = _by_shard(layout, local, where, prompts, rollouts, to_rows=True)
    return packed


def _texts(grid: Grid, where: Plan, prompt_text_n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The text that each position of a shard's rows is in, or comes after, and where it begins; int32[r, S].

    Args:
      grid: the rows.
      where: of the shard's n responses, which are the texts 0 to n - 1.
      prompt_text_n: the number of each response's prompt as a text.

    Returns:
      the text's number, -1 in a row where nothing stands, and the position of its first token.
    """
    slots = grid.parts * grid.rows * grid.length

    def at_row(start_n: jax.Array) -> jax.Array:
        return jnp.where(where.row_B >= 0, where.row_B * grid.length + start_n, slots)

    begins_s = jnp.full(slots, -1).at[at_row(where.prompt_start_B)].set(prompt_text_n, mode="drop")
    responses_n = jnp.arange(len(prompt_text_n))
    begins_rS = begins_s.at[at_row(where.start_B)].set(responses_n, mode="drop").reshape(-1, grid.length)
    at_S = jnp.arange(grid.length, dtype=jnp.int32)[None]
    start_rS = jax.lax.cummax(jnp.where(begins_rS >= 0, at_S, 0), axis=1)
    return jnp.take_along_axis(begins_rS, start_rS, axis=1), start_rS


def total(layout: Layout, rows: Rows, where: Plan, x_jbS: jax.Array) -> jax.Array:
    """float32[B]: the sum of the entries of each response; 0 for what is not packed."""

    def local(response_jbS: jax.Array, sampled_jbS: jax.Array, x_jbS: jax.Array, row_n: jax.Array) -> jax.Array:
        return jnp.zeros(row_n.shape).at[response_jbS].add(jnp.where(sampled_jbS, x_jbS, 0))

    arrays = (rows.response_jbS, rows.sampled_jbS, x_jbS, where.row_B)
    return _by_shard(layout, local, *arrays, to_rows=False, packed=3)


def spread(layout: Layout, rows: Rows, x_B: jax.Array) -> jax.Array:
    """[j, b, S]: at each entry that of its response; 0 or False where there is none."""

    def local(response_jbS: jax.Array, sampled_jbS: jax.Array, x_n: jax.Array) -> jax.Array:
        return jnp.where(sampled_jbS, x_n[response_jbS], jnp.zeros((), x_n.dtype))

    return _by_shard(layout, local, rows.response_jbS, rows.sampled_jbS, x_B, to_rows=True, packed=2)


def filled(layout: Layout, grid: Grid, where: Plan) -> tuple[jax.Array, jax.Array]:
    """int32[] parts to compute, of the shard with the most; and float32[], the share of all allocated rows in use."""
    rows_s = _by_shard(layout, lambda row_n: row_n.max(keepdims=True) + 1, where.row_B, to_rows=False)
    parts = -(-rows_s.max() // grid.rows)
    return parts, rows_s.sum().astype(jnp.float32) / (rows_s.size * grid.parts * grid.rows)


def held(rows: Rows, parts: jax.Array) -> jax.Array:
    """float32[], the share of the computed positions that hold a text; 1 where nothing is computed."""
    positions = parts.astype(jnp.float32) * rows.segment_jbS[0].size
    texts = (rows.segment_jbS > 0).sum(dtype=jnp.float32)
    return jnp.where(parts > 0, texts / jnp.maximum(positions, 1.0), 1.0)
