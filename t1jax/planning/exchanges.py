# SPDX-License-Identifier: Apache-2.0
"""What the devices of a compiled program exchange, how often, in which groups, and whether between slices.

A TPU's compiler writes some collectives in ways of its own. A gather that runs beside other work stands three times, in
what starts, hides and ends it, with one channel. A sum of which each device keeps a part is a sum in a computation of
that name. What goes between slices is a message to the host, with the collective's name in an attribute.

Source: as hlo.py; the attributes as libtpu 0.0.42 writes them.
Deliberately not here: how groups are written (groups.py), how often loops run (hlo.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from t1jax.planning.groups import Groups, groups
from t1jax.planning.hlo import Instruction, Program

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([0-9:,]+)\}')


@dataclass(frozen=True)
class Collective:
    """Data that devices exchange."""

    kind: str
    bytes: int  # of its result on one device, each time
    times: float  # a run of the program
    in_token_loop: bool
    scope: str
    groups: Groups = ()  # places in the mesh of devices that exchange, between slices numbers of these; none: all do
    hidden: bool = False  # asynchronous: other work runs meanwhile
    by_host: bool = False  # between slices, by messages through the host

    @property
    def received(self) -> float:
        """Bytes that a device receives in a run, where a group exchanges around a ring at the least cost."""
        n = len(self.groups[0]) if self.groups else math.inf
        share = 1 - 1 / n
        ways = {"all-gather": share, "all-to-all": share, "all-reduce": 2 * share, "reduce-scatter": n - 1.0}
        return self.times * self.bytes * ways.get(self.kind, 1.0)

    def crosses(self, slices: int, devices: int) -> bool:
        """Whether devices of several slices exchange, on a mesh of `devices` whose slices follow one another."""
        if self.by_host or not self.groups:
            return slices > 1
        return any(len({place * slices // devices for place in group}) > 1 for group in self.groups)


def collectives(program: Program, trips: Mapping[str, float]) -> list[Collective]:
    """All exchanges between devices in a run; `trips` as for Program.walk."""
    return [found for _, found in lines(program, trips)]


def lines(program: Program, trips: Mapping[str, float]) -> Iterator[tuple[Instruction, Collective]]:
    """Each exchange with the instruction that it is."""
    copies, scattered = _copies(program), _scattered(program)
    for line, times, inside in program.walk(trips):
        kind = line.opcode.removesuffix("-start")
        by_host = _BETWEEN_SLICES.search(line.text) if kind == "send" else None
        if by_host:
            kind, size, among = by_host[1].lower().replace("_", "-"), line.arrays[0].bytes, _slices(line.text)
        elif kind in COLLECTIVES and line.name not in copies:
            started = kind != line.opcode
            size, among = (max if started else sum)(x.bytes for x in line.arrays), groups(line.text)
            if line.name in scattered:
                kind, size = "reduce-scatter", size // (len(among[0]) if among else 1)
        else:
            continue
        hidden = bool(by_host) or line.opcode.endswith("-start") or "async" in line.text or "chain_id" in line.text
        yield line, Collective(kind, size, times, inside, line.scope, among, hidden, bool(by_host))


def _copies(program: Program) -> set[str]:
    """Names of instructions that only repeat a collective of the same channel."""
    first: dict[str, str] = {}
    found = (x for computation in program.computations.values() for x in computation if "chain_id=" in x.text)
    named = ((x.name, channel[1]) for x in found if (channel := _CHANNEL.search(x.text)))
    return {name for name, channel in named if first.setdefault(channel, name) != name}


def _scattered(program: Program) -> set[str]:
    """Names of sums of which each device keeps a part."""
    inside = (x for name, x in program.computations.items() if name.startswith("all-reduce-scatter"))
    return {x.name for computation in inside for x in computation if x.opcode == "all-reduce"}


def _slices(text: str) -> Groups:
    """The slices of an exchange between them, written {1,2} or {1:4}, both ends included."""
    told = _SLICES.search(text)
    ends = [[int(x) for x in part.split(":")] for part in told[1].split(",")] if told else []
    return (tuple(x for end in ends for x in range(end[0], end[-1] + 1)),) if told else ()
