# SPDX-License-Identifier: Apache-2.0
"""A server that refuses, hangs and resets: requests are repeated, nothing is lost, and the end is one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cloud
import pytest
from faulty import KINDS, Proxy
from several import environment

ROOT = Path(__file__).parents[2]


def python(proxy: Proxy, code: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs the code in a process that reaches the server by the proxy."""
    env = environment() | cloud.environment(proxy.url)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines on stderr, without those of libraries' logs."""
    lines = (line for line in done.stderr.splitlines() if line)
    return [line for line in lines if not line.startswith(("WARNING:google", "I1", "I0", "W1", "W0"))]


def objects(count: int) -> str:
    """Writes and reads objects, small and large, and a log."""
    return f"""
from t1jax.host import log, place
from t1jax.host.log import Log
folder = place.of("gs://bkt/x", "x")
for n in range({count}):
    (folder / f"small/{{n}}").write_bytes(b"%d" % n)
    rows = Log(folder / "rows")
    rows.write(b"%d\\n" % n)
    rows.close()
large = bytes(range(256)) * 45000
with (folder / "large").open("wb") as file:
    for start in range(0, len(large), 10**6):
        file.write(large[start : start + 10**6])
assert (folder / "large").read_bytes() == large
assert [(folder / f"small/{{n}}").read_bytes() for n in range({count})] == [b"%d" % n for n in range({count})]
assert sorted(path.name for path in (folder / "small").iterdir()) == sorted(str(n) for n in range({count}))
assert log.read(folder / "rows") == b"".join(b"%d\\n" % n for n in range({count}))
"""


@pytest.mark.parametrize(
    ("count", "nth"), [(1, 5), pytest.param(12, 3, marks=pytest.mark.slow), pytest.param(8, 2, marks=pytest.mark.slow)]
)
def test_objects_are_written_and_read_whole_over_a_bad_line(count, nth):
    with Proxy() as proxy:
        proxy.every(nth)
        done = python(proxy, objects(count))
        assert done.returncode == 0, done.stderr
        assert not said(done)
        assert count == 1 or set(proxy.happened) == set(KINDS)


CHECKPOINTS = """
import jax, numpy as np
from urllib.request import urlopen
from saved_states import CFG, abstract, assert_same, make_mesh, make_state, make_tokens
from t1jax.host import metrics, place
from t1jax.host.metrics import MetricsWriter
from t1jax.training.checkpoint import Checkpoints
one = make_mesh(1, 1, 1)
def state(step): return make_state(one, scale=float(step)).replace(step=np.int32(step))
workdir, notes = place.of("gs://bkt/run", "x"), []
def told(kind): urlopen({url!r} + "/fault/" + kind).read()
def opened(): return Checkpoints(workdir / "checkpoints/rl", CFG, make_tokens(), notes.append)
"""


@pytest.mark.slow
@pytest.mark.parametrize("nth", [4, 7])
def test_checkpoints_are_saved_and_restored_over_a_bad_line(nth):
    code = (
        CHECKPOINTS
        + """
with opened() as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {{"next_index": step}})
        checkpoints.wait()
with opened() as checkpoints:
    assert_same(checkpoints.restore(abstract(state(1), one)), state(3))
assert not notes, notes
"""
    )
    with Proxy() as proxy:
        proxy.every(nth)
        done = python(proxy, code.format(url=proxy.url), 900)
        assert done.returncode == 0, done.stderr
        assert set(proxy.happened) == set(KINDS)


def test_while_nothing_can_be_saved_training_goes_on_and_no_row_is_lost():
    """A checkpoint never has steps whose rows are not there."""
    code = (
        CHECKPOINTS
        + """
with opened() as checkpoints, MetricsWriter(workdir, {{}}) as writer:
    for step in (1, 2, 3, 4):
        writer.write("rl", step, {{"loss": 1.0}})
        told("" if step in (1, 4) else "403")
        checkpoints.save(step, state(step), first=writer.sync)
        checkpoints._collect()
    checkpoints.wait()
    assert checkpoints.steps() == [1, 4], checkpoints.steps()
assert [row["step"] for row in metrics.read_rows(workdir)] == [1, 2, 3, 4]
assert len(notes) == 2 and all("could not be written" in note and "Forbidden" in note for note in notes), notes
assert all("the newest whole one is 1; training goes on" in note for note in notes), notes
with opened() as checkpoints:
    assert_same(checkpoints.restore(abstract(state(1), one)), state(4))
"""
    )
    with Proxy() as proxy:
        done = python(proxy, code.format(url=proxy.url))
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr


def test_a_server_that_fails_while_a_checkpoint_is_read_damages_nothing():
    code = (
        CHECKPOINTS
        + """
from t1jax.host.bucket import Unreachable
with opened() as checkpoints:
    checkpoints.save(1, state(1))
    checkpoints.wait()
with opened() as checkpoints:
    told("403")
    try:
        checkpoints.restore(abstract(state(1), one))
    except Unreachable as error:
        assert "Forbidden" in str(error) or "PERMISSION_DENIED" in str(error), error
    else:
        raise AssertionError
    told("")
    assert_same(checkpoints.restore(abstract(state(1), one)), state(1))
assert not notes, notes
"""
    )
    with Proxy() as proxy:
        done = python(proxy, code.format(url=proxy.url))
        assert done.returncode == 0, done.stderr


RUN = """
import sys
from t1jax import main
from t1jax.host import bucket
bucket.SILENCE = {silence}
sys.exit(main.main(["t1jax", "--config=tiny", "--workdir=gs://bkt/run"]))
"""


@pytest.mark.parametrize(
    ("kind", "code", "message", "most"),
    [
        ("403", 2, "Forbidden: .*; expected an account that may read and write it", 30),
        pytest.param("429", 1, "as told, 429; the same command resumes", 90, marks=pytest.mark.slow),
        pytest.param("503", 1, "as told, 503; the same command resumes", 90, marks=pytest.mark.slow),
        pytest.param("hang", 1, "Timeout.*; the same command resumes", 120, marks=pytest.mark.slow),
        pytest.param("reset", 1, "; the same command resumes", 90, marks=pytest.mark.slow),
    ],
)
def test_a_server_that_never_serves_is_a_line_in_bounded_time(kind, code, message, most):
    with Proxy() as proxy:
        proxy.always(kind)
        began = time.monotonic()
        done = python(proxy, RUN.format(silence=1.0))
        assert time.monotonic() - began < most
        assert done.returncode == code and len(said(done)) == 1, done.stderr
        assert re.fullmatch(rf"t1jax: gs://bkt/run/\S+: .*{message}.*", said(done)[0]), said(done)
        assert os.fspath("gs:") not in os.listdir(ROOT)
