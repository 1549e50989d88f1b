# SPDX-License-Identifier: Apache-2.0
"""A signal at any moment: the step is ended and saved, the exit code is the documented one, and the run goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import CFG, last_state, rows_of

from t1jax.evaluation import evaluator
from t1jax.host import place
from t1jax.host.place import Place
from t1jax.host.stopping import Interrupted, Signals
from t1jax.training import loop, sft, stages

ROOT = Path(__file__).parents[2]
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # minutes inside one call of C
CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{support!r}, {root!r}]
import small, tiny_run
from t1jax.host import command_line, place
from t1jax.training import stages
cfg = small.make_config(**{{**tiny_run.KNOBS, **{knobs!r}}})
print("begun", flush=True)
command_line.leave(command_line.call("t1jax", "", lambda _: stages.run(cfg, place.of({folder!r}, "")), sys.argv))
"""


def child(folder: Place, before: str = "", **knobs) -> subprocess.Popen[str]:
    """The small run of tiny_run.py in a process of its own; `before` is Python to run first."""
    code = before + CHILD.format(support=str(ROOT / "tests/support"), root=str(ROOT), knobs=knobs, folder=str(folder))
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def saved(folder: Place, stage: str) -> list[int]:
    return sorted(int(x.name) for x in (folder / "checkpoints" / stage).glob("*") if x.name.isdecimal())


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """Python with only stopping.py."""
    first = "import os, signal, time; from t1jax.host.stopping import Signals\n"
    return subprocess.run([sys.executable, "-c", first + code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_outside_of_a_loop_a_signal_ends_the_run_there():
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with pytest.raises(Interrupted, match=f"stopped .{number.name}.; the same command resumes") as error:
            with Signals():
                os.kill(os.getpid(), number)
                time.sleep(5)
        assert error.value.code == code


@pytest.mark.parametrize(
    "code, said", [(0, "said\ntaken down\n"), (4, "said\ntaken down\n"), (130, "said\n"), (143, "said\n")]
)
def test_after_a_signal_the_interpreter_is_not_taken_down_and_nothing_said_is_lost(code, said):
    """What the devices still compute would crash it there."""
    program = (
        "import atexit; from t1jax.host import command_line; atexit.register(print, 'taken down'); "
        f"print('said'); command_line.leave({code})"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=buffered, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (code, said)


def test_inside_of_a_loop_it_is_asked_for_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        with signals.deferred():
            assert not signals.asked
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert signals.asked == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_second_signal_ends_the_process_inside_a_call_that_lasts_minutes():
    done = alone(
        "import threading\n"
        "def ask(): [(time.sleep(0.5), os.kill(os.getpid(), signal.SIGTERM)) for _ in range(2)]\n"
        f"with Signals() as s, s.deferred(): threading.Thread(target=ask, daemon=True).start(); {BUSY}\n"
    )
    assert done.returncode == 143 and "SIGTERM: stopping" in done.stderr


def test_a_short_grace_saves_the_last_step_inside_a_call_that_lasts_minutes(tmp_path):
    done = alone(
        "import threading, pathlib\n"
        "def ask(): time.sleep(0.5), os.kill(os.getpid(), signal.SIGINT)\n"
        "with Signals(grace=1.0) as s, s.deferred():\n"
        f"    s.keep(lambda: pathlib.Path({str(tmp_path / 'saved')!r}).touch())\n"
        f"    threading.Thread(target=ask, daemon=True).start(); {BUSY}\n"
    )
    assert done.returncode == 130 and (tmp_path / "saved").exists() and "stopped during a step" in done.stderr


def test_a_short_grace_ends_the_process_where_the_last_step_cannot_be_saved_too():
    """Its main thread waits meanwhile in `leave`, as after a step that ended at that moment."""
    done = alone(
        "def fail(): time.sleep(1), os.stat('/full')\n"
        "with Signals(grace=1.0) as s, s.deferred():\n"
        "    s.keep(fail)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(1); s.leave('stopped after step 3', signal.SIGTERM)\n"
    )
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert "the last completed one could not be saved: [Errno 2] No such file or directory: '/full'" in done.stderr


def kill_at(monkeypatch, owner, name: str, count: int, number: int) -> None:
    """Sends this process `number` inside of the call `count` of a function."""
    whole, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(0)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


def stop(folder, monkeypatch, owner, name, count, number) -> Interrupted:
    with monkeypatch.context() as patched:
        kill_at(patched, owner, name, count, number)
        with pytest.raises(Interrupted) as error:
            stages.run(CFG, folder)
    return error.value


@pytest.mark.parametrize(
    "owner, name, count, number, said, stage, step_saved",
    [
        pytest.param(
            sft.multihost,
            "global_batch",
            3,
            signal.SIGTERM,
            "stopped after sft step 3",
            "sft",
            3,
            marks=pytest.mark.slow,
        ),
        (loop.StepLog, "write", 5 + 3, signal.SIGINT, "stopped after rl step 3", "rl", 3),
        pytest.param(evaluator.Evaluator, "respond", 1, signal.SIGTERM, "stopped", "sft", 5, marks=pytest.mark.slow),
    ],
    ids=["cold start", "reinforcement", "measuring"],
)
def test_a_stopped_run_ends_as_the_unbroken_one(
    unbroken,
    tmp_path,
    monkeypatch,
    owner,
    name,
    count,
    number,
    said,
    stage,
    step_saved,
):
    error = stop(tmp_path / "run", monkeypatch, owner, name, count, number)
    assert str(error).startswith(f"{said} ({signal.Signals(number).name})") and error.code == 128 + number
    assert saved(tmp_path / "run", stage)[-1] == step_saved
    stages.run(CFG, tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(unbroken)
    jax.tree.map(np.testing.assert_array_equal, last_state(tmp_path / "run"), last_state(unbroken))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "gs"])
def test_a_grace_shorter_than_a_step_loses_no_step(unbroken, tmp_path, where, request):
    """The third RL step hangs (each device scores its own rows); half the grace later the second is saved."""
    hang = (
        "import time\n"
        "import jax\n"
        "from t1jax.rewards import score\n"
        "import t1jax.training.rl\n"
        "make, calls = score.make_scorer, []\n"
        "def slow(*args):\n"
        "    scorer = make(*args)\n"
        "    def judge(*arrays):\n"
        "        calls.append(0)\n"
        "        if len(calls) == 2 * len(jax.devices()) + 1: print('hangs', flush=True); time.sleep(600)\n"
        "        return scorer(*arrays)\n"
        "    return judge\n"
        "t1jax.training.rl.make_scorer = slow\n"
    )
    folder = tmp_path / "run"
    if where == "gs":
        request.getfixturevalue("cloud")
        folder = place.of("gs://bkt/grace", "workdir")
    with child(folder, hang, checkpoint__grace_seconds=4.0, checkpoint__every=100) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line == "hangs\n":
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 143, said
    assert "stopped during a step" in said and saved(folder, "rl") == [2]
    assert [row["step"] for row in rows_of(folder) if row["stage"] == "rl"] == [1, 2]
    again = child(folder, checkpoint__grace_seconds=4.0, checkpoint__every=100)
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert rows_of(folder) == rows_of(unbroken)


def same(folder: Path, unbroken: Path) -> None:
    assert (folder / "results.json").exists() and (folder / "report.html").exists()
    assert rows_of(folder) == rows_of(unbroken)
    jax.tree.map(np.testing.assert_array_equal, last_state(folder), last_state(unbroken))


@pytest.mark.slow
def test_20_of_20_signals_at_random_moments_are_honoured(unbroken, tmp_path):
    """Whatever the run does at the moment; a run that ends is compared, and another begun.

    A signal that comes when all is written ends the process as the system does it: to a shell that is the same code.
    """
    dice, honoured, number = random.Random(0), 0, 0
    while honoured < 20:
        folder = tmp_path / f"run{number}"
        with child(folder) as process:
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            time.sleep(dice.uniform(0.5, 25))
            asked = dice.choice((signal.SIGINT, signal.SIGTERM))
            process.send_signal(asked)
            said = process.communicate()[0]
        if process.returncode in (0, -asked):
            same(folder, unbroken)
            number += 1
            continue
        assert process.returncode == 128 + asked, said
        honoured += 1
    last = child(tmp_path / f"run{number}")
    said = last.communicate()[0]
    assert last.returncode == 0, said
    same(tmp_path / f"run{number}", unbroken)
    print(f"{honoured} of {honoured} signals honoured, {number + 1} runs ended as the unbroken one")
