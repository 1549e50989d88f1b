# SPDX-License-Identifier: Apache-2.0
"""Each form of attention that a platform has against the plain form in float32: output, gradients and times.

Of the update: a row is a prompt, two responses that attend it, and padding. Of the sampler: a token of each lane of a
ring that has gone round, some lanes idle.

Axes: B rows, or lanes of the ring; T positions, C those of a prompt, N query heads, K kv heads, H head dim, L layers, P
prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import roofline

LENGTHS = {"cpu": (256, 1024)}  # positions of a row
LENGTHS_ELSEWHERE = (256, 1024, 4096)
LANES, PROMPT, RING, BLOCK = 8, 128, 2048, 512  # lanes of a prompt; positions; columns of the ring and of a block of it
MOST = {"float32": 1e-4, "bfloat16": 2e-2}  # error, as a share of the largest number

Row = tuple[str, dict[str, Any], bool]  # what was compared, what was found, whether the error is within MOST


def compare_all(model: Any, mesh: Any) -> Iterator[Row]:
    """All forms, dtypes and lengths; `model` gives the heads."""
    from t1jax.config import ConfigError
    from t1jax.devices import sharding
    from t1jax.model import attention

    layout, platform = sharding.train_layout(mesh), mesh.devices.flat[0].platform
    for dtype in MOST:
        yield compare_ring(dataclasses.replace(model, compute_dtype=dtype), sharding.decode_layout(mesh))
        for length in LENGTHS.get(platform, LENGTHS_ELSEWHERE):
            for form in dict.fromkeys(("xla", *attention.PREFERRED.get(platform, ()))):
                one = dataclasses.replace(model, attention=form, compute_dtype=dtype)
                try:
                    attention.choose(one, platform, length)
                except ConfigError:  # this form is not for such rows
                    continue
                yield compare(one, layout, length)


def compare(model: Any, layout: Any, length: int) -> Row:
    """The form that `model` names, for rows of `length`, one for each shard of the batch."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from t1jax.model import attention

    B, N, K, H, dtype = layout.batch_shards, model.num_heads, model.num_kv_heads, model.head_dim, model.compute_dtype
    ends = np.array([length // 4 - 3, length * 5 // 8 + 1, length * 15 // 16])
    segment_T = np.searchsorted(ends, np.arange(length), "right") + 1
    segment_BT = jnp.array(np.tile(np.where(segment_T > len(ends), 0, segment_T), (B, 1)), jnp.int32)
    parent_BT = jnp.minimum(segment_BT, 1)
    there_BT = (segment_BT > 0)[:, None, :, None]
    arrays = [
        jnp.where(there_BT, jax.random.normal(key, (B, heads, length, H), dtype), jnp.zeros((), dtype))
        for key, heads in zip(jax.random.split(jax.random.key(0), 4), (N, K, K, N), strict=True)
    ]  # q, k, v and the gradient of the output

    def by_form(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention.attend(layout, q, k, v, attention.texts(model, layout, segment_BT, parent_BT))

    def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        mask = attention.mask(segment_BT, parent_BT)
        return jnp.where(there_BT, attention.plain(q, k, v, mask), jnp.zeros((), q.dtype))

    def there_and_back(form: Callable[..., jax.Array]) -> Callable[..., Any]:
        def run(*arrays: jax.Array) -> Any:
            out, back = jax.vjp(form, *arrays[:3])
            return out, *back(arrays[3])

        return jax.jit(run)

    form, reference = there_and_back(by_form), there_and_back(plain)
    pairs = zip(form(*arrays), reference(*(x.astype(jnp.float32) for x in arrays)), strict=True)
    error = max(float(jnp.abs(x.astype(jnp.float32) - y).max() / jnp.abs(y).max()) for x, y in pairs)
    kernel = attention.texts(model, layout, segment_BT, parent_BT).kernel
    seconds = roofline.best(lambda: form(*arrays), 3), roofline.best(lambda: reference(*arrays), 3)
    told = {"error": error, "ms": 1000 * seconds[0], "plain_ms": 1000 * seconds[1]}
    return f"attention {kernel}, {dtype}, {length}", told, error <= MOST[dtype]


def compare_ring(model: Any, layout: Any) -> Row:
    """The sampler's form for `model` against XLA's loop over the ring's blocks, for two prompts a shard."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from t1jax.model import ragged, ring

    model = dataclasses.replace(model, num_layers=2)
    plain = dataclasses.replace(model, attention="xla")
    P, N, K, H, dtype = (
        2 * layout.batch_shards,
        model.num_heads,
        model.num_kv_heads,
        model.head_dim,
        model.compute_dtype,
    )
    B, random = P * LANES, np.random.default_rng(0)
    length_B = random.integers(0, RING, B)
    length_B[::3] = ragged.IDLE
    keys = jax.random.split(jax.random.key(0), 5)
    k_LPKCH, v_LPKCH = (jax.random.normal(key, (2, P, K, PROMPT, H), dtype) for key in keys[:2])
    valid_PC = jnp.arange(PROMPT)[None, :] < jnp.arange(1, P + 1)[:, None] * PROMPT // P
    empty = ring.start(model, layout, (k_LPKCH, v_LPKCH), valid_PC, lanes=B, length=RING, block=BLOCK)
    cache = dataclasses.replace(
        empty,
        k_LJXMKHS=jax.random.normal(keys[2], empty.k_LJXMKHS.shape, dtype),
        v_LJXMKsh=jax.random.normal(keys[3], empty.v_LJXMKsh.shape, dtype),
        column=jnp.int32(RING + BLOCK // 2),
        length_B=jnp.array(length_B, jnp.int32),
    )
    q_BNTH, k_BKTH, v_BKTH = (
        jax.random.normal(key, (B, heads, 1, H), dtype)
        for key, heads in zip(jax.random.split(keys[4], 3), (N, K, K), strict=True)
    )

    def attend(model: Any) -> Callable[..., jax.Array]:
        def run(q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, cache: Any) -> jax.Array:
            rings, prompts = (cache.k_LJXMKHS, cache.v_LJXMKsh), (cache.prompt_k_LPKCH[1], cache.prompt_v_LPKCH[1])
            reach = ring.reach(model, layout, cache)
            return ring.attend(layout, q_BNTH, k_BKTH, v_BKTH, *rings, jnp.int32(1), *prompts, reach)[0]

        return jax.jit(run)

    given = (q_BNTH, k_BKTH, v_BKTH, cache)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == dtype else x, given)
    form, reference, live = attend(model), attend(plain), np.flatnonzero(length_B != ragged.IDLE)
    found, expected = form(*given)[live].astype(jnp.float32), reference(*wide)[live]
    error = float(jnp.abs(found - expected).max() / jnp.abs(expected).max())
    seconds = roofline.best(lambda: form(*given), 3), roofline.best(lambda: reference(*given), 3)
    kernel = "loop" if ring.reader(model, layout, cache.k_LJXMKHS.shape[6]) == "loop" else "kernel"
    told = {"error": error, "ms": 1000 * seconds[0], "plain_ms": 1000 * seconds[1]}
    return f"attention ring {kernel}, {dtype}", told, error <= MOST[dtype]
