# SPDX-License-Identifier: Apache-2.0
"""How many pairs of a query and a key the update's attention computes on a TPU, of those that it needs: counted.

    python -m benchmarks.tiles [--prompts=4] [--group=64] [--max=10240] [--prompt-len=1024] [--room=4]

For lengths with a log-normal distribution (sigma 0.8), responses are packed into rows as in a run, and the tiles that
the kernels of t1jax/model/splash.py visit are counted, those of rows that hold nothing left out. Beside it, what splash
attention that ships with JAX would compute, which knows neither parents nor texts before it begins: a row for each
response and its prompt, one after another as they fit in rows of one of the longest, and half of all tiles of a row.
Prints a table, and a line of JSON.

Axes: P prompts of a shard, R responses of each; n: responses of the shard, b: rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.blocks import MEANS, lengths


def pairs(length_PR: np.ndarray, prompt: int) -> int:
    """Of a token and one that it attends, each prompt's once."""
    length = length_PR.astype(np.int64)
    return int((length * prompt + length * (length + 1) // 2).sum() + len(length) * prompt * (prompt + 1) // 2)


def computed(length_PR: np.ndarray, prompt: int, most: int, room: int) -> tuple[int, int, float]:
    """Pairs in the tiles that are visited, positions of the rows, and the share of tiles that are not masked."""
    import jax.numpy as jnp

    from t1jax.model import splash
    from t1jax.update import packing

    n = length_PR.size
    grid = packing.Grid(-(-n // room), 1, room * (prompt + most))
    length_n, R = length_PR.reshape(-1), length_PR.shape[1]
    row_n, start_n, prompt_start_n = packing.plan(np.full(n, prompt), length_n, np.ones(n, bool), R, grid)
    segment_bT, parent_bT = np.zeros((2, row_n.max() + 1, grid.length), np.int32)
    for row, start, before, length in zip(row_n, start_n, prompt_start_n, length_n, strict=True):
        for begin, end in ((before, before + prompt), (start, start + length)):
            segment_bT[row, begin:end], parent_bT[row, begin:end] = begin + 1, before + 1
    visits = [
        splash.tiles(jnp.asarray(s[None]), jnp.asarray(p[None])).by_query
        for s, p in zip(segment_bT, parent_bT, strict=True)
    ]
    count = sum(int(x.count_1[0]) for x in visits)
    whole = sum(int(x.whole_x[: int(x.count_1[0])].sum()) for x in visits)
    return count * splash.block_of(grid.length) ** 2, segment_bT.size, whole / count


def causal(length_PR: np.ndarray, prompt: int, most: int, block: int) -> tuple[int, int]:
    """The same of rows of one of the longest, with a prompt before each response and half of all tiles computed."""
    free: list[int] = []
    for need in sorted((length_PR.reshape(-1) + prompt).tolist(), reverse=True):
        row = next((i for i, left in enumerate(free) if left >= need), len(free))
        if row == len(free):
            free.append(prompt + most)
        free[row] -= need
    n = -(-(prompt + most) // block)
    return len(free) * n * (n + 1) // 2 * block**2, len(free) * (prompt + most)


def main(argv: Sequence[str]) -> None:
    from t1jax.model import splash

    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"prompts": 4, "group": 64, "max": 10240, "prompt-len": 1024, "room": 4}.items():
        flags.add_argument(f"--{name}", type=int, default=value)
    args = flags.parse_args(argv)
    rows: list[dict[str, Any]] = []
    print(f"{'mean / max':>10}{'kernel':>10}{'not masked':>12}{'half':>8}   pairs computed for each needed one")
    for mean in (*MEANS, 1.0):
        drawn = lengths(args.prompts, args.group, args.max, mean)
        if mean == 1.0:
            drawn[:] = args.max
        needed = pairs(drawn, args.prompt_len)
        found, positions, whole = computed(drawn, args.prompt_len, args.max, args.room)
        half, half_positions = causal(drawn, args.prompt_len, args.max, splash.BLOCK)
        row = {"mean": mean, "kernel": found / needed, "whole": whole, "half": half / needed}
        rows.append(row | {"positions": positions, "half_positions": half_positions})
        print(
            f"{mean:10}{row['kernel']:10.2f}{whole:12.0%}{row['half']:8.2f}   {positions} {half_positions}", flush=True
        )
    print(json.dumps({"rows": rows}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
