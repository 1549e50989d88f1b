# SPDX-License-Identifier: Apache-2.0
"""Searches for a better mesh, lanes and micro-batches: counted from shapes, then the best compiled.

Deliberately not here: the memory and time of one choice (fit.py), the command line (plan.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from t1jax.config import Config, ConfigError
from t1jax.planning import fit
from t1jax.planning.fit import Found
from t1jax.planning.slices import Slice

TRIED = 3  # suggestions that are compiled before giving up
PART = 8192  # positions of a part of the update that are enough: a larger one is no faster


def suggest(cfg: Config, where: Slice, length: float, *, compiled: bool) -> Found | None:
    """The mesh, lanes and micro-batches that are estimated fastest of those that fit; None: none does.

    All are counted from shapes; then the fastest are compiled, one after the other, until one fits.
    """
    found = fastest(tried(cfg, where, length))
    if not compiled:
        return found[0] if found else None
    for one in found[:TRIED]:
        plan = fit.plan(_as(cfg, one), where, length, compiled=True)
        if plan.fits:
            return plan
    return None


def tried(cfg: Config, where: Slice, length: float) -> Iterator[Found]:
    """Each mesh and number of micro-batches that can work, with the most lanes that fit, counted from shapes.

    Those that fit and those that do not, of each mesh the most micro-batches first: they take the least memory.
    """
    devices, responses = len(where.devices), cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt
    for tensor in _divisors(devices):
        for fsdp in _divisors(devices // tensor):
            mesh = dataclasses.replace(cfg.mesh, data=devices // tensor // fsdp, fsdp=fsdp, tensor=tensor)
            for micro_batches in reversed(_divisors(responses)):
                rl = dataclasses.replace(cfg.rl, lanes=0, micro_batches=micro_batches)
                try:
                    yield fit.plan(dataclasses.replace(cfg, mesh=mesh, rl=rl), where, length, compiled=False)
                except ConfigError:  # this mesh cannot work, or rows are too few for so many parts
                    continue


def fastest(found: Iterable[Found]) -> list[Found]:
    """Those that fit, the fastest first; of equally fast ones those with parts of PART positions, then least memory."""
    return sorted(
        (one for one in found if one.fits), key=lambda one: (one.seconds.total, max(0, PART - _part(one)), one.total)
    )


def _part(found: Found) -> int:
    """Positions of a part of the update, on a shard, if responses have full length."""
    cfg, shards = found.cfg, found.mesh[0] * found.mesh[1]
    responses = cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt // (cfg.rl.micro_batches * shards)
    return responses * (cfg.data.prompt_length + cfg.rl.max_new_tokens)


def _as(cfg: Config, found: Found) -> Config:
    """`cfg` with the mesh, lanes and micro-batches of `found`."""
    data, fsdp, tensor = found.mesh
    mesh = dataclasses.replace(cfg.mesh, data=data, fsdp=fsdp, tensor=tensor)
    rl = dataclasses.replace(cfg.rl, lanes=found.memory.lanes, micro_batches=found.cfg.rl.micro_batches)
    return dataclasses.replace(cfg, mesh=mesh, rl=rl)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
