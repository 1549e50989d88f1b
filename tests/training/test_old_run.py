# SPDX-License-Identifier: Apache-2.0
"""A workdir that an older version wrote is restored bit for bit, and goes on as that version went on.

old_run.zip was written at commit 3788c6a on one CPU device: `run` is a workdir after the cold start and two of four RL
steps, as if stopped there; `expected.json` holds the flags, a digest of each array of the checkpoint, and what that
version then measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from t1jax import main
from t1jax.devices import sharding
from t1jax.host import workdir as workdir_of
from t1jax.text import tokenizer
from t1jax.training import checkpoint
from t1jax.training.setup import rl_setup

ROOT = Path(__file__).parents[2]
ARCHIVE = Path(__file__).with_name("old_run.zip")


@pytest.fixture
def old(tmp_path):
    """(the workdir, what is expected of it)."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "run", json.loads((tmp_path / "expected.json").read_text())


def test_the_archive_is_small():
    assert ARCHIVE.stat().st_size < 200_000


def test_the_checkpoint_is_restored_bit_for_bit(old):
    workdir, expected = old
    cfg, *_ = main.parse(["t1jax", *expected["flags"]])
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[:1])
    shapes = rl_setup(cfg, mesh).state_shapes()
    with checkpoint.Checkpoints(workdir / "checkpoints/rl", cfg, tokenizer.load(workdir / "tokenizer")) as kept:
        assert kept.latest() == 2
        state = kept.restore(shapes)
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        x = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(x.tobytes()).hexdigest()[:16]
        found[jax.tree_util.keystr(path)] = [str(x.dtype), list(leaf.shape), digest]
    assert found == expected["state"]
    assert int(state.step) == 2
    assert workdir_of.claim(cfg, workdir) == {}  # the same knobs: the run may go on


@pytest.mark.slow
def test_the_run_goes_on_as_it_would_have(old):
    """In a process of its own, because a run of one device is continued on one."""
    workdir, expected = old
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "t1jax.main", f"--workdir={workdir}", *expected["flags"]]
    done = subprocess.run(command, cwd=workdir.parent, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("sft", 1), *(("rl", n) for n in range(1, 5))]
    for row, before in zip(rows[-2:], expected["rows"], strict=True):
        numbers = {name: value for name, value in before.items() if name not in ("stage", "step")}
        same = {name: row[name] for name in numbers}
        assert same == pytest.approx(numbers, rel=1e-3, abs=1e-5)  # other machines round in other ways
    results = json.loads((workdir / "results.json").read_text())
    for name in ("accuracy", "n", "response_length"):
        assert results["rl"][name] == pytest.approx(expected["rl"][name])
    assert [(p["stage"], p["budget"]) for p in results["scaling"]] == [
        (p["stage"], p["budget"]) for p in expected["scaling"]
    ]
