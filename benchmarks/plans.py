# SPDX-License-Identifier: Apache-2.0
"""How memory and time of a step grow with the model, R, the length and the chips: plans, plotted for docs/scaling.md.

    python -m benchmarks.plans --out=docs/images

Each point is the fastest mesh, lanes and micro-batches that fit, counted from shapes (t1jax.plan --suggest --fast) for
v5p chips. Nothing is compiled and nothing is measured. Prints a table a sweep, and writes plans.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODELS = ("qwen0p5b", "qwen1p5b", "qwen7b", "qwen14b", "qwen32b")
BASE = {"model": "qwen32b", "responses": 64, "length": 16384, "chips": 128}
SWEEPS: dict[str, tuple[Any, ...]] = {
    "model": MODELS,
    "responses": (16, 32, 64, 128, 256),
    "length": (2048, 4096, 8192, 16384, 32768),
    "chips": (64, 128, 256, 512, 1024),
}
MODELS_ON = 32  # chips of the sweep over models: a small one has too few kv heads to be split over more
AXES = {
    "model": f"parameters, billions; {MODELS_ON} chips",
    "responses": "responses a prompt, R",
    "length": "tokens of a response",
    "chips": "v5p chips; from 512 on, prompts grow with them",
}


def plan(point: dict[str, Any]) -> Any:
    """The suggestion for a point; None: nothing fits."""
    import importlib

    import jax

    from t1jax import config
    from t1jax.planning import slices, suggest

    cfg = config.load(importlib.import_module(f"configs.{point['model']}").get_config())
    rl = dataclasses.replace(
        cfg.rl,
        responses_per_prompt=point["responses"],
        max_new_tokens=point["length"],
        prompts_per_step=max(32, point["chips"] // 8),  # at least one for each shard of the batch
        lanes=0,
    )
    cfg = dataclasses.replace(cfg, rl=rl, sft=dataclasses.replace(cfg.sft, num_steps=0))
    cfg = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch_size=1024))
    chips = tuple(jax.devices()[: point["chips"]])
    where = slices.Slice(f"v5p of {point['chips']}", slices.CHIPS["v5p"], chips, "cpu")
    return suggest.suggest(cfg, where, float(point["length"]), compiled=False)


def row(point: dict[str, Any], name: str, found: Any) -> str:
    """A line of a table."""
    if found is None:
        return f"| {point[name]} | nothing fits | | | | | | |"
    time, gib = found.seconds, found.total / 2**30
    mesh = " x ".join(map(str, found.mesh))
    return (
        f"| {point[name]} | {mesh} | {found.memory.lanes} | {found.cfg.rl.micro_batches} | {gib:.1f} | "
        f"{time.decode:.0f} | {time.update:.0f} | {time.total:.0f} |"
    )


def draw(found: dict[str, list[tuple[dict[str, Any], Any]]], path: Path) -> None:
    """One panel a sweep: seconds of decode, of the update, and in all; memory of a chip on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.5))
    for panel, (name, points) in zip(axes.flat, found.items(), strict=True):
        there = [(point, plan) for point, plan in points if plan is not None]
        x = [plan.parameters / 1e9 if name == "model" else point[name] for point, plan in there]
        for label, marker in (("decode", "o-"), ("update", "s-"), ("total", "k.--")):
            panel.plot(x, [getattr(plan.seconds, label) for _, plan in there], marker, label=f"{label}, s")
        right = panel.twinx()
        right.plot(x, [plan.total / 2**30 for _, plan in there], "^:", color="tab:gray")
        right.set_ylim(0, 95)
        right.set_ylabel("GiB of a chip's 95 (grey)")
        panel.set(xlabel=AXES[name], ylabel="seconds a step", xscale="log", yscale="log")
        panel.set_xticks(x, [f"{value:.3g}" if name == "model" else str(value) for value in x])
        panel.minorticks_off()
        panel.legend(fontsize=8)
    figure.suptitle("Qwen2.5-32B, 32 prompts, R = 64, 16,384 tokens, 128 chips, but for what is varied")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str]) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, required=True, help="folder for plans.png")
    args = flags.parse_args(argv)
    if not args.out.is_dir():
        flags.error(f"--out={args.out}: no such folder; make it")
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(SWEEPS["chips"]))
    found = {}
    for name, values in SWEEPS.items():
        points = [BASE | ({"chips": MODELS_ON} if name == "model" else {}) | {name: value} for value in values]
        found[name] = [(point, plan(point)) for point in points]
        print(f"\n| {name} | mesh | lanes | micro-batches | GiB a chip | decode, s | update, s | step, s |")
        print("|---|---|---|---|---|---|---|---|")
        for point, best in found[name]:
            print(row(point, name, best), flush=True)
    draw(found, args.out / "plans.png")


if __name__ == "__main__":
    main(sys.argv[1:])
