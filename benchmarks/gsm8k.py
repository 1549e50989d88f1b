# SPDX-License-Identifier: Apache-2.0
"""A real model on a real benchmark in minutes: cold start, T1's RL, the whole test set before and after.

    python -m benchmarks.gsm8k --checkpoint=DIR --train=gsm8k_train.jsonl --test=gsm8k_test.jsonl --out=DIR
                               [--minutes=8] [--limit=N] [--config.KNOB=...]

DIR holds SmolLM2-135M-Instruct as a Hugging Face folder, the files GSM8K's rows (`question`, `answer`). For an
accelerator; on a CPU pass --limit and smaller knobs. Stages, with shares of --minutes:

    cold start   on GSM8K's own solutions, each with its answer in a box
    RL           16 prompts x 64 responses x 256 tokens a step, ended by SIGTERM when its time is up (0.6)
    evaluate     all of --test with the cold start and with the last weights, one response at temperature 1, greedy too

A table is printed, and one line of JSON: accuracies with intervals, tokens and useful flops a second, the peak of
memory where the device tells it (`t1jax.plan` with the same knobs says what was planned). Everything goes through the
commands that users run, so that OUT can be looked at and resumed like any run.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RL_SHARE = 0.6  # of --minutes
PARAMETERS = 134_515_008  # of SmolLM2-135M, the head counted once: it is the embedding, which costs nothing to look up
FLOPS = 2 + 2 + 6  # of a sampled token a parameter: drawn, read by the anchor, learnt from; prompts are not counted
KNOBS = {
    "mesh.fsdp": "1", "mesh.data": "-1", "model.compute_dtype": "bfloat16", "model.remat": "full",
    "data.prompt_length": "256", "data.response_prefix": "", "sft.num_steps": "60", "sft.batch_size": "16",
    "sft.sequence_length": "1024", "sft.micro_batches": "2", "rl.num_steps": "500", "rl.prompts_per_step": "16",
    "rl.responses_per_prompt": "64", "rl.max_new_tokens": "256", "rl.window": "256", "rl.micro_batches": "8",
    "eval.num_problems": "64", "eval.every": "0", "scaling.budgets": "()", "checkpoint.every": "10",
    "checkpoint.keep": "1",
}  # fmt: skip


def solution(row: dict[str, Any]) -> dict[str, str]:
    """A row of GSM8K as a demonstration: its solution without the calculator's marks, and its answer in a box."""
    text, _, answer = row["answer"].partition("####")
    text = re.sub(r"<<[^<>]*>>", "", text).strip()
    return {"prompt": row["question"], "response": f"{text}\n\n\\boxed{{{answer.strip().replace(',', '')}}}"}


def write_demonstrations(train: Path, out: Path) -> int:
    """Writes OUT, a demonstration a row of `train`; returns how many."""
    rows = [solution(json.loads(line)) for line in train.read_text().splitlines()]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def run(command: Sequence[str], log: Path, until: float | None = None) -> float:
    """Seconds that a command takes; asks it to stop at the time `until`. Its output goes to `log`.

    Raises:
      SystemExit: it failed.
    """
    began, asked = time.monotonic(), False
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if until is not None and time.monotonic() > until and not asked:
                process.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(0.2)
    if process.returncode and not (asked and process.returncode in (143, -signal.SIGTERM)):
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}; see {log}:\n{log.read_text()[-2000:]}")
    return time.monotonic() - began


def rows_of(workdir: Path, stage: str) -> list[dict[str, Any]]:
    """The metrics rows of a stage."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gsm8k", allow_abbrev=False)
    for name in ("checkpoint", "train", "test", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--limit", type=int, default=0)
    args, extra = parser.parse_known_args(argv)
    began = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    demonstrations = args.out / "solutions.jsonl"
    write_demonstrations(args.train, demonstrations)
    data = {
        "model.checkpoint": args.checkpoint,
        "data.train": args.train,
        "data.eval": args.test,
        "data.sft": demonstrations,
    }
    knobs = [f"--config.{name}={value}" for name, value in {**data, **KNOBS}.items()]
    config = ["--config=smollm2_135m", *knobs, *extra]
    workdir = args.out / "run"
    spent = run(
        ["t1jax.main", *config, f"--workdir={workdir}"], args.out / "run.log",
        began + 60 * args.minutes * RL_SHARE,
    )  # fmt: skip
    found: dict[str, Any] = {"run_seconds": spent}
    kept = [
        knob for knob in config if not knob.startswith("--config.model.") or "dtype" in knob
    ]  # sizes: the checkpoint's
    limit = [f"--limit={args.limit}"] if args.limit else []
    for name, checkpoint in (("cold start", workdir / "checkpoints/sft"), ("RL", workdir / "checkpoints/rl")):
        for kind, temperature in (("sampled", "1"), ("greedy", "0")):
            out = args.out / f"{name.replace(' ', '-')}-{kind}"
            command = ["t1jax.evaluate", *kept, f"--checkpoint={checkpoint}", f"--data={args.test}", f"--out={out}"]
            run([*command, f"--temperature={temperature}", *limit], args.out / f"{out.name}.log")
            (result,) = json.loads((out / "results.json").read_text())["benchmarks"].values()
            found[f"{name}, {kind}"] = {
                key: result[key] for key in ("problems", "pass@1", "lenient pass@1", "response_length", "overlong")
            }
    steps = rows_of(workdir, "rl")
    found["steps"] = len(steps)
    if len(steps) > 1:
        found["seconds a step"] = statistics.median(row["seconds"] for row in steps[1:])
        found["tokens a second"] = statistics.median(row["tokens_per_second"] for row in steps[1:])
        found["flops a second"] = found["tokens a second"] * FLOPS * PARAMETERS
        found["peak memory, GiB"] = steps[-1].get("peak_memory_gib")
    for name, value in found.items():
        figure = value.get("pass@1") if isinstance(value, dict) else None
        told = value if figure is None else "{value:.1%} [{low:.1%}, {high:.1%}]".format(**figure)
        print(f"{name:24}{told}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
