# SPDX-License-Identifier: Apache-2.0
"""What a compiled program does, read from its text: its instructions, flops, and how often a loop runs them.

XLA's own cost analysis counts the body of a loop once. Here every computation is counted as often as its callers run
it. The trip count of a loop over layers is in the text; those of the token loop, and of the loops over the update's
parts and the head's chunks, depend on data, so the caller passes them by the name of their scope (devices/scopes.py).

Source: the text form of HLO (openxla.org/xla/operation_semantics); flops of a convolution as in XLA's
HloCostAnalysis: only positions of the window that meet input.
Deliberately not here: what devices exchange (exchanges.py), how a program is compiled, what its figures mean (plan.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from t1jax.devices import scopes

BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64} | {
    f"{sign}{bits}": bits for sign in "su" for bits in (2, 4, 8, 16, 32, 64)
}
_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Array:
    """An array's element type and dimensions, of one device."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.dims) * BITS.get(self.dtype, 8) // 8


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # what it makes; several for a tuple
    operands: tuple[str, ...]
    text: str  # all that follows the operands

    @property
    def scope(self) -> str:
        """Where in the Python source it comes from, as a path of named scopes."""
        found = _NAME.search(self.text)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """Computations that it runs."""
        branches = _BRANCHES.search(self.text)
        listed = [x.strip().lstrip("%") for x in branches[1].split(",")] if branches else []
        return [name for _, name in _CALLED.findall(self.text)] + listed


@dataclass
class Program:
    """A compiled program."""

    entry: str
    computations: dict[str, list[Instruction]] = field(repr=False)

    @cached_property
    def _lines(self) -> dict[str, Instruction]:
        return {x.name: x for lines in self.computations.values() for x in lines}

    def walk(self, trips: Mapping[str, float]) -> Iterator[tuple[Instruction, float, bool]]:
        """(instruction, times it runs, whether inside the token loop) of all that a run reaches.

        Args:
          trips: how often a loop runs whose length depends on data: name of its scope -> trips. Loops of other scopes
            that do not say their length count once.
        """
        yield from self._walk(self.entry, 1.0, False, trips)

    def _walk(
        self, computation: str, times: float, inside: bool, trips: Mapping[str, float]
    ) -> Iterator[tuple[Instruction, float, bool]]:
        for line in self.computations.get(computation, ()):
            yield line, times, inside
            more, within = times, inside
            if line.opcode == "while":
                more = times * self.trips(line, trips)
                within = inside or scopes.TOKEN_LOOP in line.scope.split("/")
            for name in line.called:
                yield from self._walk(name, more, within, trips)

    def trips(self, loop: Instruction, trips: Mapping[str, float]) -> float:
        """How often a `while` runs: as it says, else as `trips` says for the innermost scope named there, else once.

        It says so itself, or compares a counter that starts at a constant and that its body raises by a constant.
        """
        known = re.search(r"known_trip_count[^0-9]*(\d+)", loop.text)
        if known:
            return float(known[1])
        condition, body = (
            {x.name: x for x in self.computations.get(name, ())}
            for name in (dict(_CALLED.findall(loop.text)).get(kind, "") for kind in ("condition", "body"))
        )
        for line in condition.values():
            bound = _constant(condition, line.operands[-1]) if line.operands else None
            if line.opcode == "compare" and "direction=LT" in line.text and bound is not None:
                counter = condition[line.operands[0]]
                return math.ceil((bound - self._start(loop, counter)) / self._raised(body, counter))
        own = re.search(r"(\w+)\)*$", loop.scope.removesuffix("/while"))  # transpose(jvp(NAME)) in a backward pass
        return trips.get(own[1], 1.0) if own else 1.0

    def _start(self, loop: Instruction, counter: Instruction) -> float:
        """What the element of the loop's state that the condition takes for `counter` is at first; 0 if unclear.

        It is not 0 where the compiler has taken the first turns out of the loop.
        """
        index, state = re.search(r"index=(\d+)", counter.text), self._lines.get(loop.operands[0])
        if index is None or state is None or state.opcode != "tuple":
            return 0.0
        first = self._lines.get(state.operands[int(index[1])])
        while first is not None and first.opcode == "copy":
            first = self._lines.get(first.operands[0])
        return _constant({first.name: first}, first.name) or 0.0 if first is not None else 0.0

    @staticmethod
    def _raised(body: Mapping[str, Instruction], counter: Instruction) -> float:
        """By how much the body raises the element of its state that the condition takes for `counter`; 1 if unclear."""
        index = re.search(r"index=(\d+)", counter.text)
        made = list(body.values())[-1].operands if body else ()
        new = body.get(made[int(index[1])]) if index and int(index[1]) < len(made) else None
        if new is None or new.opcode != "add":
            return 1.0
        return next((x for x in (_constant(body, name) for name in new.operands) if x), 1.0)

    def flops(self, trips: Mapping[str, float], scope: str = "") -> float:
        """Multiplications and additions of all matrix products on one device, of scopes that have this name in them."""
        total = 0.0
        for line, times, _ in self.walk(trips):
            if line.opcode in ("convolution", "dot") and (not scope or scope in line.scope):
                total += times * self._flops(line)
        return total

    def _flops(self, line: Instruction) -> float:
        left, right = (self._lines[name].arrays[0].dims for name in line.operands[:2])
        out = line.arrays[0].dims
        if line.opcode == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", line.text)
            dims = [int(x) for x in contracted[1].split(",") if x] if contracted else []
            return 2.0 * math.prod(out) * math.prod(left[x] for x in dims)
        return _convolution_flops(left, right, out, line.text)


def _constant(lines: Mapping[str, Instruction], name: str) -> float | None:
    """The number that an instruction is, if it is one."""
    line = lines.get(name)
    number = line.operands[0] if line and line.opcode == "constant" and line.operands else ""
    return float(number) if re.fullmatch(r"-?\d+", number) else None


def _convolution_flops(left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...], text: str) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {text[:200]}")
    lhs, rhs, result = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", text)
    settings = dict(x.split("=") for x in window[1].split()) if window else {}
    spatial = sorted(x for x in rhs if x.isdigit())

    def each(key: str, default: str) -> list[str]:
        return settings[key].split("x") if key in settings else [default] * len(spatial)

    pairs = 1.0
    rows = zip(
        spatial, each("stride", "1"), each("pad", "0_0"), each("lhs_dilate", "1"), each("rhs_dilate", "1"), strict=True
    )
    for dim, stride, pad, lhs_dilate, rhs_dilate in rows:
        size, kernel, n = left[lhs.index(dim)], right[rhs.index(dim)], out[result.index(dim)]
        pairs *= _meets(size, kernel, n, int(stride), int(pad.split("_")[0]), int(lhs_dilate), int(rhs_dilate))
    groups = re.search(r"batch_group_count=(\d+)", text)
    batch = left[lhs.index("b")] // (int(groups[1]) if groups else 1)
    return 2.0 * batch * out[result.index("f")] * right[rhs.index("i")] * pairs


def _meets(size: int, kernel: int, out: int, stride: int, low: int, lhs_dilate: int, rhs_dilate: int) -> int:
    """How many (output, window) positions of one dimension meet an element of the input."""
    count, last = 0, (size - 1) * lhs_dilate
    if lhs_dilate == 1:
        for k in range(kernel):
            first = max(0, -((k * rhs_dilate - low) // stride))
            end = min(out - 1, (last - (k * rhs_dilate - low)) // stride)
            count += max(0, end - first + 1)
        return count
    for k in range(kernel):
        at = range(k * rhs_dilate - low, k * rhs_dilate - low + out * stride, stride)
        count += sum(0 <= x <= last and x % lhs_dilate == 0 for x in at)
    return count


def parse(text: str) -> Program:
    """The program whose text `compiled.as_text()` is."""
    computations: dict[str, list[Instruction]] = {}
    entry, lines = "", None
    for raw in text.splitlines():
        head = _HEAD.match(raw)
        if head and " = " not in raw.split("(")[0]:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif lines is not None and (found := _LINE.match(raw)):
            lines.append(_instruction(found[1], found[2]))
    if not entry:
        raise ValueError("expected the text of a compiled program, with an ENTRY; got something else")
    return Program(entry, computations)


def _instruction(name: str, rest: str) -> Instruction:
    """`rest` is a shape, an opcode, operands in brackets, and the remainder."""
    shape, call = _until(rest, " ")
    opcode, _, inner = call.partition("(")
    inside, after = _until(re.sub(r"/\*.*?\*/", "", inner), ")")
    operands = tuple(x.strip().split(" ")[-1].lstrip("%") for x in inside.split(",")) if inside else ()
    arrays = tuple(Array(kind, tuple(int(x) for x in dims.split(",") if x)) for kind, dims in _SHAPE.findall(shape))
    return Instruction(name, opcode, arrays, operands, after)


def _until(text: str, end: str) -> tuple[str, str]:
    """What stands before and after the first `end` that no bracket encloses."""
    depth = 0
    for at, letter in enumerate(text):
        if letter == end and depth == 0:
            return text[:at], text[at + 1 :]
        depth += (letter in "([{") - (letter in ")]}")
    return text, ""
