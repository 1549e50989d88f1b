# SPDX-License-Identifier: Apache-2.0
"""Whether an accelerator computes what it should, and how fast, in a few minutes: a table and one line of JSON.

    python -m benchmarks.device [--seconds=240] [--layers=... and the other flags of benchmarks.step]

Checks, in this order:
    ceilings    matrix products, reads and copies of large arrays, beside the data sheet
    attention   each form that this platform has, of the update and of the sampler, against the plain one (attention.py)
    step        a whole step of random weights: sampler against learner, tokens a second of sampling and of the update
                with their share of the peaks, the plan's memory against the device's own peak
    embedded    a step of configs/tiny.py in float32: sampler against learner, and a finite loss

Without flags the step is that of the largest model of SIZES whose plan fits, in bfloat16, and a small one on a CPU.
Peaks are those of the data sheet (t1jax/planning/slices.py), on a CPU or an unknown device the ceilings. What is not
done after --seconds is left out, and what fails is told. Exit code 1 if a check fails, is out of bounds or left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import attention, roofline, workload
from t1jax.planning.slices import chip_of

SHARED = "--prompts=16 --group=16 --dtype=bfloat16 --remat=full --set=rl.vocab_chunks=16 --set=rl.window=256 --steps=1"
SIZES = {  # of the step on an accelerator, the largest first
    "1.5B": f"{SHARED} --layers=28 --hidden=1536 --ffn=8960 --heads=12 --head-dim=128 --vocab=151936 --new=1024",
    "0.5B": f"{SHARED} --layers=24 --hidden=896 --ffn=4864 --heads=8 --head-dim=128 --vocab=151936 --new=512",
    "0.1B": f"{SHARED} --layers=12 --hidden=768 --ffn=2048 --heads=6 --head-dim=128 --vocab=32768 --new=256",
}
MEMORY = (0.8, 1.25)  # plan / peak
ON_CPU = "--layers=2 --group=4 --new=64 --steps=1"


@dataclass
class Check:
    """What was found, and whether it is as expected; None: there is nothing to expect."""

    name: str
    found: dict[str, Any] = field(default_factory=dict)
    good: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the line of JSON: four digits are more than is repeated."""
        short = {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in self.found.items()}
        return short | {"good": self.good}

    def __str__(self) -> str:
        verdict = {True: "ok", False: "BAD", None: ""}[self.good]
        told = (f"{name} {x:.4g}" if isinstance(x, float) else f"{name} {x}" for name, x in self.found.items())
        return f"{self.name:36}{verdict:4}{'; '.join(told)}"


def choose_size(extra: Sequence[str], platform: str) -> tuple[str, argparse.Namespace]:
    """The name and the flags of the step: the largest that fits, with the user's own flags."""
    from t1jax.config import ConfigError
    from t1jax.devices import sharding
    from t1jax.training.setup import rl_setup

    def parse(flags: str) -> argparse.Namespace:
        return workload.parser(__doc__).parse_args(["--threads=0", *flags.split(), *extra])

    for name, flags in SIZES.items() if platform != "cpu" else ():
        args = parse(flags)
        with contextlib.suppress(ConfigError):  # not even one lane fits
            cfg = workload.make_config(args)
            if rl_setup(cfg, sharding.make_mesh(cfg.mesh)).memory.fits:
                return name, args
    return "small", parse(ON_CPU)


class Device:
    """The checks of this machine's devices; each yields what it finds."""

    def __init__(self, args: argparse.Namespace) -> None:
        import jax

        from t1jax.devices import sharding

        self.args, self.cfg = args, workload.make_config(args)
        self.mesh = sharding.make_mesh(self.cfg.mesh)
        self.devices = jax.devices()
        self.platform = self.devices[0].platform
        self.chip = chip_of(self.devices[0].device_kind)
        self.flops = self.bandwidth = 0.0  # a second, of all devices; set by `ceilings`

    def ceilings(self) -> Iterator[Check]:
        """Of one device; a CPU counts as one."""
        sizes, megabytes = ((1024, 2048), (64, 256)) if self.platform == "cpu" else ((8192,), (1024,))
        found = roofline.ceilings(self.args.dtype, sizes, megabytes)
        peaks = (self.chip.flops, self.chip.bandwidth) if self.chip else (found["matmul"], found["read"])
        count = len(self.devices) if self.platform != "cpu" else 1
        self.flops, self.bandwidth = (peak * count for peak in peaks)
        shown = {
            "matmul_tflops": found["matmul"] / 1e12,
            "read_gb_s": found["read"] / 1e9,
            "copy_gb_s": found["copy"] / 1e9,
        }
        if self.chip:
            shown["of_matmul"] = found["matmul"] / self.chip.flops
            shown["of_read"] = found["read"] / self.chip.bandwidth
        yield Check(f"ceilings, {self.args.dtype}", shown)

    def attention(self) -> Iterator[Check]:
        """All forms, dtypes and lengths."""
        for name, found, good in attention.compare_all(self.cfg.model, self.mesh):
            yield Check(name, found, good)

    def step(self) -> Iterator[Check]:
        """A step of random weights, by benchmarks.step."""
        from benchmarks import step
        from t1jax.training import health

        before = self._peak()
        with contextlib.redirect_stdout(sys.stderr):
            line = step.measure(self.args)
        after, args, split = self._peak(), self.args, line["split_s"]
        rounding = health.EXACT if args.dtype == "float32" else health.HALF
        gap, most = line["logprob_gap"], rounding.most(())
        yield Check(f"sampler and learner, {args.dtype}", {"logprob_gap": gap, "at_most": most}, gap <= most)
        megabytes = line["memory_mb"]
        told = {"plan_mb": megabytes["plan"], "compiler_mb": megabytes["program"]}
        if after is None or after == before:
            yield Check("memory", told | {"peak_mb": "not measured"})
        else:
            ratio = megabytes["plan"] / (after / 2**20)
            told |= {"peak_mb": after >> 20, "plan_of_peak": ratio}
            yield Check("memory", told, MEMORY[0] <= ratio <= MEMORY[1])
        size = 4 if args.dtype == "float32" else 2
        pieces = roofline.costs(self.cfg.model, args.prompts, args.group, args.prompt_len, args.new, size)
        stages = {"generate": ("prefill", "decode"), "update": ("scoring", "update")}
        parts = {stage: [cost for name in names for cost in pieces[name]] for stage, names in stages.items()}
        shares = roofline.shares({stage: split[stage] for stage in stages}, parts, self.flops, self.bandwidth)
        for stage, share in shares.items():
            rate = {"tokens_per_s": round(line["tokens_per_step"] / split[stage])}
            yield Check(f"{stage}, {args.dtype}", rate | share)

    def embedded(self) -> Iterator[Check]:
        """One step of the embedded task from random weights, after it is compiled."""
        import jax
        import numpy as np

        from t1jax.devices import multihost, sharding
        from t1jax.model import qwen
        from t1jax.prompts import streams
        from t1jax.rewards.score import make_scorer
        from t1jax.tasks.embedded import make_embedded, make_verifier
        from t1jax.training import health, step
        from t1jax.training.setup import rl_setup

        cfg = embedded_config(jax.device_count())
        setup = rl_setup(cfg, sharding.make_mesh(cfg.mesh))
        state = setup.init_state(qwen.init_params(setup.learner, jax.random.key(cfg.seed)))
        with make_verifier(cfg) as verifier:
            task, tokens = make_embedded(cfg, None, verifier)
            stream = streams.prompt_stream(cfg, task, tokens, "train", cfg.rl.drawn, cfg.seed)
            with contextlib.closing(stream):
                prompts = multihost.global_batch(next(stream), setup.layout)
            begun = time.perf_counter()
            scorer = make_scorer(task, "train", tokens, cfg.rl)
            program = step.make_train_step(setup, scorer, stop_tokens=tokens.stop_ids).lower(state, prompts).compile()
            compiled = time.perf_counter()
            _, report = jax.block_until_ready(program(state, prompts))
            seconds = time.perf_counter() - compiled
        told = {name: float(np.asarray(report[name])) for name in ("loss", "logprob_gap", "failed", "skipped")}
        good = bool(np.isfinite(told["loss"])) and not told["failed"] and not told["skipped"]
        good &= told["logprob_gap"] <= health.EXACT.most(())
        yield Check("embedded task, float32", told | {"seconds": seconds, "compile_s": compiled - begun}, good)

    def _peak(self) -> int | None:
        """Bytes, the most of this process so far on the first device; None where it does not tell."""
        return (self.devices[0].memory_stats() or {}).get("peak_bytes_in_use")


def embedded_config(devices: int) -> Any:
    """The shipped config of the embedded task, checked for so many devices."""
    from configs import tiny
    from t1jax import config, validation

    cfg = config.load(tiny.get_config())
    validation.validate(cfg, devices)
    return cfg


def work(checks: dict[str, Callable[[], Iterator[Check]]], seconds: float) -> tuple[list[Check], list[str]]:
    """(what the checks found in their order, those that were not done in that time). One that raises is a bad one."""
    rows: list[Check] = []
    finished: list[str] = []

    def run() -> None:
        for name, check in checks.items():
            try:
                for row in check():
                    rows.append(row)
                    print(row, file=sys.stderr, flush=True)
            except (Exception, SystemExit) as error:  # whatever fails, the other checks are of use
                traceback.print_exc()
                told = " ".join(f"{type(error).__name__}: {error}".split())
                rows.append(Check(name, {"failed": told[:300]}, False))
            finished.append(name)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    worker.join(seconds)
    return list(rows), [name for name in checks if name not in finished]


def main(argv: Sequence[str]) -> int:
    """Run the checks, print the table and the line of JSON; the exit code."""
    begun = time.monotonic()
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--seconds", type=float, default=240.0)
    own, extra = flags.parse_known_args(argv)
    if own.seconds <= 0:
        raise SystemExit(f"--seconds is {own.seconds}; expected more than 0")
    import jax

    from t1jax.host.files import json_ready

    first = jax.devices()[0]
    size, args = choose_size(extra, first.platform)
    if args.mean_len:
        raise SystemExit(f"--mean-len is {args.mean_len}; expected 0: the floor is of responses that all run to --new")
    device = Device(args)
    checks = {name: getattr(device, name) for name in ("ceilings", "attention", "step", "embedded")}
    rows, left_out = work(checks, own.seconds - (time.monotonic() - begun))
    told = f"{len(device.devices)} x {first.device_kind}, jax {jax.__version__}, step {size}"
    print("\n".join([told, *map(str, rows)]))
    if left_out:
        print(f"not done in --seconds={own.seconds:g}: {', '.join(left_out)}")
    line = {
        "device": first.device_kind,
        "devices": len(device.devices),
        "version": f"jax {jax.__version__}",
        "peaks": "data sheet" if device.chip else "measured",
        "left_out": left_out,
        "seconds": round(time.monotonic() - begun, 1),
        "checks": json_ready({row.name: row.as_dict() for row in rows}),
        "args": vars(args),
    }
    print(json.dumps(line), flush=True)
    return int(bool(left_out) or any(row.good is False for row in rows))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # a check that is not done cannot be stopped
