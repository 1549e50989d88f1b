# SPDX-License-Identifier: Apache-2.0
"""What the machine can do, the floor of a step from counted flops and bytes, and the share of it that is reached.

    python -m benchmarks.roofline [--layers=4 --hidden=256 --prompts=8 --group=16 --new=128 ...]

Ceilings are measured: a large matmul in the dtype of activations, and a large array copied. The floor of a part is the
longer of its flops at the one and its bytes at the other; the flops are the model's own: nothing recomputed, causal
attention at half. All responses run to `--new`. Prefill is timed as a sampler of one token, decode as the rest of the
whole sampler, scoring (the anchor's log-probabilities) and update as the rest of the step, told apart by their flops.
Caches of a CPU may read faster than the copied array: the floor of small shapes is then no floor, and a share above 1.

Axes: P prompts, R responses per prompt, B = P * R rows, C prompt positions, T response positions, D width, V
vocabulary, L layers, N query heads, K kv heads, H head dim, F mlp width.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import workload


@dataclass(frozen=True)
class Cost:
    """Of one part of the step."""

    flops: float
    bytes: float

    def seconds(self, flops: float, bandwidth: float) -> float:
        return max(self.flops / flops, self.bytes / bandwidth)


def layer_weights(model: Any) -> int:
    """Weights of the matrices of all layers."""
    D, N, K, H, F = model.hidden_size, model.num_heads, model.num_kv_heads, model.head_dim, model.mlp_size
    return int(model.num_layers * (2 * D * N * H + 2 * D * K * H + 3 * D * F))


def costs(model: Any, P: int, R: int, C: int, T: int, size: int) -> dict[str, list[Cost]]:
    """Part -> its pieces, one after the other; `size` bytes an activation or cast weight has."""
    B, layers, head = P * R, layer_weights(model), model.hidden_size * model.vocab_size
    pair = 4 * model.num_layers * model.num_heads * model.head_dim  # flops of one query and one key: scores, values
    token_kv = 2 * model.num_layers * model.num_kv_heads * model.head_dim * size
    prompt = C * (C + 1) / 2
    prefill = Cost(P * (2 * C * layers + pair * prompt), layers * size + P * C * token_kv)
    decode = [
        Cost(
            B * (2 * (layers + head) + pair * (C + t)),
            (layers + head) * size + (P * C + B * t) * token_kv,
        )
        for t in range(1, T + 1)
    ]
    whole = C + T
    forward = B * (2 * (whole * layers + T * head) + pair * whole * (whole + 1) / 2)
    master = 4 * (layers + head)  # bytes of one float32 copy: parameters, gradient, two moments, anchor
    scoring = Cost(forward, 2 * master)
    update = Cost(3 * forward, 10 * master)
    return {"prefill": [prefill], "decode": decode, "scoring": [scoring], "update": [update]}


def best(work: Callable[[], Any], times: int) -> float:
    """The least seconds of `times` calls, after one that compiles."""
    import jax

    jax.block_until_ready(work())
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ceilings(dtype: str, size: int = 2048, megabytes: int = 256, times: int = 8) -> tuple[float, float]:
    """(flops a second of a [size, size] matmul, bytes a second read and written by a copy)."""
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(lambda a: a @ a)
    y = jnp.zeros((megabytes << 20) // 4, jnp.float32)
    add = jax.jit(lambda a: a + 1)
    return 2 * size**3 / best(lambda: multiply(x), times), 2 * y.nbytes / best(lambda: add(y), times)


def shares(found: dict[str, float], pieces: dict[str, list[Cost]], flops: float, bandwidth: float) -> dict[str, Any]:
    """Part -> seconds, floor in seconds, share of the floor reached, share of the matmul ceiling reached."""
    out = {}
    for part, seconds in found.items():
        floor = sum(cost.seconds(flops, bandwidth) for cost in pieces[part])
        work = sum(cost.flops for cost in pieces[part])
        out[part] = {
            "seconds": round(seconds, 4),
            "floor_s": round(floor, 4),
            "of_floor": round(floor / seconds, 3),
            "of_matmul": round(work / seconds / flops, 3),
        }
    return out


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time ceilings, sampler and step; the line of JSON."""
    if args.mean_len:
        raise SystemExit(f"--mean-len is {args.mean_len}; expected 0: the floor is of responses that all run to --new")
    cores, meter = workload.pin(args.threads), workload.Meter()
    import jax
    import jax.numpy as jnp

    from benchmarks import step as whole_step
    from t1jax import sharding, step

    cfg = workload.make_config(args)
    mesh = sharding.make_mesh(cfg.mesh)
    flops, bandwidth = ceilings(args.dtype)
    params = workload.make_params(cfg, mesh)
    prompts = workload.make_prompts(cfg, mesh, (), 0)
    root = jax.random.key_data(jax.random.key(cfg.seed))
    one = dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, max_new_tokens=1, window=1))
    sample_one = jax.jit(step.make_sample(one, mesh, ()))
    prefill = best(lambda: sample_one(params, prompts, root, jnp.int32(0)), max(args.steps, 1))
    split = whole_step.measure(args)["split_s"]
    pieces = costs(cfg.model, args.prompts, args.group, args.prompt_len, args.new, 2 if args.dtype == "bfloat16" else 4)
    scoring = pieces["scoring"][0].flops / (pieces["scoring"][0].flops + pieces["update"][0].flops)
    found = {
        "prefill": prefill,
        "decode": split["generate"] - prefill,
        "scoring": split["update"] * scoring,
        "update": split["update"] * (1 - scoring),
    }
    line = {
        "matmul_gflops": round(flops / 1e9, 1),
        "bandwidth_gb_s": round(bandwidth / 1e9, 2),
        "parts": shares(found, pieces, flops, bandwidth),
        "cores": cores,
        "other_cores_busy": round(meter.others(), 2),
    }
    print(json.dumps(line), flush=True)
    return line


def main(argv: Sequence[str]) -> None:
    measure(workload.parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
