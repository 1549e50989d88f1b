# SPDX-License-Identifier: Apache-2.0
"""Command line: how a run is doing, from its workdir, while it runs or afterwards.

    python -m t1jax.status workdirs/tiny

Reads only, touches no device. In a bucket, metrics are there up to the last checkpoint.
Deliberately not here: the run's own lines (host/progress.py), pages for people (report.py).
"""

from __future__ import annotations

import fcntl
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from t1jax.config import ConfigError
from t1jax.host import command_line
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place
from t1jax.host.stopping import Stopped

if TYPE_CHECKING:
    from t1jax.reports.runs import Run

USAGE = """\
usage: python -m t1jax.status WORKDIR

Says how the run in WORKDIR (a local path, or gs://BUCKET/...) is doing: stage, step, speed, time left, last checkpoint,
health, and what it has used so far in chip-hours (devices times hours, compilation and evaluation included).

  --help   show this text

Exit codes: 0 running or finished, 1 failure, 2 error in flags or files, or no run there, 5 neither running nor
finished: the command that started it resumes it, 6 running, but something is wrong: the last line says what.
"""
EXIT_IDLE, EXIT_WRONG = 5, 6
RECENT = 20  # steps whose median is the speed
STALLED = 10.0  # usual steps, and at least PATIENCE seconds, without a step: something is wrong
PATIENCE = 1800.0
Rows: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]  # by stage
NAMES = {"sft": "cold start", "rl": "reinforcement"}
KINDS = {name: stage for stage, name in NAMES.items()}
EVERY = {"sft": "checkpoint.sft_every", "rl": "checkpoint.every"}


def cli() -> None:
    """What `python -m t1jax.status` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax.status", USAGE, _run, argv)


def _run(argv: list[str]) -> None:
    _, names = command_line.read_flags(argv, lambda values: None)
    if len(names) != 1:
        raise ConfigError(f"got {len(names)} workdirs; expected one, see --help")

    from t1jax.host import usage
    from t1jax.host.progress import duration
    from t1jax.reports import runs
    from t1jax.reports.checks import was_measured_before

    (run,) = runs.read(names)
    starts, now = usage.read(run.workdir), time.time()
    holder = None if run.finished else _holder(run.workdir, starts, now)
    state = "finished" if run.finished else f"running, {holder}" if holder else "not running"
    print(f"{run.workdir}: {state}")
    rows: Rows = {stage: [row for row in run.rows if row["stage"] == stage] for stage in ("sft", "rl", "evaluate")}
    totals = {stage: _number(run, f"{stage}.num_steps") for stage in NAMES}
    measured = bool(run.results.get("sft")) or not was_measured_before(run.results)
    stage, done, total = _stage(run, rows, totals, measured)
    print(f"stage: {stage}" + (f", step {done} of {total}" if total else ""))
    recent = [row for row in rows.get(KINDS.get(stage, ""), ()) if row.get("seconds")][-RECENT:]
    if recent and not run.finished:
        pace = statistics.median(row["seconds"] for row in recent)
        tokens = statistics.median(row.get("tokens_per_second") or 0 for row in recent)
        print(f"speed: {pace:.3g} s a step, {tokens:,.0f} tokens/s")
        if (left := _seconds_left(rows, totals, _number(run, "eval.every"), pace)) is not None:
            print(f"time left: {duration(left)} for {NAMES[recent[-1]['stage']]}, without what is measured after it")
    newest = _newest(run.workdir)
    if newest is None:
        print("last checkpoint: none yet")
    else:
        kind, step, when = newest
        print(f"last checkpoint: {NAMES[kind]} step {step}, {duration(max(0.0, now - when))} ago")
    troubles = list(_troubles(rows)) if not run.finished else []
    skipped = {NAMES[stage]: sum(1 for row in rows[stage] if row.get("skipped")) for stage in NAMES}
    listed = ", ".join(f"{count} steps of {name} skipped" for name, count in skipped.items() if count)
    print(f"health: {listed or 'no step skipped'}{''.join(f'; {trouble}' for trouble in troubles)}")
    hours, kinds = usage.chip_hours(starts), list(dict.fromkeys(f"{s['chips']} {s['kind']}" for s in starts))
    print(f"cost so far: {hours:.3g} chip-hours in {len(starts)} starts" + (f" on {', '.join(kinds)}" if kinds else ""))
    if not run.finished and not holder:
        raise Stopped("the run is neither running nor finished; the command that started it resumes it", EXIT_IDLE)
    if holder and recent:
        quiet = now - max(_last_sign(run.workdir), starts[-1]["began"] if starts else 0.0)
        every = _number(run, EVERY[KINDS[stage]]) or total  # rows come to a bucket with checkpoints
        if quiet > max(PATIENCE, STALLED * pace) + (every * pace if isinstance(run.workdir, Bucket) else 0.0):
            troubles.append(f"no step for {duration(quiet)}, usually {pace:.3g} s")
    if troubles:
        raise Stopped(f"running, but {troubles[-1]}", EXIT_WRONG)


def _holder(folder: Place, starts: Sequence[Mapping[str, Any]], now: float) -> str | None:
    """Who runs there; None: nobody.

    A lock of a local folder may not be seen from another machine: there the last sign of life counts.
    """
    from t1jax.host import lock, usage

    if isinstance(folder, Bucket):
        return lock.holder(folder / "lock")
    if (folder / "lock").exists():
        with open(folder / "lock", encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "another process"
    if starts and starts[-1]["host"] != socket.gethostname() and now - starts[-1]["seen"] < 3 * usage.BEAT:
        return f"process {starts[-1]['process']} on {starts[-1]['host']}"
    return None


def _stage(run: Run, rows: Rows, totals: Mapping[str, int], measured: bool) -> tuple[str, int, int]:
    """(what the run does, steps done, of how many); no steps where it counts none.

    `measured`: nothing is to be measured before RL, or it has been.
    """
    from t1jax.reports.wording import knob
    from t1jax.training.selection import FILE_NAME

    cold, last = totals["sft"], totals["rl"]
    done = {stage: max((row["step"] for row in rows[stage]), default=0) for stage in NAMES}
    if run.finished:
        return "all is done", done["rl"], last
    if run.results.get("rl"):
        return "report", 0, 0
    if done["rl"]:
        return (NAMES["rl"], done["rl"], last) if done["rl"] < last else ("measurement after reinforcement", 0, 0)
    if done["sft"] < cold:
        return NAMES["sft"], done["sft"], cold
    if not measured:
        return "measurement before reinforcement", 0, 0
    if knob(run.results.get("config"), "rl.filter_pass_rate") != 1 and not (run.workdir / FILE_NAME).exists():
        return "filter of problems", 0, 0
    return NAMES["rl"], 0, last


def _seconds_left(rows: Rows, totals: Mapping[str, int], eval_every: int, pace: float) -> float | None:
    """Of the stage that goes on, evaluations included; None where it is done."""
    stage = "rl" if rows["rl"] else "sft"
    done, total = rows[stage][-1]["step"], totals[stage]
    if done >= total:
        return None
    seconds = (total - done) * pace
    every = eval_every if stage == "rl" else 0
    if every and (measured := [row["seconds"] for row in rows["evaluate"] if row.get("seconds")]):
        seconds += (total // every - done // every) * statistics.median(measured)
    return seconds


def _number(run: Run, name: str) -> int:
    """A knob of the run that is a count."""
    from t1jax.reports.wording import knob

    value = knob(run.results.get("config"), name)
    if not isinstance(value, int):
        raise ConfigError(f"{run.workdir}: its config has {name} = {value!r}; expected the config.json of a run")
    return value


def _newest(folder: Place) -> tuple[str, int, float] | None:
    """(stage, step, when: Unix time in seconds) of the newest whole checkpoint."""
    from t1jax.weights import steps

    for stage in ("rl", "sft"):
        found = steps.folders(folder / "checkpoints" / stage)
        for step, path in reversed(found.items()):
            if steps.is_whole(path):
                return stage, step, (path / steps.COMMITTED if isinstance(path, Bucket) else path).stat().st_mtime
    return None


def _last_sign(folder: Place) -> float:
    """When a step or a part of a measurement last ended, Unix time in seconds: what is written then."""
    from t1jax.evaluation import journal
    from t1jax.host import log, metrics

    signs = [*log.parts(folder / metrics.FILE_NAME), *(folder / journal.FOLDER).glob("*"), *folder.glob("measured/*")]
    return max((sign.stat().st_mtime for sign in signs), default=0.0)


def _troubles(rows: Rows) -> Iterator[str]:
    """What the newest row says that a run warns of."""
    from t1jax.training.health import LIMITS

    for stage in ("rl", "sft"):
        if rows[stage]:
            row = rows[stage][-1]
            for name, (sick, words) in LIMITS.items():
                if row.get(name) is not None and row.get("response_length") is not None and sick(row):
                    yield f"{NAMES[stage]} step {row['step']}: {words.format(**row)}"
            if row.get("skipped"):
                yield f"{NAMES[stage]} step {row['step']}: the gradient was not finite, nothing was updated"
            return


if __name__ == "__main__":
    cli()
