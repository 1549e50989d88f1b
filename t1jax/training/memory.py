# SPDX-License-Identifier: Apache-2.0
"""How much memory a step takes on each device, from shapes alone; and how many lanes therefore fit.

The step is one program: what is always there is the state and what of the rollouts is handed on, and on top of it the
largest of three phases: sampling, the anchor's log-probabilities, the update. Bytes are counted from the shapes and
from how they are split; what the compiler keeps beside them (of a layer: values for the backward pass) is counted from
what it was seen to keep. Held to the compiler's own figures within 1.25 by tests/training/test_memory.py.

Where the devices are the host's processors they share its memory with the process itself: Python and its libraries,
compiled programs, and the copy of the state that is written while the next step runs. Held to the process's peak within
1.25 by the slow test there.

Axes: P prompts, R responses per prompt, G lanes per prompt, X shards of the batch; b rows of a part, S positions of a
row; C prompt positions, T response positions, D width, N query heads, K kv heads, H head dim, F mlp width,
V vocabulary, L layers.
Deliberately not here: what cannot work whatever the memory (validation.py).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache

import jax
from flax import linen as nn
from jax.sharding import Mesh

from t1jax.config import Config, ConfigError
from t1jax.devices import multihost
from t1jax.model import attention, qwen
from t1jax.update import packing

USABLE = 0.9  # of a device's memory: the rest is for the runtime, and for what this plan does not see
FLOAT = 4  # bytes of a float32 or int32
PHASES = ("sampling", "scoring", "update")  # one after the other; the others, "always" and "host", last
PROCESS = 1 << 30  # bytes of Python, its libraries and the compiled programs; seen with jax 0.10 on x86-64
WRITING = 1  # GiB of a checkpoint that are compressed and written at a time where devices are the host's


@dataclass(frozen=True)
class Part:
    """Some bytes of a device, when they are there, and what makes them fewer."""

    phase: str
    name: str
    bytes: int
    knob: str


@dataclass(frozen=True)
class MemoryPlan:
    """What a step takes on each device."""

    parts: tuple[Part, ...]
    lanes: int  # G
    device_bytes: int  # that there are

    def of(self, phase: str) -> int:
        """Bytes of the parts of one phase."""
        return sum(part.bytes for part in self.parts if part.phase == phase)

    @property
    def peak(self) -> str:
        """The phase that takes most."""
        return max(PHASES, key=self.of)

    @property
    def program(self) -> int:
        """Bytes of the compiled step at its peak."""
        return self.of("always") + self.of(self.peak)

    @property
    def total(self) -> int:
        """Bytes at the peak of the step, what the process takes included where the devices are the host's."""
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
        """A table: a part a line."""
        lines = [f"{part.phase:9} {part.name:42} {size(part.bytes):>10}  {part.knob}" for part in self.parts]
        total = f"{self.peak:9} {'at the peak, in all':42} {size(self.total):>10}"
        return "\n".join([*lines, f"{total}  of {size(self.device_bytes)}, {USABLE:.0%} usable"])


def size(count: float) -> str:
    """Bytes for a person: `1.50 GiB`."""
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
    """What a step of `cfg` takes on each device, with rl.lanes lanes a prompt.

    Where rl.lanes is 0, with the largest divisor of rl.responses_per_prompt whose step fits. What is sampled does not
    depend on it. setup.py calls this; everybody else reads `RlSetup.memory`.

    Args:
      cfg: the whole config.
      learner, sampler: the model under the training and the decode layout; of their mesh only the shape matters if the
        last two are given.
      grid: the rows of the update.
      device_bytes: what a device has; None: asked of the devices.
      on_host: whether the devices are the host's processors, so that its process is counted; None: asked of the
        devices.

    Raises:
      ConfigError: rl.lanes is 0 and not even one lane a prompt fits; names the largest part and the knob that makes it
        smaller.
    """
    mesh = learner.layout.mesh
    room = available(mesh) if device_bytes is None else device_bytes
    R = cfg.rl.responses_per_prompt
    if on_host is None:
        on_host = learner.layout.on_cpu
    host = _host_parts(learner) if on_host else []
    if cfg.rl.lanes:
        return MemoryPlan((*_parts(cfg, learner, sampler, grid, cfg.rl.lanes), *host), cfg.rl.lanes, room)
    for G in sorted((g for g in range(1, R + 1) if R % g == 0), reverse=True):
        found = MemoryPlan((*_parts(cfg, learner, sampler, grid, G), *host), G, room)
        if found.fits:
            return found
    most = found.largest
    raise ConfigError(
        f"rl.lanes is 0, and not even one lane a prompt fits: a step takes {size(found.total)} on each device, "
        f"{size(most.bytes)} of it for {most.name}; expected at most {USABLE:.0%} of the {size(room)} there are: "
        f"{most.knob}, or set rl.lanes to try all the same"
    )


def available(mesh: Mesh) -> int:
    """Bytes a device of the mesh has: the least of all processes. Devices that are the host's share its memory."""
    device = mesh.local_devices[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return multihost.least(stats["bytes_limit"])
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return multihost.least(host // len(mesh.local_devices))


@lru_cache
def _weights(model: qwen.Transformer) -> int:
    """How many weights a device holds under the model's layout."""
    shapes, lies = nn.unbox(qwen.boxed_shapes(model)), qwen.shardings(model)
    each = jax.tree.map(lambda x, sharding: math.prod(sharding.shard_shape(x.shape)), shapes, lies)
    return sum(jax.tree.leaves(each))


def _host_parts(learner: qwen.Transformer) -> list[Part]:
    """What the process takes beside the step, as a device's share of it."""
    devices = len(learner.layout.mesh.local_devices)
    state = 4 * FLOAT * _weights(learner)
    return [
        Part("host", "Python, libraries, compiled programs", PROCESS // devices, "use a larger machine"),
        Part("host", "a copy of the state, which is written", state, "raise mesh.fsdp"),
        Part("host", "parts of it that are compressed", (WRITING << 30) // devices, "use a larger machine"),
    ]


def _parts(cfg: Config, learner: qwen.Transformer, sampler: qwen.Transformer, grid: packing.Grid, G: int) -> list[Part]:
    """The parts, on one device, with G lanes a prompt."""
    m, rl, C = cfg.model, cfg.rl, cfg.data.prompt_length
    X, mesh = learner.layout.batch_shards, learner.layout.mesh
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    P, R, T = rl.prompts_per_step // X, rl.responses_per_prompt, rl.max_new_tokens
    D, L, H, V = m.hidden_size, m.num_layers, m.head_dim, m.vocab_size // tensor
    N, K, F = m.num_heads // tensor, m.num_kv_heads // tensor, m.mlp_size // tensor
    width = FLOAT if m.compute_dtype == "float32" else 2
    tokens, chunk = grid.rows * grid.length, grid.rows * -(-grid.length // rl.vocab_chunks)
    weights = FLOAT * _weights(learner)
    layer = 2 * D * (N + K) * H + 3 * D * F

    window = min(rl.window, T)
    key = 2 * L * K * H * width  # one position's keys and values
    block = P * G * window * key
    ring = -(-T // window) * block
    few = -(-P * G // 4)  # lanes that go on, each with a prompt of its own, when three quarters are idle
    log = 3 * FLOAT * P * G * ((R - 1) * T // G + T if G < R else T)
    cast = width * _weights(sampler) if width < FLOAT or fsdp > 1 else 0

    plain = grid.length <= attention.PLAIN  # attention keeps what a token attends, before and after its softmax
    scores = 2 * N * grid.length if plain else 0
    work = 6 * F + 8 * D + 3 * N * H + 4 * K * H + scores  # values of a token and a layer
    dots = 2 * F + 3 * D + 2 * N * H + 2 * K * H + scores // 2
    between = (FLOAT - width) * D  # a layer's input is float32, whatever the rest is
    kept = L * tokens * (between + width * {"none": work - 4 * F, "dots": dots, "full": D}[m.remat])
    forward = tokens * (4 * between + width * (4 * F + 6 * D + 2 * N * H + scores))
    beside = forward if m.remat == "none" else tokens * (4 * between + width * work)
    logits = 3 * FLOAT * chunk * V
    gathered = (width + FLOAT) * D * V if fsdp > 1 else width * D * V if width < FLOAT else 0
    moving = gathered + (width + FLOAT) * layer  # gradients cross devices in float32

    fewer, shorter = "lower rl.responses_per_prompt", "lower rl.max_new_tokens"
    return [
        Part("always", "parameters", weights, "raise mesh.fsdp"),
        Part("always", "optimiser", 2 * weights, "raise mesh.fsdp"),
        Part("always", "anchor", weights, "raise mesh.fsdp"),
        Part("always", "responses", 26 * P * R * T, fewer),
        Part("sampling", "weights for sampling", cast, "raise mesh.tensor"),
        Part("sampling", "prompts' keys and values", 2 * P * C * key, "lower rl.prompts_per_step"),
        Part("sampling", "lanes' keys and values", ring, shorter),
        Part("sampling", "a block of them, and prompts, for few lanes", block + 2 * few * C * key, "lower rl.window"),
        Part("sampling", "what lanes draw", log, shorter),
        Part("sampling", "scores of the vocabulary", 3 * FLOAT * P * G * V, "lower rl.prompts_per_step"),
        Part("scoring", "the anchor's weights", weights + moving, "raise mesh.fsdp"),
        Part("scoring", "rows", 34 * grid.parts * tokens, fewer),
        Part("scoring", "scores of the vocabulary, or a layer's work", max(logits, forward), "raise rl.vocab_chunks"),
        Part("update", "gradients: the sum, and a part's", 2 * weights, "raise mesh.fsdp"),
        Part("update", "a layer's weights and gradient, the head", moving, "raise mesh.tensor"),
        Part("update", "rows", 34 * grid.parts * tokens, fewer),
        Part("update", "values kept for the backward pass", kept, "raise rl.micro_batches"),
        Part("update", "scores of the vocabulary, or a layer's work", max(logits, beside), "raise rl.vocab_chunks"),
    ]
