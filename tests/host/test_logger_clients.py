# SPDX-License-Identifier: Apache-2.0
"""The real clients of loggers: what they store of a run that was stopped, and what becomes of servers that fail.

What is stored is read by the clients' own readers, or schema. A client that is not installed is skipped by name.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import logged
import pytest

from t1jax.host.loggers import relay

SECRET = "sesame-open-0123456789abcdef0123456789ab"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Clients write to their home and the current folder, and take settings from the environment."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_", "HF_TOKEN"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(relay, "LONGEST", 120.0)  # a client may take half a minute to be imported
    monkeypatch.setattr(relay, "HURRY", 120.0)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def both(cfg, workdir: Path) -> list[str]:
    """The run of logged.py, stopped and resumed; what its logger told."""
    notes: list[str] = []
    logged.stopped(cfg, workdir, notes.append)
    logged.resumed(cfg, workdir, notes.append)
    return notes


def points(stage: str, step: int) -> dict[str, float]:
    return {"step": step, **logged.values(stage, step)}


# Weights & Biases


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: 7 bytes, and LevelDB's log format (doc/log_format.md in google/leveldb)."""
    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block in which no header fits
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts = (b"" if kind in (1, 2) else parts) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts


def wandb_files(workdir: Path) -> list[dict]:
    """Of each start of an offline run: id, config, history (step -> key -> value), exit code; by wandb's own schema."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        start = {"history": defaultdict(dict), "config": {}, "files": path.parent / "files", "exit": None}
        for data in wandb_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                start["id"], start["project"] = record.run.run_id, record.run.project
                start["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                for item in record.history.item:
                    name = item.key or "/".join(item.nested_key)
                    start["history"][record.history.step.num][name] = json.loads(item.value_json)
            elif kind == "exit":
                start["exit"] = record.exit.exit_code
        found.append(start)
    return found


def test_wandb_offline_has_the_whole_run_once_in_the_files_of_its_last_start(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is missing: pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = logged.make_config(metrics__wandb="team/tests")
    notes = both(cfg, tmp_path / "run")
    assert len(notes) == 2 and all(note.startswith("metrics.wandb: offline, in ") for note in notes), notes
    first, last = wandb_files(tmp_path / "run")
    assert first["id"] == last["id"] and last["project"] == "tests" and (first["exit"], last["exit"]) == (1, 0)
    assert last["config"]["rl"]["num_steps"] == 3 and last["config"]["metrics"]["wandb"] == "team/tests"
    history = [last["history"][step] for step in sorted(last["history"])]
    rows = [
        (
            key.partition("/")[0],
            values[key],
            {name.partition("/")[2]: values[name] for name in values if name[0] != "_"},
        )
        for values in history
        for key in values
        if key.endswith("/step")
    ]
    assert [row[:2] for row in rows] == logged.ROWS
    for stage, step, values in rows:
        assert values == points(stage, step)
    texts = []
    for path in (values["responses/path"] for values in history if "responses/path" in values):
        saved = json.loads((last["files"] / path).read_text())
        texts.append(dict(zip(saved["columns"], saved["data"][0], strict=True))["text"])
    assert texts == [f"4 <{name}>" for name in logged.TABLES]
    (report,) = (values["report/path"] for values in history if "report/path" in values)
    assert (last["files"] / report).read_text() == logged.REPORT
    assert not list((tmp_path / "here").iterdir())


# MLflow


def test_mlflow_has_the_whole_run_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is missing: pip install '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which needs no SQLAlchemy
    cfg = logged.make_config(metrics__mlflow="tests")
    notes = both(cfg, tmp_path / "run")
    assert len(notes) == 2 and notes[0] == notes[1], notes
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run" and f"run {run.info.run_id} " in notes[0]
    for stage in ("sft", "rl", "evaluate"):
        for name in ("step", "loss", "seconds"):
            history = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, f"{stage}/{name}")]
            assert history == [(step, points(stage, step)[name]) for kind, step in logged.ROWS if kind == stage]
    assert run.data.params["rl.num_steps"] == "3" and run.data.params["metrics.mlflow"] == "tests"
    folder = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert json.loads((folder / "config.json").read_text())["rl"]["num_steps"] == 3
    assert (folder / "report.html").read_text() == logged.REPORT
    tables = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    texts = []
    for each in tables:
        saved = json.loads((folder / each["path"]).read_text())
        texts.append(dict(zip(saved["columns"], saved["data"][0], strict=True))["text"])
    assert texts == [f"4 <{name}>" for name in logged.TABLES] and all(each["type"] == "table" for each in tables)
    assert not list((tmp_path / "here").iterdir())


# Trackio


def test_trackio_has_the_whole_run_once(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is missing: pip install '.[trackio]'")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    notes = both(logged.make_config(metrics__trackio="tests"), tmp_path / "run")
    assert len(notes) == 2 and notes[0] == notes[1], notes
    program = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as S\n"
        "(run,) = trackio.Api().runs('tests')\n"
        "print(json.dumps([run.name, run.config, S.get_logs('tests', run.name)], default=str))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    name, config, found = json.loads(done.stdout.splitlines()[-1])
    assert name == notes[0].split()[2] and name.startswith("run-") and config["rl"]["num_steps"] == 3
    assert [each["step"] for each in found] == sorted({each["step"] for each in found})
    rows = []
    for each in found:
        for key in (key for key in each if key.endswith("/step")):
            stage = key.partition("/")[0]
            rows.append((stage, each[key]))
            assert {name: each[f"{stage}/{name}"] for name in points(stage, 1)} == points(stage, each[key])
    assert rows == logged.ROWS
    tables = [each["responses"] for each in found if "responses" in each]
    assert [table["_value"][0]["text"] for table in tables] == [f"4 <{name}>" for name in logged.TABLES]
    (report,) = (each["report"] for each in found if "report" in each)
    assert (tmp_path / "store/media" / report["file_path"]).read_text() == logged.REPORT
    assert not list((tmp_path / "here").iterdir())


# Servers that fail


class Server:
    """A server that answers 500 to everything, or nothing at all."""

    def __init__(self, status: int | None) -> None:
        over = self._over = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if status is None:
                    over.wait(120)
                else:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            do_POST = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads, self._http.block_on_close = True, False
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(params=["refuses", "hangs", "500"])
def server(request):
    """The address of a server that does so."""
    if request.param == "refuses":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            yield f"127.0.0.1:{free.getsockname()[1]}"  # nobody listens
        return
    server = Server(500 if request.param == "500" else None)
    yield server.address
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_server_that_fails_is_told_without_secrets_and_holds_nothing_up(name, server, tmp_path, monkeypatch):
    pytest.importorskip(name, reason=f"{name} is missing: pip install '.[{name}]'")
    monkeypatch.setattr(relay, "LONGEST", 10.0)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://{server}")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@{server}")
    cfg, began = logged.make_config(**{f"metrics__{name}": "tests"}), time.monotonic()
    notes: list[str] = []
    logged.resumed(cfg, tmp_path / "run", notes.append)
    assert time.monotonic() - began < 60.0
    assert len(notes) == 2, notes
    assert notes[0].endswith("; tried once more at the end of the run")
    assert notes[1].endswith("; what it lacks is in metrics.jsonl")
    for note in notes:
        assert note.startswith(f"metrics.{name}: ") and "\n" not in note and len(note) < 400
        assert SECRET not in note
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert not left_behind()


def left_behind() -> list[str]:
    """Processes of loggers that are still there."""
    done = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True)
    mine = [line for line in done.stdout.splitlines() if line.split(None, 1)[0] == str(os.getpid())]
    return [line for line in mine if "t1jax.host.loggers" in line and "<defunct>" not in line]
