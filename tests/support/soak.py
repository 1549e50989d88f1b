# SPDX-License-Identifier: Apache-2.0
"""A long run of small steps: does memory grow, does anything leak, is anything compiled again, do steps slow down?

    python -m tests.support.soak --steps=2000 --out=soak.json

Reinforcement learning on the embedded task, with evaluations, checkpoints, metrics and TensorBoard events as ever. What
is measured is taken from outside, after each step: resident memory, open files, threads, child processes, programs
compiled, seconds, and seconds of processors. The first tenth is warm-up: all kinds of work have come once. The learning
rate is so small that the responses stay as long as they were: a step's work is the same from the first to the last.

Exit code 0: resident memory of the last tenth is at most 2 % above that of the tenth after the warm-up (medians; what
compiling left is given back to the system once, after the warm-up); files, threads and children are as many (the fewest
of each tenth: a save has some of its own; native threads but for two); nothing was compiled after the warm-up, nor
between step 2 and the first evaluation; a step takes at most 1.25 times the seconds of processors. Seconds of the clock
are told, and judged by no one: machines are shared.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

GROWTH, SLOWER = 1.02, 1.25
FLUCTUATION = {"files": 0, "threads": 0, "native threads": 2, "children": 0}  # pools of XLA and Orbax come and go
ROOT = Path(__file__).parents[2]


def sample() -> dict[str, float]:
    """Of this process, now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "memory": float(status["VmRSS"].split()[0]) / 1024,
        "files": float(len(os.listdir("/proc/self/fd"))),
        "threads": float(threading.active_count()),
        "native threads": float(status["Threads"]),
        "children": float(sum(len(x.read_text().split()) for x in Path("/proc/self/task").glob("*/children"))),
        "time": time.perf_counter(),
        "processor": time.process_time(),
    }


def run(steps: int, workdir: Path) -> list[dict[str, float]]:
    """A row a step."""
    sys.path.insert(0, str(Path(__file__).parent))
    import jax
    import small
    import tiny_run

    from t1jax.training import checkpoint, loop, stages

    every = max(2, steps // 40)
    knobs = {
        "mesh__data": 1, "mesh__fsdp": 1, "mesh__tensor": 1, "rl__num_steps": steps, "rl__max_new_tokens": 16,
        "rl__learning_rate": 1e-9, "eval__every": every, "checkpoint__every": every,
    }  # fmt: skip
    cfg = small.make_config(**tiny_run.KNOBS | knobs)
    rows: list[dict[str, float]] = []
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    write, save = loop.StepLog.write, checkpoint.Checkpoints.save
    saving: list[checkpoint.Checkpoints] = []

    def saved(self: checkpoint.Checkpoints, *args: Any) -> None:
        saving[:] = [self]
        save(self, *args)

    def written(log: Any, step: int, report: Any) -> None:
        write(log, step, report)
        if log.name == "rl":
            if saving and step % every == every - 1:  # now and then no save is under way, however slow the disk
                saving[0].wait()
            rows.append(sample() | {"step": step, "compiled": len(compiled)})
            if len(rows) == steps // 10:  # what compiling left, else given back at any time, would hide what grows
                ctypes.CDLL(None).malloc_trim(0)

    loop.StepLog.write = written  # type: ignore[method-assign]
    checkpoint.Checkpoints.save = saved  # type: ignore[method-assign]
    stages.run(cfg, workdir)
    return rows


def verdict(rows: list[dict[str, float]]) -> tuple[dict[str, Any], bool]:
    """The figures, and whether all is well."""
    tenth = len(rows) // 10
    early, late = rows[tenth : 2 * tenth], rows[-tenth:]

    def of(part: list[dict[str, float]], name: str) -> float:
        return median(row[name] for row in part)

    found: dict[str, Any] = {"memory early": of(early, "memory"), "memory late": of(late, "memory")}
    for name in FLUCTUATION:
        for when, part in (("early", early), ("late", late)):
            found[f"{name} {when}"] = min(row[name] for row in part)
    for name, what in (("time", "step seconds"), ("processor", "step processor seconds")):
        gaps = [b[name] - a[name] for a, b in zip(rows, rows[1:], strict=False)]
        found[f"{what} early"], found[f"{what} late"] = median(gaps[tenth : 2 * tenth]), median(gaps[-tenth:])
    found["memory growth"] = found["memory late"] / found["memory early"]
    found["compiled after warm-up"] = rows[-1]["compiled"] - rows[tenth]["compiled"]
    evaluation = max(2, len(rows) // 40)
    found["compiled between step 2 and the first evaluation"] = rows[evaluation - 1]["compiled"] - rows[1]["compiled"]
    well = (
        found["memory growth"] <= GROWTH
        and all(found[f"{name} late"] <= found[f"{name} early"] + more for name, more in FLUCTUATION.items())
        and found["step processor seconds late"] <= SLOWER * found["step processor seconds early"]
        and found["compiled after warm-up"] == found["compiled between step 2 and the first evaluation"] == 0
    )
    return found, well


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    values = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        rows = run(values.steps, Path(folder) / "run")
    found, well = verdict(rows)
    if values.out:
        values.out.write_text(json.dumps({"figures": found, "rows": rows}))
    for name, value in found.items():
        print(f"{name:52} {value:.4g}")
    print("all is well" if well else "NOT WELL")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
