# SPDX-License-Identifier: Apache-2.0
"""The soak of tests/support/soak.py, a hundred steps of it; and that it would see what grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soak

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_hundred_steps_open_start_and_compile_nothing(tmp_path):
    """Not memory: it settles later."""
    command = [sys.executable, "-m", "tests.support.soak", "--steps=100", f"--out={tmp_path / 'soak.json'}"]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (tmp_path / "soak.json").exists(), done.stdout + done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())["figures"]
    for name, more in soak.FLUCTUATION.items():
        assert found[f"{name} late"] <= found[f"{name} early"] + more, done.stdout
    assert found["compiled after warm-up"] == found["compiled between step 2 and the first evaluation"] == 0


def rows(**growth):
    """Three hundred rows in which nothing grows but `growth`, by that a step."""
    still = {"memory": 700.0, "files": 19.0, "threads": 11.0, "native threads": 30.0, "children": 0.0, "compiled": 15.0}
    return [
        {name: value + n * growth.get(name, 0.0) for name, value in still.items()}
        | {"step": n + 1, "time": n * 0.1, "processor": n * 0.2}
        for n in range(300)
    ]


def test_a_run_in_which_nothing_grows_is_well():
    found, well = soak.verdict(rows())
    assert well and found["memory growth"] == 1 and found["step seconds late"] == pytest.approx(0.1)


@pytest.mark.parametrize("growth", [{"memory": 0.3}, *({name: 0.1} for name in soak.FLUCTUATION)])
def test_what_grows_is_seen(growth):
    assert not soak.verdict(rows(**growth))[1]


def test_steps_that_take_longer_are_seen():
    assert not soak.verdict([row | {"processor": row["step"] ** 1.5} for row in rows()])[1]


@pytest.mark.parametrize("late", [3, 150], ids=["before the first evaluation", "in the middle"])
def test_a_program_compiled_late_is_seen(late):
    assert not soak.verdict([row | {"compiled": 15 + (row["step"] > late)} for row in rows()])[1]
