# SPDX-License-Identifier: Apache-2.0
"""What the parts of a run are expected to take: by hand, and by the rule of six flops a parameter and token."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
import small

from t1jax.devices import scopes
from t1jax.planning import estimate, hlo, phases, slices
from t1jax.training import sft
from t1jax.training.setup import rl_setup, sft_setup
from t1jax.types import Packed

# 4 layers of 32, no biases; products of a layer: q and output 2 * 32 * 32, k and v 2 * 32 * 16, MLP 3 * 32 * 48
KNOBS = {
    "model__num_layers": 4, "rl__max_new_tokens": 100, "rl__window": 10, "eval__batch_size": 8,
    "data__prompt_length": 64, "sft__batch_size": 8, "sft__sequence_length": 16, "scaling__budgets": (64,),
    "scaling__answer_tokens": 10, "mesh__data": 1, "mesh__fsdp": 1, "rl__lanes": 4,
}  # fmt: skip
LAYERS = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
HEAD = 32 * small.V
A_POSITION = 2 * 4 * 2 * 8 * 4  # bytes: keys and values, layers, heads, width, float32


def found(chip, **knobs):
    cfg = small.make_config(**KNOBS | knobs)
    return phases.of_chip(rl_setup(cfg, small.make_mesh(), 2**34, False), chip, (1, 1, 1))


def test_sampling_takes_as_long_as_weights_and_cache_are_read():
    """On a chip that computes in no time: 0.8 of its bandwidth, for each token the weights and half of the texts."""
    chip = slices.Chip("reader", 2**34, flops=1e30, bandwidth=1e6, links=1e30)
    a_token = 4 * (LAYERS + HEAD) + A_POSITION * 8 * (100 / 2 + 64)
    assert found(chip).response == pytest.approx(100 * a_token / 0.8e6 / 8)
    a_token = 4 * (LAYERS + HEAD) + A_POSITION * 8 * (10 / 2 + 128)  # 64 and a thought of 64, and 10 of an answer
    assert found(chip).answer == pytest.approx(10 * a_token / 0.8e6 / 8)
    assert found(chip, scaling__budgets=()).answer == 0
    assert found(chip).update < 1e-15 < found(chip).step


def test_an_update_takes_six_flops_a_parameter_and_token():
    """At half of the peak; the head's logits are made twice, and attention and recomputation come on top."""
    chip = slices.Chip("computer", 2**34, flops=1e6, bandwidth=1e30, links=1e30)
    tokens = 8 * 16
    rule = (6 * LAYERS + 8 * HEAD) * tokens
    attention = 3 * 4 * tokens * 8 * 4 * 4 * 8  # three forwards, each token with 8 others, 4 layers of 4 heads of 8
    assert found(chip).update == pytest.approx((rule + attention) / 0.5e6)
    again = found(chip, model__remat="full").update - found(chip).update
    assert again == pytest.approx((2 * LAYERS * tokens + attention / 3) / 0.5e6)


def test_an_update_of_adapters_takes_a_forward_less_of_all_weights():
    """No gradient of a weight: four flops, six of the head; those of its factors instead. Attention has all of its."""
    chip = slices.Chip("computer", 2**34, flops=1e6, bandwidth=1e30, links=1e30)
    tokens, rank = 8 * 16, 4
    factors = {"attention": 4 * 32 + 2 * 32 + 2 * 16, "mlp": 3 * 32 + 3 * 48}
    factors["all"] = sum(factors.values())
    attention = 3 * 4 * tokens * 8 * 4 * 4 * 8
    for targets, sides in factors.items():
        update = found(chip, model__lora_rank=rank, model__lora_targets=targets).update
        rule = (4 * LAYERS + 6 * HEAD + 4 * 4 * rank * sides) * tokens
        assert update == pytest.approx((rule + attention) / 0.5e6)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_update_that_is_counted_is_the_compiled_one(rank):
    """Of a CPU's program of the cold start; what it does more than that is sum up adapters."""
    cfg, mesh = small.make_config(**KNOBS, model__lora_rank=rank), small.make_mesh()
    setup = sft_setup(cfg, mesh)
    rows = jax.ShapeDtypeStruct((8, 16), jnp.int32, sharding=setup.layout.sharding("batch", None))
    packed = Packed(rows, rows, rows, jax.ShapeDtypeStruct((8, 16), jnp.bool_, sharding=rows.sharding))
    text = sft.make_sft_step(setup).lower(setup.state_shapes(), packed).compile().as_text()
    compiled = hlo.parse(text).flops({scopes.HEAD_CHUNKS: float(cfg.sft.vocab_chunks)})
    counted, again = estimate.update_flops(cfg.model, 8.0 * 16, 16.0, 8.0 * 16)  # a CPU attends to what is masked, too
    summed = 2.0 * LAYERS * rank
    assert again == 0 and compiled == pytest.approx(counted + summed, rel=0.03)


def test_it_names_the_chip_and_a_chip_that_nobody_knows_has_no_estimate():
    said = found(slices.CHIPS["v5e"])
    assert "figures of v5e, if every response has 100 tokens" in said.source
    assert all(math.isfinite(x) and x > 0 for x in (said.update, said.step, said.response, said.answer))
    assert phases.paces(rl_setup(small.make_config(**KNOBS), small.make_mesh(), 2**34, False)) is None  # CPUs
