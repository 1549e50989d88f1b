# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: the samples and losses of one process, one workdir, and no waiting for the dead."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small
from absl import flags
from test_pipeline import KNOBS, rows_of

from t1jax import cli, processes
from t1jax.config import ConfigError

ROOT = Path(__file__).parent.parent
STOPS_WITHIN = 60  # seconds after another process died
# What the CPU's exchange says, piece by piece: its threads tear each other's lines.
GLOO = re.compile(r"\[Gloo\]|Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is|:|\d+|\s+")


def group_of(*argv: str) -> processes.Group | None:
    values, _ = cli.read_flags(["t1jax", *argv], processes.define)
    assert isinstance(values, flags.FlagValues)
    return processes.asked(values)


def test_the_command_line_names_the_group():
    assert group_of() is None
    assert group_of("--multiprocess") == processes.Group()
    told = processes.Group("localhost:1234", 2, 1)
    assert group_of("--coordinator=localhost:1234", "--num_processes=2", "--process_id=1") == told
    assert group_of("--coordinator=[::1]:1234", "--num_processes=2", "--process_id=0").coordinator == "[::1]:1234"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--process_id=0"], "--coordinator is missing; expected --coordinator, --num_processes and --process_id"),
        (["--coordinator=a:1", "--process_id=0"], "--num_processes is missing"),
        (["--coordinator=a:1", "--num_processes=2"], "--process_id is missing"),
        (["--coordinator=a", "--num_processes=2", "--process_id=0"], "--coordinator is 'a'; expected HOST:PORT"),
        (["--coordinator=:80", "--num_processes=2", "--process_id=0"], "--coordinator is ':80'; expected HOST:PORT"),
        (["--coordinator=a:99999", "--num_processes=2", "--process_id=0"], "--coordinator is 'a:99999'; expected"),
        (["--coordinator=a:1", "--num_processes=0", "--process_id=0"], "--num_processes is 0; expected at least 1"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "--process_id is 2; expected 0 to 1"),
        (["--num_processes=two"], "--num_processes"),
    ],
)
def test_a_group_that_cannot_be_is_refused(argv, says):
    with pytest.raises(ConfigError) as error:
        group_of(*argv)
    assert says.removeprefix("--") in str(error.value)


def command(workdir: Path, devices: int, *more: str) -> subprocess.Popen[str]:
    """The training program on a few virtual devices, with the sizes of test_pipeline.py."""
    knobs = small.KNOBS | {name.replace("__", "."): value for name, value in KNOBS.items()}
    overrides = [f"--config.{name}={value}" for name, value in knobs.items()]
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "t1jax.main", "--config=configs/tiny.py", f"--workdir={workdir}", *overrides, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(argv, cwd=ROOT, env=environment, text=True, **pipes)


def two(workdir: Path) -> list[subprocess.Popen[str]]:
    """Two processes of four devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    who = (f"--coordinator=localhost:{port}", "--num_processes=2")
    return [command(workdir, 4, *who, f"--process_id={index}") for index in range(2)]


def ends(process: subprocess.Popen[str], code: int = 0, timeout: float = 500) -> str:
    """What it printed, once it ended with this code."""
    try:
        said = process.communicate(timeout=timeout)[0]
    finally:
        process.kill()
    assert process.returncode == code or (code < 0 and process.returncode != 0), said
    return said


def wait_for_row(workdir: Path, stage: str, processes: list[subprocess.Popen[str]]) -> None:
    """Until a step of the stage is in metrics.jsonl."""
    path, until = workdir / "metrics.jsonl", time.monotonic() + 400
    while not (path.exists() and f'"stage": "{stage}"' in path.read_text()):
        assert time.monotonic() < until and all(process.poll() is None for process in processes)
        time.sleep(0.05)


def kill(workdir: Path, index: int) -> tuple[str, float]:
    """Kills this one of two processes as soon as RL runs; what the other said, and after how many seconds it ended."""
    both = two(workdir)
    try:
        wait_for_row(workdir, "rl", both)
        both[index].send_signal(signal.SIGKILL)
        began = time.monotonic()
        said = ends(both[1 - index], code=-1, timeout=4 * STOPS_WITHIN)
    finally:
        for process in both:
            process.kill()
    return said, time.monotonic() - began


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A workdir whose two processes were running RL when the second was killed; what the first said, its seconds."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    return workdir, *kill(workdir, 1)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The workdir of an unbroken run of one process."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    ends(command(workdir, 8))
    return workdir


def same(mine: Path, theirs: Path) -> None:
    """Both workdirs hold the same rows, none twice, and the same samples."""
    a, b = rows_of(mine), rows_of(theirs)
    assert [(row["stage"], row["step"]) for row in a] == [(row["stage"], row["step"]) for row in b]
    for left, right in zip(a, b, strict=True):
        for name, value in left.items():
            if isinstance(value, float | int):
                what = f"{left['stage']} {name}"
                np.testing.assert_allclose(right[name], value, rtol=1e-4, atol=1e-4, err_msg=what)
    samples = [json.loads((path / "results.json").read_text())["samples"] for path in (mine, theirs)]
    assert samples[0] == samples[1]


def test_a_process_that_dies_makes_the_other_stop_with_a_message(killed):
    _, said, seconds = killed
    assert seconds < STOPS_WITHIN, said[-3000:]
    assert "t1jax: process 0 of 2 stopped" in said or "another task died" in said, said[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_one_process_that_is_asked_to_stop_stops_both_after_the_same_step(tmp_path, one, asked):
    both = two(tmp_path / "run")
    wait_for_row(tmp_path / "run", "rl", both)
    both[asked].send_signal(signal.SIGTERM)
    said = [ends(process, code=143) for process in both]
    assert all("stopped after rl step" in text for text in said), said
    ends(command(tmp_path / "run", 8))
    same(one, tmp_path / "run")


@pytest.mark.slow
def test_the_first_process_may_die_too(tmp_path):
    said, seconds = kill(tmp_path / "run", 0)
    assert seconds < STOPS_WITHIN, said[-3000:]
    reasons = ("t1jax: process 1 of 2 stopped", "another task died", "coordination")
    assert any(reason in said for reason in reasons), said[-3000:]


@pytest.mark.slow
def test_a_run_of_two_goes_on_as_one_process(killed, one, tmp_path):
    shutil.copytree(killed[0], tmp_path / "run")
    ends(command(tmp_path / "run", 8))
    same(one, tmp_path / "run")


def test_two_processes_go_on_together_and_are_the_same_run_as_one(killed, one):
    workdir, *_ = killed
    said = [ends(process) for process in two(workdir)]
    assert "report: " in said[0]
    assert GLOO.sub("", said[1]) == ""  # process 0 alone reports
    same(one, workdir)
