# SPDX-License-Identifier: Apache-2.0
"""Estimates the memory of a step on each device from shapes alone, and how many lanes fit.

The step is one program. Its peak is the state and the rollouts, which are always there, plus the largest of three
phases: sampling, the anchor's log-probabilities, the update. Bytes are counted from shapes and shardings; temporaries
of the compiler (such as a layer's values for the backward pass) are counted as it was observed to keep them.
tests/training/test_memory.py holds the estimate to within 1.25 of the compiler's figures.

If the devices are the host's processors, they share its memory with the process: Python and its libraries, compiled
programs, and the copy of the state that is written while the next step runs. A slow test there holds the total to
within 1.25 of the process's peak.

Axes: P prompts, R responses per prompt, m lanes per prompt, X shards of the batch; b rows of a part, S positions of a
row; C prompt positions, T response positions, D width, N query heads, K kv heads, H head dim, F mlp width,
V vocabulary, L layers, E experts, k of them for a token.
Deliberately not here: what cannot work whatever the memory (validation.py).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from t1jax.config import Config, ConfigError
from t1jax.devices import multihost
from t1jax.model import attention, heads, lora, qwen
from t1jax.update import packing

USABLE = 0.9  # of a device's memory; the rest is for the runtime and for errors of the estimate
FLOAT = 4  # bytes of a float32 or int32
PHASES = ("sampling", "scoring", "update")  # in sequence; parts of "always" and "host" exist throughout
PROCESS = 1 << 30  # bytes of Python, its libraries and the compiled programs; measured with jax 0.10 on x86-64
WRITING = 1  # GiB of a checkpoint that are compressed and written at a time where devices are the host's


@dataclass(frozen=True)
class Part:
    """Memory of a device for one purpose: in which phase, how many bytes, and the knob that reduces it."""

    phase: str
    name: str
    bytes: int
    knob: str


@dataclass(frozen=True)
class MemoryPlan:
    """The estimated memory of a step on each device."""

    parts: tuple[Part, ...]
    lanes: int  # m, per prompt
    device_bytes: int  # available

    def of(self, phase: str) -> int:
        """Bytes of all parts of a phase."""
        return sum(part.bytes for part in self.parts if part.phase == phase)

    @property
    def peak(self) -> str:
        """The phase that needs most memory."""
        return max(PHASES, key=self.of)

    @property
    def program(self) -> int:
        """Peak bytes of the compiled step."""
        return self.of("always") + self.of(self.peak)

    @property
    def total(self) -> int:
        """Peak bytes of the step, including the process if the devices are the host's."""
        return self.program + self.of("host")

    @property
    def fits(self) -> bool:
        return self.total <= USABLE * self.device_bytes

    @property
    def largest(self) -> Part:
        """The largest part at the peak."""
        return max(
            (part for part in self.parts if part.phase in ("always", "host", self.peak)), key=lambda part: part.bytes
        )

    def __str__(self) -> str:
        """A table with a line for each part."""
        lines = [f"{part.phase:9} {part.name:42} {size(part.bytes):>10}  {part.knob}" for part in self.parts]
        total = f"{self.peak:9} {'total at the peak':42} {size(self.total):>10}"
        return "\n".join([*lines, f"{total}  of {size(self.device_bytes)}, {USABLE:.0%} usable"])


def size(count: float) -> str:
    """Bytes in readable form: `1.50 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def plan(
    cfg: Config,
    learner: qwen.Transformer,
    sampler: qwen.Transformer,
    grid: packing.Grid,
    device_bytes: int | None = None,
    on_host: bool | None = None,
) -> MemoryPlan:
    """The memory of a step of `cfg` on each device, with rl.lanes lanes per prompt.

    If rl.lanes is 0, with the largest divisor of rl.responses_per_prompt that fits; samples do not depend on it.
    Only setup.py calls this; everything else reads `RlSetup.memory`.

    Args:
      cfg: the whole config.
      learner, sampler: the model with the training and the decode layout; if the last two arguments are given, only
        the shape of their mesh matters.
      grid: the rows of the update.
      device_bytes: memory of a device; None: ask the devices.
      on_host: whether the devices are the host's processors, so that its process is counted; None: ask the devices.

    Raises:
      ConfigError: rl.lanes is 0 and not even one lane per prompt fits; names the largest part and its knob.
    """
    mesh = learner.layout.mesh
    room = available(mesh) if device_bytes is None else device_bytes
    R = cfg.rl.responses_per_prompt
    if on_host is None:
        on_host = learner.layout.on_cpu
    host = _host_parts(learner) if on_host else []
    if cfg.rl.lanes:
        return MemoryPlan((*_parts(cfg, learner, sampler, grid, cfg.rl.lanes), *host), cfg.rl.lanes, room)
    for lanes in sorted((g for g in range(1, R + 1) if R % g == 0), reverse=True):
        found = MemoryPlan((*_parts(cfg, learner, sampler, grid, lanes), *host), lanes, room)
        if found.fits:
            return found
    most = found.largest
    raise ConfigError(
        f"rl.lanes is 0, and not even one lane per prompt fits: a step takes {size(found.total)} on each device, "
        f"{size(most.bytes)} of it for {most.name}; expected at most {USABLE:.0%} of {size(room)}: "
        f"{most.knob}, or set rl.lanes to try anyway"
    )


def available(mesh: Mesh) -> int:
    """Bytes of a device, the least over all processes. If devices are the host's processors, they share its memory."""
    device = mesh.local_devices[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return multihost.least(stats["bytes_limit"])
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return multihost.least(host // len(mesh.local_devices))


@lru_cache
def _weights(model: qwen.Transformer) -> int:
    """Number of weights on a device with the model's layout."""
    shapes, shardings = nn.unbox(qwen.boxed_shapes(model)), qwen.shardings(model)
    each = jax.tree.map(lambda x, sharding: math.prod(sharding.shard_shape(x.shape)), shapes, shardings)
    return sum(jax.tree.leaves(each))


@lru_cache
def _held(model: qwen.Transformer) -> tuple[int, int, int]:
    """Bytes on a device: of what is trained, and with LoRA of the weights that stay, and of those with adapters in."""
    if not model.cfg.lora_rank:
        return FLOAT * _weights(model), 0, 0

    def held(tree: Any) -> int:
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    shapes, shardings, base = nn.unbox(lora.boxed_shapes(model)), lora.shardings(model), lora.base_shapes(model)
    trained = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    return held(trained), held(base), held([base["layers"][name] for name in lora.TARGETS[model.cfg.lora_targets]])


def _host_parts(learner: qwen.Transformer) -> list[Part]:
    """Memory of the process besides the step, as one device's share."""
    devices = len(learner.layout.mesh.local_devices)
    state = 4 * _held(learner)[0]
    return [
        Part("host", "Python, libraries, compiled programs", PROCESS // devices, "use a larger machine"),
        Part("host", "a copy of the state, which is written", state, "raise mesh.fsdp"),
        Part("host", "parts of it that are compressed", (WRITING << 30) // devices, "use a larger machine"),
    ]


def _parts(cfg: Config, learner: qwen.Transformer, sampler: qwen.Transformer, grid: packing.Grid, m: int) -> list[Part]:
    """The parts, on one device, with m lanes a prompt: P, and the widths that tensor splits, are a device's share."""
    model, rl, C = cfg.model, cfg.rl, cfg.data.prompt_length
    X, mesh = learner.layout.batch_shards, learner.layout.mesh
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    P, R, T = rl.drawn // X, rl.responses_per_prompt, rl.max_new_tokens  # of the update: grid
    D, L, H, V = model.hidden_size, model.num_layers, model.head_dim, model.vocab_size // tensor
    N, K, F = model.num_heads // tensor, heads.spread(model, tensor) // tensor, model.mlp_size // tensor
    width = FLOAT if model.compute_dtype == "float32" else 2
    tokens, chunk = grid.rows * grid.length, grid.rows * -(-grid.length // rl.vocab_chunks)
    weights, stay, merged = _held(learner)
    learnt = 0 if stay else FLOAT  # bytes of a gradient, for a matrix or a table
    E, k = model.num_experts, model.experts_per_token
    layer = 2 * D * (N + K) * H + (E * (D + 3 * D * model.mlp_size // tensor) if E else 3 * D * F)
    if E:  # a token has k copies on each device of a tensor group, though most are for other devices
        F = k * model.mlp_size
    copies = k * (2 + 2 * FLOAT // width) * D  # into experts, and out of them in float32, by expert and by token

    window = min(rl.window, T)
    key = 2 * L * K * H * width  # one position's keys and values
    block = P * m * window * key
    ring = -(-T // window) * block
    few = -(-P * m // 4)  # lanes after compaction, each with a prompt of its own
    route = FLOAT if E else 0  # a token's route through the experts
    log = (3 * FLOAT + route) * P * m * ((R - 1) * T // m + T if m < R else T)
    cast = width * _weights(sampler) if (width < FLOAT and not stay) or fsdp > 1 else 0

    plain = grid.length <= attention.PLAIN  # attention keeps scores before and after the softmax
    scores = 2 * N * grid.length if plain else 0
    added = 2 * FLOAT // width * D * model.post_norms  # what attention and MLP add, float32, before its norm
    work = 6 * F + copies + 8 * D + 3 * N * H + 4 * K * H + scores + added  # values per token and layer
    dots = 2 * F + 3 * D + 2 * N * H + 2 * K * H + scores // 2
    between = (FLOAT - width) * D  # a layer's input is float32, whatever the rest is
    kept = L * tokens * (between + width * {"none": work - 4 * F, "dots": dots, "full": D}[model.remat])
    forward = tokens * (4 * between + width * (4 * F + copies + 6 * D + 2 * N * H + scores))
    prefill = P * C * width * (4 * F + copies) if E else 0
    beside = forward if model.remat == "none" else tokens * (4 * between + width * work)
    logits = 3 * FLOAT * chunk * V
    gathered = (width + learnt) * D * V if fsdp > 1 else width * D * V if width < FLOAT and not stay else 0
    moving = gathered + (width + learnt) * layer  # gradients cross devices in float32

    fewer, shorter = "lower rl.responses_per_prompt", "lower rl.max_new_tokens"
    return [
        Part("always", "parameters", weights, "raise mesh.fsdp"),
        Part("always", "optimiser", 2 * weights, "raise mesh.fsdp"),
        Part("always", "anchor", weights, "raise mesh.fsdp"),
        *([Part("always", "weights that stay", stay, "raise mesh.fsdp")] if stay else []),
        *([Part("always", "weights with adapters", merged, "raise mesh.fsdp")] if stay else []),
        Part("always", "responses", (26 + 2 * route) * P * R * T, fewer),
        Part("sampling", "decode copy of the weights", cast, "raise mesh.tensor"),
        Part("sampling", "prompts' keys and values", 2 * P * C * key, "lower rl.prompts_per_step"),
        Part("sampling", "lanes' keys and values", ring, shorter),
        Part("sampling", "one block of them and prompts, for few lanes", block + 2 * few * C * key, "lower rl.window"),
        Part("sampling", "log of drawn tokens", log, shorter),
        *([Part("sampling", "prompts in experts", prefill, "lower rl.prompts_per_step")] if E else []),
        Part("sampling", "logits", 3 * FLOAT * P * m * V, "lower rl.prompts_per_step"),
        Part("scoring", "the anchor's weights", weights + merged + moving, "raise mesh.fsdp"),
        Part("scoring", "rows", (34 + route) * grid.parts * tokens, fewer),
        Part("scoring", "logits, or the activations of a layer", max(logits, forward), "raise rl.vocab_chunks"),
        Part("update", "gradients: sum and one micro-batch", 2 * weights, "raise mesh.fsdp"),
        Part("update", "weights and gradient of a layer, the head", moving, "raise mesh.tensor"),
        Part("update", "rows", (34 + route) * grid.parts * tokens, fewer),
        Part("update", "values kept for the backward pass", kept, "raise rl.micro_batches"),
        Part("update", "logits, or the activations of a layer", max(logits, beside), "raise rl.vocab_chunks"),
    ]
