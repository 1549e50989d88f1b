# SPDX-License-Identifier: Apache-2.0
"""python -m t1jax.status: what it says of a run, and its exit codes."""

from __future__ import annotations

import json
import os
import socket
import time

import pytest
from made_up import write_run

from t1jax import status
from t1jax.config import ConfigError
from t1jax.host import files, usage, workdir

KNOBS = {"sft__num_steps": 20, "rl__num_steps": 90, "eval__every": 9}


@pytest.fixture
def run(tmp_path):
    """A run during RL, with a checkpoint of step 10 that is a minute old."""
    folder = write_run(tmp_path / "run", cold=20, steps=11, finished=False, **KNOBS)
    step = folder / "checkpoints/rl/10"
    step.mkdir(parents=True)
    os.utime(step, (time.time() - 60,) * 2)
    return folder


def said(capsys, folder):
    code = status.main(["t1jax.status", str(folder)])
    out, err = capsys.readouterr()
    return code, out, err


def start(began, seen, chips=4, host="here"):
    return {"began": began, "seen": seen, "chips": chips, "kind": "TPU v5 lite", "host": host, "process": 7}


def test_a_run_that_goes_on(run, capsys):
    now = time.time()
    files.write_json(run / "usage.json", {"starts": [start(now - 9000, now - 5400), start(now - 1800, now, 8)]})
    with workdir.locked(run):
        code, out, err = said(capsys, run)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{run}: running, process {os.getpid()} on {socket.gethostname()}",
        "stage: reinforcement, step 11 of 90",
        "speed: 1 s a step, 0 tokens/s",
        "time left: 1:28 for reinforcement, without what is measured after it",
        "last checkpoint: reinforcement step 10, 1:00 ago",
        "health: no step skipped",
        "cost so far: 8 chip-hours in 2 starts on 4 TPU v5 lite, 8 TPU v5 lite",
    ]


def test_what_is_not_running_says_so_by_its_code(run, tmp_path, capsys):
    code, out, err = said(capsys, run)
    assert code == status.EXIT_IDLE == 5 and out.startswith(f"{run}: not running\n") and err.count("\n") == 1
    done = write_run(tmp_path / "done", cold=20, **KNOBS)
    code, out, err = said(capsys, done)
    assert (code, err) == (0, "") and out.startswith(f"{done}: finished\n") and "time left" not in out
    code, out, err = said(capsys, tmp_path / "none")
    assert code == 2 and out == "" and "no such folder" in err


def quiet(run, seconds: float, *but: str) -> None:
    """All files of the run are as old as this, but for some that were just written."""
    for path in run.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)
    for name in but:
        files.write_text(run / name, "{}")


@pytest.mark.parametrize(("before", "stage"), [(True, "measurement before reinforcement"), (False, "reinforcement")])
def test_after_the_cold_start_it_says_what_comes_next(tmp_path, capsys, before, stage):
    folder = write_run(tmp_path / "run", cold=20, steps=0, finished=False, eval__before=before, **KNOBS)
    (folder / "measured/sft.json").unlink()
    assert f"stage: {stage}{'' if before else ', step 0 of 90'}\n" in said(capsys, folder)[1]
    folder = write_run(tmp_path / "cold", cold=7, steps=0, finished=False, eval__before=before, **KNOBS)
    (folder / "measured/sft.json").unlink()
    assert "stage: cold start, step 7 of 20\n" in said(capsys, folder)[1]


def test_a_lock_that_cannot_be_seen_from_here_is_made_up_for_by_signs_of_life(run, capsys):
    now = time.time()
    files.write_json(run / "usage.json", {"starts": [start(now - 60, now - usage.BEAT, host="far")]})
    assert said(capsys, run)[0] == 0
    files.write_json(run / "usage.json", {"starts": [start(now - 900, now - 4 * usage.BEAT, host="far")]})
    assert said(capsys, run)[0] == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [({"skipped": 1.0}, "the gradient was not finite"), ({"entropy": 0.001}, "raise rl.entropy_coef")],
)
def test_a_run_that_is_not_well_says_so_by_its_code(run, capsys, change, words):
    *lines, last = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(json.loads(last) | change)]) + "\n")
    with workdir.locked(run):
        code, out, err = said(capsys, run)
    assert code == status.EXIT_WRONG == 6 and words in err and words in out


def test_a_run_that_hangs_says_so_by_its_code(run, capsys):
    quiet(run, 7200)
    with workdir.locked(run):
        code, _, err = said(capsys, run)
        assert code == 6 and "no step for 2:00:00" in err
        now = time.time()
        files.write_json(run / "usage.json", {"starts": [start(now - 60, now)]})
        assert said(capsys, run)[0] == 0  # it was started a minute ago


def test_before_the_first_step_of_a_stage_nothing_is_judged_by_another_stages_pace(tmp_path, capsys):
    """After a measurement of hours the first step takes as long as it takes."""
    folder = write_run(tmp_path / "run", cold=20, steps=0, finished=False, **KNOBS)
    quiet(folder, 7200)
    with workdir.locked(folder):
        code, out, err = said(capsys, folder)
    assert (code, err) == (0, "") and "stage: reinforcement, step 0 of 90\n" in out and "speed" not in out


def test_the_filter_is_a_stage(tmp_path, capsys):
    folder = write_run(tmp_path / "run", cold=20, steps=0, finished=False, rl__filter_pass_rate=0.3, **KNOBS)
    quiet(folder, 7200)
    with workdir.locked(folder):
        code, out, err = said(capsys, folder)
    assert (code, err) == (0, "") and "stage: filter of problems\n" in out
    files.write_text(folder / "filter.json", "{}")
    assert "stage: reinforcement, step 0 of 90\n" in said(capsys, folder)[1]


@pytest.mark.parametrize("sign", ["journal/rl-000009-quick.jsonl", "measured/extra.json", "metrics.jsonl"])
def test_a_measurement_that_goes_on_is_a_sign_of_life(run, capsys, sign):
    content = (run / "metrics.jsonl").read_text()
    quiet(run, 7200)
    with workdir.locked(run):
        assert said(capsys, run)[0] == 6
        quiet(run, 7200, sign)
        if sign == "metrics.jsonl":
            (run / sign).write_text(content)
        assert said(capsys, run)[0] == 0


def test_in_a_bucket_rows_are_waited_for_until_the_next_checkpoint(cloud, tmp_path, capsys, monkeypatch):
    """Ten steps of 814 s: no row comes for more than two hours, of a run that is well."""
    from t1jax.host import lock, place

    run = write_run(tmp_path / "run", cold=20, steps=11, finished=False, checkpoint__every=10, **KNOBS)
    there = place.of("gs://bkt/slow", "--workdir")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    slow = "".join(json.dumps(row | {"seconds": 814.0}) + "\n" for row in rows).encode()
    files.write_bytes(there / "metrics.jsonl-000000", slow)
    for path in ("config.json", "measured/sft.json"):
        files.write_bytes(there / path, (run / path).read_bytes())
    monkeypatch.setattr(lock, "holder", lambda path: "process 7 on far")
    began = time.time()
    for steps, code in ((19.5, 0), (20.5, 6)):  # ten usual ones, and the ten that a checkpoint is waited for
        monkeypatch.setattr(time, "time", lambda steps=steps: began + steps * 814)
        assert said(capsys, there)[0] == code, steps


def test_a_bucket_says_the_same(cloud, run, capsys):
    from t1jax.host import place

    there = place.of("gs://bkt/status", "--workdir")
    for path in ("config.json", "metrics.jsonl", "measured/sft.json"):
        files.write_bytes(there / path, (run / path).read_bytes())
    files.write_bytes(there / "checkpoints/rl/10/commit_success.txt", b"")
    assert said(capsys, there)[0] == 5
    with workdir.locked(there):
        code, out, err = said(capsys, there)
    assert (code, err) == (0, "") and "last checkpoint: reinforcement step 10, 0:0" in out


def test_time_is_counted_by_the_chip_and_a_kill_costs_a_beat(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "BEAT", 0.01)
    now = [1000.0]
    with usage.counted(tmp_path, 4, "TPU", lambda: now[0]):
        now[0] = 4600.0
        until = time.monotonic() + 10
        while usage.chip_hours(usage.read(tmp_path)) != 4 and time.monotonic() < until:
            time.sleep(0.01)
        assert usage.chip_hours(usage.read(tmp_path)) == 4  # as a kill would leave it
    with usage.counted(tmp_path, 8, "TPU", lambda: now[0]):
        now[0] = 8200.0
    assert usage.chip_hours(usage.read(tmp_path)) == 12
    for damage in ('{"starts": [{"began": "x"}]}', '{"starts": 3}', "[]", "{"):
        (tmp_path / "usage.json").write_text(damage)
        with pytest.raises(ConfigError, match=r"usage\.json.*delete"):
            usage.read(tmp_path)
