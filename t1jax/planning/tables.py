# SPDX-License-Identifier: Apache-2.0
"""What a plan and a recipe say, for a person on a terminal.

Deliberately not here: the same as JSON (`as_dict` of fit.Found, of recipes.Try).
"""

from __future__ import annotations

from collections.abc import Sequence

from t1jax.devices import multihost
from t1jax.planning import estimate, slices
from t1jax.planning.fit import Found
from t1jax.planning.recipes import HEADINGS, Try
from t1jax.planning.slices import GIB


def table(found: Found) -> str:
    """A plan: memory, communication and time of a config's step."""
    chip, todo, time, told = found.where.chip, found.work, found.seconds, found.compiled
    shape = " x ".join(f"{name} {size}" for name, size in zip(("data", "fsdp", "tensor"), found.mesh, strict=True))
    lines = [
        f"{found.where.topology}: {len(found.where.devices)} devices of {chip.memory / GIB:.0f} GiB"
        + (f"; compiled for CPUs instead: {slices.EXTRA.format('plan-gpu')}" if found.where.stands_in and told else ""),
        *order(found),
        f"mesh {shape}; {found.parameters / 1e9:.2f} billion parameters; {found.memory.lanes} lanes per prompt; "
        f"{found.cfg.rl.micro_batches} micro-batches",
        multihost.describe(found.fed),
        "",
        "Memory per chip, estimated from shapes",
        *(f"  {line}" for line in str(found.memory).splitlines()),
    ]
    if told and not told.refused:
        lines += [
            "Memory per chip, as compiled",
            f"  state and prompts {told.arguments / GIB:.2f} GiB + temporaries {told.temporaries / GIB:.2f} GiB + "
            f"code {told.code / GIB:.2f} GiB + process {found.memory.of('host') / GIB:.2f} GiB = "
            f"{found.total / GIB:.2f} GiB",
            "",
            "Communication between chips",
            *(
                f"  {place.replace('_', ' '):12} {kind:25} {count / GIB:10.2f} GiB per step and chip"
                for place, kinds in found.moved().items()
                for kind, count in sorted(kinds.items())
            ),
            f"  all-gathers of weights inside the token loop: {found.gathers}",
        ]
        if told.launches:
            lines += ["", "Kernels, as compiled", *(f"  {stage}" for stage in told.launches)]
    share, verdict = found.total / chip.memory, "fits" if found.fits else "DOES NOT FIT"
    ratio = found.update_ratio
    compiled = f"; as compiled, the update takes {ratio:.2f} of the count, attention aside" if ratio else ""
    return "\n".join(
        [
            *lines,
            "",
            f"{found.total / GIB:.1f} of {chip.memory / GIB:.0f} GiB ({share:.0%}): {verdict}",
            f"Flops of a step, every response {found.length:.0f} tokens: {todo.total:.3g}, "
            f"{todo.remat / todo.total:.0%} of it recomputation{compiled}",
            f"Seconds of a step: {time.total:.0f} = prefill {time.prefill:.1f} + decode {time.decode:.0f} "
            f"({time.iterations:.0f} tokens in sequence) + update {time.update:.0f}",
            f"  by {estimate.assumptions(found.where.slices)}",
        ]
    )


def order(found: Found) -> list[str]:
    """How far apart neighbours in the mesh are: a line, or none where they are not joined by links."""
    axes = zip(("data", "fsdp", "tensor"), found.hops, strict=True)
    near = ", ".join(f"{name} {links:.2f}" for name, links in axes if links is not None)
    hops = [f"mean hops to the neighbour: {near}"] if near else []
    if found.where.slices > 1:
        network = found.where.chip.network / 1e9
        hops += [f"data goes over the network between {found.where.slices} slices, {network:.1f} GB/s a device"]
    return [f"order of devices: {'; '.join(hops)}"] if hops else []


def cycles_table(found: Found) -> str:
    """Where a TPU's cycles go, for a person."""
    told = found.compiled.cycles if found.compiled else ()
    return "\n".join(
        ["", "Cycles of a chip, by its compiler: a token, a part of the anchor, of the update", *map(str, told)]
    )


def of_tries(tries: Sequence[Try]) -> str:
    """A line for each workload that was tried."""
    rows = [HEADINGS, *(one.row() for one in tries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)
