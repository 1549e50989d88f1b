# SPDX-License-Identifier: Apache-2.0
"""Tokens a second of the sampler of training.

    python -m benchmarks.sampler [--layers=4 --hidden=256 --prompts=8 --group=16 --new=128 --mean-len=0 ...]

Prints a line a step on stderr and one line of JSON on stdout. Compilation falls into the warm-up.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import workload


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Sample `--warmup` + `--steps` batches; the line of JSON."""
    cores, meter = workload.pin(args.threads), workload.Meter()
    import jax
    import jax.numpy as jnp

    from t1jax.devices import sharding
    from t1jax.training import step
    from t1jax.training.setup import rl_setup

    cfg = workload.make_config(args)
    setup = rl_setup(cfg, sharding.make_mesh(cfg.mesh))
    stops = workload.stop_tokens(args.vocab, args.new, args.mean_len)
    params = workload.make_params(setup)
    sample = jax.jit(step.make_sample(setup, stops))
    root = jax.random.key_data(jax.random.key(cfg.seed))
    seconds, tokens = [], []
    for i in range(args.warmup + args.steps):
        prompts = jax.block_until_ready(workload.make_prompts(setup, stops, i))
        start = time.perf_counter()
        rollouts = jax.block_until_ready(sample(params, prompts, root, jnp.int32(i)))
        seconds.append(time.perf_counter() - start)
        tokens.append(int(rollouts.sampled_BT.sum()))
    warm = args.warmup
    count = sum(x.size for x in jax.tree.leaves(params))
    return workload.report(
        args, "sampler", cores, meter, seconds[warm:], tokens[warm:], sum(seconds[:warm]), params=count
    )


def main(argv: Sequence[str]) -> None:
    measure(workload.parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
