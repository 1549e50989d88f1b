# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: the samples and losses of one process, one workdir, and no waiting for the dead."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import several
import small
from absl import flags
from tiny_run import KNOBS, rows_of

from t1jax.config import ConfigError
from t1jax.host import command_line, log, processes, workdir
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place

ROOT = Path(__file__).parents[2]
STOPS_WITHIN = 60  # seconds after another process died
# What the CPU's exchange says, piece by piece: its threads tear each other's lines.
GLOO = re.compile(r"\[Gloo\]|Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is|:|\d+|\s+")


def group_of(*argv: str) -> processes.Group | None:
    values, _ = command_line.read_flags(["t1jax", *argv], processes.define)
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


def test_a_coordinator_on_localhost_listens_to_this_machine_alone():
    for given in ("127.0.0.2:80", "[::1]:80"):
        assert processes._loopback(given) == given
    assert processes._loopback("localhost:80") == "127.0.0.1:80"
    assert processes._loopback("10.0.0.2:80") is None and processes._loopback(None) is None
    port = several.free_port()
    code = (
        "from pathlib import Path\nfrom t1jax.host import processes\n"
        f"processes._join(processes.Group('localhost:{port}', 1, 0))\n"
        "print([*Path('/proc/net/tcp').read_text().splitlines(), *Path('/proc/net/tcp6').read_text().splitlines()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=several.environment(), capture_output=True, text=True
    )
    listens = [line.split()[1] for line in eval(done.stdout) if f":{port:04X} " in line and " 0A " in line]
    assert [address[-13:] for address in listens] == [f"0100007F:{port:04X}"], done.stdout  # 127.0.0.1


@dataclass(frozen=True)
class Group:
    """So many processes of so many devices, in a mesh (data, fsdp, tensor)."""

    processes: int
    devices: int
    mesh: tuple[int, int, int]
    kv_heads: int = 4  # of the model: as many as any mesh here splits

    @property
    def alone(self) -> Group:
        """One process with as many devices."""
        return Group(1, self.processes * self.devices, self.mesh, self.kv_heads)

    def start(self, workdir: Place, last: Sequence[str] = ()) -> list[subprocess.Popen[str]]:
        """The training program, with the sizes of support/tiny_run.py.

        `last`: arguments of the last process.
        """
        knobs = small.KNOBS | {name.replace("__", "."): value for name, value in KNOBS.items()}
        knobs |= {"model.num_kv_heads": self.kv_heads, "scaling.budgets": (16,)}
        knobs |= dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), self.mesh, strict=True))
        overrides = [f"--config.{name}={value}" for name, value in knobs.items()]
        argv = [sys.executable, "-m", "t1jax.main", "--config=configs/tiny.py", f"--workdir={workdir}", *overrides]
        who = (f"--coordinator=localhost:{several.free_port()}", f"--num_processes={self.processes}")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return [
            subprocess.Popen(
                [
                    *argv,
                    *((*who, f"--process_id={index}") if self.processes > 1 else ()),
                    *(last if index == self.processes - 1 else ()),
                ],
                cwd=ROOT,
                env=several.environment(self.devices),
                text=True,
                **pipes,
            )
            for index in range(self.processes)
        ]

    def run(self, workdir: Place) -> list[str]:
        """What each process of a run that ends well says."""
        return [ends(process) for process in self.start(workdir)]


# In this one a tensor group spans both processes, which so hold the same shard of the batch.
TWO = Group(2, 1, (1, 1, 2))
OTHERS = (
    Group(2, 4, (8, 1, 1)),
    Group(2, 2, (1, 1, 4)),
    Group(2, 2, (1, 2, 2)),
    Group(4, 1, (1, 1, 4)),
    Group(4, 1, (1, 1, 4), kv_heads=2),  # two processes have a copy of each
    Group(4, 1, (1, 2, 2)),
    Group(4, 2, (2, 1, 4)),
)


def ends(process: subprocess.Popen[str], code: int = 0, timeout: float = 2000) -> str:
    """What it printed, once it ended with this code."""
    try:
        said = process.communicate(timeout=timeout)[0]
    finally:
        process.kill()
    assert process.returncode == code or (code < 0 and process.returncode != 0), said
    return said


def wait_for_row(workdir: Place, stage: str, processes: list[subprocess.Popen[str]]) -> None:
    """Until a step of the stage is in metrics.jsonl."""
    path, until = workdir / "metrics.jsonl", time.monotonic() + 1500
    while f'"stage": "{stage}"'.encode() not in log.read(path):
        assert time.monotonic() < until and all(process.poll() is None for process in processes)
        time.sleep(0.05)


def kill(workdir: Place, index: int, group: Group = TWO) -> tuple[str, float]:
    """Kills this one of the processes as soon as RL runs; what another said, and after how many seconds it ended."""
    started = group.start(workdir)
    try:
        wait_for_row(workdir, "rl", started)
        started[index].send_signal(signal.SIGKILL)
        began = time.monotonic()
        said = ends(started[index - 1], code=-1, timeout=4 * STOPS_WITHIN)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return said, time.monotonic() - began


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A workdir whose two processes were running RL when the second was killed; what the first said, its seconds."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    return workdir, *kill(workdir, 1)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The workdir of an unbroken run of one process with as many devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    TWO.alone.run(workdir)
    return workdir


def same(mine: Place, theirs: Place) -> None:
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
    both = TWO.start(tmp_path / "run")
    wait_for_row(tmp_path / "run", "rl", both)
    both[asked].send_signal(signal.SIGTERM)
    said = [ends(process, code=143) for process in both]
    assert all("stopped after rl step" in text for text in said), said
    TWO.alone.run(tmp_path / "run")
    same(one, tmp_path / "run")


@pytest.mark.slow
def test_the_first_process_may_die_too(tmp_path):
    said, seconds = kill(tmp_path / "run", 0)
    assert seconds < STOPS_WITHIN, said[-3000:]
    reasons = ("t1jax: process 1 of 2 stopped", "another task died", "coordination")
    assert any(reason in said for reason in reasons), said[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("group", [TWO.alone, Group(4, 1, (1, 2, 2)), Group(1, 1, (1, 1, 1))])
def test_a_checkpoint_of_two_goes_on_as_any_number_of_processes(killed, one, tmp_path, group):
    shutil.copytree(killed[0], tmp_path / "run")
    group.run(tmp_path / "run")
    same(one, tmp_path / "run")


@pytest.mark.slow
def test_a_run_of_one_goes_on_as_two(one, tmp_path):
    (alone,) = TWO.alone.start(tmp_path / "run")
    wait_for_row(tmp_path / "run", "rl", [alone])
    alone.send_signal(signal.SIGKILL)
    ends(alone, code=-1)
    TWO.run(tmp_path / "run")
    same(one, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("group", OTHERS)
def test_any_mesh_over_any_processes_killed_once_is_the_run_of_one(tmp_path, group):
    kill(tmp_path / "run", 1, group)
    group.run(tmp_path / "run")
    group.alone.run(tmp_path / "one")
    same(tmp_path / "one", tmp_path / "run")


@pytest.mark.slow
def test_two_processes_go_on_together_and_are_the_same_run_as_one(killed, one):
    workdir, *_ = killed
    said = TWO.run(workdir)
    assert "report: " in said[0]
    assert "1 shard of the batch, 2 processes; a shard is fed by up to 2 processes" in said[0]
    assert GLOO.sub("", said[1]) == ""  # process 0 alone reports
    same(one, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_two_processes_in_a_bucket_killed_once_are_the_run_of_one(cloud, one, index):
    workdir = Bucket(f"gs://bkt/two{index}")
    kill(workdir, index)
    assert "report: gs://bkt/two" in TWO.run(workdir)[0]
    same(one, workdir)
    assert not (workdir / "lock").exists()


def test_processes_with_other_files_or_packages_are_refused(monkeypatch, tmp_path):
    (tmp_path / "texts.jsonl").write_text("{}")
    cfg = small.make_config(data__sft=str(tmp_path / "texts.jsonl"))
    workdir.refuse_other_processes(cfg, {})  # alone
    monkeypatch.setattr(workdir.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        workdir.multihost, "different", lambda values: ["the content of data.sft", "the version of grain"]
    )
    with pytest.raises(ConfigError) as error:
        workdir.refuse_other_processes(cfg, {"grain": "0.2.18"})
    content = hashlib.sha256(b"{}").hexdigest()
    expected = (
        f"processes differ in the content of data.sft ({content} here), the version of grain (0.2.18 here); expected"
    )
    assert expected in str(error.value)


@pytest.mark.slow
def test_processes_with_other_commands_are_refused_with_the_knob(tmp_path):
    """Each would train on its own terms, and no replica would differ before the first update."""
    said = [ends(each, code=2) for each in TWO.start(tmp_path / "run", ["--config.rl.learning_rate=0.5"])]
    for text, here in zip(said, (0.003, 0.5), strict=True):
        assert f"t1jax: processes differ in rl.learning_rate ({here} here); expected the same command" in text, text
