# SPDX-License-Identifier: Apache-2.0
"""Runs of a study in processes of their own: in order, so many at a time, none twice; and a whole study, small."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from unittest import mock

import pytest
from small import make_config, make_mesh

from t1jax import study
from t1jax.config import ConfigError
from t1jax.host import workdir
from t1jax.host.stopping import Stopped
from t1jax.studies import trial
from t1jax.study import Job, run_jobs
from t1jax.training import step
from t1jax.training.setup import rl_setup

ROOT = Path(__file__).parent.parent
STUB = """
import json, os, sys, time
from pathlib import Path
out, name = Path(sys.argv[1]), sys.argv[2]
told = json.loads((out / name / "job.json").read_text())
def note(what):
    with open(out / "order.txt", "a") as file:
        file.write(f"{what} {name} {os.getpid()} {len(os.sched_getaffinity(0))}\\n")
note("begin")
print("working on", name, flush=True)
time.sleep(told.get("sleep", 0.3))
if told.get("code"):
    sys.exit(told["code"])
for made in told["makes"]:
    (out / made).parent.mkdir(parents=True, exist_ok=True)
    (out / made).write_text("{}")
note("end")
"""


def job(name, after=(), **told):
    makes = (f"{name}/done.json",)
    return Job(name, makes, {"makes": makes, **told}, tuple(after))


@pytest.fixture
def stub(tmp_path, monkeypatch):
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(study, "PROGRAM", (str(tmp_path / "stub.py"),))
    monkeypatch.setattr(study, "POLL", 0.01)
    return tmp_path / "out"


def order(out):
    return [line.split() for line in (out / "order.txt").read_text().splitlines()]


def test_jobs_wait_for_what_they_need_and_are_never_more_than_asked(stub):
    said = []
    jobs = [job("a"), job("b", sleep=0.8), job("c", after=("a", "b")), job("d", after=("a",)), job("e")]
    run_jobs(jobs, stub, 2, said.append)
    lines = order(stub)
    place = {(what, name): i for i, (what, name, *_) in enumerate(lines)}
    assert len(lines) == 10
    assert place["begin", "c"] > max(place["end", "a"], place["end", "b"])
    assert place["begin", "d"] > place["end", "a"]
    running = most = 0
    for what, *_ in lines:
        running += 1 if what == "begin" else -1
        most = max(most, running)
    assert most == 2
    assert len(said) == 5 and said[-1].startswith("5 of 5: ")
    assert (stub / "c/log.txt").read_text() == "working on c\n"
    if len(os.sched_getaffinity(0)) > 1:  # each has its share of the cores
        assert {int(line[3]) for line in lines} == {len(os.sched_getaffinity(0)) // 2}


def test_what_is_done_is_not_done_again(stub):
    run_jobs([job("a"), job("b", after=("a",))], stub, 2, print)
    (stub / "b/done.json").unlink()
    said = []
    run_jobs([job("a"), job("b", after=("a",))], stub, 2, said.append)
    assert [name for what, name, *_ in order(stub) if what == "begin"] == ["a", "b", "b"]
    assert len(said) == 1


def test_a_job_that_fails_ends_the_study_and_stops_the_others(stub):
    jobs = [job("bad", code=3, sleep=0.2), job("long", sleep=60), job("never", after=("bad",))]
    began = time.monotonic()
    with pytest.raises(Stopped, match=r"bad ended with 3; see .*bad/log\.txt"):
        run_jobs(jobs, stub, 2, print)
    assert time.monotonic() - began < 30
    pids = {name: int(pid) for what, name, pid, _ in order(stub) if what == "begin"}
    assert set(pids) == {"bad", "long"}
    with pytest.raises(ProcessLookupError):
        os.kill(pids["long"], 0)


def test_the_time_left_is_that_of_jobs_of_the_same_kind():
    spent = {"cold": [100.0, 140.0], "runs": [600.0]}
    assert study._seconds_left([job("cold/a"), job("runs/a"), job("runs/b")], spent) == 120 + 2 * 600
    assert study._seconds_left([job("cold/a"), job("runs/a")], {"cold": [100.0]}) == 200  # none of its kind has ended


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "no study is named; expected all, or some of oversampling"),
        (["penalty"], "unknown study 'penalty'"),
        (["penalties", "--seeds=0"], "seeds"),
        (["penalties", "--config.rl.penalti=1"], "unknown knob rl.penalti"),
        (["penalties", "--config.rl.micro_batches=7"], "rl.micro_batches"),
        (["penalties", "--config.data.train=x.jsonl"], "data.train is x.jsonl; expected nothing"),
        (["penalties", "--config.reward.function=mine.py:score"], "reward.function is mine.py:score; expected correct"),
        (["penalties", "--config.metrics.wandb=mine"], "metrics.wandb is set; expected nothing"),
        (["penalties", "--config.rl.profile=1:2"], "rl.profile is '1:2'; expected nothing"),
        (["penalties", "--config.eval.before=False"], "eval.before is False; expected True"),
        (["penalties", "--config.checkpoint.every=24"], "checkpoint.every is 24; expected less than rl.num_steps = 24"),
        (["inference_scaling", "--config.scaling.budgets=(8,)"], "scaling.budgets is (8,); expected at least two"),
        (["penalties", "--config=configs/gym.py"], "task.name is gym; expected pairs or countdown"),
        (["penalties", "--config.rl.penalty=0.0"], "rl.penalty is 0.0, but the study"),
    ],
)
def test_mistakes_are_one_line(arguments, said, tmp_path, capsys):
    assert study.main(["t1jax.study", *arguments, f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out/runs").exists()


def test_an_out_that_is_no_folder_or_damaged_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/base.json").write_text("{")
    for name, said in {
        "file": "File exists; expected a writable folder",
        "file/below": "Not a directory; expected a writable folder",
        "damaged": "expected what t1jax wrote: delete it, or give another --out",
    }.items():
        assert study.main(["t1jax.study", "penalties", f"--out={tmp_path / name}"]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "base.json")

    monkeypatch.setattr(study.files, "write_json", full)
    assert study.main(["t1jax.study", "penalties", f"--out={tmp_path / 'out'}"]) == 3
    assert "No space left on device: 'base.json'; --out=" in capsys.readouterr().err


STUDY = """
import sys
from t1jax import study
from t1jax.host.command_line import leave
study.PROGRAM, study.POLL = (sys.argv[1],), 0.01
study._tokenizer = lambda *_: None
leave(study.main(["t1jax.study", "penalties", "--out=" + sys.argv[2], "--seeds=1", "--jobs=2"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_at_the_terminal_reaches_each_run_once(tmp_path, number):
    """To the whole group, as a terminal's Ctrl-C: a run that hears of it twice would leave without saving."""
    out = tmp_path / "out"
    (tmp_path / "run.py").write_text(
        "import os, signal, sys, time\nfrom pathlib import Path\nfolder = Path(sys.argv[1]) / sys.argv[2]\nheard = []\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, lambda *given: heard.append(given[0]))\n"
        "(folder / 'pid').write_text(str(os.getpid()))\n"
        "until = time.monotonic() + 120\nwhile not heard and time.monotonic() < until:\n    time.sleep(0.01)\n"
        "time.sleep(0.5)\n(folder / 'heard').write_text(' '.join(map(str, map(int, heard))))\n"
    )
    command = [sys.executable, "-c", STUDY, str(tmp_path / "run.py"), str(out)]
    running = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not (found := list(out.glob("cold/*/*/pid"))) or not found[0].read_text():
        assert running.poll() is None
        time.sleep(0.02)
    os.killpg(running.pid, number)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 128 + number and f"stopped ({number.name}); the same command resumes" in error
    assert (found[0].parent / "heard").read_text() == str(int(signal.SIGTERM))
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[0].read_text()), 0)


def test_a_run_that_a_killed_study_left_at_work_is_not_begun_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "end_with_parent", lambda parent: None)
    folder = tmp_path / "cold/a/seed0"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"config": make_config().to_dict()}))
    with workdir.locked(folder):
        assert trial.main(["t1jax.studies.trial", str(tmp_path), "cold/a/seed0", "1"]) == 2
    assert {path.name for path in folder.iterdir()} == {"job.json", "lock"}


def test_runs_of_another_base_are_refused_by_name(tmp_path):
    cfg = make_config()
    tmp_path.mkdir(exist_ok=True)
    study._same_base(tmp_path, cfg)
    study._same_base(tmp_path, cfg)
    other = dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, temperature=1.0))
    with pytest.raises(ConfigError, match=r"rl\.temperature is 1\.0, was 1\.2"):
        study._same_base(tmp_path, other)


def test_a_study_that_an_older_version_began_goes_on(tmp_path):
    tree = make_config().to_dict()
    del tree["eval"]["before"], tree["tensorboard_mib"]
    (tmp_path / "base.json").write_text(json.dumps(tree))
    study._same_base(tmp_path, make_config())
    assert json.loads((tmp_path / "base.json").read_text())["eval"]["before"] is True


def test_a_step_is_shared_by_seeds_and_by_nothing_else(monkeypatch):
    made = []
    monkeypatch.setattr(step, "make_train_step", lambda setup, *_, **__: made.append(setup) or object())
    shared, mesh, cfg = trial.SharedStep(), make_mesh(), make_config()
    first = shared(rl_setup(cfg, mesh), None, stop_tokens=(1,), on_progress=print)
    again = shared(rl_setup(dataclasses.replace(cfg, seed=7), mesh), None, stop_tokens=(1,))
    assert first is again and len(made) == 1
    with pytest.raises(ValueError, match="differ in more than their seed"):
        shared(rl_setup(make_config(rl__temperature=0.9), mesh), None, stop_tokens=(1,))
    with pytest.raises(ValueError, match="or filter their problems"):
        trial.SharedStep()(rl_setup(make_config(rl__filter_pass_rate=0.3), mesh), None, stop_tokens=(1,))


def test_rl_of_a_study_draws_from_what_its_filter_kept(monkeypatch, tmp_path):
    class Drawn(Exception):
        pass

    @contextlib.contextmanager
    def opened(*_):
        yield types.SimpleNamespace(
            mesh=None,
            task="all problems",
            tokenizer=None,
            progress=mock.Mock(),
            signals=None,
            initial=lambda _: "weights",
        )

    def train(cfg, mesh, task, *rest):
        make_step = rest[-1]
        raise Drawn(task, make_step)

    filtered = []
    monkeypatch.setattr(trial, "opened", opened)
    monkeypatch.setattr(trial, "Marks", lambda work, *_: types.SimpleNamespace(evaluator=work.task))
    kept = []

    def checkpoints(folder, cfg, *_):
        kept.append(cfg.checkpoint.keep)
        return contextlib.nullcontext(mock.MagicMock())

    monkeypatch.setattr(trial, "Checkpoints", checkpoints)
    monkeypatch.setattr(trial.selection, "select", lambda *given: filtered.append(given) or "hard problems")
    monkeypatch.setattr(trial.rl, "train", train)
    shared = trial.SharedStep()

    def run():
        with pytest.raises(Drawn) as drawn:
            trial.trial(make_config(), tmp_path / "cold", tmp_path / "run", False, tmp_path, shared)
        return drawn.value.args

    assert run() == ("hard problems", step.make_train_step)  # by the scorer of these problems, not of another seed's
    ((_, _, task, _, params, folder, _),) = filtered
    assert (task, params, folder) == ("all problems", "weights", tmp_path / "run")
    monkeypatch.setattr(trial.selection, "select", lambda cfg, mesh, task, *_: task)
    assert run() == ("all problems", shared)
    assert min(kept) >= make_config().rl.num_steps  # a stop saves one more, and none that is measured may go


def test_the_steps_in_between_are_the_kept_ones_nearest_to_the_shares():
    assert trial.between([7, 14, 21, 24], 24, 7) == [7, 14]
    assert trial.between([5, 10, 15, 16], 16, 5) == [5, 10]
    assert trial.between([4], 4, 2) == [] and trial.between([2, 4], 4, 2) == [2]
    stopped = [7, 8, 14, 16, 24]  # where it was stopped, a step is saved as well
    assert trial.between(stopped, 24, 8) == [8, 16]


SMALL = (
    "--config.model.num_layers=1", "--config.model.hidden_size=32", "--config.model.head_dim=8",
    "--config.model.mlp_size=48", "--config.sft.num_steps=30", "--config.rl.num_steps=4", "--config.checkpoint.every=2",
    "--config.rl.max_new_tokens=32", "--config.rl.window=16", "--config.scaling.budgets=(8, 16)",
    "--config.eval.num_problems=32", "--config.eval.batch_size=32", "--config.eval.quick_problems=32",
)  # fmt: skip


@pytest.mark.slow
def test_a_study_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    """The real command, its runs too: Ctrl-C in the middle, then the same command again."""

    def command(out):
        flags = ["penalties", "inference_scaling", f"--out={out}", "--seeds=2", *SMALL]
        return [sys.executable, "-m", "t1jax.study", *flags]

    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, env=env, check=True, timeout=1500)
    running = subprocess.Popen(command(tmp_path / "cut"), cwd=ROOT, env=env)
    while not list((tmp_path / "cut/runs").glob("*/seed0/metrics.jsonl")):
        assert running.poll() is None
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    assert running.wait(300) == 130
    subprocess.run(command(tmp_path / "cut"), cwd=ROOT, env=env, check=True, timeout=1500)
    for name in ("penalties", "inference_scaling"):
        whole, cut = (json.loads((tmp_path / x / name / "results.json").read_text()) for x in ("whole", "cut"))
        assert whole == cut
    marks = json.loads((tmp_path / "cut/runs/base/seed1/trial.json").read_text())["marks"]
    assert [mark["step"] for mark in marks] == [0, 2, 4]
    assert len(marks[-1]["votes"]) == 4 and marks[0]["kl_start"] == 0 and marks[-1]["kl_start"] > 0
    rows = (tmp_path / "cut/summary.md").read_text().splitlines()
    assert len([row for row in rows if row.startswith(("| penalties |", "| inference_scaling |"))]) == 8
    assert (tmp_path / "cut/inference_scaling/paper.png").exists()
