# SPDX-License-Identifier: Apache-2.0
"""Cycles of a TPU's program: each line in its category, as often as it runs; floors by hand; no category grows."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import several
import small

from t1jax import plan
from t1jax.devices import scopes
from t1jax.model import ragged
from t1jax.planning import cycles, hlo, slices
from t1jax.training.setup import rl_setup

KNOWN = json.loads(Path(__file__).with_name("cycles.json").read_text())
CHIP = slices.Chip("tiny", 2 * slices.GIB, flops=2e9, bandwidth=4e9, links=1e9, clock=1e9)  # 2 flops, 4 bytes a cycle


def line(name: str, opcode: str, scope: str, told: int = 0, more: str = "") -> str:
    config = f', backend_config={{"window_config":{{"estimated_cycles":"{told}"}}}}' if told else ""
    return f'  %{name} = f32[8,4]{{1,0}} {opcode}(%x){more}, metadata={{op_name="jit(train_step)/{scope}"}}{config}'


def program() -> hlo.Program:
    """A token loop of two layers with a loop over blocks of the ring, and a part of the update's backward."""
    token = f"{scopes.TOKEN_LOOP}/{scopes.ALL_LANES}/while/body"
    layer = f"{token}/layers"
    ring = f"{layer}/{scopes.OWN_ATTENTION}/while/body"
    update = f"{scopes.UPDATE_PARTS}/while/body/transpose(jvp(layers))"
    body = "condition=%never, body=%{}"
    return hlo.parse("\n".join([
        "%multiplied (x: f32[8]) -> f32[8] {", line("dot.1", "convolution", "x"), "}",
        "%never (x: f32[8]) -> pred[] {", line("no", "constant", "x"), "}",
        "%block (x: f32[8]) -> f32[8] {",
        line("scores", "fusion", f"{ring}/BKGH,BKHS->BKGS/dot_general", 100, ", calls=%multiplied"), "}",
        "%layer (x: f32[8]) -> f32[8] {",
        line("w", "fusion", f"{layer}/BTD,DF->BTF/dot_general", 1000, ", calls=%multiplied"),
        line("norm", "fusion", f"{layer}/rsqrt", 10),
        line("copy_fusion", "fusion", f"{layer}/reshape", 1),
        line("p", "fusion", f"{layer}/{scopes.PROMPT_ATTENTION}/exp", 20),
        line("r", "all-reduce", f"{layer}/add"),
        line("loop", "while", f"{layer}/{scopes.OWN_ATTENTION}/while", 0, ", " + body.format("block")), "}",
        "%token (x: f32[8]) -> f32[8] {",
        line("layers", "while", f"{token}/while", 0,
             ", " + body.format("layer") + ', backend_config={"known_trip_count":{"n":"2"}}'),
        line("h", "fusion", f"{token}/{scopes.HEAD}/dot_general", 7, ", calls=%multiplied"),
        line("d", "fusion", f"{token}/{scopes.DRAWING}/max", 5), "}",
        "%part (x: f32[8]) -> f32[8] {",
        line("g", "fusion", f"{update}/BTD,BTF->DF/dot_general", 3000, ", calls=%multiplied"),
        line("gs", "all-gather-start", f"{update}/convert"), "}",
        "ENTRY %main (x: f32[8]) -> f32[8] {",
        line("tokens", "while", f"{scopes.TOKEN_LOOP}/{scopes.ALL_LANES}/while", 0, ", " + body.format("token")),
        line("parts", "while", f"{scopes.UPDATE_PARTS}/while", 0, ", " + body.format("part")),
        line("before", "fusion", "cast", 99999), "}",
    ]))  # fmt: skip


def test_each_line_counts_in_its_category_as_often_as_it_runs():
    setup = rl_setup(small.make_config(), small.make_mesh())
    token, anchor, update = cycles.stages(program(), setup, CHIP, length=20.0)
    blocks = 3  # of 8 columns, for 20 tokens
    assert {name: x for name, x in token.cycles.items() if x} == {
        "weights": 2000, "norms and other": 20, "copies": 2, "prompt attention": 40,
        "own attention": 2 * blocks * 100, "head": 7, "drawing": 5,
    }  # fmt: skip
    assert [(x.kind, x.bytes, x.hidden) for x in token.exchanges] == [("all-reduce", 2 * 8 * 4 * 4, False)]
    assert update.cycles["weights"] == 3000 and sum(update.cycles.values()) == 3000
    assert [(x.kind, x.hidden) for x in update.exchanges] == [("all-gather", True)]
    assert sum(anchor.cycles.values()) == 0 and anchor.ratio is None


def test_floors_by_hand():
    """Two layers of width 32, 4 and 2 heads of 8, mlp 48, 64 words: 4 bytes a cycle are read, 2 flops are done."""
    cfg = small.make_config(rl__lanes=4, model__remat="full")
    token, anchor, update = cycles.stages(program(), rl_setup(cfg, small.make_mesh()), CHIP, length=20.0)
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    lanes, column = 8 * 4, 2 * 2 * 2 * 8 * 4  # keys and values of a position, bytes
    assert token.floor == {
        "weights": 2 * lanes * weights / 2, "prompt attention": 8 * 7 * column / 4,
        "own attention": lanes * 20 * column / 4, "head": 2 * lanes * 32 * 64 / 2, "drawing": lanes * 64 * 4 / 4,
    }  # fmt: skip
    assert token.ratio == pytest.approx(sum(token.cycles.values()) / sum(token.floor.values()))
    grid = rl_setup(cfg, small.make_mesh()).grid
    tokens = grid.rows * grid.length
    assert anchor.floor == {"weights": tokens * weights, "head": tokens * 32 * 64}
    assert update.floor == {"weights": 4 * tokens * weights, "head": 4 * tokens * 32 * 64}
    assert "own attention" in str(token) and "while the chip waits" in str(token)


def test_the_samplers_kernel_takes_as_long_as_its_bytes():
    """Of each of two layers and 8 x 4 lanes, 20 columns that begin anywhere in blocks of 6 of a ring for 12."""
    scope = f"{scopes.TOKEN_LOOP}/{scopes.ALL_LANES}/while/body/layers/{scopes.OWN_ATTENTION}/shard_map/{ragged.NAME}"
    text = "\n".join([
        "%layer (x: f32[8]) -> f32[8] {", line(f"{ragged.NAME}.3", "custom-call", scope), "}",
        "%never (x: f32[8]) -> pred[] {", line("no", "constant", "x"), "}",
        "ENTRY %main (x: f32[8]) -> f32[8] {",
        line("layers", "while", "while", 0,
             ', condition=%never, body=%layer, backend_config={"known_trip_count":{"n":"2"}}'), "}",
    ])  # fmt: skip
    setup = rl_setup(small.make_config(rl__lanes=4), small.make_mesh())
    token, *_ = cycles.stages(hlo.parse(text), setup, CHIP, length=20.0)
    assert token.cycles["own attention"] == 2 * 8 * 4 * (20 + 6 - 1) * (2 * 2 * 8 * 4) / 4


@pytest.mark.parametrize("flags", [["--topology=cpu:2"], ["--topology=v5e:2x2", "--fast"]])
def test_cycles_of_what_has_none_are_refused_by_name(flags, capsys):
    assert plan.main(["t1jax.plan", "--config=tiny", "--cycles", *flags]) == 2
    assert "--cycles with " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'")
@pytest.mark.parametrize("name", KNOWN)
def test_no_category_takes_a_tenth_more_than_it_did(name):
    """Against cycles.json, from `python -m t1jax.plan --config=NAME --topology=TOPOLOGY --json` with libtpu 0.0.42."""
    flags = [f"--config={name}", f"--topology={KNOWN[name]['topology']}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "t1jax.plan", *flags], env=several.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    more = []
    for stage, found in json.loads(done.stdout)["cycles"].items():
        known = KNOWN[name]["stages"][stage]
        for category, row in found["categories"].items():
            if row["cycles"] - 1.1 * known[category] > 0.001 * sum(known.values()):
                more.append((stage, category, known[category], row["cycles"]))
    assert not more, more


def test_what_is_known_names_each_stage_and_category():
    for config in KNOWN.values():
        assert list(config["stages"]) == list(cycles.STAGES)
        assert all(tuple(stage) == cycles.CATEGORIES for stage in config["stages"].values())
