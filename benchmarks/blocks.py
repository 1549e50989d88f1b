# SPDX-License-Identifier: Apache-2.0
"""How many blocks of the ring the sampler reads, of those that it needs: counted, not timed.

    python -m benchmarks.blocks [--prompts=4] [--group=64] [--max=10240] [--window=512]

For lengths with a log-normal distribution (sigma 0.8) it counts a block each time that it is read for a lane: by the
kernel, each live lane its own (t1jax/model/ragged.py), and by XLA's loop, all lanes in use back to the oldest column of
any. Before that, a small model draws on this machine, and what its lanes attended is compared with what is simulated
for the same lengths. Prints a table, and a line of JSON.

Axes: P prompts of a shard, R responses of each, m lanes of a prompt, S columns of a block.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SIGMA = 0.8
MEANS = (0.15, 0.3, 0.5)  # of the lengths before they are cut, over the maximum


@dataclass
class Count:
    """Blocks, and columns, summed over lanes and tokens of one layer."""

    kernel: int = 0
    loop: int = 0
    columns: int = 0  # that a live lane attends
    tokens: int = 0  # iterations

    def add(self, column: int, length_B: np.ndarray, live_B: np.ndarray, S: int) -> None:
        """An iteration that writes `column`; a lane attends `length_B` columns before it."""
        own = length_B[live_B]
        self.kernel += int((column // S - (column - own) // S + 1).sum())
        self.loop += len(length_B) * int(column // S - (column - own.max()) // S + 1)
        self.columns += int((own + 1).sum())
        self.tokens += 1


def simulate(length_PR: np.ndarray, m: int, S: int, tiers: Sequence[int]) -> Count:
    """The lanes of a shard whose responses have these lengths, compacted to each of `tiers` when so few are live."""
    (P, R), count, column = length_PR.shape, Count(), 0
    response_B, prompt_B = np.tile(np.arange(m), P), np.repeat(np.arange(P), m)
    length_B, live_B, begun_P = np.zeros(P * m, int), np.ones(P * m, bool), np.full(P, m)
    for tier in (*tiers, 0):
        while live_B.sum() > tier or (live_B.any() and (begun_P < R).any()):
            count.add(column, length_B, live_B, S)
            length_B += live_B
            column += 1
            for b in np.flatnonzero(live_B & (length_B == length_PR[prompt_B, response_B])):
                p = prompt_B[b]
                live_B[b], length_B[b] = begun_P[p] < R, 0
                response_B[b], begun_P[p] = min(begun_P[p], R - 1), begun_P[p] + live_B[b]
        kept = np.argsort(~live_B, kind="stable")[:tier]
        response_B, prompt_B, length_B, live_B = (x[kept] for x in (response_B, prompt_B, length_B, live_B))
    return count


def lengths(P: int, R: int, most: int, mean: float, seed: int = 0) -> np.ndarray:
    """int[P, R], log-normal with mean `mean` * `most`, from 1 to `most`."""
    random = np.random.default_rng(seed)
    drawn = random.lognormal(np.log(mean * most) - SIGMA**2 / 2, SIGMA, (P, R))
    return np.clip(drawn.round().astype(int), 1, most)


def real(args: argparse.Namespace, S: int) -> tuple[Count, Count]:
    """What the lanes of a rollout on this machine attended, and what is simulated for the lengths that it drew."""
    import jax
    import jax.numpy as jnp

    from benchmarks import workload
    from t1jax.devices import sharding
    from t1jax.model import ragged, ring
    from t1jax.rollouts import decode, lanes
    from t1jax.rollouts.sampling import SamplingSettings
    from t1jax.training.setup import rl_setup

    cfg = workload.make_config(args)
    setup = rl_setup(cfg, sharding.make_mesh(cfg.mesh, jax.devices()[:1]))
    stops, counted, plain = workload.stop_tokens(args.vocab, args.new, args.mean_len), Count(), ring.reach

    def note(column: Any, length_B: Any) -> None:
        if (live_B := length_B != ragged.IDLE).any():
            counted.add(int(column), np.asarray(length_B), np.asarray(live_B), S)

    def reach(cfg: Any, layout: Any, cache: Any) -> Any:
        jax.debug.callback(note, cache.column, cache.length_B, ordered=True)
        return plain(cfg, layout, cache)

    ring.reach = reach
    try:
        rl = cfg.rl
        rollout = decode.make_rollout(
            setup.sampler,
            num_responses=rl.responses_per_prompt,
            max_new_tokens=rl.max_new_tokens,
            lanes=rl.lanes,
            window=rl.window,
            stop_tokens=stops,
        )
        key, settings = jax.random.key(0), SamplingSettings(jnp.float32(rl.temperature))
        rows = workload.make_prompts(setup, stops, 0)
        drawn = jax.block_until_ready(jax.jit(rollout)(workload.make_params(setup), rows, key, settings))
        jax.effects_barrier()
    finally:
        ring.reach = plain
    length_PR = np.asarray(drawn.sampled_BT).sum(-1).reshape(rl.prompts_per_step, -1)
    tiers = lanes.tiers(rl.prompts_per_step * rl.lanes, ragged=False)
    return counted, simulate(length_PR, rl.lanes, S, tiers)


def main(argv: Sequence[str]) -> None:
    from benchmarks import workload
    from t1jax.rollouts.lanes import tiers

    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"prompts": 4, "group": 64, "max": 10240, "window": 512}.items():
        flags.add_argument(f"--{name}", type=int, default=value)
    flags.add_argument("--lanes", default="16,64", help="of a prompt, with commas between")
    args = flags.parse_args(argv)
    small = (
        "--layers=1 --hidden=32 --ffn=32 --heads=2 --kv-heads=1 --head-dim=16 --vocab=256 --prompt-len=8 --prompts=4"
    )
    work = workload.parser(None).parse_args([*small.split(), "--group=8", "--new=96", "--mean-len=30"])
    work.set = ["rl.lanes=4"]
    counted, simulated = real(work, S=8)
    print(f"a small run: {counted}; simulated for its lengths: {'the same' if counted == simulated else simulated}")
    rows = []
    print(f"{'lanes':>6}{'mean / max':>12}{'kernel':>10}{'XLA':>8}   columns read for each needed one, in whole blocks")
    for m in map(int, args.lanes.split(",")):
        for mean in MEANS:
            drawn, lanes, S = lengths(args.prompts, args.group, args.max, mean), args.prompts * m, args.window
            kernel, loop = (simulate(drawn, m, S, tiers(lanes, ragged=x)) for x in (True, False))
            row = {"lanes": m, "mean": mean}
            row |= {"kernel": kernel.kernel * S / kernel.columns, "loop": loop.loop * S / loop.columns}
            rows.append(row)
            print(f"{m:6}{mean:12}{row['kernel']:10.2f}{row['loop']:8.2f}", flush=True)
    print(json.dumps({"real": asdict(counted), "simulated": asdict(simulated), "rows": rows}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
