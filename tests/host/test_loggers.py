# SPDX-License-Identifier: Apache-2.0
"""Loggers get each row once, however often a run was stopped; one that fails in any way costs a line and no time.

With a stand-in for a client (support/logged.py). The real ones: test_logger_clients.py; a whole run:
training/test_logged_run.py.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import threading
import time
from pathlib import Path

import logged
import pytest

from t1jax import main
from t1jax.config import ConfigError
from t1jax.devices import multihost
from t1jax.host.loggers import relay
from t1jax.host.loggers.loggers import Loggers
from t1jax.host.metrics import MetricsWriter
from t1jax.training import stages

CFG = logged.make_config(metrics__wandb="team/project")
KEY = "0123456789abcdef"


@pytest.fixture
def client(tmp_path, monkeypatch):
    """The folder of the stand-in client, which the processes of loggers import as wandb."""
    monkeypatch.setenv("PYTHONPATH", str(logged.stand_in(tmp_path)))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return tmp_path


def said(client: Path, kind: str) -> list[list]:
    return [line[1:] for line in map(json.loads, (client / "log.jsonl").read_text().splitlines()) if line[0] == kind]


def got(client: Path) -> list[str]:
    """What the client was given, in order: rows as `rl 3`, tables and reports by what is in them."""
    found = []
    for _, values in said(client, "log"):
        (kind,) = {name.partition("/")[0] for name in values}
        if kind == "responses":
            table = values["responses"]
            found.append(dict(zip(table["columns"], table["data"][0], strict=True))["text"])
        elif kind == "report":
            found.append(values["report"]["html"])
        else:
            step = values[f"{kind}/step"]
            assert values[f"{kind}/loss"] == logged.values(kind, step)["loss"]
            found.append(f"{kind} {step}")
    return found


WHOLE = [
    *("sft 1", "sft 2", "4 <sft-000000>", "rl 1", "rl 2", "4 <rl-000002>", "evaluate 2", "rl 3"),
    *("4 <rl-final>", logged.REPORT),
]  # fmt: skip


def test_a_stopped_run_goes_on_under_its_id_with_each_row_once(client):
    notes: list[str] = []
    logged.stopped(CFG, client / "run", notes.append)
    assert got(client) == WHOLE[:8] and said(client, "end") == [[1]]
    logged.resumed(CFG, client / "run", notes.append)
    assert got(client) == WHOLE and said(client, "end") == [[1], [0]]
    (first,), (second,) = said(client, "init")
    assert first == second and first["id"] == json.loads((client / "run/loggers.json").read_text())["id"]
    assert (first["entity"], first["project"], first["name"], first["resume"]) == ("team", "project", "run", "allow")
    assert notes == ["metrics.wandb: https://host/run"] * 2


def test_what_a_killed_run_had_not_sent_is_sent_by_the_next_start(client):
    """The service was away the whole time of the first."""
    (client / "mode").write_text("exit")
    notes: list[str] = []
    logged.stopped(CFG, client / "run", notes.append)
    (line,) = notes[1:]
    assert line.startswith("metrics.wandb: its process ended with exit status 7: out of order, says https://host/x; ")
    (client / "mode").write_text("")
    logged.resumed(CFG, client / "run", notes.append)
    assert got(client) == WHOLE


def test_an_error_is_told_once_without_secrets_and_all_is_sent_at_the_end(client):
    (client / "mode").write_text("raise")
    notes: list[str] = []
    logged.stopped(CFG, client / "run", notes.append)
    line = "metrics.wandb: https://host says no to *** and more; "
    assert len(notes) == 2 and notes[1].startswith(line)
    with Loggers(CFG, client / "run", notes.append) as loggers:
        wait_for(lambda: len(notes) == 4)
        loggers.row({"stage": "rl", "step": 4})  # is left out
        (client / "mode").write_text("")
    assert notes[2:] == [
        "metrics.wandb: https://host/run",
        f"{line}tried once more at the end of the run",
        "metrics.wandb: at the second try it got everything",
    ]
    assert got(client) == WHOLE[:8]


def test_an_error_at_the_second_try_is_told_too(client):
    (client / "mode").write_text("raise")
    notes: list[str] = []
    logged.resumed(CFG, client / "run", notes.append)
    assert len(notes) == 3 and notes[2].endswith("says no to *** and more; what it lacks is in metrics.jsonl")


def test_a_logger_that_hangs_holds_up_neither_rows_nor_for_long_the_end(client, monkeypatch):
    (client / "mode").write_text("hang")
    monkeypatch.setattr(relay, "LONGEST", 1.0)
    notes: list[str] = []
    with Loggers(CFG, client / "run", notes.append) as loggers:
        wait_for(lambda: notes)
        began = time.monotonic()
        for step in range(3 * relay.QUEUE):
            loggers.row({"stage": "rl", "step": step})
        assert time.monotonic() - began < 1.0
        began = time.monotonic()
    assert time.monotonic() - began < 10.0
    assert notes[1:] == [
        "metrics.wandb: it does not keep up; what finds 1000 rows waiting is sent later",
        "metrics.wandb: no answer in 1 s; tried once more at the end of the run",
        "metrics.wandb: no answer in 1 s; what it lacks is in metrics.jsonl",
    ]
    assert not [thread for thread in threading.enumerate() if thread.name == "metrics.wandb"]


def test_what_found_the_queue_full_is_sent_when_it_is_empty_again(client, monkeypatch):
    monkeypatch.setattr(relay, "QUEUE", 2)
    (client / "mode").write_text("slow")
    notes: list[str] = []
    rows = [f"rl {step}" for step in range(1, 31)]
    with Loggers(CFG, client / "run", notes.append) as loggers:
        wait_for(lambda: notes)
        with MetricsWriter(client / "run", {}, tensorboard=0, show=loggers.row) as writer:
            for step in range(1, 31):
                writer.write("rl", step, logged.values("rl", step))
        wait_for(lambda: (client / "log.jsonl").read_text().count('"log"') == len(rows))
    assert got(client) == rows
    assert notes[1:] == [
        "metrics.wandb: it does not keep up; what finds 2 rows waiting is sent later",
        "metrics.wandb: at the second try it got everything",
    ]


def test_only_process_0_logs(client, monkeypatch):
    monkeypatch.setattr(multihost, "is_main", lambda: False)
    with Loggers(CFG, client / "run", pytest.fail) as loggers:
        loggers.row({"stage": "rl", "step": 1})
        loggers.report()
    assert not (client / "run").exists() and not (client / "log.jsonl").exists()


def test_without_loggers_nothing_is_started_or_written(tmp_path):
    before = threading.active_count()
    with Loggers(logged.make_config(), tmp_path / "run", pytest.fail) as loggers:
        loggers.row({"stage": "evaluate", "step": 1})
        assert threading.active_count() == before
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spec", [None, importlib.machinery.ModuleSpec("trackio", None)], ids=["nothing", "folder"])
def test_a_missing_package_is_a_line_before_anything_is_written(spec, tmp_path, monkeypatch, capsys):
    """As is a mere folder of its name, which a client may have written into the current one."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    says = (
        "metrics.trackio is tests, which needs the package trackio; expected it: in the folder of t1jax, "
        "pip install '.[trackio]'"
    )
    with pytest.raises(ConfigError) as error:
        stages.run(logged.make_config(metrics__trackio="tests"), tmp_path / "run")
    assert str(error.value) == says
    flags = ["--config=tiny", f"--workdir={tmp_path / 'run'}", "--config.metrics.trackio=tests"]
    assert main.main(["t1jax", *flags, "--config.mesh.fsdp=8", "--config.sft.batch_size=16"]) == 2
    assert capsys.readouterr().err == f"t1jax: {says}\n" and not (tmp_path / "run").exists()


def test_a_damaged_id_is_named(client):
    (client / "run").mkdir()
    (client / "run/loggers.json").write_text('{"id": 3}')
    with pytest.raises(ConfigError, match=r"loggers\.json: id is 3; expected what t1jax wrote"):
        Loggers(CFG, client / "run", print)


def wait_for(what, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    assert what()
