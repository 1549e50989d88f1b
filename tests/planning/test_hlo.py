# SPDX-License-Identifier: Apache-2.0
"""The compiled step, read: what its token loops do not do, because it is done once before them.

A CPU computes bfloat16 in float32 and converts in the loop what no other device would; those conversions are the
compiler's and do not carry the name of a cast in our code, `convert_element_type`.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import small
from flax import linen as nn

from t1jax.devices import sharding
from t1jax.model import attention, parameters, qwen
from t1jax.training import step
from t1jax.training.setup import rl_setup, sft_setup
from t1jax.types import Prompts

LANES = {16, 4}  # of a shard: what has a row a lane is no weight
MESHES = [(2, 2, 2), (1, 4, 2)]
MOVES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
CALLS = re.compile(r"(?:body|condition|calls|to_apply|\w+_computations?)=(?:\{([^}]*)\}|%?([\w.-]+))")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([\w-]+)\(")
# no two of these sizes are equal, nor a share of one another on the meshes: a shape tells whose it is
CFG = small.make_config(
    model__compute_dtype="bfloat16",
    model__vocab_size=88,
    model__hidden_size=40,
    model__num_heads=4,
    model__num_kv_heads=2,
    model__head_dim=6,
    model__mlp_size=56,
    rl__responses_per_prompt=8,
)


@functools.cache
def text(shape: tuple[int, int, int]) -> str:
    """The optimised program of a step."""
    mesh = small.make_mesh(shape)
    setup = rl_setup(CFG, mesh)
    state = setup.state_shapes()
    P, C, rows = CFG.rl.prompts_per_step, CFG.data.prompt_length, sharding.train_layout(mesh).sharding("batch")
    kinds = (((P, C), jnp.int32), ((P, C), bool), ((P,), jnp.int32))
    prompts = Prompts(*(jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for shape, dtype in kinds))
    program = step.make_train_step(setup, small.parity, stop_tokens=small.STOPS)
    return program.lower(state, prompts).compile().as_text()


def computations(text: str) -> dict[str, list[str]]:
    """name -> its instructions, a line each."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            lines = found.setdefault(header[1], [])
        else:
            lines.append(line)
    return found


def reached(known: dict[str, list[str]], name: str) -> set[str]:
    """The computation and all that it calls, directly or not."""
    seen, left = set(), [name]
    while left:
        name = left.pop()
        if name in known and name not in seen:
            seen.add(name)
            for line in known[name]:
                left += [called.strip(" %") for many, one in CALLS.findall(line) for called in (many or one).split(",")]
    return seen


def token_loops(text: str) -> list[list[str]]:
    """The instructions inside each loop that multiplies matrices and draws random numbers."""
    known = computations(text)
    bodies = [
        re.search(r"body=%?([\w.-]+)", line)[1] for lines in known.values() for line in lines if " while(" in line
    ]
    inside = [[line for name in reached(known, body) for line in known[name]] for body in bodies]
    return [lines for lines in inside if all(any(word in x for x in lines) for word in ("threefry", "dot_general"))]


def results(lines: list[str], *kinds: str) -> list[tuple[tuple[int, ...], str]]:
    """(shape without ones, sorted; the line) of each array that instructions of these kinds give."""
    found = []
    for line in lines:
        if (parts := INSTRUCTION.match(line)) and parts[2].removesuffix("-start") in kinds:
            for sizes in re.findall(r"\w+\[([\d,]*)\]", parts[1]):
                found.append((tuple(sorted(int(n) for n in sizes.split(",") if n not in ("", "1"))), line))
    return found


def weight_shapes(shape: tuple[int, int, int]) -> dict[tuple[int, ...], str]:
    """Shapes, sorted, without ones, of the matrices, whole and as they lie: all layers' and one layer's."""
    model = qwen.Transformer(CFG.model, sharding.decode_layout(small.make_mesh(shape)))
    state = sft_setup(CFG, small.make_mesh(shape)).state_shapes()
    found = {}
    for (path, x), lies in zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(qwen.shardings(model)), strict=True
    ):
        if path[-1].key in (*parameters.MATRICES, *parameters.TABLES):
            shapes = (x.shape, x.sharding.shard_shape(x.shape), lies.shard_shape(x.shape))
            for sizes in (*shapes, *(s[1:] for s in shapes)) if path[-1].key in parameters.MATRICES else shapes:
                found[tuple(sorted(n for n in sizes if n > 1))] = jax.tree_util.keystr(path)
    return found


@pytest.mark.parametrize("shape", MESHES)
def test_no_weight_moves_and_none_is_cast_inside_a_token_loop(shape):
    program, weights = text(shape), weight_shapes(shape)
    loops = token_loops(program)
    assert len(loops) == len(LANES)
    smallest = min(math.prod(sizes) for sizes in weights)
    for lines in loops:
        moved = [
            line
            for sizes, line in results(lines, *MOVES)
            if sizes in weights or (math.prod(sizes) >= smallest and not set(sizes) & LANES)
        ]
        assert not moved, moved[0]
        cast = [(weights[sizes], line) for sizes, line in casts(lines) if sizes in weights]
        assert not cast, cast[0]


@pytest.mark.parametrize("shape", MESHES)
def test_every_weight_is_gathered_and_cast_once_before_the_token_loops(shape):
    """Among what the program says of its casts before sampling: each matrix of all layers, and the embedding."""
    program = text(shape)
    entry = computations(program)[re.search(r"^ENTRY %?([\w.-]+)", program, re.M)[1]]
    first = [line for line in entry if 'op_name="jit(train_step)/sample/convert_element_type"' in line]
    gathered = [sizes for sizes, _ in results(first, "all-gather")]
    model = qwen.Transformer(CFG.model, sharding.decode_layout(small.make_mesh(shape)))
    shapes = nn.unbox(qwen.boxed_shapes(model))
    for (path, x), lies in zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(qwen.shardings(model)), strict=True
    ):
        if path[-1].key in (*parameters.MATRICES, *parameters.TABLES):
            sizes = tuple(sorted(n for n in lies.shard_shape(x.shape) if n > 1))
            assert sizes in gathered, (path, sizes, gathered)


def casts(lines: list[str]) -> list[tuple[tuple[int, ...], str]]:
    """The results of casts that our code asks for."""
    return [(sizes, line) for sizes, line in results(lines, "convert") if "convert_element_type" in line]


@pytest.mark.parametrize("length", [attention.PLAIN, attention.PLAIN + 44])
def test_attention_of_a_long_row_never_holds_all_scores(length):
    """No array has two axes as long as a short row, which is attended whole, so that the check can fail."""
    mesh = small.make_mesh()
    model = qwen.Transformer(CFG.model, sharding.train_layout(mesh))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nn.unbox(qwen.boxed_shapes(model)))
    tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)

    def loss(params: Any, tokens_BT: jax.Array, position_BT: jax.Array, segment_BT: jax.Array) -> jax.Array:
        hidden_BTD, _ = qwen.forward(model, params, tokens_BT, position_BT, segment_BT=segment_BT)
        return hidden_BTD.astype(jnp.float32).sum()

    compiled = jax.jit(jax.grad(loss)).lower(params, tokens, tokens, tokens).compile().as_text()
    shapes = {tuple(map(int, sizes.split(","))) for sizes in re.findall(r"\w+\[([\d,]+)\]", compiled)}
    least = min(length, attention.PLAIN)
    square = [sizes for sizes in shapes if sum(n >= least for n in sizes) >= 2]
    assert bool(square) == (length == attention.PLAIN), square
