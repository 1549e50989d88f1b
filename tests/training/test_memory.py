# SPDX-License-Identifier: Apache-2.0
"""The plan counts what the state takes, is near what the compiler takes, and picks lanes that fit."""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from benchmarks import workload
from t1jax import config
from t1jax.devices import multihost, sharding
from t1jax.host import command_line
from t1jax.training import memory, step
from t1jax.training.setup import RlSetup, rl_setup
from t1jax.types import Prompts

ROOT = Path(__file__).parents[2]
WIDE = {
    "model__hidden_size": 256,
    "model__mlp_size": 704,
    "model__head_dim": 32,
    "model__vocab_size": 2048,
    "data__prompt_length": 32,
    "rl__responses_per_prompt": 16,
    "rl__max_new_tokens": 64,
    "rl__window": 32,
    "rl__micro_batches": 4,
}
LONG = WIDE | {
    "model__hidden_size": 64,
    "model__mlp_size": 64,
    "model__vocab_size": 64,
    "rl__max_new_tokens": 512,
    "rl__micro_batches": 16,
}


def memory_plan(*args, **named):
    """What `rl_setup` of the same arguments says of the memory."""
    return rl_setup(*args, **named).memory


def compiled(cfg, mesh):
    """The step's program, and the shapes of the state it takes."""
    state = rl_setup(cfg, mesh).state_shapes()
    P, C, rows = cfg.rl.prompts_per_step, cfg.data.prompt_length, sharding.train_layout(mesh).sharding("batch")
    kinds = (((P, C), jnp.int32), ((P, C), bool), ((P,), jnp.int32))
    prompts = Prompts(*(jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for shape, dtype in kinds))
    program = step.make_train_step(rl_setup(cfg, mesh), small.parity, stop_tokens=small.STOPS)
    return program.lower(state, prompts).compile()


@pytest.mark.parametrize(
    ("shape", "knobs", "peak"),
    [
        ((1, 1, 1), WIDE, "update"),
        pytest.param((2, 2, 2), WIDE | {"model__remat": "dots"}, "update", marks=pytest.mark.slow),
        ((1, 1, 1), LONG | {"model__remat": "full"}, "sampling"),
        pytest.param((1, 1, 1), WIDE | {"model__lora_rank": 8}, "update", marks=pytest.mark.slow),
    ],
)
def test_the_plan_is_near_what_the_compiler_takes(shape, knobs, peak):
    cfg, mesh = small.make_config(**knobs), small.make_mesh(shape)
    plan = memory_plan(cfg, mesh)
    program = workload.program_bytes(compiled(cfg, mesh))
    assert plan.peak == peak
    assert program / 1.25 < plan.program < program * 1.25, f"compiled: {memory.size(program)}\n{plan}"


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_parameters_optimiser_and_anchor_are_counted_to_the_byte(shape):
    cfg, mesh = small.make_config(), small.make_mesh(shape)
    state = rl_setup(cfg, mesh).state_shapes()

    def held(tree):
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    parts = {part.name: part.bytes for part in memory_plan(cfg, mesh).parts}
    counters = 2 * 4  # of Adam and of the schedule
    assert parts["parameters"] == held(state.params)
    assert parts["optimiser"] == held(state.opt_state) - counters
    assert parts["anchor"] == held(state.anchor_offset)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2)])
def test_with_lora_what_stays_and_what_is_trained_are_counted_to_the_byte(shape):
    cfg, mesh = small.make_config(model__lora_rank=4, model__compute_dtype="bfloat16"), small.make_mesh(shape)
    state = rl_setup(cfg, mesh).state_shapes()

    def held(tree):
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    parts = {part.name: part.bytes for part in memory_plan(cfg, mesh).parts}
    assert parts["parameters"] == parts["anchor"] == held(state.params)
    assert parts["optimiser"] == held(state.opt_state) - 2 * 4
    assert parts["weights that stay"] == held(state.base)
    assert parts["weights with adapters"] == held([state.base["layers"][name] for name in state.params["layers"]])


def test_bytes_of_the_caches_by_hand():
    """L 2, K 2, H 8, C 7, P 8, R 4, float32; T 12 in blocks of 5 is 15 columns; 2 shards of the batch, 2 of heads."""
    cfg = small.make_config(rl__window=5, rl__lanes=2)
    parts = {part.name: part.bytes for part in memory_plan(cfg, small.make_mesh((2, 1, 2))).parts}
    key = 2 * 2 * 1 * 8 * 4
    assert parts["lanes' keys and values"] == 4 * 2 * 15 * key
    assert parts["prompts' keys and values"] == 2 * 4 * 7 * key
    assert parts["log of drawn tokens"] == 3 * 4 * (4 * 2) * (3 * 12 // 2 + 12)


def needed(cfg, mesh, lanes):
    """Bytes a device must have for so many lanes."""
    return math.ceil(memory_plan(small.with_rl(cfg, lanes=lanes), mesh, 1, on_host=False).total / memory.USABLE)


def test_lanes_are_the_largest_divisor_that_fits():
    how = LONG | {"rl__responses_per_prompt": 12, "rl__micro_batches": 48, "model__remat": "full"}
    cfg, mesh = small.make_config(**how), small.make_mesh()
    for lanes, fewer in ((12, 6), (6, 4), (4, 3)):
        assert memory_plan(cfg, mesh, needed(cfg, mesh, lanes), on_host=False).lanes == lanes
        assert memory_plan(cfg, mesh, needed(cfg, mesh, lanes) - 2, on_host=False).lanes == fewer


def test_where_nothing_fits_the_largest_part_and_its_knob_are_named():
    cfg, mesh = small.make_config(**WIDE), small.make_mesh()
    with pytest.raises(config.ConfigError) as error:
        memory_plan(cfg, mesh, 1 << 20, on_host=False)
    assert "\n" not in str(error.value)
    assert "rl.lanes is 0" in str(error.value) and "expected at most 90% of 1.0 MiB" in str(error.value)
    assert "for values kept for the backward pass" in str(error.value)
    assert "raise rl.micro_batches" in str(error.value)
    assert memory_plan(small.with_rl(cfg, lanes=2), mesh, 1 << 20, on_host=False).lanes == 2  # said by the user: tried


def test_lanes_that_are_said_ask_no_device(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda mesh: pytest.fail("a device was asked"))
    assert rl_setup(small.make_config(rl__lanes=2), small.make_mesh()).lanes == 2


class Device:
    """One that says what memory it has, as a GPU or a TPU does."""

    def memory_stats(self):
        return {"bytes_limit": 5 << 30}


def test_what_is_there_is_what_the_device_says_or_the_share_of_the_host(monkeypatch):
    asked = []
    monkeypatch.setattr(multihost, "least", lambda value: asked.append(value) or value)
    mesh = dataclasses.make_dataclass("Mesh", ["local_devices"])([Device()])
    assert memory.available(mesh) == 5 << 30 == asked.pop()
    host = memory.available(small.make_mesh((1, 1, 1)))
    assert memory.available(small.make_mesh((2, 2, 2))) == host // 8
    assert len(asked) == 2  # all processes agree


def test_what_is_sampled_does_not_depend_on_the_memory_there_is(monkeypatch):
    cfg, mesh, one = small.make_config(), small.make_mesh(), small.fused(small.ONE)
    prompts, all_lanes, *_ = small.drawn()
    monkeypatch.setattr(memory, "available", lambda mesh: 1 << 40)
    assert rl_setup(cfg, mesh).lanes == cfg.rl.responses_per_prompt
    state = one.start()
    asked = []
    monkeypatch.setattr(RlSetup, "lanes", property(lambda setup: asked.append(setup.cfg) or 2))
    few = jax.jit(step.make_sample(rl_setup(cfg, mesh), small.STOPS))
    assert asked  # the sampler takes what the plan says
    rollouts = few(state.params, prompts, state.rng, state.step)
    np.testing.assert_array_equal(rollouts.tokens_BT, all_lanes.tokens_BT)
    np.testing.assert_array_equal(rollouts.sampled_BT, all_lanes.sampled_BT)
    np.testing.assert_allclose(rollouts.logprob_BT, all_lanes.logprob_BT, atol=1e-5)


def test_on_a_host_the_process_and_the_copy_that_is_written_are_counted(monkeypatch):
    cfg, mesh = small.make_config(), small.make_mesh((1, 4, 2))
    device, host = (memory_plan(cfg, mesh, 1 << 40, on_host=on_host) for on_host in (False, True))
    assert device.total == device.program == host.program
    state = sum(part.bytes for part in device.parts if part.name in ("parameters", "optimiser", "anchor"))
    assert host.total == host.program + state + ((1 << 30) + (1 << 30)) // 8
    assert memory_plan(cfg, mesh, 1 << 40).total == host.total  # the tests' devices are the host's
    monkeypatch.setattr(sharding, "are_host", lambda devices: False)  # one function tells it, as for checkpoints
    assert memory_plan(cfg, mesh, 1 << 40).total == device.total


@pytest.mark.slow
def test_the_plan_is_near_the_peak_of_a_whole_process(tmp_path):
    """The model of configs/smollm2_135m.py with random weights: two steps, a checkpoint after each."""
    knobs = {
        "model.checkpoint": "",
        "sft.num_steps": "0",
        "rl.num_steps": "2",
        "checkpoint.every": "1",
        "eval.every": "0",
        "eval.num_problems": "4",
        "eval.quick_problems": "4",
        "eval.batch_size": "4",
        "scaling.budgets": "(8,)",
    }
    argv = ["--config=configs/smollm2_135m.py", *(f"--config.{knob}={value}" for knob, value in knobs.items())]
    cfg, _, _ = command_line.read_config(["t1jax", *argv], lambda values: None, "")
    one = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "t1jax.main", *argv, f"--workdir={tmp_path / 'run'}"]
    subprocess.run(command, cwd=ROOT, env=one, check=True, timeout=3000)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10  # of the largest child: Linux counts KiB
    plan = memory_plan(cfg, small.make_mesh((1, 1, 1)))
    print(f"peak {memory.size(peak)}\n{plan}")
    assert peak / 1.25 < plan.total < peak * 1.25, f"peak: {memory.size(peak)}\n{plan}"


def test_the_table_has_a_line_a_part_and_the_peak():
    plan = memory_plan(small.make_config(), small.make_mesh(), 1 << 30, on_host=False)
    lines = str(plan).splitlines()
    assert len(lines) == len(plan.parts) + 1
    assert plan.peak in lines[-1] and memory.size(plan.total) in lines[-1] and "of 1.00 GiB, 90% usable" in lines[-1]
    assert [memory.size(n) for n in (5, 2048, 3 << 20)] == ["5 B", "2.0 KiB", "3.0 MiB"]
