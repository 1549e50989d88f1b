# SPDX-License-Identifier: Apache-2.0
"""Estimates the computation, memory traffic and communication of a step from shapes, and its time by a roofline model.

Use it to compare settings, not as a forecast: it counts matrix products, the bytes of weights and cache, and the
weights and activations that chips exchange, and assumes that every response is `length` tokens long. Of experts it
counts the flops of those that a token goes through, evenly spread over devices, and the bytes of all. planning/hlo.py
measures what a compiled program really does.

Axes: P prompts, R responses per prompt, C prompt positions, T tokens of a response; devices split them evenly.
Source: roofline model, Williams et al., CACM 2009; flops of a transformer as counted in arXiv 2001.08361.
Deliberately not here: memory (memory.py), compiled programs (planning/hlo.py, plan.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from t1jax.config import Config, ModelConfig
from t1jax.model import heads, lora
from t1jax.planning.slices import Chip
from t1jax.update.packing import Grid

MATMUL, READ = 0.5, 0.8  # shares of a chip's peaks that large matrix products, and reads, are taken to reach
FLOAT = 4  # bytes of a float32
LATENCY = 5e-6  # seconds that a small exchange takes at least
BETWEEN_SLICES = (
    3,
    1e-4,
)  # small exchanges of all slices in a token's iteration (is a lane live?), seconds of each: a guess


def assumptions(slices: int = 1) -> str:
    """What `seconds` takes for granted."""
    asked, latency = BETWEEN_SLICES
    several = f"; between slices {asked} exchanges a token of {latency * 1e6:.0f} microseconds" if slices > 1 else ""
    return (
        f"{MATMUL:.0%} of a chip's bfloat16 peak, {READ:.0%} of its bandwidth, {LATENCY * 1e6:.0f} microseconds an "
        f"exchange in the token loop{several}; in the update exchanges hide behind work, or work behind exchanges"
    )


def layer_weights(cfg: ModelConfig) -> int:
    """Weights of one layer's matrix products: of all experts."""
    return _layer_weights(cfg, cfg.num_experts or 1)


def active_weights(cfg: ModelConfig) -> int:
    """Those that a token goes through: of experts_per_token experts."""
    return _layer_weights(cfg, cfg.experts_per_token or 1)


def _layer_weights(cfg: ModelConfig, mlps: int) -> int:
    D, N, K, H, F = cfg.hidden_size, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.mlp_size
    return 2 * D * N * H + 2 * D * K * H + 3 * D * F * mlps + D * cfg.num_experts


def adapter_weights(cfg: ModelConfig) -> tuple[int, int]:
    """Weights of one layer's adapters: of the factors on the side of the width, and on that of heads or MLP."""
    names = lora.TARGETS[cfg.lora_targets]
    sides = [cfg.num_heads * cfg.head_dim] * 2 + [cfg.num_kv_heads * cfg.head_dim] * 2 + [cfg.mlp_size] * 3
    other = dict(zip(("q", "o", "k", "v", *lora.MLP), sides, strict=True))
    return cfg.lora_rank * len(names) * cfg.hidden_size, cfg.lora_rank * sum(other[name] for name in names)


def forward_flops(cfg: ModelConfig, tokens: float, attended: float, scored: float) -> float:
    """Of one forward: `tokens` through the layers, each attending `attended` others, and `scored` through the head."""
    matmul = 2.0 * tokens * cfg.num_layers * active_weights(cfg)
    attention = 4.0 * tokens * attended * cfg.num_layers * cfg.num_heads * cfg.head_dim
    return matmul + attention + 2.0 * scored * cfg.hidden_size * cfg.vocab_size


def summed_forward(cfg: ModelConfig, tokens: float) -> float:
    """Bytes that the devices of a tensor group add up in one forward: the outputs of attention and MLP, in float32."""
    return 2.0 * cfg.num_layers * tokens * cfg.hidden_size * FLOAT


def gathered_forward(cfg: ModelConfig, tokens: float) -> float:
    """Bytes that they make whole in one forward of the learner: the inputs of attention and MLP, in compute dtype."""
    return 2.0 * cfg.num_layers * tokens * cfg.hidden_size * value_bytes(cfg)


def value_bytes(cfg: ModelConfig) -> int:
    """Bytes of a number in compute dtype."""
    return FLOAT if cfg.compute_dtype == "float32" else 2


def update_flops(cfg: ModelConfig, tokens: float, attended: float, scored: float) -> tuple[float, float]:
    """Of an update of so many tokens, as `forward_flops` has them: forward and backward; what remat computes again.

    A forward, a gradient of what goes in and one of the weights, each as long; the head's logits are made again in the
    backward. With LoRA the weights have no gradient: of each product its factors have, and of attention both stay.
    """
    layers, head = forward_flops(cfg, tokens, attended, 0), forward_flops(cfg, 0, 0, scored)
    again = {"none": 0.0, "dots": 0.0, "full": layers}[cfg.remat]
    if not cfg.lora_rank:
        return 3 * layers + 4 * head, again
    factors = 4.0 * tokens * cfg.num_layers * sum(adapter_weights(cfg))
    return 3 * layers - forward_flops(cfg, tokens, 0, 0) + 3 * head + factors, again


@dataclass(frozen=True)
class Work:
    """Flops of a step, of all devices together."""

    prefill: float
    decode: float
    anchor: float  # log-probabilities for the KL: a forward of the anchor, and of the policy if kl_logprobs is learner
    update: float  # forward and backward
    remat: float  # what is computed again in the backward to save memory

    @property
    def total(self) -> float:
        return self.prefill + self.decode + self.anchor + self.update + self.remat


def work(cfg: Config, length: float, attention: bool = True) -> Work:
    """Of a step whose responses are `length` tokens long and each stands after a prompt of its own in the update.

    With rl.overdraw more of them are sampled than are in the update.

    Args:
      attention: count it too; not to compare with a program whose attention is a kernel.
    """
    model, C = cfg.model, cfg.data.prompt_length
    others = float(attention)
    drawn, responses = (n * cfg.rl.responses_per_prompt for n in (cfg.rl.drawn, cfg.rl.prompts_per_step))
    learnt = responses * (C + length), others * (C + length) / 2, responses * length
    update, remat = update_flops(model, *learnt)
    return Work(
        prefill=forward_flops(model, cfg.rl.drawn * C, others * C / 2, cfg.rl.drawn),
        decode=forward_flops(model, drawn * length, others * (C + length / 2), drawn * length),
        anchor=kl_forwards(cfg) * forward_flops(model, *learnt),
        update=update,
        remat=remat,
    )


def kl_forwards(cfg: Config) -> int:
    """Forwards of the update that only the KL needs."""
    return 2 if cfg.rl.kl_logprobs == "learner" else 1


def parts(cfg: Config, mesh: tuple[int, int, int], grid: Grid, length: float) -> int:
    """Parts of the update that are computed where each response has `length` tokens. `mesh`: (data, fsdp, tensor)."""
    responses = cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt
    rows = -(-responses // (mesh[0] * mesh[1]) // int(grid.length // (cfg.data.prompt_length + length)))
    return min(grid.parts, -(-rows // grid.rows))


@dataclass(frozen=True)
class Exchanged:
    """Bytes that a device receives in a step's update, if every group exchanges around a ring."""

    weights: float  # made whole over fsdp, in compute dtype
    gradients: float  # added up in float32 over fsdp, and over data as far as it is within a slice
    activations: float  # over tensor: added up and scattered, and made whole
    between_slices: float  # gradients, over the rest of data

    @property
    def links(self) -> float:
        """Those that go over the links within a slice."""
        return self.weights + self.gradients + self.activations


def exchanged(cfg: Config, mesh: tuple[int, int, int], length: float, parts: int, slices: int = 1) -> Exchanged:
    """What the update of a step exchanges; prompts go with each of their responses.

    In each part every layer's weights are made whole for each forward and for the backward, and the gradient is added
    up over fsdp: of layers and head so that each device keeps its share, of the embedding whole. Replicas then add up
    shares, within a slice and between slices. Embedding and head are made whole once before all parts. Activations go
    as model/products.py says. With LoRA the factors alone have a gradient: those on the side of the width, which all of
    `tensor` hold, are made whole and added up as a layer's weights, the others as the embedding; and the backward adds
    up [rows, r] over `tensor` for each of the matrices.

    Args:
      mesh: (data, fsdp, tensor).
      parts: of the update that are computed.
      slices: into which `data` is split first.
    """
    model, (data, fsdp, tensor) = cfg.model, mesh
    layers = model.num_layers * layer_weights(model) / tensor
    table = model.hidden_size * model.vocab_size / tensor  # of the embedding; of the head, whose gradient is apart
    tables = table * (1 if model.tie_embeddings else 2)
    others, replicas = 1 - 1 / fsdp, data // slices  # the latter of a slice
    passes = 1 + kl_forwards(cfg)  # of the update and before it
    rows = cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt / (data * fsdp) * (cfg.data.prompt_length + length)
    again = float(model.remat == "full")  # in the backward; a layer's last sum is not needed again
    summed = (passes + again / 2 + 1) * summed_forward(model, rows)
    gathered = passes + again + 2.0  # in the backward gradients, and inputs again
    shared, whole, factors = layers + table, table, 0.0  # what gradients are of
    if model.lora_rank:
        wide, narrow = (model.num_layers * weights for weights in adapter_weights(model))
        shared, whole, factors = wide, narrow / tensor, wide
        gathered -= {"all": 0.0, "attention": 0.5, "mlp": 0.5}[model.lora_targets]  # a gradient for factors alone
        summed += 2 * model.num_layers * len(lora.TARGETS[model.lora_targets]) * rows * model.lora_rank * FLOAT
    made_whole = parts * ((passes + 1) * layers + factors) + 2 * min(parts, 1) * tables
    shares = shared / fsdp
    return Exchanged(
        weights=made_whole * value_bytes(model) * others,
        gradients=parts * FLOAT * (others * shared + _ring(fsdp * replicas) * whole + _ring(replicas) * shares),
        activations=(summed + gathered * gathered_forward(model, rows)) * (1 - 1 / tensor),
        between_slices=parts * FLOAT * _ring(slices) * (shares + whole / fsdp) / replicas,
    )


def _ring(devices: int) -> float:
    """Bytes that a device receives for each byte that `devices` add up around a ring."""
    return 2 * (devices - 1) / devices


@dataclass(frozen=True)
class Seconds:
    """How long a step takes, by stage."""

    prefill: float
    decode: float
    update: float  # with the anchor's forward
    iterations: float  # of the token loop

    @property
    def total(self) -> float:
        return self.prefill + self.decode + self.update


def seconds(
    cfg: Config, mesh: tuple[int, int, int], chip: Chip, length: float, lanes: int, parts: int, slices: int = 1
) -> Seconds:
    """At the `assumptions`.

    An iteration of the token loop reads a device's weights and its share of the cache once, and computes one token of
    each lane, whichever takes longer; then `tensor` devices add up two arrays a layer. What the update exchanges over
    links, and over the network between slices, goes on at the same time as its work.

    Args:
      mesh: (data, fsdp, tensor).
      lanes: of a prompt.
      parts: of the update that are computed.
      slices: joined by a network, over which `data` goes.
    """
    model, (data, fsdp, tensor) = cfg.model, mesh
    devices, shards = data * fsdp * tensor, data * fsdp
    todo = work(cfg, length)
    value = value_bytes(model)
    iterations = length * cfg.rl.responses_per_prompt / lanes
    weights = (model.num_layers * layer_weights(model) + model.hidden_size * model.vocab_size) / tensor
    here = cfg.rl.drawn / shards * lanes  # lanes of a device
    a_position = 2.0 * model.num_layers * heads.spread(model, tensor) / tensor * model.head_dim * value
    cache = here * length / 2 * a_position + cfg.rl.drawn / shards * cfg.data.prompt_length * a_position
    read = (weights * value + cache) / (READ * chip.bandwidth)
    compute = todo.decode / iterations / devices / (MATMUL * chip.flops)
    exchange = 2 * model.num_layers * LATENCY if tensor > 1 else 0.0
    exchange += summed_forward(model, here) * _ring(tensor) / chip.links
    exchange += math.prod(BETWEEN_SLICES) if slices > 1 else 0.0
    moved = exchanged(cfg, mesh, length, parts, slices)
    learning = (todo.anchor + todo.update + todo.remat) / devices / (MATMUL * chip.flops)
    return Seconds(
        prefill=todo.prefill / devices / (MATMUL * chip.flops),
        decode=iterations * (max(read, compute) + exchange),
        update=max(learning, moved.links / chip.links, moved.between_slices / chip.network),
        iterations=iterations,
    )
