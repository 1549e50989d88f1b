# SPDX-License-Identifier: Apache-2.0
"""A whole run with a trace and three loggers, two of which fail: it trains as one without, bit for bit.

The clients of the loggers are stand-ins (support/logged.py); real ones: host/test_logger_clients.py.
"""

from __future__ import annotations

import gzip
import json
import re
import time

import jax
import logged
import numpy as np
import pytest
import small
from tiny_run import KNOBS, last_state, rows_of

from t1jax.devices import scopes
from t1jax.host.loggers import relay
from t1jax.training import stages

HANGING = "import time\ntime.sleep(1000)\n"
BROKEN = "raise OSError('no such server')\n"
LOGGERS = {"metrics__wandb": "project", "metrics__mlflow": "experiment", "metrics__trackio": "project"}
PROFILED = {"rl__profile": "3:5"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, and what it printed on a logger or a trace. wandb works, mlflow hangs, trackio fails."""
    folder = tmp_path_factory.mktemp("logged")
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        logged.stand_in(folder)
        logged.stand_in(folder, "mlflow", HANGING)
        logged.stand_in(folder, "trackio", BROKEN)
        patched.setenv("PYTHONPATH", str(folder / "packages"))
        patched.syspath_prepend(folder / "packages")
        patched.setenv("STAND_IN", str(folder))
        patched.setattr(relay, "LONGEST", 3.0)
        patched.setattr(stages.Progress, "note", lambda _, text: notes.append(text))
        began = time.monotonic()
        stages.run(small.make_config(**KNOBS, **LOGGERS, **PROFILED), folder / "run")
    print(f"{time.monotonic() - began:.1f} s")
    return folder, [note for note in notes if note.startswith(("metrics.", "rl.profile"))]


def test_it_trains_as_a_run_without(run, unbroken):
    folder, _ = run
    assert rows_of(folder / "run") == rows_of(unbroken)
    jax.tree.map(np.testing.assert_array_equal, last_state(folder / "run"), last_state(unbroken))


def test_each_failing_logger_costs_two_lines(run):
    folder, notes = run
    assert sorted(note for note in notes if note.startswith("metrics.")) == [
        "metrics.mlflow: no answer in 3 s; tried once more at the end of the run",
        "metrics.mlflow: no answer in 3 s; what it lacks is in metrics.jsonl",
        "metrics.trackio: no such server; tried once more at the end of the run",
        "metrics.trackio: no such server; what it lacks is in metrics.jsonl",
        "metrics.wandb: https://host/run",
    ]


def test_the_logger_that_works_has_it_all(run):
    folder, _ = run
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    told = [values for kind, *_, values in lines if kind == "log"]
    found = []
    for row in rows_of(folder / "run"):
        numbers = {f"{row['stage']}/{name}": value for name, value in row.items() if isinstance(value, int | float)}
        (same,) = (values for values in told if numbers.items() <= values.items())
        found.append(told.index(same))
    assert found == sorted(found)
    tables = [values["responses"] for values in told if "responses" in values]
    stems = ["sft-000000", "rl-000004", "rl-final"]
    for stem, table in zip(stems, tables, strict=True):
        saved = [json.loads(line) for line in (folder / f"run/responses/{stem}.jsonl").read_text().splitlines()]
        shown = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert [row["text"] for row in shown] == [row["text"] for row in saved]
        assert [row["outcome"] for row in shown] == [row["outcome"] for row in saved]
    assert told[-1]["report"]["html"] == (folder / "run/report.html").read_text()
    assert lines[-1] == ["end", 0]


def test_the_trace_has_the_steps_and_the_names_of_their_pieces(run):
    """Steps and scoring as the host sees them; the names of the device's part are beside its operations."""
    folder, notes = run
    where = folder / "run/profile"
    assert f"rl.profile: the trace is in {where}; to look at it: tensorboard --logdir={where}" in notes
    (path,) = where.glob("plugins/profile/*/*.trace.json.gz")
    events = [e for e in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"] if e.get("ph") == "X"]
    steps = {int(e["args"]["step_num"]): e for e in events if e["name"] == scopes.STEP}
    assert sorted(steps) == [3, 4]
    scored = [e for e in events if e["name"] == scopes.SCORE]
    shards = KNOBS["mesh__data"]
    assert len(scored) == shards * len(steps)
    for e in scored:  # each inside of a step
        assert any(s["ts"] <= e["ts"] and e["ts"] + e["dur"] <= s["ts"] + s["dur"] for s in steps.values())
    (planes,) = where.glob("plugins/profile/*/*.xplane.pb")
    names = set(re.findall(rb"jit\(train_step\)/(\w+)/", planes.read_bytes()))
    assert {scopes.SAMPLE.encode(), scopes.SCORE.encode(), scopes.UPDATE.encode()} <= names
    assert scopes.ANCHOR_PARTS.encode() in planes.read_bytes()


def test_a_finished_run_sends_what_its_logger_lacks(run, monkeypatch, capsys):
    """As when it was killed, or the service away, while the last rows were sent. Here the service has lost all."""
    folder, _ = run

    def told():
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [values for kind, *_, values in lines if kind == "log"]

    before = told()
    (folder / "log.jsonl").unlink()
    monkeypatch.setenv("PYTHONPATH", str(folder / "packages"))
    monkeypatch.syspath_prepend(folder / "packages")
    monkeypatch.setenv("STAND_IN", str(folder))
    stages.run(small.make_config(**KNOBS, metrics__wandb="project", **PROFILED), folder / "run")
    assert "is done" in capsys.readouterr().out
    assert told() == before
