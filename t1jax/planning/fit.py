# SPDX-License-Identifier: Apache-2.0
"""The memory and time of a config's step on hardware you don't have: from shapes, and from the hardware's compiler.

Deliberately not here: the counts from shapes (memory.py, estimate.py), the slices (planning/slices.py), compiling
(planning/compiling.py), the command line (plan.py).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from t1jax import checks, validation
from t1jax.config import Config, ConfigError, MeshConfig, ModelConfig
from t1jax.devices import multihost, scopes, sharding, topology
from t1jax.model import heads, qwen
from t1jax.planning import compiling, estimate
from t1jax.planning.estimate import Seconds, Work
from t1jax.planning.slices import GIB, Slice
from t1jax.training.memory import USABLE, MemoryPlan
from t1jax.training.setup import RlSetup, rl_setup

BETWEEN_SLICES = " between slices"


@dataclass(frozen=True)
class Found:
    """What is known of a config on a slice."""

    cfg: Config
    where: Slice
    mesh: tuple[int, int, int]
    parameters: int
    memory: MemoryPlan  # from shapes
    compiled: compiling.Compiled | None  # None: not asked, or too big by shapes alone
    work: Work
    seconds: Seconds
    length: float
    fed: multihost.Feeders  # which processes feed each shard of the batch
    hops: tuple[float | None, float | None, float | None]  # links between neighbours along each axis of the mesh
    exchanged: estimate.Exchanged  # from shapes, in the update

    @property
    def total(self) -> int:
        """Bytes of a device at the peak: the compiler's figure where there is one."""
        return self.compiled.total + self.memory.of("host") if self.compiled else self.memory.total

    @property
    def fits(self) -> bool:
        refused = bool(self.compiled and self.compiled.refused)
        return not refused and self.total <= USABLE * self.where.chip.memory

    @property
    def gathers(self) -> int | None:
        """All-gathers inside the token loop of at least a layer's smallest matrix: weights that move for each token.

        Those of drawing are of scores, not of weights.
        """
        if self.compiled is None or self.compiled.refused:
            return None
        model = self.cfg.model
        value = 4 if model.compute_dtype == "float32" else 2
        smallest = model.hidden_size * heads.spread(model, self.mesh[2]) * model.head_dim * value // self.mesh[2]
        inside = (x for x in self.compiled.exchanges if x.in_token_loop)
        weights = (x for x in inside if x.kind == "all-gather" and scopes.DRAWING not in x.scope.split("/"))
        return sum(x.bytes >= smallest for x in weights)

    @property
    def update_ratio(self) -> float | None:
        """Compiled flops of the update over those counted, what is computed again to save memory with them.

        Of matrix products without attention, which is a kernel whose flops the compiler does not say, and None with
        experts, whose products are not plain ones either.
        """
        plain = self.where.compiler == "tpu" and not self.cfg.model.num_experts
        if self.compiled is None or not plain or "update" not in self.compiled.stages:
            return None
        counted = estimate.work(self.cfg, self.length, attention=False)
        return self.compiled.stages["update"] * len(self.where.devices) / (counted.update + counted.remat)

    def why_not(self) -> str:
        """The largest consumer and the knob that makes it smaller."""
        most, chip = self.memory.largest, self.where.chip
        said = f" ({self.compiled.refused})" if self.compiled and self.compiled.refused else ""
        return (
            f"a step takes {self.total / GIB:.1f} GiB of each chip{said}; expected at most {USABLE:.0%} of the "
            f"{chip.memory / GIB:.0f} GiB of {chip.name}; the most, {most.bytes / GIB:.1f} GiB, is {most.name}: "
            f"{most.knob}"
        )

    def knobs(self) -> dict[str, int]:
        """What --suggest chooses."""
        mesh = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), self.mesh, strict=True))
        return mesh | {"rl.lanes": self.memory.lanes, "rl.micro_batches": self.cfg.rl.micro_batches}

    def command(self) -> str:
        """Those knobs as flags, and what they are for."""
        knobs = " ".join(f"--config.{knob}={value}" for knob, value in self.knobs().items())
        return f"{knobs}  # {self.total / GIB:.1f} GiB of each chip, {self.seconds.total:.0f} s a step by the estimate"

    def moved(self) -> dict[str, dict[str, float]]:
        """Bytes that a device receives in a step, by kind, inside the token loop and outside of it."""
        found: dict[str, dict[str, float]] = {"token_loop": defaultdict(float), "elsewhere": defaultdict(float)}
        for x in self.compiled.exchanges if self.compiled else ():
            kind = x.kind + (BETWEEN_SLICES if x.crosses(self.where.slices, len(self.where.devices)) else "")
            found["token_loop" if x.in_token_loop else "elsewhere"][kind] += x.received
        return {place: dict(kinds) for place, kinds in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """For --json. What only the compiler knows is null where it was not asked."""
        chip, told = self.where.chip, self.compiled
        asked = told is not None and not told.refused
        return {
            "topology": self.where.topology,
            "devices": len(self.where.devices),
            "slices": self.where.slices,
            "mesh": dict(zip(sharding.MESH_AXES, self.mesh, strict=True)),
            "hops_to_neighbour": dict(zip(sharding.MESH_AXES, self.hops, strict=True)),  # null: no axis, or no TPUs
            "compiler": self.where.compiler if told else None,
            "refused": told.refused or None if told else None,
            "batch_shards_fed_by": self.fed,
            "parameters": self.parameters,
            "lanes": self.memory.lanes,
            "micro_batches": self.cfg.rl.micro_batches,
            "bytes_per_chip": {f"{part.phase}: {part.name}": part.bytes for part in self.memory.parts},
            "planned_bytes_per_chip": self.memory.total,
            "argument_bytes_per_chip": told.arguments if told and asked else None,
            "temporary_bytes_per_chip": told.temporaries if told and asked else None,
            "code_bytes_per_chip": told.code if told and asked else None,
            "host_bytes_per_chip": self.memory.of("host"),  # of the process, where the devices are its processors
            "total_bytes_per_chip": self.total,
            "hbm_bytes_per_chip": chip.memory,
            "fits": self.fits,
            "largest": {"name": self.memory.largest.name, "knob": self.memory.largest.knob},
            "weight_gathers_in_token_loop": self.gathers,
            "exchanged_bytes_per_chip": self.moved() if asked else None,
            "estimated_update_exchanges_per_chip": dataclasses.asdict(self.exchanged),
            "flops_per_chip_compiled": told.flops if told and asked else None,
            "flops_per_chip_by_stage": dict(told.stages) if told and asked else None,
            "update_flops_compiled_over_counted": self.update_ratio,
            "cycles": {stage.name: stage.as_dict() for stage in told.cycles} if told and asked else None,
            "kernels": {stage.name: stage.as_dict() for stage in told.launches} if told and asked else None,
            "flops": dataclasses.asdict(self.work) | {"total": self.work.total},
            "remat_share": self.work.remat / self.work.total,
            "response_length": self.length,
            "seconds": dataclasses.asdict(self.seconds) | {"total": self.seconds.total},
        }


def plan(cfg: Config, where: Slice, length: float, *, compiled: bool) -> Found:
    """What the step of `cfg` takes of the slice, from shapes and, with `compiled`, from its compiler.

    Raises:
      ConfigError: the config cannot work there, whatever the memory.
    """
    validation.validate(cfg, len(where.devices), elsewhere=True)
    shape = checks.mesh_shape(cfg.mesh, len(where.devices))
    mesh = sharding.make_mesh(cfg.mesh, where.devices, where.slice_of)
    setup = _setup(cfg, mesh, where)
    planned, grid = setup.memory, setup.grid
    cfg = _with(cfg, lanes=planned.lanes)
    parts = estimate.parts(cfg, shape, grid, length)
    seconds = estimate.seconds(cfg, shape, where.chip, length, planned.lanes, parts, where.slices)
    trips = {
        scopes.ALL_LANES: seconds.iterations,
        scopes.ANCHOR_PARTS: float(parts),
        scopes.UPDATE_PARTS: float(parts),
        scopes.HEAD_CHUNKS: float(cfg.rl.vocab_chunks),
    }
    hopeless = planned.total > 1.5 * where.chip.memory
    return Found(
        cfg=cfg,
        where=where,
        mesh=shape,
        parameters=_parameters(cfg.model),
        memory=planned,
        compiled=compiling.compiled(setup, where, length, trips) if compiled and not hopeless else None,
        work=estimate.work(cfg, length),
        seconds=seconds,
        length=length,
        fed=_feeders(setup.layout, where),
        hops=topology.hops(mesh.devices),
        exchanged=estimate.exchanged(cfg, shape, length, parts, where.slices),
    )


def _feeders(layout: sharding.Layout, where: Slice) -> multihost.Feeders:
    """Of TPUs the slice says whose a device is; where CPUs stand in for others, as `Slice.host_of` has it."""
    if where.compiler == "tpu" or where.chip.name == "cpu":
        return multihost.feeders(layout)
    return multihost.feeders(layout, where.host_of)


def _with(cfg: Config, **knobs: Any) -> Config:
    """`cfg` with other knobs of rl."""
    return dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, **knobs))


def _setup(cfg: Config, mesh: Mesh, where: Slice) -> RlSetup:
    """With the most lanes that fit; with one where none does."""
    setup = rl_setup(cfg, mesh, where.chip.memory, where.on_host)
    try:
        setup.memory  # noqa: B018
    except ConfigError:
        return rl_setup(_with(cfg, lanes=1), mesh, where.chip.memory, where.on_host)
    return setup


@lru_cache
def _parameters(cfg: ModelConfig) -> int:
    cfg = dataclasses.replace(cfg, attention="xla")  # what a CPU can do
    model = qwen.Transformer(cfg, sharding.train_layout(sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])))
    return sum(x.size for x in jax.tree.leaves(nn.unbox(qwen.boxed_shapes(model))))
