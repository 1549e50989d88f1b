# SPDX-License-Identifier: Apache-2.0
"""Launches and copies of a GPU's program: each line as often as it runs; and XLA's own GPU compiler, where it is."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
import several
import small

from t1jax.config import ConfigError
from t1jax.devices import scopes
from t1jax.planning import compiling, fit, hlo, launches, slices
from t1jax.training.setup import rl_setup

TOKEN = f"jit(train_step)/{scopes.TOKEN_LOOP}/{scopes.ALL_LANES}"
LAYERS = f"{TOKEN}/while/body/Transformer/while"
RING = f"{LAYERS}/body/closed_call/layers/{scopes.OWN_ATTENTION}"
UPDATE = f"jit(train_step)/{scopes.UPDATE_PARTS}"
BACKWARD = f"{UPDATE}/while/body/transpose(jvp(Transformer))/while"
TWICE = ', backend_config={"known_trip_count":{"n":"2"}}'


def line(name: str, opcode: str, scope: str, shape: str = "f32[8,4]{1,0}", more: str = "") -> str:
    return f'  %{name} = {shape} {opcode}(%x){more}, metadata={{op_name="{scope}" scheduling_name="{name}"}}'


def loop(name: str, scope: str, body: str, more: str = "") -> str:
    return line(name, "while", scope, "(s32[])", f", condition=%more, body=%{body}{more}")


# As XLA writes it for a GPU: every kernel is a fusion, a call of a library or of Triton, a copy or an exchange.
PROGRAM = "\n".join([
    "%sliced (x: bf16[6,8,4]) -> bf16[1,8,4] {",  # the block's place is computed, its values are not
    line("at", "select", "x", "s32[]"), line("block", "dynamic-slice", "x", "bf16[1,8,4]{2,1,0}"), "}",
    "%added (x: f32[8,4]) -> f32[8,4] {", line("sum", "add", "x"), line("turned", "transpose", "x"), "}",
    "%filled (x: f32[]) -> f32[8,4] {", line("zeros", "broadcast", "x"), "}",
    "%compared (x: s32[]) -> pred[] {", line("less", "compare", "x", "pred[]"), "}",
    "%more (x: s32[]) -> pred[] {", line("cond", "fusion", f"{TOKEN}/while/cond", "pred[]", ", calls=%compared"), "}",
    "%block (x: f32[8]) -> f32[8] {",
    line("copied", "fusion", f"{RING}/while/body/dynamic_slice", "bf16[1,8,4]{2,1,0}", ", kind=kLoop, calls=%sliced"),
    line("scores", "fusion", f"{RING}/while/body/dot_general", more=", kind=kCustom, calls=%added"), "}",
    "%layer (x: f32[8]) -> f32[8] {",
    line("norm", "fusion", f"{LAYERS}/body/rsqrt", more=", kind=kInput, calls=%added"),
    line("cast", "bitcast", f"{LAYERS}/body/reshape"),
    line("gemm", "custom-call", f"{LAYERS}/body/dot_general", more=', custom_call_target="__cublas$lt$matmul"'),
    loop("blocks", f"{RING}/while", "block"), "}",
    "%recorded (x: f32[8]) -> f32[8] {", line("drawn", "fusion", f"{TOKEN}/while/body/max", more=", calls=%added"), "}",
    "%token (x: f32[8]) -> f32[8] {",
    line("kept", "copy", f"{TOKEN}/while/body/x", "s32[16]{0}"),
    line("emptied", "fusion", f"{TOKEN}/while/body/zeros", more=", kind=kLoop, calls=%filled"),
    line("graph", "call", f"{TOKEN}/while/body/x", more=", to_apply=%recorded"),
    loop("layers", LAYERS, "layer", TWICE), "}",
    "%back (x: f32[8]) -> f32[8] {",
    line("dq", "custom-call", f"{BACKWARD}/body/attention_dq", more=', custom_call_target="__gpu$xla.gpu.triton"'),
    line("r", "reduce-scatter", f"{BACKWARD}/body/x"), line("g", "all-gather-start", f"{BACKWARD}/body/x"),
    line("gd", "all-gather-done", f"{BACKWARD}/body/x"), "}",
    "%part (x: f32[8]) -> f32[8] {", loop("backward", BACKWARD, "back", TWICE), "}",
    "ENTRY %main (x: f32[8]) -> f32[8] {",
    loop("tokens", f"{TOKEN}/while", "token"), loop("parts", f"{UPDATE}/while", "part"),
    line("before", "fusion", "jit(train_step)/cast", more=", calls=%added"), "}",
])  # fmt: skip


def test_each_line_is_launched_as_often_as_it_runs():
    """Two layers; 20 columns of at most 16 in blocks of 8; conditions of loops are launched too."""
    setup = rl_setup(small.make_config(rl__window=8, rl__max_new_tokens=16), small.make_mesh())
    token, anchor, update = launches.stages(hlo.parse(PROGRAM), setup, length=20.0)
    blocks, block = 3, 8 * 4 * 2
    layer = 2 + blocks * 3 + 1  # norm, gemm; of each block the copy, the scores and the condition; the layers' own
    assert token == launches.Launches(
        "token", launches=3 + 2 * layer + 1, a_layer=layer, copies=1 + 2 * blocks, copied_bytes=64 + 2 * blocks * block,
        ring_copies=2 * blocks, ring_copied_bytes=2 * blocks * block,
    )  # fmt: skip
    assert (update.launches, update.a_layer, update.copies) == (2 * 4 + 1, 4, 0)
    assert anchor.launches == 0
    assert "a token" in str(token) and "of ring blocks 6, 0.0 MB" in str(token) and "ring" not in str(update)
    assert token.as_dict()["a_layer"] == layer and "name" not in token.as_dict()


@pytest.mark.parametrize(("form", "ring_copies", "a_layer"), [("blocks", 2 * 4 * 2, 68), ("kernel", 0, 19)])
def test_a_program_as_xla_writes_it(form, ring_copies, a_layer):
    """Two layers of `ring.attend` in a token loop, 16 lanes over a ring of 4 blocks, with its kernel and without.

    Compiled for targets/h100.txtpb by jax 0.10.2; source lines, configurations, and the metadata of lines inside
    fusions are left out of the texts. Of each layer and block without the kernel, keys and values are copied.
    """
    text = gzip.decompress(Path(__file__).with_name(f"gpu_{form}.txt.gz").read_bytes()).decode()
    config = small.make_config(rl__window=32, rl__max_new_tokens=128)
    token, *_ = launches.stages(hlo.parse(text), rl_setup(config, small.make_mesh()), length=128.0)
    lanes, K, H, S, value = 16, 2, 64, 32, 2
    assert (token.ring_copies, token.ring_copied_bytes) == (ring_copies, ring_copies * lanes * K * H * S * value)
    assert token.a_layer == a_layer and token.launches > 2 * a_layer


def test_every_gpu_has_a_target_and_says_where_its_figures_are_from():
    targets = {path.stem: path.read_text(encoding="utf-8") for path in slices.TARGETS.iterdir()}
    assert set(targets) == {"a100", "b200", "h100", "h200", "l4", "rtx4080", "rtx4090"} <= set(slices.CHIPS)
    for name, text in targets.items():
        chip = slices.CHIPS[name]
        told = dict(x.strip().split(": ") for x in text.splitlines() if x.startswith("  ") and ": " in x)
        assert "# Figures from\n#   " in text and name.removeprefix("rtx").upper() in text
        assert float(told["memory_bandwidth"]) == pytest.approx(chip.bandwidth, rel=0.05)
        assert float(told["device_memory_size"]) == pytest.approx(chip.memory, rel=0.05)


def test_a_plugin_that_does_not_start_is_told_apart_from_none():
    """`jax` stands for one: it can be imported, and is no plugin."""
    ask = [
        sys.executable,
        "-c",
        "from t1jax.planning import slices; slices.GPU_PLUGINS = ('jax',); slices.find('gpu:1xh100')",
    ]
    done = subprocess.run(ask, env=several.environment(), capture_output=True, text=True)
    assert "XLA's GPU compiler does not start (" in done.stderr and "pip install '.[plan-gpu]'" in done.stderr


def test_without_cudnn_the_plan_says_what_to_install(monkeypatch):
    def no_cudnn(*_, **__):
        raise RuntimeError("cuDNN not found.")

    monkeypatch.setattr(compiling.step, "make_train_step", lambda *_, **__: types.SimpleNamespace(trace=no_cudnn))
    where = slices.Slice("gpu:1xh100", slices.CHIPS["h100"], tuple(jax.devices()[:1]), "cuda")
    with pytest.raises(ConfigError, match=r"gpu:1xh100: cuDNN not found\.; expected cuDNN 9.*\[plan-gpu\]"):
        fit.plan(small.make_config(), where, 4.0, compiled=True)


def test_parameters_are_counted_whatever_the_kernel():
    """They are counted on a CPU, which has none of the kernels."""
    cfg = small.make_config().model
    kernels = [dataclasses.replace(cfg, attention=kernel, compute_dtype="bfloat16") for kernel in ("splash", "triton")]
    assert {fit._parameters(x) for x in kernels} == {fit._parameters(cfg)}


@pytest.mark.slow
@pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in slices.GPU_PLUGINS),
    reason="XLA's GPU compiler is missing: pip install '.[plan-gpu]'",
)
def test_long_rows_and_the_ring_take_few_launches_and_no_copy_of_a_block(tmp_path):
    """Two layers of qwen0p5b, 10,240 tokens, by XLA's compiler for an H100; its kernels read 16 bytes at a time."""
    flags = ["--config=qwen0p5b", "--topology=gpu:1xh100", "--json", "--config.model.num_layers=2"]
    environment = several.environment() | {"XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_gpu_dump_llvmir=false"}
    done = subprocess.run([sys.executable, "-m", "t1jax.plan", *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["compiler"] == "cuda" and found["fits"] and found["temporary_bytes_per_chip"] > 2**30
    kernels = found["kernels"]
    assert kernels["token"]["ring_copies"] == 0 and 10 < kernels["token"]["a_layer"] < 60
    assert 10 < kernels["anchor"]["a_layer"] < 60 and 30 < kernels["update"]["a_layer"] < 150
    ours = {"own_columns", "attention_forward", "attention_dq", "attention_dkv"}
    assembly = {name: text for text in map(Path.read_text, tmp_path.glob("*.ptx")) for name in ours
                if re.search(rf"\.entry {name}(_\d+)?\(", text)}  # fmt: skip
    assert set(assembly) == ours
    for name, text in assembly.items():
        assert re.search(r"cp\.async\.cg\.shared\.global [^;]*, 0x10", text), name
        assert not re.search(r"ld\.global\.[bu]16", text), name
