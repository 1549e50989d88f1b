# SPDX-License-Identifier: Apache-2.0
"""Which datasets of reasoning-gym can a model learn by RL, and what would a step cost? Measured before training.

    python -m benchmarks.candidates --config=smollm2_135m [--updates=12] [--prompts=16] [--responses=8] [--only=A,B]
                                    [--config.KNOB=...]

For each candidate: a cold start of --updates updates from the config's checkpoint, on the dataset's own answers, which
teaches the form; then --responses responses to each of --prompts held-out problems, at rl.temperature. A step of RL can
only learn from groups that hold both right and wrong responses (mixed). A table is printed, and one line of JSON:

    before     right responses of the checkpoint as it comes, of the same prompts (greedy, one each)
    accuracy   right responses after the cold start; `greedy` the same by the likeliest token
    boxed      responses with an answer in a box
    mixed      groups with both right and wrong responses
    tokens     of a prompt and of a response, mean
    seconds    of an update of the cold start, and of sampling; compilation is not counted

Deliberately not here: training (t1jax.main), problems of files (t1jax.filter measures those).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

CANDIDATES: dict[str, tuple[str, ...]] = {  # dataset -> options: the easy end of each
    "chain_sum": ("min_terms=2", "max_terms=3", "min_digits=1", "max_digits=2"),
    "products": ("min_terms=2", "max_terms=2", "min_digits=1", "max_digits=2"),
    "gcd": ("min_numbers=2", "max_numbers=2", "min_value=1", "max_value=100"),
    "lcm": ("min_numbers=2", "max_numbers=2", "min_value=1", "max_value=20"),
    "simple_equations": ("min_terms=2", "max_terms=2", "min_value=1", "max_value=20"),
    "leg_counting": ("min_animals=2", "max_animals=3", "min_instances=1", "max_instances=5"),
    "letter_counting": ("min_words=2", "max_words=4"),
    "spell_backward": ("min_word_len=3", "max_word_len=4"),
    "count_primes": ("min_n=1", "max_n=60"),
    "number_sequence": ("min_terms=4", "max_terms=5", "min_value=1", "max_value=20", "max_complexity=1"),
}


def measure(cfg: Any, names: Sequence[str], updates: int, prompts: int, samples: int) -> list[dict[str, Any]]:
    """A row for each candidate, printed as it comes."""
    import jax

    from t1jax.devices import multihost, sharding
    from t1jax.evaluation import figures
    from t1jax.evaluation.evaluator import Evaluator
    from t1jax.evaluation.questions import ask_held_out
    from t1jax.prompts import streams
    from t1jax.tasks.embedded import make_embedded, make_verifier
    from t1jax.text import tokenizer
    from t1jax.training import origin
    from t1jax.training.setup import sft_setup
    from t1jax.training.sft import make_sft_step

    cfg = replace(cfg, sft=replace(cfg.sft, num_steps=updates, warmup_steps=min(cfg.sft.warmup_steps, updates - 1)))
    mesh = sharding.make_mesh(cfg.mesh)
    setup, tokens = sft_setup(cfg, mesh), tokenizer.load(cfg.model.checkpoint)
    base = jax.device_get(origin.policy(cfg, mesh))
    update, evaluator, rows = make_sft_step(setup), None, []
    for name in names:
        asked = replace(cfg, task=replace(cfg.task, name="gym", gym_dataset=name, gym_options=CANDIDATES[name]))
        with contextlib.closing(make_verifier(asked)) as verifier:
            task, _ = make_embedded(asked, tokens, verifier)
            questions = ask_held_out(task, tokens, prompts)
            if evaluator is None:
                evaluator = Evaluator(cfg, mesh, task, tokens)
                evaluator.respond(base, "compile", questions, samples=samples, temperature=cfg.rl.temperature)
            evaluator.task = task
            before = figures.summary(evaluator.respond(base, "before", questions, temperature=0.0))
            state, seconds = setup.init_state(jax.device_put(base)), []
            with contextlib.closing(streams.sft_stream(asked, task, tokens)) as stream:
                for _ in range(updates):
                    began = time.perf_counter()
                    state, report = update(state, multihost.global_batch(next(stream), setup.layout))
                    loss = float(report["loss"])
                    seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
            responses = evaluator.respond(
                state.params, "after", questions, samples=samples, temperature=cfg.rl.temperature
            )
            sampling = time.perf_counter() - began
            greedy = figures.summary(evaluator.respond(state.params, "greedy", questions, temperature=0.0))
        after = figures.summary(responses)
        rates = figures.pass_rates(responses, lambda response: response.problem).values()
        rows.append({
            "dataset": name, "options": " ".join(CANDIDATES[name]), "before": before["accuracy"],
            "accuracy": after["accuracy"], "low": after["low"], "high": after["high"], "n": after["n"],
            "greedy": greedy["accuracy"], "boxed": after["boxed"],
            "mixed": sum(rate is not None and 0 < rate < 1 for rate in rates) / prompts,
            "prompt_tokens": statistics.mean(len(question.prompt) for question in questions),
            "response_tokens": after["response_length"], "loss": loss,
            "update_seconds": statistics.median(seconds[1:]), "sampling_seconds": sampling,
        })  # fmt: skip
        print(
            "{dataset:18}before {before:6.1%}  accuracy {accuracy:6.1%} [{low:.1%}, {high:.1%}]  greedy {greedy:6.1%}  "
            "boxed {boxed:6.1%}  mixed {mixed:6.1%}  tokens {prompt_tokens:5.1f} + {response_tokens:4.1f}  "
            "seconds {update_seconds:.1f}, {sampling_seconds:.1f}".format(**rows[-1]),
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return rows


def main(argv: Sequence[str]) -> None:
    flags = argparse.ArgumentParser(prog="benchmarks.candidates", allow_abbrev=False)
    flags.add_argument("--updates", type=int, default=12)
    flags.add_argument("--prompts", type=int, default=16)
    flags.add_argument("--responses", type=int, default=8)
    flags.add_argument("--only", default="", help="candidates, joined by commas; all if empty")
    args, rest = flags.parse_known_args(argv)
    names = args.only.split(",") if args.only else list(CANDIDATES)
    if unknown := [name for name in names if name not in CANDIDATES]:
        raise SystemExit(f"--only has {', '.join(unknown)}; expected some of {', '.join(CANDIDATES)}")
    if args.updates < 2 or min(args.prompts, args.responses) < 1:
        raise SystemExit("expected --updates of at least 2, --prompts and --responses of at least 1")

    from t1jax.host import command_line
    from t1jax.weights import load as weights

    words = ["benchmarks.candidates", *rest]
    cfg, _, extra = command_line.read_config(words, lambda values: None, "smollm2_135m")
    if extra:
        raise SystemExit(f"unexpected argument {extra[0]!r}")
    cfg = weights.with_sizes(cfg, command_line.sizes_set(cfg, words))
    print(json.dumps({"candidates": measure(cfg, names, args.updates, args.prompts, args.responses)}))


if __name__ == "__main__":
    main(sys.argv[1:])
