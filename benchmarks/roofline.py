# SPDX-License-Identifier: Apache-2.0
"""What the machine can do, the floor of a step from counted flops and bytes, and the share of it that is reached.

    python -m benchmarks.roofline [--layers=4 --hidden=256 --prompts=8 --group=16 --new=128 ...]

Ceilings are measured, each the best of several sizes: matmuls in the dtype of activations, a large array read, a large
array copied. The floor of a part is the longer of its flops at the one and its bytes, read, at the other: of decode at
each token, all weights once and each row's keys and values as far as they are written. The flops are the model's own:
nothing recomputed, causal attention at half, each response with a prompt of its own. All responses run to `--new`.

Parts are timed apart, on the same data: prefill as a sampler of one token, decode as the rest of the whole sampler,
scoring as log-probabilities of all responses in plain rows, and update as what remains of the whole update, which
begins with such a scoring by the anchor. Caches of a CPU may read faster than a large array is read: the floor of small
shapes is then no floor, and a share above 1.

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
from functools import partial
from typing import Any

from benchmarks import workload


@dataclass(frozen=True)
class Cost:
    """Of one part of the step."""

    flops: float
    bytes: float

    def seconds(self, flops: float, bandwidth: float) -> float:
        return max(self.flops / flops, self.bytes / bandwidth)


def costs(model: Any, P: int, R: int, C: int, T: int, size: int) -> dict[str, list[Cost]]:
    """Part -> its pieces, one after the other; `size` bytes an activation or cast weight has."""
    from t1jax.planning import estimate

    B, head = P * R, model.hidden_size * model.vocab_size
    layers, active = (model.num_layers * of(model) for of in (estimate.layer_weights, estimate.active_weights))
    pair = 4 * model.num_layers * model.num_heads * model.head_dim  # flops of one query and one key: scores, values
    token_kv = 2 * model.num_layers * model.num_kv_heads * model.head_dim * size
    prompt = C * (C + 1) / 2
    prefill = Cost(P * (2 * C * active + pair * prompt), layers * size + P * C * token_kv)
    decode = [
        Cost(
            B * (2 * (active + head) + pair * (C + t)),
            (layers + head) * size + (P * C + B * t) * token_kv,
        )
        for t in range(1, T + 1)
    ]
    whole = C + T
    forward = B * (2 * (whole * active + T * head) + pair * whole * (whole + 1) / 2)
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


def ceilings(dtype: str, sizes: Sequence[int], megabytes: Sequence[int], times: int = 5) -> dict[str, float]:
    """flops a second of a [size, size] matmul, bytes a second read, and read and written by a copy; the best sizes."""
    import jax
    import jax.numpy as jnp

    multiply, total, add = jax.jit(lambda a: a @ a), jax.jit(jnp.sum), jax.jit(lambda a: a + 1)
    matmul = read = copy = 0.0
    for size in sizes:
        x = jax.random.normal(jax.random.key(0), (size, size), dtype)
        matmul = max(matmul, 2 * size**3 / best(partial(multiply, x), times))
    for count in megabytes:
        y = jnp.zeros((count << 20) // 4096, jnp.float32)[:, None] + jnp.zeros(1024, jnp.float32)[None]
        read = max(read, y.nbytes / best(partial(total, y), times))
        copy = max(copy, 2 * y.nbytes / best(partial(add, y), times))
    return {"matmul": matmul, "read": read, "copy": copy}


def shares(found: dict[str, float], pieces: dict[str, list[Cost]], flops: float, bandwidth: float) -> dict[str, Any]:
    """Part -> seconds, floor in seconds, shares reached of the floor, of the matmul ceiling and of the read ceiling."""
    out = {}
    for part, seconds in found.items():
        floor = sum(cost.seconds(flops, bandwidth) for cost in pieces[part])
        work = sum(cost.flops for cost in pieces[part])
        out[part] = {
            "seconds": round(seconds, 4),
            "floor_s": round(floor, 4),
            "of_floor": round(floor / seconds, 3),
            "of_matmul": round(work / seconds / flops, 3),
            "of_read": round(sum(cost.bytes for cost in pieces[part]) / seconds / bandwidth, 3),
        }
    return out


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time ceilings, sampler and step; the line of JSON."""
    if args.mean_len:
        raise SystemExit(f"--mean-len is {args.mean_len}; expected 0: the floor is of responses that all run to --new")
    cores, meter = workload.pin(args.threads), workload.Meter()
    import jax
    import jax.numpy as jnp

    from t1jax.devices import sharding
    from t1jax.training import step
    from t1jax.training.scoring import make_score
    from t1jax.training.setup import rl_setup

    cfg = workload.make_config(args)
    mesh = sharding.make_mesh(cfg.mesh)
    ceiling = ceilings(args.dtype, (1024, 2048, 3072), (64, 256, 512))
    setup = rl_setup(cfg, mesh)
    params = workload.make_params(setup)
    prompts = workload.make_prompts(setup, (), 0)
    root, times = jax.random.key_data(jax.random.key(cfg.seed)), max(args.steps, 1)
    one = dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, max_new_tokens=1, window=1))
    sample_one, sample = (jax.jit(step.make_sample(each, ())) for each in (rl_setup(one, mesh), setup))
    prefill = best(lambda: sample_one(params, prompts, root, jnp.int32(0)), times)
    generate = best(lambda: sample(params, prompts, root, jnp.int32(0)), times)
    rollouts = sample(params, prompts, root, jnp.int32(0))
    score = make_scoring(setup)
    scoring = best(lambda: score(params, prompts, rollouts), times)
    state = setup.init_state(params)
    judged = jax.jit(make_score(setup, workload.Scorer()))(prompts, rollouts)
    update = jax.jit(step.make_update(setup))
    whole = best(lambda: update(state, prompts, rollouts, *judged), times)
    pieces = costs(cfg.model, args.prompts, args.group, args.prompt_len, args.new, 2 if args.dtype == "bfloat16" else 4)
    found = {"prefill": prefill, "decode": generate - prefill, "scoring": scoring, "update": whole - scoring}
    line = {
        "matmul_gflops": round(ceiling["matmul"] / 1e9, 1),
        "read_gb_s": round(ceiling["read"] / 1e9, 2),
        "copy_gb_s": round(ceiling["copy"] / 1e9, 2),
        "parts": shares(found, pieces, ceiling["matmul"], ceiling["read"]),
        "plan_mb": setup.memory.program >> 20,
        "cores": cores,
        "other_cores_busy": round(meter.others(), 2),
    }
    print(json.dumps(line), flush=True)
    return line


def make_scoring(setup: Any) -> Callable[..., Any]:
    """A compiled `score(params, prompts, rollouts)`: log-probabilities of all responses, a row each, in parts."""
    import jax
    import jax.numpy as jnp

    from t1jax.model import qwen
    from t1jax.training import sft
    from t1jax.update.logprobs import predictors, token_logprobs_and_entropy

    model, cfg = setup.learner, setup.cfg
    temperature, chunks = cfg.rl.learner_temperature, cfg.rl.vocab_chunks

    def score(params: Any, prompts: Any, rollouts: Any) -> Any:
        def one(part: Any) -> Any:
            tokens, valid, counted = part
            position = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
            hidden, _ = qwen.forward(model, params, tokens, position, segment_BT=valid.astype(jnp.int32))
            head = qwen.head_weight(model, params)
            return token_logprobs_and_entropy(predictors(hidden), head, tokens, counted, temperature, chunks)

        R = cfg.rl.responses_per_prompt
        prompt, there = jnp.repeat(prompts.tokens_PC, R, axis=0), jnp.repeat(prompts.valid_PC, R, axis=0)
        rows = (
            jnp.concatenate([prompt, rollouts.tokens_BT], axis=1),
            jnp.concatenate([there, rollouts.sampled_BT], axis=1),
            jnp.concatenate([jnp.zeros_like(there), rollouts.sampled_BT], axis=1),
        )
        return jax.lax.map(one, sft.split(rows, cfg.rl.micro_batches))

    return jax.jit(score)


def main(argv: Sequence[str]) -> None:
    measure(workload.parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
