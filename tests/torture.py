# SPDX-License-Identifier: Apache-2.0
"""Kills a small run with SIGKILL, again and again, and compares what it ends as with an unbroken one, bit for bit.

    python -m tests.torture --kills=50 --seed=0

A run is killed at the n-th time that it reaches a phase (PHASES), or at any moment; then the same command goes on,
perhaps to be killed again, until it ends. Compared are the parameters, optimiser, anchor, random numbers and steps of
the last checkpoints of both stages, all metrics rows without the clock's columns (none twice, none missing), and all
that was measured, samples too. The product has no hooks for this: the child wraps its functions from outside.

Exit code 0: all ended as the unbroken run. The last line is the count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PHASES = {  # -> how often a whole run comes by, about
    "compile": 40,
    "cold start": 5,
    "rollout": 10,
    "scoring": 5,
    "update": 5,
    "file of a save": 100,
    "rename of a save": 40,
    "row written": 11,
    "evaluation": 10,
    "measured": 2,
    "report": 2,
    "any moment": 1,
}
CLOCK = ("seconds", "tokens_per_second", "config")
ANY = 25.0  # seconds within which any moment lies


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Kills this process when it is called for the n-th time."""

    def __init__(self, count: int) -> None:
        self._left, self._lock = count, threading.Lock()

    def __call__(self, *_: Any, kill: Callable[[], None] = die, **__: Any) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                kill()


def before(owner: Any, name: str, then: Callable[..., None]) -> None:
    """Calls `then` before each call of a function."""
    whole = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        then()
        return whole(*args, **kwargs)

    setattr(owner, name, wrapped)


def after(owner: Any, name: str, then: Callable[..., None]) -> None:
    """Calls `then` after each call of a function."""
    whole = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = whole(*args, **kwargs)
        then()
        return result

    setattr(owner, name, wrapped)


def lay(phase: str, count: int, workdir: Path) -> None:
    """Lays the trap in this process."""
    import jax

    from t1jax import evaluator, metrics, progress, rl, sft

    fall = Countdown(count)

    def on_rename(*parts: str) -> None:
        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event == "os.rename" and any(part in os.fsdecode(args[1]) for part in parts):
                fall()

        sys.addaudithook(hook)

    def scored(then: Callable[..., None]) -> None:
        make = rl.make_scorer

        def wrapped(*args: Any) -> Any:
            scorer = make(*args)

            def judge(*arrays: Any) -> Any:
                result = scorer(*arrays)
                then()
                return result

            return judge

        rl.make_scorer = wrapped

    if phase == "compile":
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, *_, **__: fall() if event.endswith("jaxpr_to_mlir_module_duration") else None
        )
    elif phase == "cold start":
        before(sft.multihost, "global_batch", fall)
    elif phase == "rollout":
        before(progress.Progress, "sampling", fall)
    elif phase == "scoring":
        scored(fall)
    elif phase == "update":
        scored(lambda: fall(kill=threading.Timer(0.01, die).start))
    elif phase == "file of a save":
        threading.Thread(target=watch, args=(workdir / "checkpoints", fall), daemon=True).start()
    elif phase == "rename of a save":
        on_rename("/checkpoints/")
    elif phase == "row written":
        after(metrics.MetricsWriter, "write", fall)
    elif phase == "evaluation":
        before(evaluator.Evaluator, "respond", fall)
    elif phase == "measured":
        on_rename("/measured/")
    elif phase == "report":
        on_rename("report.html", "results.json")
    else:
        raise ValueError(f"no phase {phase!r}")


def watch(folder: Path, fall: Callable[[], None]) -> None:
    """Counts each file that is new in the temporary folder of a save."""
    seen: set[str] = set()
    while True:
        for top, _, names in os.walk(folder):
            if ".orbax-checkpoint-tmp" in top:
                for name in names:
                    if (path := f"{top}/{name}") not in seen:
                        seen.add(path)
                        fall()
        time.sleep(0.0005)


def config() -> Any:
    """The run of tests/test_pipeline.py, on one device."""
    sys.path.insert(0, str(ROOT / "tests"))
    import small
    import test_pipeline

    return small.make_config(**test_pipeline.KNOBS | {"mesh__data": 1, "mesh__fsdp": 1, "mesh__tensor": 1})


def child(workdir: Path, phase: str, count: int) -> int:
    """The run itself."""
    from t1jax import cli, pipeline

    if phase:
        lay(phase, count, workdir)
    return cli.call("t1jax", "", lambda _: print(pipeline.run(config(), workdir)), sys.argv)


def start(workdir: Path, phase: str, count: int, seconds: float | None) -> int:
    """Runs a child, killed after `seconds` if that is a number; its exit code. None of its own children stays."""
    command = [sys.executable, "-m", "tests.torture", "--child", str(workdir), phase, str(count)]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        until = time.monotonic() + 5
        while left := group(process.pid):
            if time.monotonic() > until:
                raise SystemExit(f"5 s after the run died its processes {left} live on")
            time.sleep(0.05)
        if process.returncode not in (0, -signal.SIGKILL):
            said.seek(0)
            raise SystemExit(f"a run ended with {process.returncode}:\n{said.read()}")
    return process.returncode


def group(number: int) -> list[int]:
    """Processes of a process group that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if int(pgrp) == number and state != "Z":
            found.append(int(path.parent.name))
    return found


def outcome(workdir: Path) -> dict[str, Any]:
    """All that is compared, as nested dicts of arrays and JSON."""
    import jax

    from t1jax import checkpoint, metrics, rl, sft, sharding, step, tokenizer

    cfg = config()
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[:1])
    rows = metrics.read_rows(workdir)
    found: dict[str, Any] = {"rows": [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]}
    for stage, module in (("sft", sft), ("rl", rl)):
        shapes = step.state_shapes(cfg, mesh, module.make_optimizer(cfg), anchor=stage == "rl")
        tokens = tokenizer.load(workdir / "tokenizer")
        with checkpoint.Checkpoints(workdir / "checkpoints" / stage, cfg, tokens) as kept:
            state = kept.restore(shapes)
        found[stage] = {
            jax.tree_util.keystr(path): jax.device_get(x).tobytes()
            for path, x in jax.tree_util.tree_leaves_with_path(state)
        }
    for name in ("results.json", "measured/sft.json", "measured/rl.json"):
        tree = json.loads((workdir / name).read_text())
        found[name] = {key: value for key, value in tree.items() if key not in CLOCK}
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in other if one[name] != other[name]]


def torture(kills: int, seed: int, folder: Path) -> int:
    """Runs it all in `folder`; returns the exit code."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    dice, by_phase = random.Random(seed), Counter[str]()
    start(folder / "unbroken", "", 0, None)
    expected = outcome(folder / "unbroken")
    workdir, ended, wrong = folder / "run", 0, 0
    order = list(PHASES)
    while True:
        over = by_phase.total() >= kills
        if not by_phase.total() % len(order):
            dice.shuffle(order)
        phase = order[by_phase.total() % len(order)]
        plain = over or dice.random() < 0.2
        moment = dice.uniform(1, ANY) if phase == "any moment" and not plain else None
        count = dice.randint(1, PHASES[phase])
        code = start(workdir, "" if plain or moment else phase, count, moment)
        if code:
            by_phase[phase] += 1
            print(f"{by_phase.total()}: killed at {phase} {f'{moment:.1f} s' if moment else count}", flush=True)
            continue
        ended += 1
        if names := differences(outcome(workdir), expected):
            wrong += 1
            kept = workdir.rename(folder / f"wrong{wrong}")
            print(f"DIFFERENT: {', '.join(names)}; kept in {kept}", flush=True)
        else:
            shutil.rmtree(workdir)
        if over:
            break
    print("; ".join(f"{phase} {number}" for phase, number in sorted(by_phase.items())))
    print(f"{by_phase.total()} kills in {ended} runs, {ended - wrong} of {ended} ended as the unbroken run")
    return int(wrong > 0)


def main(argv: list[str]) -> int:
    if argv[:1] == ["--child"]:
        return child(Path(argv[1]), argv[2], int(argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    values = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="torture"))
    code = torture(values.kills, values.seed, folder)
    if code == 0:
        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
