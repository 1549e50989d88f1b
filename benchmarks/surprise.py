# SPDX-License-Identifier: Apache-2.0
"""How surprising right, wrong and garbled responses are to the model that sampled them: for rl.max_perplexity.

    python -m benchmarks.surprise --config=smollm2_135m [--temperatures=1.0,1.5] [--steps=4] [--config.KNOB=...]

Samples --steps batches of training prompts with the sampler of a step, from the config's checkpoint, at each
temperature, and judges them by the rules of a step. For each kind of response: how many, and the perplexity (exp of the
mean of -log pi over its tokens, at the sampling temperature) that 1, 50, 95 and 99 % of them are at or below. One line
of JSON at the end. A high temperature shows what a model writes whose policy has come apart.

A response is of the first kind that fits: garbled, repetitive, overlong, unscorable, right, wrong.
Deliberately not here: the rule itself (t1jax/update/advantages.py), whether training with it is better (t1jax.study).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

KINDS = ("garbled", "repetitive", "overlong", "unscorable", "right", "wrong")
PERCENTILES = (1, 50, 95, 99)


def kinds(scores: Any) -> Any:
    """int[B]: which of KINDS each response is."""
    import numpy as np

    outcome_B = np.asarray(scores.outcome_B)
    tests = (scores.garbled_B, scores.repetition_B, scores.overlong_B, outcome_B < 0, outcome_B == 1)
    return np.select([np.asarray(test).astype(bool) for test in tests], range(5), 5)


def rows(perplexity_B: Any, kind_B: Any) -> dict[str, dict[str, float]]:
    """kind -> how many responses, and the percentiles of their perplexity; kinds that do not occur are left out."""
    import numpy as np

    out = {}
    for number, name in enumerate(KINDS):
        of_kind = perplexity_B[kind_B == number]
        if len(of_kind):
            marks = {f"p{p}": float(x) for p, x in zip(PERCENTILES, np.percentile(of_kind, PERCENTILES), strict=True)}
            out[name] = {"n": len(of_kind), **marks}
    return out


def measure(cfg: Any, temperatures: Sequence[float], steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """temperature -> `rows`."""
    import jax
    import numpy as np

    from t1jax.devices import multihost, sharding
    from t1jax.host import place
    from t1jax.prompts import streams
    from t1jax.rewards.score import make_scorer
    from t1jax.training import origin, stages, step
    from t1jax.training.scoring import make_score
    from t1jax.training.setup import rl_setup
    from t1jax.update import advantages

    mesh = sharding.make_mesh(cfg.mesh)
    out: dict[str, dict[str, dict[str, float]]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        stages.open_task(cfg, place.of(folder, "folder"), lambda line: None) as (task, tokens),
    ):
        params = origin.policy(cfg, mesh)
        for temperature in temperatures:
            setup = rl_setup(dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, temperature=temperature)), mesh)
            sample = step.make_sample(setup, tokens.stop_ids)
            score = make_score(setup, make_scorer(task, "train", tokens, setup.cfg.rl))

            @jax.jit
            def judged(
                params: Any, prompts: Any, root: Any, number: Any, sample: Any = sample, score: Any = score
            ) -> Any:
                rollouts = sample(params, prompts, root, number)
                return advantages.surprise(rollouts.logprob_BT, rollouts.sampled_BT), score(prompts, rollouts)[0]

            root, found = jax.random.key_data(jax.random.key(cfg.seed)), []
            stream = streams.prompt_stream(cfg, task, tokens, "train", cfg.rl.drawn, cfg.seed + 1)
            for number in range(steps):
                prompts = multihost.global_batch(next(stream), setup.layout)
                surprise_B, scores = jax.device_get(judged(params, prompts, root, np.int32(number)))
                found.append((np.exp(surprise_B), kinds(scores)))
            stream.close()
            out[f"{temperature:g}"] = rows(*(np.concatenate(part) for part in zip(*found, strict=True)))
            print(table(f"temperature {temperature:g}", out[f"{temperature:g}"]), file=sys.stderr, flush=True)
    return out


def table(title: str, found: Mapping[str, Mapping[str, float]]) -> str:
    """The rows as Markdown."""
    head = [f"| {title} | responses | " + " | ".join(f"{p} % are below" for p in PERCENTILES) + " |", "|---" * 6 + "|"]
    for name, row in found.items():
        head.append(f"| {name} | {row['n']} | " + " | ".join(f"{row[f'p{p}']:.2f}" for p in PERCENTILES) + " |")
    return "\n".join(head)


def main(argv: Sequence[str]) -> None:
    flags = argparse.ArgumentParser(prog="benchmarks.surprise", allow_abbrev=False)
    flags.add_argument("--temperatures", default="1.0,1.5", help="joined by commas")
    flags.add_argument("--steps", type=int, default=4)
    args, rest = flags.parse_known_args(argv)
    temperatures = [float(text) for text in args.temperatures.split(",")]
    if args.steps < 1 or not all(0 < t < 100 for t in temperatures):
        raise SystemExit("expected --steps of at least 1, and --temperatures between 0 and 100")

    from t1jax.host import command_line

    cfg, _, extra = command_line.read_config(["benchmarks.surprise", *rest], lambda values: None, "smollm2_135m")
    if extra:
        raise SystemExit(f"unexpected argument {extra[0]!r}")
    print(json.dumps(measure(cfg, temperatures, args.steps)))


if __name__ == "__main__":
    main(sys.argv[1:])
