# SPDX-License-Identifier: Apache-2.0
"""Each form of attention that a platform has against the plain form in float32: output, gradients and times.

A row is a prompt, two responses and padding; where the form lets texts share a prompt, the responses attend it.

Axes: B rows, T positions, N query heads, K kv heads, H head dim.
Deliberately not here: the sampler's attention over its ring, which a step checks by sampler against learner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import roofline

LENGTHS = {"cpu": (256, 1024)}  # positions of a row
LENGTHS_ELSEWHERE = (256, 1024, 4096)
MOST = {"float32": 1e-4, "bfloat16": 2e-2}  # error, as a share of the largest number

Row = tuple[str, dict[str, Any], bool]  # what was compared, what was found, whether the error is within MOST


def compare_all(model: Any, layout: Any) -> Iterator[Row]:
    """All forms, dtypes and lengths; `model` gives the heads, `layout` the devices."""
    from t1jax.config import ConfigError
    from t1jax.model import attention

    platform = layout.mesh.devices.flat[0].platform
    for dtype in MOST:
        for length in LENGTHS.get(platform, LENGTHS_ELSEWHERE):
            for form in dict.fromkeys(("xla", attention.PREFERRED.get(platform, "xla"))):
                one = dataclasses.replace(model, attention=form, compute_dtype=dtype)
                try:
                    shared = attention.shares_prompts(one, platform)
                    attention.choose(one, platform, length, shared)
                except ConfigError:  # this form is not for such rows
                    continue
                yield compare(one, layout, length, shared)


def compare(model: Any, layout: Any, length: int, shared: bool) -> Row:
    """The form that `model` names, for rows of `length`, one for each shard of the batch."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from t1jax.model import attention

    B, N, K, H, dtype = layout.batch_shards, model.num_heads, model.num_kv_heads, model.head_dim, model.compute_dtype
    ends = np.array([length // 4 - 3, length * 5 // 8 + 1, length * 15 // 16])
    segment_T = np.searchsorted(ends, np.arange(length), "right") + 1
    segment_BT = jnp.array(np.tile(np.where(segment_T > len(ends), 0, segment_T), (B, 1)), jnp.int32)
    parent_BT = jnp.minimum(segment_BT, 1) if shared else None
    there_BT = (segment_BT > 0)[:, None, :, None]
    arrays = [
        jnp.where(there_BT, jax.random.normal(key, (B, heads, length, H), dtype), jnp.zeros((), dtype))
        for key, heads in zip(jax.random.split(jax.random.key(0), 4), (N, K, K, N), strict=True)
    ]  # q, k, v and the gradient of the output

    def by_form(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention.attend(layout, q, k, v, attention.texts(model, layout, segment_BT, parent_BT))

    def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        mask = attention.mask(segment_BT, segment_BT if parent_BT is None else parent_BT)
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
