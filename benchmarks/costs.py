# SPDX-License-Identifier: Apache-2.0
"""Whether a step costs what is drawn: pairs of workloads whose times should stand in a known ratio, in turn (A B A B).

    python -m benchmarks.costs [--what=spread,maximum,group,batch] [--rounds=3]

spread: at a maximum of 1,024, responses of mean 128 against all of 1,024 (goal: at most 0.2 of the time).
maximum: the same text, mean 64 so that none reaches 512, at a maximum of 4,096 against 512 (at most 1.1).
group: 2 prompts x 64 responses against 16 x 8 (at most 1), and the prompts' keys and values of one step.
batch: 128 responses against 64 (at most 1.8).

A step is the whole compiled one, sampling and update. Each pair runs in one process, both compiled before the first is
timed; a ratio is of two steps that follow each other. Shapes are small, so that a pair takes under two minutes on two
cores. Prints a line a round on stderr, a line a pair and one line of JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import workload


@dataclass(frozen=True)
class Pair:
    """Two workloads, by the flags in which they differ, and the ratio of their times to stay below."""

    shared: str
    a: str
    b: str
    goal: float
    mean: tuple[float, float] = (0.0, 0.0)  # of the lengths before the maximum cuts them, tokens; 0: none stops


SMALL = "--layers=2 --hidden=128 --ffn=256 --heads=4 --kv-heads=2 --head-dim=32 --vocab=1024 --prompt-len=32"
PAIRS = {
    "spread": Pair(f"{SMALL} --prompts=4 --group=8 --new=1024", "", "", 0.2, (128.0, 0.0)),
    "maximum": Pair(
        f"{SMALL} --prompts=4 --group=8",
        "--new=4096 --micro-batches=32",  # a part of the update has room for 1 of the longest responses here, 8 there:
        "--new=512 --micro-batches=4",  # about the same positions, as a part is computed whole
        1.1,
        (64.0, 64.0),
    ),
    "group": Pair("--layers=2 --new=64 --prompt-len=64", "--prompts=2 --group=64", "--prompts=16 --group=8", 1.0),
    "batch": Pair("--layers=2 --new=64 --group=16", "--prompts=8", "--prompts=4", 1.8),
}


def stops(vocab: int, mean: float) -> tuple[int, ...]:
    """The last ids, as many as make lengths Geometric with about this mean, whatever the maximum is."""
    return tuple(range(vocab - max(1, round(vocab / mean)), vocab)) if mean else ()


def make_step(flags: str, mean: float, extra: Sequence[str]) -> Callable[[int], tuple[float, int]]:
    """`once(i) -> (seconds, tokens)` of the i-th step, from the same state each time, so that the text is known."""
    import jax

    from t1jax.devices import sharding
    from t1jax.training import step
    from t1jax.training.setup import rl_setup

    args = workload.parser(None).parse_args([*flags.split(), *extra])
    cfg = workload.make_config(args)
    stop = stops(args.vocab, mean)
    setup = rl_setup(cfg, sharding.make_mesh(cfg.mesh))
    start = setup.init_state(workload.make_params(setup))
    train_step = step.make_train_step(setup, workload.Scorer(), stop_tokens=stop)
    copy = jax.jit(lambda state: jax.tree.map(jax.numpy.copy, state))

    def once(i: int) -> tuple[float, int]:
        state, prompts = jax.block_until_ready((copy(start), workload.make_prompts(setup, stop, i)))
        begin = time.perf_counter()
        _, told = jax.block_until_ready(train_step(state, prompts))
        return time.perf_counter() - begin, int(told["tokens"])

    return once


def prompt_bytes(flags: str) -> int:
    """Bytes of the prompts' keys and values in one step."""
    args = workload.parser(None).parse_args(flags.split())
    return 2 * 4 * args.layers * args.prompts * args.kv_heads * args.prompt_len * args.head_dim


def compare(name: str, rounds: int, extra: Sequence[str]) -> dict[str, Any]:
    """Run one pair in turn; its seconds, tokens, ratios and goal."""
    pair = PAIRS[name]
    steps = [
        make_step(f"{pair.shared} {flags}", mean, extra)
        for flags, mean in zip((pair.a, pair.b), pair.mean, strict=True)
    ]
    for once in steps:
        once(0)
    seconds: tuple[list[float], list[float]] = ([], [])
    tokens: tuple[list[int], list[int]] = ([], [])
    for turn in range(rounds):
        for i, once in enumerate(steps):
            spent, drawn = once(turn + 1)
            seconds[i].append(spent)
            tokens[i].append(drawn)
        print(f"{name} {turn}: {seconds[0][-1]:.3f} s, {seconds[1][-1]:.3f} s", file=sys.stderr, flush=True)
    ratio = spread([a / b for a, b in zip(*seconds, strict=True)])
    found: dict[str, Any] = {"ratio": ratio, "goal": pair.goal, "shared": pair.shared}
    for label, flags, times, counts in zip("ab", (pair.a, pair.b), seconds, tokens, strict=True):
        seen = {"seconds": round(statistics.median(times), 4), "tokens": statistics.mean(counts)}
        found[label] = {"flags": flags, **seen}
        if name == "group":
            found[label]["prompt_kv_bytes"] = prompt_bytes(f"{pair.shared} {flags}")
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def main(argv: Sequence[str]) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--what", default=",".join(PAIRS), help="pairs, with commas between")
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--threads", type=int, default=2, help="cores to use; 0: all that are allowed")
    args, extra = flags.parse_known_args(argv)
    names = args.what.split(",")
    if unknown := [name for name in names if name not in PAIRS]:
        flags.error(f"--what is {unknown[0]!r}; expected some of {','.join(PAIRS)}")
    if args.rounds < 1:
        flags.error(f"--rounds is {args.rounds}; expected at least 1")
    cores, out = workload.pin(args.threads), {}
    for name in names:
        meter = workload.Meter()
        found = compare(name, args.rounds, extra)
        out[name] = found | {"other_cores_busy": round(meter.others(), 2)}
        ratio = found["ratio"]
        print(
            f"{name}: {found['a']['seconds']:.3f} s / {found['b']['seconds']:.3f} s = {ratio['median']} "
            f"({ratio['min']} to {ratio['max']}), goal at most {found['goal']}",
            flush=True,
        )
    print(json.dumps({"cores": cores, "rounds": args.rounds, **out}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
