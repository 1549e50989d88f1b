# SPDX-License-Identifier: Apache-2.0
"""The work that all benchmarks share: flags, a random model, prompts, a rule that scores, and the line of JSON.

Flags and keys are those of the scripts that time peers (docs/performance.md), so that both do the same work: P prompts
of exactly C tokens, R responses each. Weights are N(0, 0.02), so tokens are drawn almost evenly over the vocabulary; a
response ends where one of the last k ids is drawn, k chosen for the mean length asked for.

Nothing here imports jax before `pin` has chosen the cores.
Axes: P prompts, R responses per prompt, B = P * R rows, C prompt positions, T response positions.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

SHAPE = {"layers": 4, "hidden": 256, "ffn": 704, "heads": 4, "kv_heads": 2, "head_dim": 64, "vocab": 4096}
WORK = {"prompts": 8, "group": 16, "prompt_len": 64, "new": 128, "steps": 4, "warmup": 1, "seed": 0}


def parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that every benchmark takes."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (SHAPE | WORK).items():
        flags.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    flags.add_argument("--temperature", type=float, default=1.2)
    flags.add_argument("--mean-len", type=float, default=0.0, help="mean length of responses, tokens; 0: all are --new")
    flags.add_argument("--threads", type=int, default=2, help="cores to use; 0: all that are allowed")
    flags.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of activations")
    flags.add_argument("--remat", choices=("none", "dots", "full"), default="none")
    flags.add_argument("--micro-batches", type=int, default=0, help="parts of the update; 0: 8 rows each")
    flags.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="any knob of the config")
    return flags


def pin(threads: int) -> int:
    """Keep this process to `threads` cores, before jax starts its own; returns how many it has."""
    allowed = sorted(os.sched_getaffinity(0))
    if 0 < threads < len(allowed):
        os.sched_setaffinity(0, allowed[:threads])
    return len(os.sched_getaffinity(0))


def stop_tokens(vocab: int, new: int, mean: float) -> tuple[int, ...]:
    """The last k ids, k such that lengths min(Geometric(k / vocab), new) have about this mean; none for mean 0."""
    if not mean:
        return ()
    if not 1 <= mean < new:
        raise SystemExit(f"--mean-len is {mean}; expected 0, or at least 1 and below --new = {new}")
    low, high = 0.0, 1.0
    for _ in range(60):  # the mean (1 - (1 - p)^new) / p falls with p
        p = (low + high) / 2
        low, high = (p, high) if (1 - (1 - p) ** new) > mean * p else (low, p)
    return tuple(range(vocab - max(1, round(p * vocab)), vocab))


def make_config(args: argparse.Namespace) -> Any:
    """The config of this work, from configs/base.py, checked like a user's."""
    import jax

    from configs import base
    from t1jax import config, validation

    rows = args.prompts * args.group
    cfg = base.get_config()
    knobs = {
        "seed": args.seed,
        "model.num_layers": args.layers,
        "model.hidden_size": args.hidden,
        "model.mlp_size": args.ffn,
        "model.num_heads": args.heads,
        "model.num_kv_heads": args.kv_heads,
        "model.head_dim": args.head_dim,
        "model.vocab_size": args.vocab,
        "model.tie_embeddings": True,
        "model.compute_dtype": args.dtype,
        "model.remat": args.remat,
        "data.prompt_length": args.prompt_len,
        "mesh.fsdp": 1,
        "mesh.data": -1,
        "rl.prompts_per_step": args.prompts,
        "rl.responses_per_prompt": args.group,
        "rl.max_new_tokens": args.new,
        "rl.window": min(32, args.new),
        "rl.temperature": args.temperature,
        "rl.micro_batches": args.micro_batches or max(1, rows // 8),
        "rl.vocab_chunks": 4,  # parts of the scores that stay in the caches of a CPU
    }
    for knob, value in knobs.items():
        cfg.update_from_flattened_dict({knob: value})
    for text in args.set:
        knob, _, value = text.partition("=")
        if knob not in config.knobs():
            raise config.unknown_knob(knob)
        section, _, name = knob.rpartition(".")
        kind = type(cfg[section][name] if section else cfg[name])
        cfg.update_from_flattened_dict({knob: value == "True" if kind is bool else kind(value)})
    made = config.load(cfg)
    validation.validate(made, len(jax.devices()))
    return made


def make_params(setup: Any) -> Any:
    """Weights N(0, 0.02), norms one, biases zero."""
    import jax

    from t1jax.model import qwen

    params = qwen.init_params(setup.learner, jax.random.key(setup.cfg.seed))

    def rescale(path: Any, x: jax.Array) -> jax.Array:
        name = str(path[-1].key)
        return x if name.endswith(("norm", "bias")) else x * (0.02 / x.std())

    return jax.tree_util.tree_map_with_path(rescale, params)


def make_prompts(setup: Any, stops: Sequence[int], step: int) -> Any:
    """P full prompts of random ids below the stop tokens; others each step."""
    import numpy as np

    from t1jax.devices import multihost
    from t1jax.types import Prompts

    cfg = setup.cfg
    P, C = cfg.rl.drawn, cfg.data.prompt_length
    random = np.random.default_rng((cfg.seed, step))
    tokens = random.integers(2, cfg.model.vocab_size - len(stops) - 1, (P, C)).astype(np.int32)
    rows = Prompts(tokens, np.ones((P, C), bool), np.arange(step * P, (step + 1) * P, dtype=np.int32))
    return multihost.global_batch(rows, setup.layout)


class Scorer:
    """Right if at least half of a response's ids are even; remembers when it was called, and when it was done."""

    def __init__(self) -> None:
        self.called = self.done = 0.0

    def __call__(self, problem: Any, tokens: Any, sampled: Any, stopped: Any) -> Any:
        import numpy as np

        self.called = time.perf_counter()
        even = ((tokens % 2 == 0) & sampled).sum(1)
        zero = np.zeros(len(tokens), np.int32)
        out = ((2 * even >= sampled.sum(1)).astype(np.int32), zero, zero, zero)
        self.done = time.perf_counter()
        return out


class Meter:
    """How many cores other processes keep busy meanwhile (Linux)."""

    def __init__(self) -> None:
        self.start = self._read()

    def others(self) -> float:
        busy, own, wall = (now - then for now, then in zip(self._read(), self.start, strict=True))
        return max(0.0, busy - own) / wall

    @staticmethod
    def _read() -> tuple[float, float, float]:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, *rest = (int(word) for word in file.readline().split()[1:])
        busy = (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return busy, own.user + own.system, time.perf_counter()


class Growth:
    """How far the resident memory of this process grows from now on (Linux)."""

    def __init__(self) -> None:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # the peak is counted anew
        self.start = self._read("VmRSS")

    def bytes(self) -> int:
        return self._read("VmHWM") - self.start

    @staticmethod
    def _read(name: str) -> int:
        with open("/proc/self/status", encoding="ascii") as file:
            return 1024 * int(file.read().split(f"{name}:")[1].split()[0])


def program_bytes(compiled: Any) -> int:
    """What the compiler says a program takes on a device at its peak: arguments, results, and all in between."""
    found = compiled.memory_analysis()
    sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
    return int(sum(sizes) - found.alias_size_in_bytes)


def report(
    args: argparse.Namespace,
    what: str,
    cores: int,
    meter: Meter,
    seconds: Sequence[float],
    tokens: Sequence[int],
    warmup: float,
    parts: Sequence[dict[str, float]] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Print a line a timed step on stderr, and last on stdout one line of JSON, which is returned as well."""
    import jax

    rates = [count / s for count, s in zip(tokens, seconds, strict=True)]
    for i, (s, count) in enumerate(zip(seconds, tokens, strict=True)):
        split = " ".join(f"{name} {value:.3f}" for name, value in parts[i].items()) if parts else ""
        print(f"step {i}: {s:.3f} s, {count} tokens, {count / s:.0f} tokens/s {split}", file=sys.stderr)
    split_s = {name: round(statistics.median(p[name] for p in parts), 4) for name in (parts[0] if parts else ())}
    if parts:
        generate = [count / p["generate"] for count, p in zip(tokens, parts, strict=True)]
        extra["gen_tokens_per_s"] = round(statistics.median(generate), 1)
    line = {
        "framework": f"t1jax {what}",
        "version": f"jax {jax.__version__}",
        "tokens_per_s": round(statistics.median(rates), 1),
        "tokens_per_s_best": round(max(rates), 1),
        "seconds_per_step": round(statistics.median(seconds), 4),
        "seconds_per_step_best": round(min(seconds), 4),
        "split_s": split_s,
        "warmup_s": round(warmup, 2),
        "tokens_per_step": round(statistics.mean(tokens), 1),
        "mean_len_seen": round(statistics.mean(tokens) / (args.prompts * args.group), 2),
        "cores": cores,
        "load1": round(os.getloadavg()[0], 2),
        "other_cores_busy": round(meter.others(), 2),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **extra,
        "args": vars(args),
    }
    print(json.dumps(line), flush=True)
    return line
