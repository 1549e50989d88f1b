# SPDX-License-Identifier: Apache-2.0
"""The torture of tests/support/torture.py, ten kills of it; and that it would see a difference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import several
import torture

from t1jax.host import files

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


def row(stage, step, tokens):
    return {"stage": stage, "step": step, "tokens": tokens}


def leave(workdir, rows, steps, lost):
    """What a start of a run leaves."""
    workdir.mkdir(exist_ok=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in steps:
        (workdir / f"checkpoints/rl/{step}").mkdir(parents=True, exist_ok=True)
    start = {"began": 1.0, "seen": 2.0, "chips": 1, "kind": "cpu", "host": "h", "process": 1}
    files.write_json(workdir / "usage.json", {"starts": [start | {"lost_tokens": lost}]})


def test_tokens_that_kills_undid_are_counted_from_rows_and_checkpoints(tmp_path):
    workdir, cold = tmp_path / "run", row("sft", 1, 1000)
    stood = [cold, row("rl", 1, 5), row("rl", 2, 7)]
    ledger = torture.Ledger()
    leave(workdir, [cold], [], 0)
    assert ledger.after(workdir) == []
    leave(workdir, [*stood, row("rl", 3, 11), row("evaluate", 3, 13)], [2], 0)
    assert ledger.after(workdir) == []  # undone, but not yet dropped
    assert ledger.after(workdir) == []  # killed before it came to its metrics
    leave(workdir, stood, [2], 24)
    assert ledger.after(workdir) == [] and ledger.lost == 24
    leave(workdir, [*stood, row("rl", 3, 11)], [2, 3], 24)
    assert ledger.after(workdir) == [] and ledger.lost == 24
    for wrong in (23, 35):
        leave(workdir, [*stood, row("rl", 3, 11)], [2, 3], wrong)
        assert ledger.after(workdir) == [f"lost_tokens is {wrong}, not 24"]


def test_sums_that_do_not_add_up_are_seen():
    results = {"tokens": {"generated": 6, "trained": 4, "evaluation": 2}, "lost_tokens": 3}
    assert torture.unbalanced(results, 3) == []
    assert torture.unbalanced(results, 2) == ["results.json says that 3 tokens were lost, not 2"]
    (why,) = torture.unbalanced(results | {"tokens": results["tokens"] | {"trained": 5}}, 3)
    assert "do not add up" in why


CHILD = """
import json, os, sys
import torture
from t1jax import main
from t1jax.evaluation import evaluator, journal
config, workdir, drawn, where = sys.argv[1:]
call, append, come = evaluator.Generator.__call__, journal.Journal.append, []

def note(self, params, prompts, name, **how):
    found = call(self, params, prompts, name, **how)
    after = os.path.exists(f"{workdir}/measured/sft.json")  # what is sampled before RL is sampled after it too
    what = [name, how["temperature"], how["length"], list(how["ids"]), int(how["forbid"].token), after]
    with open(drawn, "a") as file:
        file.write(json.dumps(what) + "\\n")
    return found

def fall(self, batch):
    come.append(self.path.stem)
    if self.path.stem == where and come.count(where) == 2:
        torture.die()
    append(self, batch)

evaluator.Generator.__call__, journal.Journal.append = note, fall
sys.exit(main.main(["t1jax", f"--config={config}", f"--workdir={workdir}"]))
"""
PLACES = ("sft-000000-greedy", "sft-000000-budget-4", "filter-000000-tries", "rl-000004-quick", "rl-000005-held_out")


@pytest.mark.slow
def test_a_kill_in_an_evaluation_the_filter_or_the_curve_costs_the_batch_under_way(tmp_path, monkeypatch):
    """With -9, after a batch is sampled and before it is kept: that one is sampled anew, and all ends as unbroken."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    config = tmp_path / "config.py"
    tree = torture.knobs("pairs", tmp_path)
    tree["eval"]["batch_size"] = 4  # so that each of PLACES has several batches
    config.write_text(torture.config_file(tree))

    def start(workdir, where=""):
        """The exit code, and what was drawn so far in this workdir."""
        command = [sys.executable, "-c", CHILD, str(config), str(workdir), f"{workdir}.drawn", where]
        done = subprocess.run(command, cwd=ROOT, env=several.environment(), capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode, Counter(Path(f"{workdir}.drawn").read_text().splitlines())

    code, once = start(tmp_path / "unbroken")
    assert code == 0 and max(once.values()) == 1
    for kills, where in enumerate(PLACES):
        code, drawn = start(tmp_path / "run", where)
        assert code == -signal.SIGKILL, where
        assert (drawn - once).total() == kills, where  # the batches of earlier kills, once more each
        assert (tmp_path / f"run/journal/{where}.jsonl").read_bytes().count(b"\n") == 4, where  # its first batch
    code, drawn = start(tmp_path / "run")
    assert code == 0
    again = [json.loads(line) for line in (drawn - once)]
    assert (drawn - once).total() == len(again) == len(PLACES) and not once - drawn
    assert {name for name, *_ in again} == {"held_out", "scaling/sft/4", "filter", "quick"}
    found = [torture.outcome(config, str(tmp_path / name)) for name in ("run", "unbroken")]
    assert torture.differences(*found) == []


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
