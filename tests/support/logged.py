# SPDX-License-Identifier: Apache-2.0
"""A made-up run for the loggers, stopped once, and a stand-in for the client of Weights & Biases.

The run: two steps of the cold start, three of RL with an evaluation after the second. It is stopped in the third, and
goes on from the checkpoint after the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import small

from t1jax.host import files
from t1jax.host.loggers.loggers import Loggers
from t1jax.host.metrics import MetricsWriter

# What a service must have at the end, once each. The numbers of a row are made of its stage and step.
ROWS = [("sft", 1), ("sft", 2), ("rl", 1), ("rl", 2), ("evaluate", 2), ("rl", 3)]
TABLES = ["sft-000000", "rl-000002", "rl-final"]
REPORT = "<!doctype html><title>the report</title>"

CLIENT = '''
"""Stands in for wandb: writes what it is told to a file, one history a run, which only rises; fails as it is asked to.

OUT/mode: "" | raise | hang | exit | slow; OUT/log.jsonl: what it was told.
"""
import json, os, sys, time
from pathlib import Path

OUT = Path(os.environ["STAND_IN"])
print("a client that prints", flush=True)

def lines():
    path = OUT / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

def say(*what):
    with open(OUT / "log.jsonl", "a") as file:
        file.write(json.dumps(what) + "\\n")

def fail():
    mode = (OUT / "mode").read_text() if (OUT / "mode").exists() else ""
    if mode == "raise":
        raise RuntimeError("https://me:sesame@host says no to " + os.environ["WANDB_API_KEY"] + "\\nand more")
    if mode == "slow":
        time.sleep(0.02)
    if mode == "hang":
        time.sleep(1000)
    if mode == "exit":
        print("out of order, says https://me:hunter2@host/x", file=sys.stderr, flush=True)
        os._exit(7)

class Settings:
    def __init__(self, **settings): pass

class Table:
    def __init__(self, columns, data, **_): self.said = {"columns": columns, "data": data}

class Html:
    def __init__(self, text, inject): self.said = {"html": text}

class Run:
    url, dir = "https://host/run", "somewhere"
    def __init__(self): self.step = max((place + 1 for kind, place, *_ in lines() if kind == "log"), default=0)
    def define_metric(self, name, step_metric): pass
    def log(self, values, step):
        fail()
        assert step >= self.step, f"step {step} after {self.step}"  # wandb drops it, with a warning
        say("log", step, {name: getattr(value, "said", value) for name, value in values.items()})
    def finish(self, exit_code):
        fail()
        say("end", exit_code)

def init(**given):
    say("init", {name: given[name] for name in ("project", "entity", "id", "name", "resume", "dir")})
    return Run()
'''


def make_config(**knobs):
    return small.make_config(sft__num_steps=2, rl__num_steps=3, **knobs)


def stand_in(folder: Path, name: str = "wandb", program: str = CLIENT) -> Path:
    """A folder for PYTHONPATH in which the package `name` is `program`."""
    (folder / "packages" / name).mkdir(parents=True)
    (folder / "packages" / name / "__init__.py").write_text(program)
    return folder / "packages"


def values(stage: str, step: int) -> dict[str, float]:
    return {"loss": step / 4 + len(stage), "seconds": 1.0}


def save_responses(workdir: Path, name: str) -> None:
    stage, number = name.split("-")
    row = {"stage": stage, "step": 3 if number == "final" else int(number), "problem": 7, "prompt": "2+2", "tokens": 3}
    row |= {"text": f"4 <{name}>", "outcome": "right", "answer": "4", "gold": "4", "overlong": False, "response": 0}
    files.write_text(workdir / "responses" / f"{name}.jsonl", json.dumps(row) + "\n")


def stopped(cfg, workdir: Path, note: Callable[[str], None] = print) -> None:
    """The run up to its third step, in which it is stopped."""
    try:
        with Loggers(cfg, workdir, note) as loggers, MetricsWriter(workdir, {}, show=loggers.row) as writer:
            for step in (1, 2):
                writer.write("sft", step, values("sft", step))
            save_responses(workdir, "sft-000000")
            loggers.responses()
            _steps(writer, workdir, 1, 2)
            writer.write("rl", 3, values("rl", 3))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def resumed(cfg, workdir: Path, note: Callable[[str], None] = print) -> None:
    """The rest, from the checkpoint after step 1."""
    with Loggers(cfg, workdir, note) as loggers:
        with MetricsWriter(workdir, {"sft": 2, "rl": 1, "evaluate": 1}, show=loggers.row) as writer:
            loggers.responses()
            _steps(writer, workdir, 2, 3)
        save_responses(workdir, "rl-final")
        files.write_text(workdir / "report.html", REPORT)
        loggers.report()


def _steps(writer: MetricsWriter, workdir: Path, first: int, last: int) -> None:
    for step in range(first, last + 1):
        writer.write("rl", step, values("rl", step))
        if step == 2:
            save_responses(workdir, "rl-000002")
            writer.write("evaluate", step, values("evaluate", step))
