# SPDX-License-Identifier: Apache-2.0
"""A whole run whose workdir is in a bucket, broken off and resumed, against an unbroken local one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from saved_states import CFG as SAVED
from saved_states import abstract, assert_same, make_mesh, make_state, make_tokens
from tiny_run import CFG, last_state, rows_of

from t1jax.host import place
from t1jax.host.bucket import Bucket
from t1jax.host.metrics import MetricsWriter
from t1jax.host.stopping import Signals, Stopped
from t1jax.training import stages
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.loop import Saving
from t1jax.weights import load as weights
from t1jax.weights import steps

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Nothing of the run catches it."""


def test_a_run_in_a_bucket_broken_off_between_rows_and_checkpoint_ends_as_an_unbroken_local_one(
    cloud, unbroken, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    workdir = place.of("gs://bkt/run", "workdir")
    put = Bucket.write_bytes

    def fall(path, content):
        done = put(path, content)
        if path.name == "metrics.jsonl-000004":  # after step 4 of RL, before its checkpoint
            raise Killed
        return done

    monkeypatch.setattr(Bucket, "write_bytes", fall)
    with pytest.raises(Killed):
        stages.run(CFG, workdir)
    monkeypatch.setattr(Bucket, "write_bytes", put)
    assert [row["step"] for row in rows_of(workdir) if row["stage"] == "rl"] == [1, 2, 3, 4]
    report = stages.run(CFG, workdir)
    assert report == workdir / "report.html" and report.is_file() and not (workdir / "lock").exists()
    assert rows_of(workdir) == rows_of(unbroken)
    jax.tree.map(np.testing.assert_array_equal, last_state(workdir), last_state(unbroken))
    for name in ("responses/rl-final.jsonl", "responses/rl-000004.jsonl", "tokenizer/tokenizer.model"):
        assert (workdir / name).read_bytes() == (unbroken / name).read_bytes()
    for name in ("measured/sft.json", "measured/rl.json", "results.json"):
        mine, theirs = (json.loads((x / name).read_bytes()) for x in (workdir, unbroken))
        clock = dict.fromkeys(("seconds", "lost_tokens"))
        assert mine | clock == theirs | clock
    assert stages.run(CFG, workdir) == report  # it is done
    assert list(tmp_path.iterdir()) == []  # nothing became a local folder gs:


@pytest.mark.slow
def test_runs_in_a_bucket_that_are_killed_end_as_an_unbroken_local_one():
    command = [sys.executable, "-m", "tests.support.torture", "--place=gs", "--kills=6", "--seed=5"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills in " in done.stdout.splitlines()[-1]


ONE = make_mesh(1, 1, 1)
DAMAGE = {
    "half": ("state/manifest.ocdbt", "config/metadata", "stream/metadata", "metrics/metrics", "state/_METADATA"),
    "gone": ("state/manifest.ocdbt", "config/metadata", "stream/metadata", "commit_success.txt", "state/d"),
}


class Stream:
    def set_state(self, state) -> None:
        self.state = state


def state_of(step: int):
    return make_state(ONE, scale=float(step)).replace(step=np.int32(step))


@pytest.fixture(scope="module")
def two(cloud):
    """The objects of steps 1 and 2: name below the folder -> content."""
    folder = Bucket("gs://bkt/two")
    with Checkpoints(folder, SAVED, make_tokens()) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(step), {"next_index": step})
            checkpoints.wait()
    return {name.removeprefix("two/"): cloud.read(name) for name in cloud.names("two/")}


@pytest.mark.parametrize(("how", "file"), [(how, file) for how, files in DAMAGE.items() for file in files])
def test_a_damaged_step_is_marked_and_an_older_one_taken_until_it_is_saved_again(cloud, two, request, how, file):
    folder, notes = Bucket(f"gs://bkt/damaged/{how}-{file.replace('/', '-')}"), []
    for name, content in two.items():
        if not name.startswith(f"2/{file}"):
            cloud.write(f"{folder.key}/{name}", content)
        elif how == "half":
            cloud.write(f"{folder.key}/{name}", content[: len(content) // 2])
    with Checkpoints(folder, SAVED, make_tokens(), notes.append) as checkpoints:
        stream = Stream()
        restored = checkpoints.restore(abstract(state_of(1), ONE), stream)  # type: ignore[arg-type]
        step = int(restored.step)  # type: ignore[union-attr]
        assert_same(restored, state_of(step))  # type: ignore[arg-type]
        assert stream.state == {"next_index": step}
        if file == "commit_success.txt":  # it never counted, and is gone
            assert step == 1 and not notes and not (folder / "2").exists()
        elif step == 1:
            assert len(notes) == 1 and notes[0].startswith(f"{folder}/2 cannot be read (")
            assert (folder / "2" / steps.DAMAGED).is_file() and checkpoints.steps() == [1]
            assert weights.find(folder).step == folder / "1"
        else:
            assert not notes
    with Checkpoints(folder, SAVED, make_tokens(), notes.append) as checkpoints:
        assert checkpoints.latest() == step
        checkpoints.save(2, state_of(2), {"next_index": 2})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2] and not (folder / "2" / steps.DAMAGED).exists()
        assert_same(checkpoints.restore(abstract(state_of(1), ONE)), state_of(2))  # type: ignore[arg-type]
    assert weights.find(folder).step == folder / "2"


def test_what_is_saved_when_a_grace_ends_has_its_rows(cloud):
    """`checkpoint.grace_seconds`: rows are in memory until a checkpoint, and the process ends right after this one."""
    workdir = Bucket("gs://bkt/grace-rows")
    signals = Signals(grace=60.0)
    with Checkpoints(workdir / "checkpoints/rl", SAVED, make_tokens()) as checkpoints:
        writer = MetricsWriter(workdir, {})  # never closed, as the process ends
        log: Any = SimpleNamespace(name="rl", sync=writer.sync)
        stream: Any = SimpleNamespace(get_state=lambda: {"next_index": 2})
        saving = Saving(log, checkpoints, stream, signals)
        for step in (1, 2):
            writer.write("rl", step, {"loss": 1.0})
            saving.after(step, state_of(step), due=False)
        assert rows_of(workdir) == [] and signals._save is not None
        signals._save()
        assert checkpoints.steps() == [2]
    assert [row["step"] for row in rows_of(workdir)] == [1, 2]


def test_where_none_can_be_read_nothing_is_deleted(cloud, two):
    folder = Bucket("gs://bkt/none")
    for name, content in two.items():
        cloud.write(f"{folder.key}/{name}", content[:9] if name.endswith("manifest.ocdbt") else content)
    before = cloud.names("none")
    with Checkpoints(folder, SAVED, make_tokens(), lambda note: None) as checkpoints:
        with pytest.raises(Stopped, match=r"no checkpoint can be read \(2: .*; 1: .*\)"):
            checkpoints.restore(abstract(state_of(1), ONE))
    assert cloud.names("none") == sorted([*before, f"none/1/{steps.DAMAGED}", f"none/2/{steps.DAMAGED}"])
