# SPDX-License-Identifier: Apache-2.0
"""Kills a small run with SIGKILL, again and again, and compares what it ends as with an unbroken one, bit for bit.

    python -m tests.support.torture --kills=50 --seed=0 --run=pairs|files --place=local|gs

With `--place=gs` the workdirs of the runs that are killed are in a bucket (cloud.py), and are compared with that of a
local run. `pairs` is the embedded task; `files` has problems from a file, which are over in the middle of a batch and
at the end of one, and answers that the verifier's processes compare. A run is killed at the n-th time that it reaches
a phase (PHASES), or at any moment; then the same command goes on, perhaps to be killed again, until it ends.

Compared are the parameters, optimiser, anchor, random numbers and steps of the last checkpoints of both stages, where
the data was, which checkpoints are kept, all metrics rows without the clock's columns (none twice, none missing), what
TensorBoard shows, all that was measured, samples too, and which files there are. The bookkeeping of tokens must be that
of the unbroken run: generated is the sum of what became of them; and the tokens of the rows that each kill undid, which
are counted here from rows and checkpoints alone, are `lost_tokens`. After each kill nothing of the run may live on for
5 s, verifier's processes with sessions of their own included.

The product has no hooks for this: the child, `python -m tests.support.torture --child PHASE:N -- FLAGS`, wraps its
functions from outside and calls t1jax.main. Runs that go on to their end, or until any moment, are
`python -m t1jax.main FLAGS`.

Exit code 0: all ended as the unbroken run. The last line is the count.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
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
from uuid import uuid4

ROOT = Path(__file__).parents[2]
PHASES = {  # -> how often a whole run comes by, about
    "compile": 40,
    "cold start": 5,
    "rollout": 10,
    "scoring": 5,
    "update": 5,
    "file of a save": 100,
    "rename of a save": 40,  # in a bucket: one of Orbax's small objects, commit markers among them
    "row written": 11,
    "evaluation": 11,
    "batch judged": 24,  # of an evaluation, the filter, the curve; before it is in the journal
    "measured": 2,
    "report": 2,
    "any moment": 1,
}
CLOCK = ("seconds", "tokens_per_second", "config", "lost_tokens")
MARK = "T1JAX_TORTURE"  # in the environment of a run and of all that it starts
RUNS = ("pairs", "files")
PLACES = {"local": {}, "gs": {"rows put": 7}}  # -> phases that only it has


class Ledger:
    """What the kills of a run cost: tokens of rows of RL and evaluations past the checkpoint that it goes on from."""

    def __init__(self) -> None:
        self.lost = 0
        self._rows: list[dict[str, Any]] = []
        self._undone = 0  # tokens of rows that go when the run goes on, so far as it gets to its metrics

    def after(self, workdir: Any) -> list[str]:
        """A start of the run has ended, somehow: what is wrong with its lost tokens."""
        from t1jax.host import metrics, usage
        from t1jax.weights import steps

        rows = metrics.read_rows(workdir)
        if rows != self._rows:  # it got there
            self.lost += self._undone
        whole = [step for step, path in steps.folders(workdir / "checkpoints/rl").items() if steps.is_whole(path)]
        undone = [row for row in rows if row["stage"] in ("rl", "evaluate") and row["step"] > max(whole, default=0)]
        self._rows, self._undone = rows, sum(int(row["tokens"]) for row in undone)
        found = usage.lost_tokens(usage.read(workdir))
        return [] if found == self.lost else [f"lost_tokens is {found}, not {self.lost}"]


def unbalanced(results: dict[str, Any], lost: int) -> list[str]:
    """What is wrong with the sums of results.json."""
    fates = {name: count for name, count in results["tokens"].items() if name != "generated"}
    wrong = [] if results["tokens"]["generated"] == sum(fates.values()) else [f"{results['tokens']} do not add up"]
    said = results["lost_tokens"]
    return wrong if said == lost else [*wrong, f"results.json says that {said} tokens were lost, not {lost}"]


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


def lay(phase: str, count: int, workdir: Any) -> None:
    """Lays the trap in this process."""
    import jax
    from etils.epath import backend

    from t1jax.evaluation import evaluator, journal
    from t1jax.host import metrics, progress
    from t1jax.host.bucket import Bucket
    from t1jax.training import rl, sft

    fall = Countdown(count)

    def on_put(owner: Any, name: str, *parts: str) -> None:
        """Where an object is put whose name has one of `parts`."""
        put = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            named = next(str(arg) for arg in args if str(arg).startswith("gs://"))
            if any(part in named for part in parts) and "r" not in args[1:][-1:] and "rb" not in args[1:][-1:]:
                fall()
            return put(*args, **kwargs)

        setattr(owner, name, wrapped)

    def on_rename(*parts: str) -> None:
        if isinstance(workdir, Bucket):
            on_put(Bucket, "write_bytes", *parts)
            on_put(backend.fsspec_backend, "open", *parts)
            return

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
        look = watch_bucket if isinstance(workdir, Bucket) else watch
        threading.Thread(target=look, args=(workdir / "checkpoints", fall), daemon=True).start()
    elif phase == "rename of a save":
        on_rename("/checkpoints/")
    elif phase == "row written":
        after(metrics.MetricsWriter, "write", fall)
    elif phase == "rows put":
        after(metrics.MetricsWriter, "sync", fall)
    elif phase == "evaluation":
        before(evaluator.Evaluator, "respond", fall)
    elif phase == "batch judged":
        before(journal.Journal, "append", fall)
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


def watch_bucket(folder: Any, fall: Callable[[], None]) -> None:
    """Counts each object of arrays that is new in a bucket."""
    from urllib.parse import quote
    from urllib.request import urlopen

    url = f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b/{folder.bucket}/o?prefix={quote(folder.key, safe='')}"
    seen: set[str] | None = None
    while True:
        with urlopen(url) as answer:
            names = {item["name"] for item in json.loads(answer.read()).get("items", [])}
        for _ in names - (names if seen is None else seen):
            fall()
        seen = names
        time.sleep(0.002)


def knobs(run: str, folder: Path) -> dict[str, Any]:
    """The config of a run on one device, as nested dicts; puts the files that it names into `folder`."""
    sys.path.insert(0, str(Path(__file__).parent))
    import files_run
    import small
    import tiny_run

    one = {"mesh__data": 1, "mesh__fsdp": 1, "mesh__tensor": 1}
    if run == "pairs":
        chosen = {"rl__filter_pass_rate": 0.99, "rl__filter_problems": 16, "rl__filter_samples": 2}
        return small.make_config(**tiny_run.KNOBS | one | chosen).to_dict()
    from random_qwen import make_folder

    from t1jax.weights import load as weights

    # 20 problems, 8 a step: step 3 has the end of an epoch and the beginning of the next, step 5 ends with an epoch
    sums = [{"question": f"{n} and one", "answer": f"x+{n % 4}"} for n in range(32)]  # only math-verify can compare
    texts = [{"prompt": row["question"], "response": f"\\boxed{{{n % 4}}}"} for n, row in enumerate(sums)]
    cfg = small.make_config(
        **files_run.KNOBS | one | {"rl__num_steps": 6},
        model__checkpoint=str(make_folder(folder / "hf")),
        data__train=files_run.write_rows(folder / "train.jsonl", sums[:20]),
        data__eval=files_run.write_rows(folder / "eval.jsonl", sums[20:]),
        data__sft=files_run.write_rows(folder / "sft.jsonl", texts),
    )
    model = weights.model_config(weights.find(folder / "hf"), cfg.model)
    return dataclasses.replace(cfg, model=model).to_dict()


def config_file(tree: dict[str, Any]) -> str:
    """What --config takes."""
    return f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({tree!r})\n"


def child(phase: str, flags: list[str]) -> int:
    """The run itself, killed at a phase, such as `update:3`."""
    from t1jax import main

    name, _, count = phase.partition(":")
    _, workdir, *_ = main.parse(["t1jax", *flags])
    lay(name, int(count), workdir)
    return main.main(["t1jax", *flags])


def start(config: Path, workdir: str, phase: str = "", seconds: float | None = None) -> int:
    """Runs t1jax in `workdir`, killed at a phase or after `seconds`; its exit code. Nothing of it stays."""
    flags = [f"--config={config}", f"--workdir={workdir}"]
    command = ["tests.support.torture", "--child", phase, "--", *flags] if phase else ["t1jax.main", *flags]
    mark = f"{MARK}={uuid4().hex}"
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | dict([mark.split("=")])
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=env, stdout=said, stderr=said, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        until = time.monotonic() + 5
        while left := living(mark):
            if time.monotonic() > until:
                raise SystemExit(f"5 s after the run died its processes {left} live on")
            time.sleep(0.05)
        if process.returncode not in (0, -signal.SIGKILL):
            said.seek(0)
            raise SystemExit(f"a run ended with {process.returncode}:\n{said.read()}")
    return process.returncode


def living(mark: str) -> list[int]:
    """Processes that have `mark` in their environment and are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):  # of a dead one: empty
                found.append(int(path.parent.name))
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def outcome(config: Path, workdir_name: str) -> dict[str, Any]:
    """All that is compared, as nested dicts of arrays and JSON."""
    import jax

    from t1jax import main
    from t1jax.devices import sharding
    from t1jax.host import metrics
    from t1jax.text import tokenizer
    from t1jax.training import checkpoint, setup

    cfg, workdir, *_ = main.parse(["t1jax", f"--config={config}", f"--workdir={workdir_name}"])
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[:1])
    rows = metrics.read_rows(workdir)
    found: dict[str, Any] = {"rows": [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]}
    for stage, make_setup in (("sft", setup.sft_setup), ("rl", setup.rl_setup)):
        shapes = make_setup(cfg, mesh).state_shapes()
        tokens = tokenizer.load(workdir / "tokenizer")
        with checkpoint.Checkpoints(workdir / "checkpoints" / stage, cfg, tokens) as kept:
            state = kept.restore(shapes)
            found[f"{stage} steps kept"] = kept.steps()
        found[stage] = {
            jax.tree_util.keystr(path): jax.device_get(x).tobytes()
            for path, x in jax.tree_util.tree_leaves_with_path(state)
        }
        last = workdir / "checkpoints" / stage / str(found[f"{stage} steps kept"][-1])
        found[f"{stage} stream"] = json.loads((last / "stream/metadata").read_text())
    for name in ("results.json", "measured/sft.json", "measured/rl.json"):
        tree = json.loads((workdir / name).read_text())
        found[name] = {key: value for key, value in tree.items() if key not in CLOCK}
    found["tensorboard"] = {stage: shown(workdir / "tensorboard" / stage) for stage in ("sft", "rl", "evaluate")}
    for path in sorted([*workdir.glob("tokenizer/*"), *workdir.glob("responses/*"), *workdir.glob("filter.json")]):
        found["/".join(path.parts[len(workdir.parts) :])] = path.read_bytes()
    found["files"] = sorted({whole_name(name) for name in files_of(workdir) if lasting(Path(name))})
    return found


def files_of(workdir: Any) -> list[str]:
    """The names of all files below, relative to the workdir."""
    if isinstance(workdir, Path):
        return [str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file()]
    from t1jax.host import bucket

    assert not (workdir / "lock").exists(), "the lock is left"
    return [f"gs://{name}".removeprefix(f"{workdir}/") for name in bucket.storage().find(str(workdir))]


def whole_name(name: str) -> str:
    """The file that a part of it in a bucket belongs to."""
    return re.sub(r"-\d{6}$", "", name) if name.startswith("metrics") else name


def shown(folder: Any) -> dict[int, dict[str, float]]:
    """{step: {scalar: value}} as TensorBoard shows it: a restart drops what stood from its step on."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[int, dict[str, float]] = {}
    for path in sorted(folder.glob("events.*"), key=lambda path: int(path.name.rpartition(".")[2])):
        data = path.read_bytes()
        while len(data) >= 16 + (size := int.from_bytes(data[:8], "little")):  # a record cut short is the last one
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.HasField("session_log"):
                found = {step: row for step, row in found.items() if step < event.step}
            for scalar in event.summary.value:
                if scalar.tag not in CLOCK:
                    found.setdefault(event.step, {})[scalar.tag] = scalar.simple_value
    return found


def lasting(path: Path) -> bool:
    """Whether every run leaves this file, by the same name."""
    return not {"tensorboard", "checkpoints", "compiled", "lock"} & set(path.parts)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def torture(run: str, kills: int, seed: int, folder: Path, where: str = "local") -> int:
    """Runs it all in `folder`, or with workdirs in a bucket; returns the exit code."""
    from t1jax.host import place as places

    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    config, phases, place = folder / "config.py", PHASES | PLACES[where], str(folder)
    if where == "gs":
        import cloud

        place = f"gs://{cloud.NAME}"
    config.write_text(config_file(knobs(run, folder)))
    dice, by_phase = random.Random(seed), Counter[str]()
    start(config, f"{folder}/unbroken")
    expected, began = outcome(config, f"{folder}/unbroken"), time.monotonic()
    start(config, f"{place}/again")
    whole = time.monotonic() - began  # seconds of a run that finds its programs compiled
    if names := differences(outcome(config, f"{place}/again"), expected):
        raise SystemExit(f"two runs that nobody disturbed differ: {', '.join(names)}")
    ended, wrong, ledger, lost = 0, 0, Ledger(), 0
    order = list(phases)
    while True:
        over = by_phase.total() >= kills
        if not by_phase.total() % len(order):
            dice.shuffle(order)
        phase = order[by_phase.total() % len(order)]
        plain = over or dice.random() < 0.2
        moment = dice.uniform(0.5, whole) if phase == "any moment" and not plain else None
        count = dice.randint(1, phases[phase])
        workdir = f"{place}/run{ended}"
        code = start(config, workdir, "" if plain or moment else f"{phase}:{count}", moment)
        there = places.of(workdir, "workdir")
        if names := ledger.after(there):
            raise SystemExit(f"killed at {phase} {moment or count}: {', '.join(names)}; kept in {workdir}")
        if code:
            by_phase[phase] += 1
            print(f"{by_phase.total()}: killed at {phase} {f'{moment:.1f} s' if moment else count}", flush=True)
            continue
        ended += 1
        sums = unbalanced(json.loads((there / "results.json").read_text()), ledger.lost)
        ledger, lost = Ledger(), lost + ledger.lost
        if names := [*differences(outcome(config, workdir), expected), *sums]:
            wrong += 1
            print(f"DIFFERENT: {', '.join(names)}; kept in {workdir}", flush=True)
        else:
            places.remove(there)
        if over:
            break
    print("; ".join(f"{phase} {number}" for phase, number in sorted(by_phase.items())))
    print(f"{lost} tokens were lost to kills, as counted")
    print(f"{by_phase.total()} kills in {ended} runs, {ended - wrong} of {ended} ended as the unbroken run")
    return int(wrong > 0)


def main(argv: list[str]) -> int:
    if argv[:1] == ["--child"]:
        return child(argv[1], argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", choices=RUNS, default=RUNS[0])
    parser.add_argument("--place", choices=tuple(PLACES), default="local")
    values = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="torture"))
    with contextlib.ExitStack() as stack:
        if values.place == "gs":
            sys.path.insert(0, str(Path(__file__).parent))
            import cloud

            server = cloud.Server()
            stack.callback(server.stop)
            cloud.use(server.url)
        code = torture(values.run, values.kills, values.seed, folder, values.place)
    if code == 0:
        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
