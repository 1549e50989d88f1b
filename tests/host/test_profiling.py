# SPDX-License-Identifier: Apache-2.0
"""A trace has the steps that were asked for and no others, and costs the others nothing.

Of a whole run, with the names of its pieces: training/test_logged_run.py.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from t1jax.devices import multihost
from t1jax.host import files, place
from t1jax.host.bucket import Unreachable
from t1jax.host.place import Place
from t1jax.host.profiling import Profiler


def traced(folder: Place) -> list[list[int]]:
    """The steps of each trace in the folder."""
    found = []
    for path in sorted(folder.glob("plugins/profile/*/*.trace.json.gz")):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        found.append(sorted(int(e["args"]["step_num"]) for e in events if e.get("name") == "rl"))
    return found


def work(profiler: Profiler, steps: range) -> None:
    for step in steps:
        profiler.begin(step)
        jnp.arange(8).sum().block_until_ready()
        profiler.end(step)


def test_a_trace_has_the_steps_asked_for_and_no_others(tmp_path, monkeypatch):
    notes: list[str] = []
    profiler = Profiler(range(3, 5), tmp_path, notes.append)
    work(profiler, range(1, 3))
    assert not (tmp_path / "profile").exists()
    work(profiler, range(3, 5))
    assert traced(tmp_path / "profile") == [[3, 4]]
    folder = tmp_path / "profile"
    assert notes == [f"rl.profile: the trace is in {folder}; to look at it: tensorboard --logdir={folder}"]
    monkeypatch.setattr(jax.profiler, "start_trace", pytest.fail)
    monkeypatch.setattr(jax.profiler, "stop_trace", pytest.fail)
    work(profiler, range(5, 8))
    profiler.close()


def test_a_run_that_goes_on_in_between_traces_the_rest(tmp_path):
    profiler = Profiler(range(3, 5), tmp_path, print)
    work(profiler, range(4, 8))
    profiler.close()
    assert traced(tmp_path / "profile") == [[4]]


def test_a_run_that_is_stopped_in_between_keeps_what_it_traced(tmp_path):
    profiler = Profiler(range(3, 50), tmp_path, print)
    work(profiler, range(1, 5))
    profiler.begin(5)
    profiler.close()
    assert traced(tmp_path / "profile") == [[3, 4, 5]]


def test_in_a_trace_of_somebody_else_there_is_none_and_the_run_goes_on(tmp_path):
    notes: list[str] = []
    with jax.profiler.trace(tmp_path / "theirs"):
        profiler = Profiler(range(1, 3), tmp_path, notes.append)
        work(profiler, range(1, 5))
        profiler.close()
    assert len(notes) == 1 and notes[0].startswith("rl.profile: no trace: ")
    assert not traced(tmp_path / "profile") and traced(tmp_path / "theirs") == [[1]]


def test_what_cannot_be_written_is_told(tmp_path):
    notes: list[str] = []
    (tmp_path / "profile").write_text("a file where the folder belongs")
    profiler = Profiler(range(1, 2), tmp_path, notes.append)
    work(profiler, range(1, 3))
    assert len(notes) == 1 and notes[0].startswith("rl.profile: no trace: ")


def test_only_process_0_traces(tmp_path, monkeypatch):
    monkeypatch.setattr(multihost, "is_main", lambda: False)
    profiler = Profiler(range(1, 2), tmp_path, pytest.fail)
    work(profiler, range(1, 3))
    assert not (tmp_path / "profile").exists()


def test_in_a_bucket_it_is_local_and_then_uploaded(cloud, monkeypatch):
    bucket = place.of("gs://bkt/profiled/run", "workdir")
    notes: list[str] = []
    work(Profiler(range(1, 2), bucket, notes.append), range(1, 2))
    (name,) = (name for name in cloud.names("profiled/run/profile/plugins/profile/") if name.endswith(".trace.json.gz"))
    assert b'"rl"' in gzip.decompress(cloud.read(name))
    folder = f"{bucket}/profile"
    assert notes == [f"rl.profile: the trace is in {folder}; to look at it: tensorboard --logdir={folder}"]

    def unreachable(*_: object) -> None:
        raise Unreachable("gs://b/x", "the server is away")

    monkeypatch.setattr(files, "write_bytes", unreachable)
    work(Profiler(range(1, 2), bucket, notes.append), range(1, 2))
    local, _, rest = notes[1].removeprefix("rl.profile: the trace is in ").partition(", ")
    assert rest == f"and not in {bucket}/profile: the server is away"
    assert traced(Path(local)) == [[1]]
