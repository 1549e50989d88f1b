# SPDX-License-Identifier: Apache-2.0
"""Command line: tests T1's claims. Runs the arms of studies and reports which claims were reproduced.

    python -m t1jax.study penalties oversampling --out=workdirs/study

Runs go through the stages of an ordinary run (studies/trial.py), each in its own process, several at a time. Studies
that need the same run share it, and the same command resumes an interrupted study.
Deliberately not here: which runs (studies/claims.py), what a run does (studies/trial.py), tables and plots
(findings.py).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from t1jax import checks
from t1jax.config import Config, ConfigError, completed
from t1jax.host import command_line, files, place
from t1jax.host.stopping import EXIT_STORAGE, Signals, Stopped

USAGE = """\
usage: python -m t1jax.study NAME [NAME ...] [--out=DIR] [--seeds=N] [--jobs=N] [--config=FILE] [--config.KNOB=VALUE]

Reproduces T1's comparisons on the embedded task, and reports which of its claims hold there.

  NAME                 oversampling, temperature, penalties, anchor, entropy, cold_start, baseline,
                       choices, difficulty, overdraw, inference_scaling, or all
  --out=DIR            output, which the same command resumes from (default: workdirs/study): NAME/table.md,
                       NAME/results.json and NAME/plot.png (and paper.png, the paper's figure beside ours);
                       summary.md, all claims, corrected for testing all of them; the runs themselves
  --seeds=N            runs of each arm, with consecutive seeds from `seed` (default: 3)
  --jobs=N             parallel runs, which share the cores (default: 2 if there are at least 2 cores)
  --config=FILE        base config of all runs (default: configs/study.py; configs/study_short.py is faster)
  --config.KNOB=...    set any knob that the named studies do not compare
  --help               show this text

Exit codes: 0 success, 1 failure, 2 error in flags or config, 3 --out cannot be written,
130 stopped by Ctrl-C, 143 by SIGTERM; running processes save first.
"""
DEFAULT_CONFIG = "configs/study.py"
PROGRAM = ("-m", "t1jax.studies.trial")
POLL = 0.2  # seconds between two looks at the processes
PATIENCE = 60.0  # seconds that a process has to save a step and leave


@dataclass(frozen=True)
class Job:
    """A run, for a process of its own."""

    name: str  # of its folder below --out
    makes: tuple[str, ...]  # the files that it ends with, below --out
    task: dict[str, Any]  # what studies/trial.py is told
    after: tuple[str, ...] = ()  # the jobs whose results it needs

    @property
    def kind(self) -> str:
        """Jobs of a kind take about as long: cold, runs."""
        return self.name.partition("/")[0]


def cli() -> None:
    """What `python -m t1jax.study` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax.study", USAGE, _run, argv)


def jobs_of(names: Sequence[str], base: Config, seeds: Sequence[int]) -> list[Job]:
    """All that the named studies need, each once: cold starts, and for each arm RL from them with every seed.

    Arms with the most responses come first: a long job that begins last would keep all cores but one waiting.
    """
    from t1jax.studies.claims import STUDIES, cold_start_name

    colds, runs = dict[str, Job](), dict[str, Job]()
    for arm in (arm for name in names for arm in STUDIES[name].arms):
        configs = {seed: arm.config(base, seed) for seed in seeds}
        mine = {seed: f"cold/{cold_start_name(cfg)}" for seed, cfg in configs.items()}
        for seed, cold in mine.items():
            colds.setdefault(cold, Job(cold, (f"{cold}/done.json",), {"config": configs[seed].to_dict()}))
        run = f"runs/{arm.folder}"
        told = {"config": configs[seeds[0]].to_dict(), "cold": mine, "thinking": not arm.knobs}
        runs.setdefault(
            run, Job(run, tuple(f"{run}/seed{seed}/trial.json" for seed in seeds), told, tuple(mine.values()))
        )
    longest_first = sorted(runs.values(), key=lambda job: -job.task["config"]["rl"]["responses_per_prompt"])
    return [*colds.values(), *longest_first]


def run_jobs(jobs: Sequence[Job], out: Path, at_a_time: int, say: Callable[[str], None]) -> None:
    """Does what is left to do, `at_a_time` jobs in parallel, each after the one that it needs.

    Raises:
      Stopped: a job failed; what others had begun goes on next time.
    """
    left = [job for job in jobs if not all((out / name).exists() for name in job.makes)]
    needed = {name for job in left for name in job.after}
    left = [job for job in left if job.kind != "cold" or job.name in needed]
    spent: dict[str, list[float]] = {}  # kind of job -> seconds that each took
    finished, total = 0, len(left)
    shares = [Share(cores) for cores in _shares(at_a_time)]
    try:
        while left or any(share.job for share in shares):
            undone = {job.name for job in left} | {share.job.name for share in shares if share.job}
            for share in (share for share in shares if share.job is None):
                ready = next((job for job in left if undone.isdisjoint(job.after)), None)
                if ready is not None:
                    left.remove(ready)
                    share.begin(ready, out)
            time.sleep(POLL)
            for share in shares:
                if (job := share.ended()) is not None:
                    finished += 1
                    spent.setdefault(job.kind, []).append(share.seconds)
                    rest = [*left, *(share.job for share in shares if share.job)]
                    minutes = _seconds_left(rest, spent) / at_a_time / 60
                    say(f"{finished} of {total}: {job.name}; {minutes:.0f} min left")
    finally:
        for share in shares:
            share.ask_to_stop()
        for share in shares:
            share.stop()


def _seconds_left(rest: Sequence[Job], spent: dict[str, list[float]]) -> float:
    """What the jobs that are not done would take one after the other, by those of their kind, or else by all."""
    known = {kind: statistics.mean(seconds) for kind, seconds in spent.items()}
    return sum(known.get(job.kind, statistics.mean(known.values())) for job in rest)


class Share:
    """A share of the cores, and the process that computes there."""

    def __init__(self, cores: set[int]) -> None:
        self.job: Job | None = None
        self.seconds = 0.0  # that the last job took
        self._cores, self._log = cores, Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def begin(self, job: Job, out: Path) -> None:
        """Starts a job; what it prints goes to log.txt in its folder."""
        folder = out / job.name
        files.write_json(folder / "job.json", job.task)
        self._log = folder / "log.txt"
        with open(self._log, "ab") as log:
            command = [sys.executable, *PROGRAM, str(out), job.name, str(os.getpid())]
            self._process = subprocess.Popen(  # in a session of its own: a terminal's Ctrl-C is for this process
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, self._cores)  # long before it brings jax up, which counts cores
        self.job, self._began = job, time.monotonic()

    def ended(self) -> Job | None:
        """The job, if it has ended since `begin`.

        Raises:
          Stopped: it failed.
        """
        if self.job is None or self._process is None or (code := self._process.poll()) is None:
            return None
        job, self.job = self.job, None
        self.seconds = time.monotonic() - self._began
        if code:
            raise Stopped(f"{job.name} ended with {code}; see {self._log}. The same command resumes", 1)
        return job

    def ask_to_stop(self) -> None:
        """Asks the process, if there is one, to save and leave."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """Waits for a process that was asked, and ends it if it does not leave."""
        if self._process is not None and self._process.poll() is None:
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _shares(count: int) -> list[set[int]]:
    """The cores that this process may use, dealt out; with more shares than cores, some have the same."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return [set(cores[i % len(cores) :: count]) for i in range(count)]


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", "workdirs/study", "", values)
    flags.DEFINE_integer("seeds", 3, "", 1, 1000, flag_values=values)
    flags.DEFINE_integer("jobs", None, "", 1, 64, flag_values=values)


def _run(argv: list[str]) -> None:
    base, values, names = command_line.read_config(argv, _define, DEFAULT_CONFIG)
    from t1jax.studies.claims import STUDIES

    if not names:
        raise ConfigError(f"no study is named; expected all, or some of {', '.join(STUDIES)}")
    for name in names:
        if name not in (*STUDIES, "all"):
            raise ConfigError(f"unknown study {name!r}; expected all, or some of {', '.join(STUDIES)}")
    names = list(STUDIES) if "all" in names else list(dict.fromkeys(names))
    if base.task.name == "gym":
        raise ConfigError("task.name is gym; expected pairs or countdown: studies need measures that only these have")
    if base.model.lora_rank:
        raise ConfigError(f"model.lora_rank is {base.model.lora_rank}; expected 0: studies train all weights")
    if not checks.plain_reward(base.reward):
        raise ConfigError(f"reward.function is {base.reward.function}; expected correct: studies compare right answers")
    if base.data.train:
        raise ConfigError(f"data.train is {base.data.train}; expected nothing: studies run on the embedded task")
    if loggers := [name for name, value in base.to_dict()["metrics"].items() if value]:
        raise ConfigError(f"metrics.{loggers[0]} is set; expected nothing: studies use no loggers")
    if base.rl.profile:
        raise ConfigError(f"rl.profile is {base.rl.profile!r}; expected nothing: studies trace no steps")
    if not base.eval.before:
        raise ConfigError("eval.before is False; expected True: studies compare with what is measured before RL")
    if base.checkpoint.every >= base.rl.num_steps:
        raise ConfigError(
            f"checkpoint.every is {base.checkpoint.every}; expected less than rl.num_steps = {base.rl.num_steps}: "
            "studies also measure checkpoints in between"
        )
    if "inference_scaling" in names and len(base.scaling.budgets) < 2:
        raise ConfigError(f"scaling.budgets is {base.scaling.budgets}; expected at least two, for a curve")
    at_a_time = values.jobs or min(2, os.cpu_count() or 1)
    out, seeds = place.local(values.out, "--out").absolute(), [base.seed + i for i in range(values.seeds)]

    from t1jax import validation
    from t1jax.host import workdir
    from t1jax.studies import findings
    from t1jax.weights import load as weights

    base = weights.with_sizes(base, command_line.sizes_set(base, argv))
    for name in names:
        STUDIES[name].check(base)
        for arm in STUDIES[name].arms:
            validation.validate(arm.config(base, base.seed), 1)
    try:
        with Signals(), workdir.locked(out, "--out"):
            _same_base(out, base)
            _tokenizer(base, out)
            jobs = jobs_of(names, base, seeds)
            print(f"{len(jobs)} runs in {out}, {at_a_time} at a time", flush=True)
            run_jobs(jobs, out, at_a_time, lambda line: print(line, flush=True))
            for name in names:
                findings.write(name, base, seeds, out)
            summary = findings.write_summary(out)
            print(f"{summary.read_text(encoding='utf-8')}\nfindings: {summary}")
    except OSError as error:  # a full disk, most likely
        raise Stopped(f"{error}; --out={out} must be writable; then the same command resumes", EXIT_STORAGE) from error


def _tokenizer(base: Config, out: Path) -> None:
    """The tokenizer of all runs, made once: they can then share a compiled step."""
    from t1jax.tasks.embedded import make_verifier
    from t1jax.text import tokenizer
    from t1jax.training import stages

    if not tokenizer.is_saved(out / "tokenizer"):
        with make_verifier(base) as verifier:
            stages.make_task(base, out, verifier)[1].save(out / "tokenizer")


def _same_base(out: Path, base: Config) -> None:
    """Refuses to mix runs of different bases in one folder, and remembers this one."""
    from t1jax.host import workdir

    path = out / "base.json"
    if path.exists():
        changed = workdir.changes(completed(workdir.read(path, "--out")), files.json_ready(base.to_dict()))
        if changed:
            listed = "; ".join(f"{knob} is {new}, was {old}" for knob, (old, new) in changed.items())
            raise ConfigError(f"{out} holds runs of another base config: {listed}; set it back, or give another --out")
    files.write_json(path, base.to_dict())


if __name__ == "__main__":
    cli()
