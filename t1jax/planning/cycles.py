# SPDX-License-Identifier: Apache-2.0
"""Where a TPU's cycles go in the compiled step, by the compiler's own estimate, beside a floor from shapes.

libtpu writes `estimated_cycles` into each fusion of a program's text. They are summed by category over one iteration
of the token loop at full length, and over one part of the anchor and of the update. The floor of a category is what it
cannot do without: the bytes that it must read at the bandwidth of HBM, or its flops at the peak, whichever is longer.

libtpu says no cycles of kernels, of exchanges between chips and of slices written in place. Here the sampler's kernel
(model/ragged.py) has those of the bytes that it reads, splash attention none; exchanges are listed with their bytes.
Source: the roofline model, Williams et al., CACM 2009.
Deliberately not here: how often a loop runs (planning/hlo.py), the time of a step (planning/estimate.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from t1jax.devices import scopes
from t1jax.model import heads, ragged, ring
from t1jax.planning import estimate, exchanges, hlo
from t1jax.planning.slices import Chip
from t1jax.training.setup import RlSetup

STAGES = {"token": scopes.ALL_LANES, "anchor": scopes.ANCHOR_PARTS, "update": scopes.UPDATE_PARTS}
WEIGHTS, OTHER, COPIES = "weights", "norms and other", "copies"
PLACES = {  # scope -> category; the first that a line's path has
    scopes.DRAWING: "drawing",
    scopes.PROMPT_ATTENTION: "prompt attention",
    scopes.OWN_ATTENTION: "own attention",
    scopes.ATTENTION: "attention",
    scopes.HEAD: "head",
    scopes.HEAD_CHUNKS: "head",
}
CATEGORIES = (WEIGHTS, *dict.fromkeys(PLACES.values()), OTHER, COPIES)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclass(frozen=True)
class Exchange:
    """Collectives of a kind in a stage, on one chip."""

    kind: str
    bytes: float  # of their results
    hidden: bool  # asynchronous: other work runs meanwhile


@dataclass(frozen=True)
class Stage:
    """One iteration of the token loop, or one part of the anchor or the update, on one chip."""

    name: str
    cycles: Mapping[str, float]  # by category
    floor: Mapping[str, float]  # of the categories that cannot do without some
    exchanges: tuple[Exchange, ...]

    @property
    def ratio(self) -> float | None:
        """All cycles over the floors of the categories that have any; None if none has."""
        least = sum(self.floor.get(name, 0.0) for name, cycles in self.cycles.items() if cycles)
        return sum(self.cycles.values()) / least if least else None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        rows = {name: {"cycles": self.cycles[name], "floor": self.floor.get(name)} for name in self.cycles}
        return {"categories": rows, "ratio": self.ratio, "exchanges": [vars(x) for x in self.exchanges]}

    def __str__(self) -> str:
        lines = [f"  {self.name:18}{'thousand cycles':>16}{'floor':>12}{'ratio':>8}"]
        for name, cycles in self.cycles.items():
            least = self.floor.get(name)
            beside = f"{least / 1e3:12.1f}{cycles / least:8.2f}" if least and cycles else ""
            if cycles:
                lines.append(f"    {name:16}{cycles / 1e3:16.1f}{beside}")
        total, least = sum(self.cycles.values()), sum(self.floor.get(x, 0.0) for x, c in self.cycles.items() if c)
        if self.ratio:
            lines.append(f"    {'all':16}{total / 1e3:16.1f}{least / 1e3:12.1f}{self.ratio:8.2f}")
        for x in self.exchanges:
            how = "beside other work" if x.hidden else "while the chip waits"
            lines.append(f"    {x.kind:20}{x.bytes / 1e6:12.1f} MB, {how}")
        return "\n".join(lines)


def stages(program: hlo.Program, setup: RlSetup, chip: Chip, length: float) -> tuple[Stage, ...]:
    """The three stages of a step.

    Args:
      program: the step compiled for a TPU.
      setup: what it was compiled from.
      chip: of that TPU.
      length: tokens of each response, for the floors and for how many blocks of the ring are read.
    """
    blocks = -(-length // _block(program)) if _block(program) else 1.0
    trips = {scopes.OWN_ATTENTION: blocks, scopes.HEAD_CHUNKS: float(setup.cfg.rl.vocab_chunks)}
    floors = {"token": _token_floor(setup, chip, length)} | _part_floors(setup, chip)
    kernel = _kernel(setup, chip, length)
    return tuple(_stage(program, name, scope, trips, floors[name], kernel) for name, scope in STAGES.items())


def _stage(
    program: hlo.Program, name: str, scope: str, trips: Mapping[str, float], floor: Mapping[str, float], kernel: float
) -> Stage:
    """`kernel`: cycles of a call of the sampler's kernel."""
    cycles = dict.fromkeys(CATEGORIES, 0.0)
    for line, times, _ in program.walk(trips):
        if scope in _path(line) and line.name.startswith(ragged.NAME):
            cycles[category(program, line)] += kernel * times
        elif scope in _path(line) and (told := _CYCLES.search(line.text)):
            cycles[category(program, line)] += int(told[1]) * times
    moved: dict[tuple[str, bool], float] = defaultdict(float)
    for line, x in exchanges.lines(program, trips):
        if scope in _path(line):
            moved[x.kind, x.hidden] += x.bytes * x.times
    listed = tuple(Exchange(kind, size, hidden) for (kind, hidden), size in sorted(moved.items()))
    return Stage(name, cycles, floor, listed)


def category(program: hlo.Program, line: hlo.Instruction) -> str:
    """What a line of a stage is for."""
    if line.name.startswith("copy") or line.opcode.startswith("copy"):
        return COPIES
    path = _path(line)
    place = next((name for scope, name in PLACES.items() if scope in path), None)
    if place:
        return place
    inside = (x for name in line.called for x in program.computations.get(name, ()))
    return WEIGHTS if any(x.opcode in ("convolution", "dot") for x in (line, *inside)) else OTHER


def _path(line: hlo.Instruction) -> list[str]:
    """The names of its scopes; a backward pass says transpose(jvp(NAME))."""
    return re.findall(r"\w+", line.scope)


def _block(program: hlo.Program) -> int:
    """Columns of a block of the ring that the token loop reads, as its score product shows."""
    for lines in program.computations.values():
        for line in lines:
            if scopes.OWN_ATTENTION in _path(line) and line.scope.endswith("BKGH,BKHS->BKGS/dot_general"):
                return max(line.arrays[0].dims)
    return 0


def _column(setup: RlSetup) -> float:
    """Bytes of a column of a lane's keys and values in one layer, on a device."""
    model = setup.cfg.model
    tensor = setup.mesh.shape["tensor"]
    return 2.0 * (heads.spread(model, tensor) // tensor) * model.head_dim * estimate.value_bytes(model)


def _lanes(setup: RlSetup) -> float:
    """Of a device."""
    return setup.cfg.rl.drawn * setup.lanes / setup.layout.batch_shards


def _kernel(setup: RlSetup, chip: Chip, length: float) -> float:
    """Cycles in which a layer's blocks with `length` columns of each lane, which begin anywhere, come from HBM."""
    rl = setup.cfg.rl
    columns = length + ring.columns(rl.max_new_tokens, rl.window) - 1
    return _lanes(setup) * columns * _column(setup) / (chip.bandwidth / chip.clock)


def _token_floor(setup: RlSetup, chip: Chip, length: float) -> dict[str, float]:
    """Bytes read a token, at the bandwidth of HBM, in cycles."""
    cfg, model = setup.cfg, setup.cfg.model
    value, tensor, lanes = estimate.value_bytes(model), setup.mesh.shape["tensor"], _lanes(setup)
    prompts = cfg.rl.drawn / setup.layout.batch_shards
    column = model.num_layers * _column(setup)
    weights, active = (
        model.num_layers * of(model) / tensor for of in (estimate.layer_weights, estimate.active_weights)
    )
    head = model.hidden_size * model.vocab_size / tensor
    rate, flops = chip.bandwidth / chip.clock, chip.flops / chip.clock
    return {
        WEIGHTS: max(weights * value / rate, 2 * lanes * active / flops),
        "prompt attention": prompts * cfg.data.prompt_length * column / rate,
        "own attention": lanes * length * column / rate,
        "head": max(head * value / rate, 2 * lanes * head / flops),
        "drawing": lanes * model.vocab_size / tensor * estimate.FLOAT / rate,
    }


def _part_floors(setup: RlSetup, chip: Chip) -> dict[str, dict[str, float]]:
    """Flops of a part at the peak, in cycles; the head scores every position."""
    cfg, model, grid = setup.cfg, setup.cfg.model, setup.grid
    tokens, tensor = grid.rows * grid.length, setup.mesh.shape["tensor"]
    a_cycle = chip.flops / chip.clock * tensor

    def floor(flops: Callable[..., float]) -> dict[str, float]:
        """`flops`: of (model, tokens, attended, scored); attention is not counted."""
        return {WEIGHTS: flops(model, tokens, 0, 0) / a_cycle, "head": flops(model, 0, 0, tokens) / a_cycle}

    return {
        "anchor": floor(lambda *of: estimate.kl_forwards(cfg) * estimate.forward_flops(*of)),
        "update": floor(lambda *of: sum(estimate.update_flops(*of))),
    }
