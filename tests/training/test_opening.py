# SPDX-License-Identifier: Apache-2.0
"""What a run says before it starts, and what it leaves of steps that could not be read."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import jax
import small

from t1jax.devices import sharding
from t1jax.training import damage, opening

CFG = small.make_config(sft__num_steps=5, rl__num_steps=7, rl__filter_pass_rate=0.3, mesh__data=1, mesh__fsdp=1)
TASK = SimpleNamespace(size=lambda split: 1234 if split == "train" else None)


def said(tmp_path, cfg=CFG):
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[:1])
    return list(opening.lines(cfg, mesh, TASK, tmp_path / "run"))


def test_a_run_begins_with_what_it_will_do_and_what_that_takes(tmp_path):
    model, mesh, memory, problems, phases, disk = said(tmp_path)
    assert model.startswith(f"model: {CFG.model.num_layers} layers of width {CFG.model.hidden_size}, ")
    assert mesh.startswith("mesh: data 1 x fsdp 1 x tensor 1, on 1 cpu in 1 process")
    assert memory.startswith("memory planned: ") and "a device, most in" in memory
    assert problems == "problems: 1,234 to train on, unlimited held out"
    for phase in ("cold start (5 updates)", "filter (", "reinforcement (7 steps of "):
        assert phase in phases
    assert disk.startswith("checkpoints: ") and f"at most {CFG.checkpoint.keep + 1} kept in each" in disk


def test_kv_heads_that_are_copied_are_told(tmp_path):
    cfg = small.make_config(sft__num_steps=0, mesh__data=1, mesh__fsdp=2, mesh__tensor=4)
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[:8])
    _, _, copied, *_ = opening.lines(cfg, mesh, TASK, tmp_path / "run")
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
