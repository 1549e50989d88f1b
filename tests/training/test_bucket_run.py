# SPDX-License-Identifier: Apache-2.0
"""A whole run whose workdir is in a bucket, broken off and resumed, against an unbroken local one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import CFG, last_state, rows_of

from t1jax.host import place
from t1jax.host.bucket import Bucket
from t1jax.training import stages

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
        assert {k: v for k, v in mine.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}
    assert stages.run(CFG, workdir) == report  # it is done
    assert list(tmp_path.iterdir()) == []  # nothing became a local folder gs:


@pytest.mark.slow
def test_runs_in_a_bucket_that_are_killed_end_as_an_unbroken_local_one():
    command = [sys.executable, "-m", "tests.support.torture", "--place=gs", "--kills=6", "--seed=5"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills in " in done.stdout.splitlines()[-1]
