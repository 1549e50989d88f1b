# SPDX-License-Identifier: Apache-2.0
"""What devices exchange, read from compiled text: groups as XLA writes them, a gather once, and against the estimate.

The estimate is of a TPU's program. A CPU's compiler adds a whole gradient up where a TPU's adds up shares, twice the
bytes, and the head's over `data` for each of its chunks; so there is one of these where `data` is more than 1.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from typing import Any

import jax
import pytest
import several
import small

from t1jax import config
from t1jax.planning import estimate, exchanges, fit, hlo, slices
from t1jax.planning.groups import groups

KNOBS: dict[str, Any] = {
    "model__hidden_size": 64,
    "model__mlp_size": 256,
    "model__vocab_size": 512,
    "model__tie_embeddings": False,
    "rl__responses_per_prompt": 4,
    "rl__max_new_tokens": 16,
    "rl__window": 8,
    "rl__micro_batches": 2,
    "rl__vocab_chunks": 1,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups={{0,1},{2,3}}, dimensions={1}", ((0, 1), (2, 3))),
        ("replica_groups={{0,1,2,3}}, x", ((0, 1, 2, 3),)),
        ("replica_groups=[2,2]<=[4], x", ((0, 1), (2, 3))),
        ("replica_groups=[2,4]<=[4,2]T(1,0), x", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, x", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'a','c'}, x", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}, x", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'c'}, x", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("source_target_pairs={{0,1},{1,0}}, x", ((0, 1), (1, 0))),
        ("replica_groups={}, x", ()),
        ("dimensions={0}", ()),
    ],
)
def test_groups_in_all_the_ways_that_they_are_written(text, expected):
    assert groups(text) == expected


ON_A_TPU = """HloModule m
%start (a: f32[4]) -> f32[8] {
  %g.1 = f32[8] all-gather(%a), channel_id=7, replica_groups=[2,2]<=[4], frontend_attributes={chain_id="1"}
}
%hides (a: f32[4]) -> f32[8] {
  %g.2 = f32[8] all-gather(%a), channel_id=7, replica_groups=[2,2]<=[4], frontend_attributes={chain_id="1"}
}
%all-reduce-scatter.1 (a: f32[8]) -> f32[4] {
  %sum = f32[8] all-reduce(%a), channel_id=8, replica_groups={{0,2},{1,3}}, to_apply=%add
  ROOT %part = f32[4] dynamic-slice(%sum)
}
ENTRY %main (x: f32[4]) -> f32[4] {
  %s = f32[8] fusion(%x), calls=%start
  %h = f32[8] fusion(%x), calls=%hides
  %r = f32[4] fusion(%h), calls=%all-reduce-scatter.1
  %p = (f32[2], f32[2], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %all = f32[2] all-reduce(%x), channel_id=9, replica_groups={}
  %out = (f32[4], u32[], token[]) send(%r), is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1:3}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %log = (f32[4], u32[], token[]) send(%r), is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="tf"}
}
"""  # noqa: E501


def test_a_collective_of_a_tpu_counts_once_as_what_it_is():
    found = exchanges.collectives(hlo.parse(ON_A_TPU), {})
    assert [(x.kind, x.bytes, x.hidden, x.by_host, x.received) for x in found] == [
        ("all-gather", 32, True, False, 16.0),  # half of it is the device's own
        ("reduce-scatter", 16, False, False, 16.0),
        ("collective-permute", 8, True, False, 8.0),
        ("all-reduce", 8, False, False, 16.0),
        ("all-reduce", 16, True, True, pytest.approx(2 * 16 * 2 / 3)),
    ]
    assert [x.crosses(2, 4) for x in found] == [False, True, False, True, True]
    assert [x.crosses(1, 4) for x in found] == [False] * 5


def planned(shape, parts=1, chunks=1, **more):
    """On 8 CPU devices, `parts` slices."""
    cfg = small.make_config(**KNOBS | {"rl__vocab_chunks": chunks} | more)
    cfg = dataclasses.replace(cfg, mesh=config.MeshConfig(*shape))
    chip = slices.Chip("tiny", 2 * slices.GIB, 1e12, 1e11, 1e10)
    return fit.plan(cfg, slices.Slice("cpu", chip, tuple(jax.devices()), "cpu", parts), 16.0, compiled=True)


@pytest.mark.parametrize(
    ("shape", "parts", "chunks"),
    [
        ((2, 4, 1), 2, 1),
        *(pytest.param(shape, 1, 1, marks=pytest.mark.slow) for shape in ((2, 4, 1), (1, 8, 1), (8, 1, 1))),
        pytest.param((1, 8, 1), 1, 4, marks=pytest.mark.slow),
    ],
)
def test_the_update_exchanges_what_is_counted(shape, parts, chunks):
    found = planned(shape, parts, chunks)
    counted, (_, fsdp, _), model = found.exchanged, shape, found.cfg.model
    elsewhere = [x for x in found.compiled.exchanges if not x.in_token_loop]
    copied = "jit(train_step)/sample/sharding_constraint"  # for decoding
    gathers = sum(x.received for x in elsewhere if x.kind == "all-gather" and x.scope != copied)
    assert gathers == pytest.approx(counted.weights, rel=0.02, abs=100)

    sums = sum(x.received for x in elsewhere if x.kind == "all-reduce")
    table = model.hidden_size * model.vocab_size
    a_part = estimate.FLOAT * found.cfg.rl.micro_batches  # all parts are filled
    scattered = model.num_layers * estimate.layer_weights(model) + table
    whole = a_part * (1 - 1 / fsdp) * scattered
    assert sums == pytest.approx(counted.gradients + counted.between_slices + whole, rel=0.05)

    crossing = sum(x.received for x in elsewhere if x.crosses(parts, 8))
    embedding = a_part * table * (2 * 7 / 8 - 1 / fsdp) if parts > 1 else 0  # added up over all devices at once
    assert crossing == pytest.approx(counted.between_slices + embedding, rel=0.05)
    assert (counted.between_slices > 0) == (parts > 1)
    moved = found.moved()["elsewhere"]
    assert (moved.get("all-reduce between slices", 0) > 0.9 * crossing) == (parts > 1)


@pytest.mark.parametrize(
    ("shape", "targets"), [((1, 4, 2), "all"), pytest.param((1, 2, 4), "attention", marks=pytest.mark.slow)]
)
def test_with_adapters_the_update_exchanges_what_is_counted(shape, targets):
    """Factors are made whole and their gradients added up over fsdp; over tensor, [rows, r] of each matrix is."""
    knobs = {"model__lora_rank": 4, "model__lora_targets": targets, "model__checkpoint": "x", "model__num_kv_heads": 4}
    found = planned(shape, **knobs)
    (_, fsdp, tensor), counted, cfg = shape, found.exchanged, found.cfg
    elsewhere = [x for x in found.compiled.exchanges if not x.in_token_loop and len(x.groups or ()) > 0]
    over = {"fsdp": [], "tensor": []}
    for x in elsewhere:
        over["tensor" if x.groups[0][1] - x.groups[0][0] == 1 else "fsdp"].append(x)
    copied = "jit(train_step)/sample/sharding_constraint"  # for decoding
    gathers = sum(x.received for x in over["fsdp"] if x.kind == "all-gather" and x.scope != copied)
    assert gathers == pytest.approx(counted.weights, rel=0.02)

    wide, narrow = (cfg.model.num_layers * weights for weights in estimate.adapter_weights(cfg.model))
    sums = sum(x.received for x in over["fsdp"] if x.kind == "all-reduce")
    a_part = estimate.FLOAT * cfg.rl.micro_batches
    assert sums == pytest.approx(a_part * 2 * (1 - 1 / fsdp) * (wide + narrow / tensor), rel=0.02)
    assert sums == pytest.approx(counted.gradients + a_part * (1 - 1 / fsdp) * wide, rel=0.02)

    all_weights = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, lora_rank=0))
    without = estimate.exchanged(all_weights, shape, 16.0, cfg.rl.micro_batches).activations
    inputs = {"all": 0.0, "attention": 0.5}[targets]  # of the MLP, which no gradient needs
    rows = cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt / fsdp * (cfg.data.prompt_length + 16)
    fewer = inputs * estimate.gathered_forward(cfg.model, rows) * (1 - 1 / tensor)
    narrowed = sum(x.received for x in over["tensor"] if "BTr/" in x.scope)
    assert narrowed == pytest.approx(counted.activations - without + fewer, rel=0.01) and narrowed > 0


@pytest.mark.parametrize("slower", ["links", "network"])
def test_the_slowest_of_work_links_and_network_is_the_time_of_the_update(slower, monkeypatch):
    """Half the bandwidth of what all wait for: twice the time."""
    cfg, mesh = small.make_config(**KNOBS), (2, 4, 1)
    monkeypatch.setitem(slices.NETWORK, "slow", 1e3)
    monkeypatch.setitem(slices.NETWORK, "slower", 500.0)

    def update(name, links):
        chip = slices.Chip(name, slices.GIB, flops=1e18, bandwidth=1e18, links=links)
        return estimate.seconds(cfg, mesh, chip, 16.0, lanes=4, parts=2, slices=2).update

    one, two = (("slow", 1e18), ("slower", 1e18)) if slower == "network" else (("slow", 20.0), ("slow", 10.0))
    assert update(*two) == pytest.approx(2 * update(*one))
    moved = estimate.exchanged(cfg, mesh, 16.0, 2, slices=2)
    assert update(*one) == pytest.approx(moved.between_slices / 1e3 if slower == "network" else moved.links / 20.0)


def test_slices_cost_each_token_and_the_plan_says_so():
    cfg, chip = small.make_config(**KNOBS), slices.CHIPS["v5e"]
    one, two = (estimate.seconds(cfg, (2, 4, 1), chip, 16.0, lanes=4, parts=2, slices=n) for n in (1, 2))
    count, latency = estimate.BETWEEN_SLICES
    assert two.decode - one.decode == pytest.approx(one.iterations * count * latency)
    assert "between slices" in estimate.assumptions(2) and "between slices" not in estimate.assumptions()


SMALL = """num_layers=4 hidden_size=512 num_heads=4 num_kv_heads=2 head_dim=128 mlp_size=1024 vocab_size=4096"""
FEW = """max_new_tokens=384 lanes=8 responses_per_prompt=8 prompts_per_step=16 micro_batches=4 vocab_chunks=4 window=128
pack_length=512"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'")
@pytest.mark.parametrize(("topology", "data", "fsdp"), [("v5e:4x4", 1, 8), ("2xv5e:2x4", 2, 4)])
def test_a_tpus_program_exchanges_what_is_counted(topology, data, fsdp):
    knobs = [f"--config.model.{x}" for x in SMALL.split()] + [f"--config.rl.{x}" for x in FEW.split()]
    knobs += [f"--config.mesh.data={data}", f"--config.mesh.fsdp={fsdp}", "--config.mesh.tensor=2"]
    knobs += ["--config.data.prompt_length=128", "--config.eval.batch_size=64", f"--topology={topology}", "--json"]
    command = [sys.executable, "-m", "t1jax.plan", "--config=qwen0p5b", *knobs]
    done = subprocess.run(command, env=several.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    moved, counted = found["exchanged_bytes_per_chip"], found["estimated_update_exchanges_per_chip"]
    between = {kind: size for kind, size in moved["elsewhere"].items() if kind.endswith("between slices")}
    assert sum(between.values()) == pytest.approx(counted.pop("between_slices"), rel=0.02)
    links = sum(moved["elsewhere"].values()) - sum(between.values())
    assert (
        0.9 < links / sum(counted.values()) < 1.15
    )  # the copy for decoding, and the embedding's rows, are not counted
