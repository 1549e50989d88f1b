# SPDX-License-Identifier: Apache-2.0
"""The torture of tests/support/torture.py, ten kills of it; and that it would see a difference."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torture

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_ten_kills_change_nothing():
    command = [sys.executable, "-m", "tests.support.torture", "--kills=10", "--seed=7"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("10 kills in ")


def test_the_countdown_strikes_once_at_the_nth_time():
    struck: list[int] = []
    fall = torture.Countdown(3)
    threads = [threading.Thread(target=fall, kwargs={"kill": lambda: struck.append(1)}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert struck == [1]


def test_a_difference_is_seen():
    one = {"rows": [{"step": 1}], "rl": {"a": b"\x00"}}
    assert torture.differences(one, one) == []
    assert torture.differences(one, one | {"rows": [{"step": 1}, {"step": 1}]}) == ["rows"]
    assert torture.differences(one, one | {"rl": {"a": b"\x01"}}) == ["rl"]


def test_the_files_of_a_save_are_counted_as_they_come(tmp_path):
    count: list[int] = []
    folder = tmp_path / "checkpoints/rl/2.orbax-checkpoint-tmp"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoints/rl/tokenizer.model").touch()
    (folder / "one").touch()

    class Enough(Exception):
        pass

    def fall() -> None:
        count.append(1)
        if len(count) == 1:
            (folder / "two").touch()
        else:
            raise Enough

    with pytest.raises(Enough):
        torture.watch(tmp_path / "checkpoints", fall)
    assert len(count) == 2
