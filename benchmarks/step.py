# SPDX-License-Identifier: Apache-2.0
"""Seconds of one whole RL step: sampling, scoring, update and anchor, one compiled program.

    python -m benchmarks.step [--layers=4 --hidden=256 --prompts=8 --group=16 --new=128 --mean-len=0 ...]

Prints a line a step on stderr and one line of JSON on stdout. Compilation falls into the warm-up. `split_s` is told by
the scorer, which the program calls between its halves: generate ends where it is called; update, the anchor's
log-probabilities included, begins where it returns. `memory_mb` is of one device: what memory.plan says, what the
compiler says of the program, and by how much the process grew (Linux; of all its devices).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import workload


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Do `--warmup` + `--steps` steps; the line of JSON."""
    cores, meter = workload.pin(args.threads), workload.Meter()
    import jax
    import numpy as np

    from t1jax.devices import sharding
    from t1jax.training import step
    from t1jax.training.setup import rl_setup

    cfg = workload.make_config(args)
    mesh = sharding.make_mesh(cfg.mesh)
    stops = workload.stop_tokens(args.vocab, args.new, args.mean_len)
    setup = rl_setup(cfg, mesh)
    state = setup.init_state(workload.make_params(setup))
    scorer = workload.Scorer()
    began = time.perf_counter()
    train_step = step.make_train_step(setup, scorer, stop_tokens=stops)
    train_step = train_step.lower(state, workload.make_prompts(setup, stops, 0)).compile()
    compiling, growth = time.perf_counter() - began, workload.Growth()
    before = np.array(state.params["embedding"])
    seconds, tokens, parts, gaps = [], [], [], []
    for i in range(args.warmup + args.steps):
        prompts = jax.block_until_ready(workload.make_prompts(setup, stops, i))
        start = time.perf_counter()
        state, told = jax.block_until_ready(train_step(state, prompts))
        end = time.perf_counter()
        seconds.append(end - start)
        tokens.append(int(told["tokens"]))
        gaps.append(float(told["logprob_gap"]))
        split = {"generate": scorer.called - start, "reward": scorer.done - scorer.called, "update": end - scorer.done}
        parts.append(split)
    moved = float(np.abs(np.array(state.params["embedding"]) - before).max())
    if not moved > 0:
        raise RuntimeError("the weights did not move: nothing was measured")
    warm = args.warmup
    return workload.report(
        args,
        "step",
        cores,
        meter,
        seconds[warm:],
        tokens[warm:],
        compiling + sum(seconds[:warm]),
        parts[warm:],
        memory_mb={
            "plan": setup.memory.program >> 20,
            "program": workload.program_bytes(train_step) >> 20,
            "process": (growth.bytes() + sum(x.nbytes for x in jax.tree.leaves(state))) >> 20,
        },
        weights_moved=moved,
        logprob_gap=max(gaps),
    )


def main(argv: Sequence[str]) -> None:
    measure(workload.parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
