# SPDX-License-Identifier: Apache-2.0
"""What a config takes of a slice that is not here: the command line, the figures behind it, and real TPU compilers."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import hf_folders
import hub
import jax
import pytest
import several
import small

from configs import base, qwen3_30b_a3b
from t1jax import config, plan
from t1jax.config import ConfigError
from t1jax.devices import scopes
from t1jax.planning import estimate, fit, hlo, slices, suggest, tables

ROOT = Path(__file__).parent.parent
TINY = slices.Chip("tiny", 2 * slices.GIB, 1e12, 1e11, 1e10)
EVEN = {"rl__responses_per_prompt": 4, "rl__max_new_tokens": 16, "rl__window": 8, "rl__micro_batches": 2}


def ask(*flags):
    """`python -m t1jax.plan` as a user runs it: without the virtual devices of the tests."""
    environment = os.environ | {"XLA_FLAGS": " ".join(several.QUICK)}
    del environment["JAX_PLATFORMS"]
    command = [sys.executable, "-m", "t1jax.plan", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)


def a_slice(devices=8, chip=TINY):
    return slices.Slice(f"cpu:{devices}", chip, tuple(jax.devices()[:devices]), "cpu")


def on_mesh(shape, **knobs):
    cfg = small.make_config(**EVEN | knobs)
    return dataclasses.replace(cfg, mesh=config.MeshConfig(*shape))


def test_the_command_line_prints_json_alone_and_the_config_fits():
    done = ask("--config=configs/tiny.py", "--topology=cpu:8", "--json", "--config.sft.batch_size=64")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] and 0 < found["total_bytes_per_chip"] < 0.9 * found["hbm_bytes_per_chip"]
    assert found["weight_gathers_in_token_loop"] == 0
    assert found["batch_shards_fed_by"] == [[0]] * 8
    assert found["devices"] == 8 and found["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    assert found["exchanged_bytes_per_chip"]["elsewhere"]["all-gather"] > 0
    parts = ("argument", "temporary", "code", "host")
    assert found["total_bytes_per_chip"] == sum(found[f"{part}_bytes_per_chip"] for part in parts)
    assert found["seconds"]["total"] == pytest.approx(sum(found["seconds"][x] for x in ("prefill", "decode", "update")))


def test_what_does_not_fit_exits_1_and_names_the_largest_part_and_its_knob():
    done = ask("--config=configs/qwen32b.py", "--topology=gpu:8xh100", "--config.mesh.fsdp=8", "--config.mesh.tensor=1")
    assert done.returncode == 1, done.stderr
    assert "DOES NOT FIT" in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("t1jax.plan: a step takes ") and "expected at most 90% of the 80 GiB of h100" in last
    assert last.endswith("is values kept for the backward pass: raise rl.micro_batches"), last


def test_positions_that_the_model_was_not_trained_for_are_told_or_refused(tmp_path):
    """Told by the knobs; refused where the model is, whose config.json knows."""

    def positions(new, folder, **model):
        cfg = config.load(base.get_config())
        rl = dataclasses.replace(cfg.rl, max_new_tokens=new)
        model = dataclasses.replace(cfg.model, checkpoint=str(folder), **model)
        cfg = dataclasses.replace(cfg, rl=rl, model=model)
        return plan.untrained_positions(cfg)

    fits = 32768 - 1024
    assert positions(fits, "elsewhere") == "" == positions(10**6, "")  # without a checkpoint it is trained from scratch
    assert "is 32769, more than the 32768 positions that elsewhere was trained for" in positions(fits + 1, "elsewhere")
    yarn = {"rope_scaling": "yarn", "rope_factor": 4.0}
    assert positions(4 * 32768 - 1024, "elsewhere", **yarn) == ""
    assert "more than the 131072" in positions(4 * 32768, "elsewhere", **yarn)
    assert positions(10**6, "elsewhere", rope_scaling="llama3") == ""

    folder = hf_folders.write(tmp_path / "model", hf_folders.byte_level(), {"eos_token_id": 0})
    hf_folders.change(folder, "config.json", **hub.SMOLLM2)  # 8,192
    assert positions(6500, folder) == ""  # with an answer after the largest budget
    with pytest.raises(ConfigError, match=r"data.prompt_length \+ rl.max_new_tokens is 8193; expected at most 8192"):
        positions(7169, folder)


def test_the_command_line_tells_of_them_on_stderr():
    done = ask(
        "--config=configs/qwen0p5b.py", "--topology=cpu:4", "--fast", "--json", "--config.rl.max_new_tokens=40000"
    )
    assert json.loads(done.stdout)["devices"] == 4
    assert "t1jax.plan: data.prompt_length + rl.max_new_tokens is 41024, more than the 32768 positions" in done.stderr


@pytest.mark.parametrize(
    "topology",
    [
        *("", "v5p", "v5p:", "v5p:4", "cpu:0", "cpu:x", "v5e:2x2 ", "v5e:0x2"),
        *("0xv5e:2x2", "0xcpu:8"),
    ],
)
def test_an_unknown_slice_lists_known_ones(topology):
    for compiled in (True, False):
        with pytest.raises(
            ConfigError, match=r"no such slice.*; expected KIND:SHAPE, for example v5e:2x2 .*gpu:8xh100"
        ):
            slices.find(topology, compiled)


@pytest.mark.parametrize("topology", ["v9:2x2", "xv5e:2x2", "2x2xv5e:2x2", "-2xcpu:8", "tpu:2x2"])
def test_an_unknown_kind_of_chip_lists_the_known_ones(topology):
    with pytest.raises(ConfigError, match=r"is none of v4, v5e, v5p, v6e, tpu7x, gpu, cpu; expected KIND:SHAPE"):
        slices.find(topology)


@pytest.mark.parametrize("topology", ["gpu:h100", "gpu:8xz9", "gpu:0xh100", "gpu:8xv5e", "gpu:8xcpu", "gpu:"])
def test_unknown_gpus_list_the_known_ones(topology):
    known = "a100, b200, h100, h200, l4, rtx4080, rtx4090"
    with pytest.raises(ConfigError) as error:
        slices.find(topology)
    assert str(error.value) == f"--topology={topology}: no such GPUs; expected gpu:NxKIND, KIND one of {known}"
    assert set(known.split(", ")) == set(slices.CHIPS) - {"cpu", *slices.TPUS}


def test_without_libtpu_what_to_do_is_said(monkeypatch):
    monkeypatch.setattr(slices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"libtpu is not installed.*pip install '\.\[plan\]'; or --fast"):
        slices.find("v5e:2x2")


@pytest.mark.parametrize(("topology", "devices"), [("v5e:4x2", 8), ("tpu7x:2x2x1", 8), ("2xv5p:2x2x1", 8)])
def test_an_estimate_needs_no_libtpu(monkeypatch, topology, devices):
    """As many devices as JAX counts, half a chip on tpu7x; the same bytes as on so many CPUs of this memory."""
    monkeypatch.setattr(slices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(slices, "cpu_devices", lambda count: tuple(jax.devices()[:count]))
    where = slices.find(topology, compiled=False)
    cfg = on_mesh((2, devices // 2, 1))
    found = fit.plan(cfg, where, 16.0, compiled=False)
    same = fit.plan(cfg, a_slice(devices, where.chip), 16.0, compiled=False)
    assert len(where.devices) == devices and where.slices == slices.parts(topology)[0]
    assert found.memory == same.memory and found.work == same.work and found.hops == (None, None, None)
    assert "compiled" not in tables.table(found)


def test_the_command_line_estimates_for_tpus_without_libtpu():
    code = "import sys; sys.modules['libtpu'] = None; from t1jax import plan; sys.exit(plan.main(sys.argv))"
    flags = ["--config=configs/tiny.py", "--topology=v5e:2x2", "--fast", "--json", "--config.sft.batch_size=64"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=several.environment(),
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["devices"] == 4 and found["compiler"] is None, done.stderr
    assert found["hbm_bytes_per_chip"] == 16 * slices.GIB


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--topology=cpu:8", "--length=999"], "--length is 999; expected 1 to rl.max_new_tokens = 128"),
        (["--topology=cpu:8", "stray"], "got stray; expected flags only"),
        (["--topology=cpu:7", "--config.mesh.fsdp=2"], "the number of devices"),
    ],
)
def test_a_mistake_is_one_line(flags, said):
    done = ask("--config=configs/tiny.py", "--fast", *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [pytest.param((1, 8, 1), {"all-gather"}, marks=pytest.mark.slow), ((1, 1, 8), {"reduce-scatter"})],
)
def test_exchanges_are_told_apart(shape, kinds):
    """Shards of weights move outside of the token loop only; shards of heads are added up inside of it too.

    Outside of it, what shards of heads add up is scattered by positions, and what they read is made whole.
    """
    knobs = {"model__num_heads": 8, "model__num_kv_heads": 8, "model__mlp_size": 32} if shape[2] > 1 else {}
    found = fit.plan(on_mesh(shape, model__compute_dtype="bfloat16", **knobs), a_slice(), 16.0, compiled=True)
    moved = found.moved()
    assert kinds <= set(moved["elsewhere"]) and found.gathers == 0
    assert (moved["token_loop"]["all-reduce"] > 1000) == (shape[2] > 1)  # else only how many lanes are live
    if shape[2] > 1:  # two sums a layer and token, of each lane's hidden state; in float32, whatever the compute dtype
        cfg = found.cfg
        lanes, C, R, T = found.memory.lanes, cfg.data.prompt_length, cfg.rl.responses_per_prompt, cfg.rl.max_new_tokens
        counted = found.seconds.iterations * estimate.summed_forward(cfg.model, cfg.rl.prompts_per_step * lanes)
        assert sum(moved_in(found, scopes.ALL_LANES, "all-reduce")) == counted
        scattered, gathered = (moved_in(found, scopes.ANCHOR_PARTS, x) for x in ("reduce-scatter", "all-gather"))
        rows = estimate.summed_forward(cfg.model, cfg.rl.prompts_per_step * R * (C + T))
        assert 0.5 < 8 * sum(scattered) / rows < 1.25  # here responses share their prompt, rows have gaps
        assert len(scattered) == len(gathered) == 2 and not moved_in(found, scopes.ANCHOR_PARTS, "all-reduce")


def moved_in(found, scope, kind):
    """Bytes of each of the layers' collectives, of which one is of attention and one of the MLP."""
    return [
        x.bytes * x.times
        for x in found.compiled.exchanges
        if x.kind == kind and scope in x.scope.split("/") and "layers" in x.scope.split("/")
    ]


@pytest.mark.parametrize("vocab_chunks", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_compiled_flops_of_one_device_are_near_the_count(vocab_chunks):
    """All matrix products; attention does whole rows here and not halves, and rows of the update have gaps."""
    model = {"model__hidden_size": 128, "model__mlp_size": 384, "model__vocab_size": 512, "model__remat": "none"}
    cfg = on_mesh((1, 1, 1), rl__vocab_chunks=vocab_chunks, **model)
    found = fit.plan(cfg, a_slice(1), 16.0, compiled=True)
    assert found.compiled is not None
    assert 0.9 < found.compiled.flops / found.work.total < 1.25


LOOP = """HloModule m
%body (s: (f32[4,4], s32[])) -> (f32[4,4], s32[]) {
  %s = (f32[4,4], s32[]) parameter(0)
  %x = f32[4,4] get-tuple-element(%s), index=0
  %i = s32[] get-tuple-element(%s), index=1
  %by = s32[] constant(STEP)
  %more = s32[] add(%i, %by)
  %y = f32[4,4] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(f)/a/dot"}
  ROOT %t = (f32[4,4], s32[]) tuple(%y, /*index=1*/%more)
}
%cond (s: (f32[4,4], s32[])) -> pred[] {
  %s.1 = (f32[4,4], s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=1
  %end = s32[] BOUND
  ROOT %less = pred[] compare(%i.1, %end), direction=LT
}
ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x.1 = f32[4,4] parameter(0)
  %zero = s32[] constant(START)
  %same = s32[] copy(%zero)
  %begin = (f32[4,4], s32[]) tuple(%x.1, %same)
  %loop = (f32[4,4], s32[]) while(%begin), condition=%cond, body=%body, metadata={op_name="NAME/while"}KNOWN
  ROOT %out = f32[4,4] get-tuple-element(%loop), index=0
}
"""


@pytest.mark.parametrize(
    ("bound", "step", "known", "name", "times"),
    [
        ("constant(16)", "1", "", "jit(f)/a", 16),
        ("constant(16) from 1", "1", "", "jit(f)/a", 15),  # as libtpu takes the first turn out of a loop
        ("constant(16)", "2", "", "jit(f)/a", 8),  # as libtpu unrolls a product whose operand travels around a ring
        ("constant(16)", "1", ', backend_config={"known_trip_count":{"n":"5"}}', "jit(f)/a", 5),
        ("parameter(1)", "1", "", "jit(f)/a", 3),
        ("parameter(1)", "1", "", "jit(f)/transpose(jvp(a))", 3),
        ("parameter(1)", "1", "", "jit(f)/b", 1),
    ],
)
def test_a_loop_counts_as_often_as_it_runs(bound, step, known, name, times):
    bound, _, start = bound.partition(" from ")
    text = (
        LOOP.replace("BOUND", bound)
        .replace("START", start or "0")
        .replace("STEP", step)
        .replace("KNOWN", known)
        .replace("NAME", name)
    )
    assert hlo.parse(text).flops({"a": 3.0}) == times * 2 * 4**3


def test_remat_is_counted():
    layers = estimate.work(on_mesh((1, 1, 1), model__remat="none"), 16.0)
    full = estimate.work(on_mesh((1, 1, 1), model__remat="full"), 16.0)
    assert layers.remat == 0 < full.remat < full.anchor
    assert full.total - full.remat == layers.total


def test_flops_are_counted_by_active_experts_and_bytes_by_all():
    """Qwen3-30B-A3B has 3.3 of 30.5 billion parameters for a token: its model card."""
    cfg = config.load(qwen3_30b_a3b.get_config())
    model, tables = cfg.model, 2 * 151936 * 2048
    active = model.num_layers * estimate.active_weights(model) + tables
    assert 3.2e9 < active < 3.4e9
    assert 30.5e9 < model.num_layers * estimate.layer_weights(model) + tables < 30.6e9
    more = dataclasses.replace(model, num_experts=256)
    one, two = (estimate.forward_flops(m, 1000, 0, 0) for m in (model, more))
    assert two - one == 2 * 1000 * 48 * 2048 * 128  # the router alone
    one, two = (
        estimate.exchanged(dataclasses.replace(cfg, model=m), (1, 16, 4), 100, 2).weights for m in (model, more)
    )
    assert 1.9 < two / one < 2.0


def test_the_suggestion_fits_and_is_estimated_fastest():
    cfg, where = on_mesh((1, 8, 1)), a_slice()
    now, better = (f(cfg, where, 16.0, compiled=False) for f in (fit.plan, suggest.suggest))
    assert better.fits and better.seconds.total <= now.seconds.total
    again = fit.plan(suggest._as(cfg, better), where, 16.0, compiled=False)
    assert (again.seconds, again.memory, again.mesh) == (better.seconds, better.memory, better.mesh)
    scarce = a_slice(chip=dataclasses.replace(TINY, memory=better.total))  # 90 % of it are not enough
    other = suggest.suggest(cfg, scarce, 16.0, compiled=False)
    assert other.fits and other.knobs() != better.knobs()
    assert suggest.suggest(cfg, a_slice(chip=dataclasses.replace(TINY, memory=1000)), 16.0, compiled=False) is None


def test_time_follows_what_is_asked():
    """Half the lanes: twice the iterations. Twice the chips: half the work of the update."""
    chip = slices.CHIPS["v5p"]
    cfg = on_mesh((1, 8, 1))

    def seconds(mesh=(1, 8, 1), length=16.0, lanes=4):
        return estimate.seconds(cfg, mesh, chip, length, lanes, parts=0)

    assert seconds(lanes=2).iterations == 2 * seconds(lanes=4).iterations == 32
    assert seconds(mesh=(2, 8, 1)).update == pytest.approx(seconds().update / 2)
    assert seconds(lanes=2).decode > seconds(lanes=4).decode


def test_several_slices_are_told_from_their_shape():
    assert slices.parts("2xv5e:16x16") == (2, "v5e", "16x16") and slices.parts("gpu:8xh100") == (1, "gpu", "8xh100")
    where = dataclasses.replace(a_slice(), slices=2)
    assert [where.slice_of(device) for device in where.devices] == [0] * 4 + [1] * 4
    assert all(slices.CHIPS[name].network < chip.links for name, chip in slices.CHIPS.items())


@pytest.mark.parametrize(("data", "code"), [(2, 0), (1, 2)])
def test_slices_and_the_order_of_their_devices_stand_before_all_else(data, code):
    done = ask("--config=configs/qwen1p5b.py", "--topology=2xgpu:8xh100", "--fast", f"--config.mesh.data={data}",
               "--config.mesh.tensor=1",
               f"--config.mesh.fsdp={16 // data}")  # fmt: skip
    assert done.returncode == code
    if code:
        assert "mesh.data is 1 on 2 slices of 8 devices, so mesh.fsdp = 16 or mesh.tensor = 1 would" in done.stderr
    else:
        first, second, third, *_ = done.stdout.splitlines()
        assert first.startswith("2xgpu:8xh100: 16 devices of 80 GiB")
        assert second == "order of devices: data goes over the network between 2 slices, 50.0 GB/s a device"
        assert third.startswith("mesh data 2 x fsdp 8 x tensor 1")


def test_the_suggestion_keeps_to_slices():
    where = dataclasses.replace(a_slice(), slices=2)
    assert suggest.suggest(on_mesh((2, 4, 1)), where, 16.0, compiled=False).mesh[0] % 2 == 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'")
@pytest.mark.parametrize(
    ("topology", "mesh", "found"),
    [
        ("v5p:4x4x8", (1, 16, 8), {"devices": 128, "hops": (1.25, 1.0)}),
        ("v5p:4x4x4", (1, 16, 4), {"devices": 64, "hops": (1.25, 1.0)}),
        ("v6e:8x8", (1, 8, 8), {"devices": 64, "hops": (1.75, 1.75)}),  # rows: its sides are no rings
        ("v5e:16x16", (1, 32, 8), {"devices": 256, "hops": (1.5, 1.75)}),  # sides split between axes
        ("v4:2x2x4", (1, 4, 4), {"devices": 16, "hbm_bytes_per_chip": 32 * slices.GIB, "hops": (1.5, 1.5)}),
        ("tpu7x:2x2x1", (1, 8, 1), {"devices": 8, "hbm_bytes_per_chip": 96 * slices.GIB, "hops": (0.5, None)}),
        ("2xv5e:4x4", (2, 8, 2), {"devices": 32, "slices": 2, "hops": (2.0, 1.0)}),
    ],
)
def test_the_plan_tells_hops_on_libtpus_slices(topology, mesh, found):
    sizes = [f"--config.mesh.{name}={size}" for name, size in zip(("data", "fsdp", "tensor"), mesh, strict=True)]
    more = ["--config.model.num_heads=16", "--config.model.num_kv_heads=8", "--config.rl.micro_batches=32"]
    done = ask("--config=configs/qwen0p5b.py", f"--topology={topology}", "--fast", "--json", *sizes, *more)
    told = json.loads(done.stdout)
    hops = told["hops_to_neighbour"]
    assert hops["data"] is None and (hops["fsdp"], hops["tensor"]) == found.pop("hops")
    assert {name: told[name] for name in found} == found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'")
@pytest.mark.parametrize(("name", "topology"), [("qwen0p5b", "v5e:2x2"), ("qwen7b", "v6e:8x8")])
def test_a_config_fits_the_slice_it_names(name, topology):
    assert f"Slice: {topology}" in (ROOT / f"configs/{name}.py").read_text()
    done = ask(f"--config=configs/{name}.py", f"--topology={topology}", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] and found["weight_gathers_in_token_loop"] == 0
    assert 0.85 < found["update_flops_compiled_over_counted"] < 1.15


def test_the_plan_says_which_processes_feed_a_shard():
    """GPUs as Slurm starts them, a process each: at tensor = 2 a shard is fed by two."""
    done = ask("--config=configs/qwen1p5b.py", "--topology=gpu:16xh100", "--fast", "--config.mesh.fsdp=8")
    assert "8 shards of the batch, 16 processes; a shard is fed by up to 2 processes, the same rows" in done.stdout
    assert "0 from 0 1, 1 from 2 3, 2 from 4 5, 3 from 6 7 and so on to 7" in done.stdout
