# SPDX-License-Identifier: Apache-2.0
"""What holds for any input, on inputs that hypothesis makes: masks, packing, conversion. See test_properties.py."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import small
import weight_folders as folders
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from t1jax.devices.sharding import train_layout
from t1jax.host.progress import Progress
from t1jax.types import Plan, Prompts, Rollouts
from t1jax.update import packing
from t1jax.update.masking import Mean, masked_sum
from t1jax.weights import conversion, families, orbax_arrays, tensor_table

# Masks.

SHAPES = [(1,), (6,), (3, 5), (2, 3, 4)]
POISON = [float("nan"), float("inf"), -float("inf"), 3e38]


@st.composite
def masks(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole numbers, which of them count, and the same with poison where none counts."""
    shape = draw(st.sampled_from(SHAPES))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = random.integers(-1000, 1000, shape).astype(np.float32)
    mask = random.random(shape) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return x, mask, np.where(mask, x, random.choice(POISON, shape)).astype(np.float32)


@given(masks())
def test_what_does_not_count_is_never_read(given_masks):
    x, mask, poisoned = given_masks
    for axis in (None, -1, tuple(range(x.ndim))):
        np.testing.assert_array_equal(masked_sum(poisoned, mask, axis), np.where(mask, x, 0).sum(axis))
    mean = Mean.of(poisoned, mask)
    assert mean.count == mask.sum()
    expected = np.float32(x[mask].sum()) / np.float32(mask.sum()) if mask.any() else 7.0
    assert mean.value(empty=7.0) == expected


@given(masks())
def test_the_gradient_of_a_mean_is_one_over_the_count_and_zero_elsewhere(given_masks):
    x, mask, poisoned = given_masks
    gradient = _gradient(poisoned, mask)
    np.testing.assert_allclose(gradient, mask / np.float32(max(1, mask.sum())), rtol=1e-6)


@jax.jit
def _gradient(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jax.grad(lambda x: Mean.of(x, mask).value(empty=0.0))(x)


@given(masks(), st.integers(0, 6))
def test_parts_of_a_mean_are_the_whole_wherever_it_is_cut(given_masks, cut):
    _, mask, poisoned = given_masks
    parts = Mean.of(poisoned[:cut], mask[:cut]) + Mean.of(poisoned[cut:], mask[cut:])
    whole = Mean.of(poisoned, mask)
    assert (parts.total, parts.count) == (whole.total, whole.count)


# Packing.

P, R, C, T = 3, 2, 4, 5
LENGTH = 2 * (C + T) + 3


@st.composite
def responses(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of each response's prompt, of each response, and which to place."""
    prompts = draw(st.lists(st.integers(1, C), min_size=P, max_size=P))
    lengths = draw(st.lists(st.integers(0, T), min_size=P * R, max_size=P * R))
    wanted = draw(st.lists(st.booleans(), min_size=P * R, max_size=P * R))
    return np.repeat(prompts, R), np.array(lengths), np.array(wanted)


def by_hand(prompt: np.ndarray, length: np.ndarray, row: np.ndarray, grid: packing.Grid) -> list[list[tuple[int, ...]]]:
    """What stands in each row: (prompt, -1, place) or (prompt, response, place), in order."""
    content: list[list[tuple[int, ...]]] = [[] for _ in range(grid.parts * grid.rows)]
    for i, r in enumerate(row):
        if r < 0:
            continue
        here = content[r]
        if (i // R, -1, 0) not in here:
            here += [(i // R, -1, place) for place in range(prompt[i])]
        here += [(i // R, i, place) for place in range(length[i])]
    return content


@given(drawn=responses())
def test_each_response_that_is_wanted_stands_in_one_row_once(drawn):
    prompt, length, wanted = drawn
    grid = packing.Grid(P * R // 2, 1, LENGTH)
    row, start, prompt_start = packing.plan(prompt, length, wanted, R, grid)
    assert ((row >= 0) == (wanted & (length > 0))).all() and (row < grid.parts * grid.rows).all()
    content = by_hand(prompt, length, row, grid)
    for i in np.flatnonzero(row >= 0):
        here = content[row[i]]
        assert len(here) <= LENGTH
        assert here[start[i] : start[i] + length[i]] == [(i // R, i, place) for place in range(length[i])]
        assert here[prompt_start[i] : prompt_start[i] + prompt[i]] == [
            (i // R, -1, place) for place in range(prompt[i])
        ]
        assert start[i] >= prompt_start[i] + prompt[i]


@functools.cache
def packer() -> tuple[packing.Grid, Any]:
    """A grid, and what compiles to the rows and to sums over responses."""
    layout, grid = train_layout(small.make_mesh()), packing.Grid(P * R // 2, 1, LENGTH)

    def through(where: Plan, prompts: Prompts, rollouts: Rollouts) -> Any:
        rows = packing.pack(layout, grid, where, prompts, rollouts)
        return rows, packing.total(layout, rows, where, rows.logprob_jbS)

    return grid, jax.jit(through)


@settings(max_examples=100)
@given(drawn=responses())
def test_rows_and_sums_are_those_that_one_lays_by_hand(drawn):
    prompt, length, wanted = drawn
    grid, through = packer()
    row, start, prompt_start = packing.plan(prompt, length, wanted, R, grid)
    valid = np.arange(C) < prompt[::R, None]
    sampled = np.arange(T) < length[:, None]
    asked = np.where(valid, 100 + np.arange(P * C).reshape(P, C), 999).astype(np.int32)
    said = np.where(sampled, 200 + np.arange(P * R * T).reshape(-1, T), 0).astype(np.int32)
    prompts = Prompts(asked, valid, np.arange(P, dtype=np.int32))
    logprob = (said / -8).astype(np.float32)
    rows, sums = through(
        Plan(row, start, prompt_start), prompts, Rollouts(said, sampled, logprob, logprob * 0, np.ones(P * R, bool))
    )
    for r, here in enumerate(by_hand(prompt, length, row, grid)):
        found = jax.tree.map(lambda x, r=r: np.asarray(x).reshape(-1, LENGTH)[r], rows)
        tokens = [asked[p, place] if i < 0 else said[i, place] for p, i, place in here]
        positions = [place if i < 0 else prompt[i] + place for p, i, place in here]
        own = [(at, i) for at, (_, i, _) in enumerate(here) if i >= 0]
        before = [prompt_start[i] + prompt[i] - 1 if at == start[i] else at - 1 for at, i in own]
        rest = [0] * (LENGTH - len(here))
        assert found.tokens_jbS.tolist() == tokens + rest and found.position_jbS.tolist() == positions + rest
        assert (found.segment_jbS > 0).tolist() == [True] * len(here) + [False] * len(rest)
        assert found.sampled_jbS.tolist() == [n < len(own) for n in range(LENGTH)]
        assert found.target_jbS[: len(own)].tolist() == [tokens[at] for at, _ in own]
        assert found.response_jbS[: len(own)].tolist() == [i for _, i in own]
        assert found.logprob_jbS[: len(own)].tolist() == [tokens[at] / -8 for at, _ in own]
        assert found.state_jbS[: len(own)].tolist() == before
    np.testing.assert_array_equal(sums, np.where(row >= 0, logprob.sum(-1), 0))


# Conversion.

SIZES = st.tuples(st.sampled_from([1, 100, 2**26]), st.sampled_from([64, 1000, 2**23]), st.sampled_from([0, 1, 500]))
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


@st.composite
def models(draw: Any) -> dict[str, Any]:
    """A config.json of small sizes."""
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(1, 4))
    sizes = {
        "vocab_size": draw(st.integers(1, 40)),
        "hidden_size": kv_heads * groups * head_dim,
        "intermediate_size": draw(st.integers(1, 30)),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_attention_heads": kv_heads * groups,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": draw(st.booleans()),
    }
    model = folders.MODELS[draw(st.sampled_from(sorted(folders.MODELS)))]
    if model["model_type"].startswith("glm"):
        sizes["partial_rotary_factor"] = draw(st.sampled_from([0.5, 1.0] if head_dim % 4 == 0 else [1.0]))
    return folders.SIZES | model | sizes | ({"head_dim": head_dim} if "head_dim" in model else {})


@given(models())
def test_a_config_json_survives_the_way_there_and_back(hf):
    cfg = families.model_config(hf, folders.LIKE, "config.json")
    assert families.hf_config(cfg, hf) == hf
    assert families.model_config(families.hf_config(cfg, {}), folders.LIKE, "config.json") == cfg


@given(models(), st.integers(0, 2**32))
def test_a_tensor_survives_the_way_there_and_back(hf, seed):
    random = np.random.default_rng(seed)
    for tensor in tensor_table.tensors(families.model_config(hf, folders.LIKE, "config.json")):
        x = random.normal(size=tensor.shape)
        ours = tensor.to_ours(x)
        assert ours.shape == tuple(tensor.split[axis] for axis in tensor.order)
        rows = tensor.size // math.prod(tensor.shape[1:])  # of the file's tensor, which may hold several
        np.testing.assert_array_equal(tensor.to_file(ours), x[tensor.start : tensor.start + rows])


@settings(max_examples=20, phases=(Phase.explicit, Phase.generate))  # shrinking would take minutes
@given(hf=models(), dtype=st.sampled_from(DTYPES), shards=st.integers(1, 3), seed=st.integers(0, 2**32), sizes=SIZES)
def test_a_folder_survives_the_way_there_and_back(hf, dtype, shards, seed, sizes):
    piece, chunk, shard = sizes
    random = np.random.default_rng(seed)
    hf = hf | {"torch_dtype": np.dtype(dtype).name}
    cfg = families.model_config(hf, folders.LIKE, "config.json")
    weights = {t.name: random.normal(0, 0.5, t.shape).astype(dtype) for t in tensor_table.tensors(cfg)}
    with tempfile.TemporaryDirectory(prefix="a folder é ") as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "PIECE", piece)
        patch.setattr(orbax_arrays, "CHUNK", chunk)
        folder = Path(name)
        (folder / "hf").mkdir()
        (folder / "hf" / "config.json").write_text(json.dumps(hf))
        folders.save(folder / "hf", weights, shards)
        conversion.hf_to_orbax(folder / "hf", folder / "orbax", Progress(every=1e9))
        conversion.orbax_to_hf(folder / "orbax", folder / "back", Progress(every=1e9), max_bytes=shard)
        folders.same(folders.read(folder / "back"), weights)
        assert json.loads((folder / "back" / "config.json").read_text()) == hf
        assert (folder / "back" / folders.INDEX).exists() == (shard > 0 and len(weights) > 1)
