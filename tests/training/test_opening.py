# SPDX-License-Identifier: Apache-2.0
"""What a run says before it starts, and what it leaves of steps that could not be read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import small

from t1jax.devices import sharding
from t1jax.host import files
from t1jax.tasks.task import Source
from t1jax.training import damage, opening

KNOBS = {
    "sft__num_steps": 5, "rl__num_steps": 7, "rl__filter_pass_rate": 0.3, "rl__filter_problems": 9,
    "rl__filter_samples": 2, "eval__num_problems": 10, "eval__batch_size": 8, "eval__quick_problems": 8,
    "eval__every": 3, "scaling__budgets": (4, 16), "mesh__data": 1, "mesh__fsdp": 1,
}  # fmt: skip
CFG = small.make_config(**KNOBS)
PACES = opening.Paces(update=60.0, step=600.0, response=10.0, answer=1.0, source="by a guess")


def task(held_out=None, forbids=None, sources=()):
    sizes = {"train": 1234, "held_out": held_out}
    return SimpleNamespace(size=sizes.get, forbid_giving_up=lambda tokenizer: forbids, sources=sources)


def said(tmp_path, cfg=CFG, asked=None, paces=None, devices=1):
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[:devices])
    return list(opening.lines(cfg, mesh, asked or task(), None, tmp_path / "run", lambda setup: paces))


def test_a_run_begins_with_what_it_will_do_and_what_that_takes(tmp_path):
    model, mesh, memory, problems, phases, times, disk = said(tmp_path)
    assert model.startswith(f"model: {CFG.model.num_layers} layers of width {CFG.model.hidden_size}, ")
    assert mesh.startswith("mesh: data 1 x fsdp 1 x tensor 1, on 1 cpu in 1 process")
    assert memory.startswith("memory planned: ") and "a device, most in" in memory
    assert problems == "problems: 1,234 to train on, unlimited held out"
    assert phases == (
        "phases: cold start (5 updates): unknown, measurement (10 problems): unknown, filter (9 problems, 2 attempts "
        "each): unknown, reinforcement (7 steps of 32 responses, evaluated every 3): unknown, "
        "measurement, report: unknown"
    )
    assert times == "times: a phase of unknown time tells it from its second step, or batch, on"
    assert disk.startswith("checkpoints: ") and f"at most {CFG.checkpoint.keep + 1} kept in each" in disk


def test_it_says_how_long_each_phase_is_expected_to_take(tmp_path):
    """In whole batches of 8: a measurement samples 16 twice and 16 answers a budget; a filter 24; 2 evaluations 8."""
    phases, times = said(tmp_path, paces=PACES)[4:6]
    assert phases == (
        "phases: cold start (5 updates): about 5:00, measurement (10 problems): about 5:52, filter (9 problems, 2 "
        "attempts each): about 4:00, reinforcement (7 steps of 32 responses, evaluated every 3): about 1:12:40, "
        "measurement, report: about 5:52"
    )
    assert times == "times: about 1:33:24 in all; by a guess"
    fewer = said(tmp_path, asked=task(held_out=7, forbids=object()), paces=PACES)[4]
    assert "measurement (7 problems): about 4:16" in fewer  # 8 three times, and 8 answers a budget
    without = said(tmp_path, small.make_config(**KNOBS, eval__before=False), paces=PACES)[4]
    assert "updates): about 5:00, filter" in without and without.endswith("measurement, report: about 5:52")


def test_the_files_of_problems_are_said_with_their_shares(tmp_path):
    one, two = Source("a.jsonl", 1000, 0.3), Source("b.jsonl", 234, 0.7)
    lines = said(tmp_path, asked=task(sources=(one, two)))
    assert lines[4:6] == [
        "  a.jsonl: 1,000 problems, 30.0% of the prompts", "  b.jsonl: 234 problems, 70.0% of the prompts",
    ]  # fmt: skip
    every = [replace(source, weight=None) for source in (one, two)]
    assert [line.partition(", ")[2] for line in said(tmp_path, asked=task(sources=every))[4:6]] == [
        "81.0% of the prompts", "19.0% of the prompts",
    ]  # fmt: skip
    assert said(tmp_path, asked=task(sources=(one,))) == said(tmp_path)


def test_groups_that_are_drawn_and_kept_are_both_said(tmp_path):
    cfg = small.make_config(**KNOBS, rl__overdraw=2.5)
    assert "(7 steps of 80 responses, of which 32 are learnt from, evaluated every 3)" in said(tmp_path, cfg)[4]


def row(stage, step, seconds):
    return json.dumps({"stage": stage, "step": step, "seconds": seconds}) + "\n"


def test_a_run_that_goes_on_says_by_itself_what_is_left(tmp_path):
    """The first step of a stage compiles. An evaluation takes at most its share of a measurement."""
    for place in ("sft/5", "rl/2"):
        (tmp_path / "run/checkpoints" / place).mkdir(parents=True)
    rows = [row("sft", 1, 99.0), row("rl", 1, 500.0), *(row("rl", step, 60.0 + step) for step in (2, 3, 4))]
    (tmp_path / "run/metrics.jsonl").write_text("".join(rows))
    phases, times = said(tmp_path)[4:6]
    assert "cold start (5 updates) done, measurement (10 problems): unknown" in phases
    assert "evaluated every 3): unknown" in phases and "a phase of unknown time" in times
    files.write_json(tmp_path / "run/measured/sft.json", {"seconds": 100.0})
    files.write_json(tmp_path / "run/filter.json", {})
    phases, times = said(tmp_path, paces=PACES)[4:6]
    assert "(10 problems) done, filter (9 problems, 2 attempts each) done, reinforcement" in phases
    assert phases.endswith("evaluated every 3): about 7:55, measurement, report: about 1:40")  # 5 * 63 + 2 * 80
    assert times == "times: about 9:35 in all; by this run so far"
    (tmp_path / "run/metrics.jsonl").write_text("".join([*rows, row("evaluate", 3, 50.0), row("evaluate", 6, 40.0)]))
    assert "evaluated every 3): about 6:35" in said(tmp_path)[4]


def test_kv_heads_that_are_copied_are_told(tmp_path):
    cfg = small.make_config(sft__num_steps=0, mesh__data=1, mesh__fsdp=2, mesh__tensor=4)
    _, _, copied, *_ = said(tmp_path, cfg, devices=8)
    assert copied == (
        "2 kv heads do not divide over mesh.tensor = 4: each device holds 1 in the cache, 2 copies of each in a group, "
        "and the weights of k and v whole"
    )


def test_a_disk_that_is_too_small_is_told_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    warning = said(tmp_path)[-1]
    assert warning.startswith(f"WARNING: {tmp_path / 'run'}: checkpoints may take ") and "1000 B are free" in warning


def test_a_run_that_goes_on_says_from_where(tmp_path):
    (tmp_path / "run/checkpoints/sft/5").mkdir(parents=True)
    assert said(tmp_path)[-1] == "goes on from cold start step 5"
    for step in (2, 10):
        (tmp_path / f"run/checkpoints/rl/{step}").mkdir(parents=True)
    assert said(tmp_path)[-1] == "goes on from reinforcement step 10"


def test_of_damaged_steps_the_latest_set_aside_stay(tmp_path):
    for step in (40, 30, 20, 10):
        (tmp_path / str(step)).mkdir()
        assert damage.set_aside(tmp_path / str(step), "", 3) == f"it is kept as {step}.damaged"
        assert (tmp_path / f"{step}.damaged").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"30.damaged", "20.damaged", "10.damaged"}
