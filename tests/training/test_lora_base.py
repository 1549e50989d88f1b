# SPDX-License-Identifier: Apache-2.0
"""The base of a run with LoRA: processes share the reading of it for its digest, and a replay goes by the same one."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager
from typing import Any

import jax
import pytest
import several
import small
import weight_folders
from weight_folders import Beside

from t1jax import replay
from t1jax.config import Config, ConfigError
from t1jax.devices import sharding
from t1jax.host.progress import Progress
from t1jax.model import parameters, qwen
from t1jax.training import health, origin, stages
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.setup import rl_setup
from t1jax.weights import arrays, conversion, peft
from t1jax.weights import load as weights


def make_config(folder: str) -> Config:
    cfg = small.make_config(model__lora_rank=4, model__checkpoint=folder)
    return dataclasses.replace(cfg, model=weights.model_config(weights.find(folder), cfg.model))


def make_state(cfg: Config) -> Any:
    """A new state of adapters, which has 1 in every factor."""
    mesh = small.make_mesh()
    state = rl_setup(cfg, mesh).init_state(origin.policy(cfg, mesh))
    return state.replace(params=jax.tree.map(lambda x: x * 0 + 1, state.params))


@pytest.fixture
def made(tmp_path):
    """(the base's folder, a run's workdir with one step beside it, its config, its state)."""
    weight_folders.write(tmp_path / "base", "qwen2")
    cfg = make_config(str(tmp_path / "base"))
    state = make_state(cfg)
    with Checkpoints(tmp_path / "run/checkpoints/rl", cfg, Beside()) as kept:
        kept.restore(rl_setup(cfg, small.make_mesh()).state_shapes(), base=state.base)  # there is none
        kept.save(1, state)
    return tmp_path / "base", tmp_path / "run", cfg, state


def spoil(base) -> None:
    """One number of the base is another."""
    tensors = weight_folders.read(base)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] += 1e-3
    weight_folders.save(base, tensors)


def read_by_one(run: str) -> dict[str, Any]:
    """What this process read of the base's numbers while it loaded the run's weights, or why it did not."""
    mesh = small.make_mesh((1, jax.process_count(), 1))
    read: list[int] = []

    def counting(self, index, original=arrays._Stacked.read):
        part = original(self, index)
        read.append(part.size)
        return part

    arrays._Stacked.read = counting  # type: ignore[method-assign]
    source = weights.find(run)
    like = dataclasses.replace(small.make_config().model, lora_rank=0)
    model = qwen.Transformer(weights.model_config(source, like), sharding.train_layout(mesh))
    try:
        params = weights.load(source, model)
    except ConfigError as error:
        return {"refused": str(error)}
    return {"read": sum(read), "all": sum(x.size for x in jax.tree.leaves(params)), "sum": parameters.checksum(params)}


def test_each_of_two_processes_reads_half_of_the_base_for_its_digest(made):
    base, run, *_ = made

    def both():
        return several.said(several.start("test_lora_base.read_by_one", str(run), processes=2, devices=1))

    (alone,) = several.said(several.start("test_lora_base.read_by_one", str(run), processes=1, devices=1))
    assert alone["read"] == 2 * alone["all"]  # for the digest, and to merge
    found = both()
    total = sum(one["read"] for one in found)  # norms, which are not split, are read by both
    assert 2 * alone["all"] <= total < 2.1 * alone["all"] and all(one["read"] > 0.7 * one["all"] for one in found)
    assert {one["sum"] for one in found} == {alone["sum"]}
    spoil(base)
    mine, theirs = both()
    assert mine == theirs and "has adapters for weights with the digest" in mine["refused"]


def test_adapters_beside_another_base_are_not_exported(made, tmp_path):
    base, run, *_ = made
    conversion.orbax_to_hf(run, tmp_path / "before", Progress())
    assert (tmp_path / "before" / peft.WEIGHTS).is_file()
    spoil(base)
    with pytest.raises(ConfigError, match=f"adapters for weights with the digest .* model.checkpoint = {base} have"):
        conversion.orbax_to_hf(run, tmp_path / "after", Progress())
    assert not (tmp_path / "after").exists()


class Reached(Exception):
    """What is refused would be refused before."""


@contextmanager
def reached(*_):
    raise Reached
    yield


def test_a_replay_beside_another_base_is_refused(made, tmp_path, monkeypatch, capsys):
    base, _, cfg, state = made
    prompts = small.on_devices(small.prompt_rows(), small.make_mesh())
    health.Health(cfg, "rl", print).dump(tmp_path / "run/sick", 1, state, prompts, {"loss": 1.0}, Beside())
    sick = tmp_path / "run/sick"
    assert json.loads((sick / "base.json").read_text()) == {"digest": parameters.checksum(state.base)}
    monkeypatch.setattr(stages, "open_task", reached)
    with pytest.raises(Reached):
        replay.replay(sick)
    spoil(base)
    capsys.readouterr()
    assert replay.main(["t1jax.replay", str(sick)]) == 2
    line = capsys.readouterr().err
    assert f"{sick} has adapters for weights with the digest" in line and line.count("\n") == 1
    assert f"those of model.checkpoint = {base} have" in line


def test_a_dump_of_all_weights_has_no_base(tmp_path):
    cfg = small.make_config()
    prompts = small.on_devices(small.prompt_rows(), small.make_mesh())
    state = small.start(cfg, small.make_mesh())
    health.Health(cfg, "rl", print).dump(tmp_path / "sick", 1, state, prompts, {"loss": 1.0}, Beside())
    assert (tmp_path / "sick/state").is_dir() and not (tmp_path / "sick/base.json").exists()
