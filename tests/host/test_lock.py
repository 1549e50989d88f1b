# SPDX-License-Identifier: Apache-2.0
"""Locks in a bucket: one holder at a time, kept fresh, taken over from the dead and never from the living."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from t1jax.config import ConfigError
from t1jax.host import lock, place, workdir
from t1jax.host.bucket import Bucket

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(cloud, request):
    return Bucket(f"gs://bkt/locks/{request.node.name}/lock")


def held(path, notes=None):
    return lock.held(path, "--workdir", (notes if notes is not None else []).append)


def holder(path, heartbeat: float = 20.0) -> subprocess.Popen[str]:
    """Another process that holds the lock until its stdin closes."""
    code = (
        "import sys\nfrom t1jax.host import lock, place, workdir\n"
        f"lock.HEARTBEAT = {heartbeat}\n"
        f"with workdir.locked(place.of({str(path.parent)!r}, 'x')):\n"
        "    print('mine', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert other.stdout is not None and other.stdout.readline() == "mine\n"
    return other


def test_a_second_process_is_refused_and_the_lock_of_a_killed_one_is_taken_at_once(path, cloud):
    with holder(path) as other:
        with pytest.raises(ConfigError, match=rf"gs://.* is in use by process {other.pid} on .*another --workdir"):
            with workdir.locked(path.parent):
                pass
        other.kill()
    assert cloud.names(path.key) == [path.key]
    began = time.monotonic()
    with held(path):
        assert time.monotonic() - began < 5
        assert json.loads(path.read_bytes())["process"] == os.getpid()
    assert not path.exists()


def test_the_lock_of_a_dead_process_whose_number_another_has_is_taken_at_once(path):
    """A container that is started again: the same machine and number, which was 1, of another process."""
    ours = {"process": os.getpid(), "host": "here", "machine": lock._machine()}
    for more, alive in (({"started": "12"}, False), ({"started": lock._started(os.getpid())}, True), ({}, True)):
        path.write_bytes(json.dumps(ours | more).encode())
        assert bool(lock.holder(path)) == alive, more  # without: a lock of a version before
    with pytest.raises(ConfigError, match=f"is in use by process {os.getpid()} on here"), held(path):
        pass
    path.write_bytes(json.dumps(ours | {"started": "12"}).encode())
    began = time.monotonic()
    with held(path):
        assert time.monotonic() - began < 5
        assert json.loads(path.read_bytes())["started"] == lock._started(os.getpid())


def test_when_a_process_started_is_read_whatever_its_name():
    code = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a ) 7 (b'); print(flush=True); sys.stdin.read()"
    before = int(lock._started(os.getpid()) or 0)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"\n"
        now = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        assert before < int(lock._started(other.pid) or 0) <= now < int(lock._started(other.pid) or 0) + 6000
        other.communicate(b"")
    assert lock._started(other.pid) is None


def test_a_holder_that_ends_well_leaves_no_lock(path):
    with holder(path) as other:
        other.communicate("")
        assert other.returncode == 0
    assert not path.exists()


def foreign(path, monkeypatch) -> None:
    """A lock of a process on another machine."""
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_machine", lambda: "another")
        assert lock._swap(path, json.dumps({"process": 7, "host": "far", "machine": "another"}).encode(), "0")


def test_the_lock_of_another_machine_is_taken_over_when_it_is_stale_and_not_before(path, monkeypatch):
    monkeypatch.setattr(lock, "STALE", 3.0)
    foreign(path, monkeypatch)
    notes, began = [], time.monotonic()
    with held(path, notes):
        assert 2 < time.monotonic() - began < 10
    assert notes == [f"{path.parent} was in use by process 7 on far; waiting up to 3 s for a sign of life"]


def test_a_living_process_on_another_machine_keeps_its_lock(path, monkeypatch):
    foreign(path, monkeypatch)
    timer = threading.Timer(1.5, path.write_bytes, [path.read_bytes()])
    timer.start()
    with pytest.raises(ConfigError, match="is in use by process 7 on far"), held(path):
        pass
    timer.join()


def test_a_holder_whose_lock_is_taken_over_ends_at_once(path, cloud):
    with holder(path, heartbeat=0.2) as other:
        first = path.read_bytes()
        time.sleep(1)
        assert path.read_bytes() == first and other.poll() is None  # kept fresh
        cloud.delete(path.key)
        time.sleep(1)
        assert path.read_bytes() == first and other.poll() is None  # deleted by hand: still ours
        cloud.write(path.key, b"{}")
        assert other.wait(20) == lock.EXIT_LOST
        assert other.stderr is not None
        assert other.stderr.read().splitlines()[-1] == (
            f"t1jax: another process has taken over {path.parent}; this one ends at once"
        )


def test_of_many_that_come_at_once_one_gets_it(path, monkeypatch):
    monkeypatch.setattr(lock, "_dead", lambda who: False)
    got: list[str] = []

    def take(number: int) -> None:
        if lock._swap(path, b"%d" % number, "0"):
            got.append(str(number))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and path.read_bytes() == got[0].encode()


def test_a_swap_whose_answer_was_lost_counts(path):
    content = json.dumps({"process": 1, "token": "mine"}).encode()
    first = lock._swap(path, content, "0")
    assert lock._swap(path, content, "0") == first  # the second attempt of the same
    assert lock._swap(path, json.dumps({"process": 1, "token": "other"}).encode(), "0") is None
    assert lock._swap(path, content, "123") == first and lock._swap(path, content, str(first)) not in (None, first)


def test_what_is_no_lock_of_ours_is_waited_for_and_replaced(path, cloud, monkeypatch):
    monkeypatch.setattr(lock, "STALE", 2.0)
    cloud.write(path.key, b"not JSON")
    with held(path):
        assert json.loads(path.read_bytes())["process"] == os.getpid()


def test_a_bucket_that_is_not_there_is_named(cloud):
    folder = place.of("gs://nobody-has-it/run", "x")
    with pytest.raises(ConfigError, match="--workdir=gs://nobody-has-it/run: no such object or bucket; expected"):
        with contextlib.ExitStack() as stack:
            stack.enter_context(workdir.locked(folder))
