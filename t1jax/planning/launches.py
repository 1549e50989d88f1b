# SPDX-License-Identifier: Apache-2.0
"""Kernels that a GPU's program launches, and what of them only copies: read from its text.

A launch takes the host some microseconds, so many small kernels cost more than their work; a copy reads and writes what
the next kernel could have read where it lies. Both are counted over one iteration of the token loop at full length, and
over one part of the anchor and of the update.

A line of the program is taken for one launch, which is the least: a sort may take several, and in a program for one
device XLA may record many in one CUDA graph.
Source: openxla.org/xla/gpu_architecture.
Deliberately not here: reading the text (planning/hlo.py), a TPU's cycles (planning/cycles.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from t1jax.devices import scopes
from t1jax.model import blocked
from t1jax.planning import hlo
from t1jax.training.setup import RlSetup

STAGES = {"token": scopes.ALL_LANES, "anchor": scopes.ANCHOR_PARTS, "update": scopes.UPDATE_PARTS}
TITLES = {"token": "a token", "anchor": "a part of the anchor", "update": "a part of the update"}
SILENT = {  # which are no work
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("optimization-barrier", "while", "call", "conditional", "async-start", "async-update", "async-done"),
    *("all-reduce-done", "all-gather-done", "collective-permute-done", "copy-done"),
}
RUN = ("while", "call", "conditional", "async-start")  # whose computations are launched line by line
MOVES = {"copy", "copy-start", "transpose", "slice", "dynamic-slice", "concatenate", "pad", "gather"}
STILL = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "broadcast", "reshape", "iota"}
_LAYERS = re.compile(r"\bTransformer\)*/while$")


@dataclass(frozen=True)
class Launches:
    """Of one iteration of the token loop, or of one part of the anchor or the update, on one device."""

    name: str
    launches: float
    a_layer: float  # of those, in one layer, forward and backward together
    copies: float  # of those, which only move data
    copied_bytes: float
    ring_copies: float  # of those, of what attention reads of the lanes' own columns
    ring_copied_bytes: float

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {name: value for name, value in asdict(self).items() if name != "name"}

    def __str__(self) -> str:
        launched = f"{TITLES[self.name]:20} {self.launches:8.0f} launches, {self.a_layer:5.0f} in a layer"
        copied = f"{self.copies:.0f} copies, {self.copied_bytes / 1e6:.1f} MB"
        ring = f"; of ring blocks {self.ring_copies:.0f}, {self.ring_copied_bytes / 1e6:.1f} MB"
        return f"{launched}; {copied}{ring if self.name == 'token' else ''}"


def stages(program: hlo.Program, setup: RlSetup, length: float) -> tuple[Launches, ...]:
    """The three stages of a step.

    Args:
      program: the step compiled for a GPU.
      setup: what it was compiled from.
      length: tokens of each response, for how often loops over blocks of the ring and over tiles run.
    """
    rl, layers = setup.cfg.rl, setup.cfg.model.num_layers
    trips = {
        scopes.OWN_ATTENTION: float(-(-length // min(rl.window, -(-rl.max_new_tokens // 2)))),
        scopes.HEAD_CHUNKS: float(rl.vocab_chunks),
        scopes.TILES: (setup.cfg.data.prompt_length + length / 2) / blocked.BLOCK,
    }
    return tuple(_stage(program, name, scope, trips, layers) for name, scope in STAGES.items())


def _stage(program: hlo.Program, name: str, scope: str, trips: Mapping[str, float], layers: int) -> Launches:
    total = dict.fromkeys(("launches", "a_layer", "copies", "copied_bytes", "ring_copies", "ring_copied_bytes"), 0.0)
    for loop in _loops(program, scope):
        for called in loop.called:
            for line, times, in_layers in _launched(program, called, 1.0, False, trips):
                total["launches"] += times
                total["a_layer"] += times / layers * in_layers
                if size := copied(program, line):
                    kinds = ["", "ring_"] if scopes.OWN_ATTENTION in line.scope.split("/") else [""]
                    for kind in kinds:
                        total[f"{kind}copies"] += times
                        total[f"{kind}copied_bytes"] += times * size
    return Launches(name, **total)


def _loops(program: hlo.Program, scope: str) -> list[hlo.Instruction]:
    """The outermost loops of this name."""
    found = (line for lines in program.computations.values() for line in lines if line.opcode == "while")
    return [line for line in found if re.search(rf"\b{scope}\)*/while$", line.scope)]


def _launched(
    program: hlo.Program, computation: str, times: float, in_layers: bool, trips: Mapping[str, float]
) -> Iterator[tuple[hlo.Instruction, float, bool]]:
    """(instruction, how often it is launched, whether in the loop over layers)."""
    for line in program.computations.get(computation, ()):
        if line.opcode not in SILENT:
            yield line, times, in_layers
        if line.opcode in RUN:
            more = times * program.trips(line, trips) if line.opcode == "while" else times
            for called in line.called:
                yield from _launched(program, called, more, in_layers or bool(_LAYERS.search(line.scope)), trips)


def copied(program: hlo.Program, line: hlo.Instruction) -> int:
    """Bytes that a line writes and that are nothing but what it reads, elsewhere or in another order; 0: it computes.

    Arithmetic on single numbers, such as where a slice begins, does not count as computing.
    """
    inside = (
        [x for name in line.called for x in program.computations.get(name, ())] if line.opcode == "fusion" else [line]
    )
    arrays = [x for x in inside if any(array.dims for array in x.arrays)]
    moves = all(x.opcode in MOVES | STILL for x in arrays) and any(x.opcode in MOVES for x in arrays)
    return sum(x.bytes for x in line.arrays) if moves else 0
