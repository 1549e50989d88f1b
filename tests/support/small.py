# SPDX-License-Identifier: Apache-2.0
"""The smallest training setup, shared by the tests of the loops: config, weights, prompts, a scorer that remembers."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from configs import tiny
from t1jax import config
from t1jax.devices import multihost, sharding
from t1jax.model import qwen
from t1jax.rewards.score import HostScores
from t1jax.training import step
from t1jax.training.scoring import make_score
from t1jax.training.setup import RlSetup, rl_setup
from t1jax.types import Packed, Plan, Prompts, Rollouts, Scores, TrainState

ONE = (1, 1, 1)
V, P, R, C, T = 64, 8, 4, 7, 12
STOPS = (0, 9, 17, 33, 50)  # 0 is what pads prompts, too: masks that are guessed from tokens go wrong everywhere
KNOBS: dict[str, Any] = {
    "model.num_layers": 2,
    "model.hidden_size": 32,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.head_dim": 8,
    "model.mlp_size": 48,
    "model.remat": "none",
    "data.prompt_length": C,
    "sft.batch_size": 8,
    "sft.sequence_length": 24,
    "sft.optimizer": "adamw",
    "sft.num_steps": 20,
    "sft.learning_rate": 1e-2,
    "sft.warmup_steps": 0,
    "sft.weight_decay": 0.1,
    "sft.micro_batches": 1,
    "sft.vocab_chunks": 2,
    "rl.num_steps": 20,
    "rl.prompts_per_step": P,
    "rl.responses_per_prompt": R,
    "rl.max_new_tokens": T,
    "rl.window": T,
    "rl.temperature": 1.2,
    "rl.micro_batches": 1,
    "rl.vocab_chunks": 2,
    "rl.learning_rate": 3e-3,
    "rl.warmup_fraction": 0.0,
    "rl.kl_coef": 0.1,
    "rl.entropy_coef": 1e-2,
    "rl.anchor_decay": 0.9,
}
MOE: dict[str, Any] = {  # for make_config: a small Qwen3-MoE
    "model__num_experts": 8,
    "model__experts_per_token": 2,
    "model__norm_topk_prob": True,
    "model__mlp_size": 24,
    "model__qkv_bias": False,
    "model__qk_norm": True,
}


def make_config(**knobs: Any) -> config.Config:
    """configs/tiny.py made smaller still; `knobs` as rl__num_steps=3."""
    tree = config.load(tiny.get_config()).to_dict()
    for name, value in (KNOBS | {name.replace("__", "."): value for name, value in knobs.items()}).items():
        *path, last = name.split(".")
        section = tree
        for part in path:
            section = section[part]
        assert last in section, name
        section[last] = value
    return config.load(tree)


def make_mesh(shape: tuple[int, int, int] = ONE) -> jax.sharding.Mesh:
    return sharding.make_mesh(config.MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])


def make_params(cfg: config.Config, mesh: jax.sharding.Mesh, seed: int = 0) -> Any:
    """Every parameter random, norms and biases too; logits far enough apart to make some tokens likely."""
    model = qwen.Transformer(cfg.model, sharding.train_layout(mesh))
    random = np.random.default_rng(seed)

    def weight(box: nn.LogicallyPartitioned) -> np.ndarray:
        value = random.normal(0, 0.25, box.value.shape)
        return (value + (box.value.ndim == 1)).astype(np.float32)

    shapes = qwen.boxed_shapes(model)
    params = jax.tree.map(weight, shapes, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    return jax.device_put(params, qwen.shardings(model))


def copy(tree: Any) -> Any:
    """A copy that can be donated."""
    return jax.tree.map(lambda x: jax.device_put(np.array(x), x.sharding), tree)


def to_numpy(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def prompt_rows(seed: int = 0, padding: int = 0) -> Prompts:
    """Ragged prompts in NumPy: 1 .. C tokens each, padded with the id `padding`."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, V, (P, C)).astype(np.int32)
    valid = np.arange(C)[None] < (1 + (np.arange(P) * 3) % C)[:, None]
    return Prompts(np.where(valid, tokens, np.int32(padding)), valid, np.arange(100, 100 + P, dtype=np.int32))


def on_devices(rows: Any, mesh: jax.sharding.Mesh) -> Any:
    return multihost.global_batch(rows, sharding.train_layout(mesh))


def packed_rows(cfg: config.Config, seed: int = 0) -> Packed:
    """Rows of one to three texts, a prompt and a response each, and padding of random tokens."""
    random = np.random.default_rng(seed)
    B, length = cfg.sft.batch_size, cfg.sft.sequence_length
    tokens = random.integers(2, V, (B, length)).astype(np.int32)
    segment, position = np.zeros((B, length), np.int32), np.zeros((B, length), np.int32)
    target = np.zeros((B, length), bool)
    for b in range(B):
        start = 0
        for text in range(1, 2 + b % 3):
            size = int(random.integers(5, 8))
            prompt = int(random.integers(1, size - 1))
            segment[b, start : start + size] = text
            position[b, start : start + size] = np.arange(size)
            target[b, start + prompt : start + size] = True
            start += size
    return Packed(tokens, segment, position, target)


def parity(problem: np.ndarray, tokens: np.ndarray, sampled: np.ndarray, stopped: np.ndarray) -> HostScores:
    """A rule as good as any: right if the tokens' sum is even; now and then a penalty."""
    total = np.where(sampled, tokens, 0).sum(-1)
    return HostScores((total % 2 == 0).astype(np.int8), ~stopped, total % 7 == 0, total % 11 == 0)


class Recorder:
    """A scorer that hands its calls to `rule`, which a test may change, and remembers them."""

    def __init__(self) -> None:
        self.rule: Callable[..., HostScores] = parity
        self.calls: list[tuple[np.ndarray, ...]] = []
        self._lock = threading.Lock()

    def __call__(self, *arrays: np.ndarray) -> HostScores:
        copies = tuple(np.array(x) for x in arrays)
        with self._lock:
            self.calls.append(copies)
        return self.rule(*copies)

    def take(self) -> list[tuple[np.ndarray, ...]]:
        """The calls so far, which are then forgotten."""
        with self._lock:
            calls, self.calls = self.calls, []
        return calls

    def rows(self) -> tuple[np.ndarray, ...]:
        """All rows of `take()`, by problem, as (problem, tokens, sampled, stopped)."""
        parts = [np.concatenate(part) for part in zip(*self.take(), strict=True)]
        order = np.argsort(parts[0], kind="stable")
        return tuple(part[order] for part in parts)


def start(cfg: config.Config, mesh: jax.sharding.Mesh, seed: int = 0) -> TrainState:
    """A state whose anchor is not its policy."""
    state = rl_setup(cfg, mesh).init_state(make_params(cfg, mesh, seed))
    random = np.random.default_rng(7)
    offset = jax.tree.map(
        lambda x: jax.device_put(random.normal(0, 0.02, x.shape).astype(np.float32), x.sharding), state.anchor_offset
    )
    return state.replace(anchor_offset=offset)


@dataclasses.dataclass(frozen=True)
class Fused:
    """A train step and what belongs to it. `step` is compiled by its first call."""

    setup: RlSetup
    scorer: Recorder

    @property
    def cfg(self) -> config.Config:
        return self.setup.cfg

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return self.setup.mesh

    @functools.cached_property
    def step(self) -> Any:
        return step.make_train_step(self.setup, self.scorer, stop_tokens=STOPS)

    def start(self) -> TrainState:
        return start(self.cfg, self.mesh)

    def prompts(self, seed: int = 0, padding: int = 0) -> Prompts:
        return on_devices(prompt_rows(seed, padding), self.mesh)

    def run(self, state: TrainState, steps: Iterator[int] | range) -> tuple[TrainState, list[dict[str, np.ndarray]]]:
        """The state after a few steps, each with prompts of its own, and their reports."""
        reports = []
        for seed in steps:
            state, report = self.step(state, self.prompts(seed))
            reports.append(to_numpy(report))
        return state, reports


@functools.cache
def fused(shape: tuple[int, int, int]) -> Fused:
    """The train step on a mesh, shared by all tests of a run."""
    cfg, mesh, scorer = make_config(), make_mesh(shape), Recorder()
    return Fused(rl_setup(cfg, mesh), scorer)


@functools.cache
def drawn() -> tuple[Prompts, Rollouts, Scores, Plan]:
    """What the first step of `fused(ONE)` samples and scores, by the pieces: prompts, rollouts, scores, plan."""
    one = fused(ONE)
    state, prompts = one.start(), one.prompts()
    rollouts = jax.jit(step.make_sample(one.setup, STOPS))(state.params, prompts, state.rng, state.step)
    return prompts, rollouts, *jax.jit(make_score(one.setup, parity))(prompts, rollouts)


def planned(cfg: config.Config) -> Plan:
    """Where `drawn` responses stand in the rows of another config: their length depends on its parts."""
    prompts, rollouts, *_ = drawn()
    return jax.jit(make_score(rl_setup(cfg, fused(ONE).mesh), parity))(prompts, rollouts)[1]


@functools.cache
def update() -> Any:
    """The update of `fused(ONE)` as a program of its own; nothing is donated."""
    one = fused(ONE)
    return jax.jit(step.make_update(one.setup))


def each_token(x_B: jax.Array, like_BT: jax.Array) -> jax.Array:
    """What is said of a response, beside each of its tokens."""
    return jnp.broadcast_to(x_B[:, None], like_BT.shape)


def keeping_the_gradient() -> optax.GradientTransformation:
    """An optimiser that changes no parameter; its state after an update is the gradient."""

    def still(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    return optax.GradientTransformation(still, lambda gradient, _, params: (still(params), gradient))


@contextmanager
def scoring(scorer: Recorder, rule: Callable[..., Any]) -> Iterator[None]:
    """`scorer` goes by `rule` for a while."""
    before, scorer.rule = scorer.rule, rule
    try:
        yield
    finally:
        scorer.rule = before


@contextmanager
def optimised() -> Iterator[None]:
    """Programs of half precision: what is jitted meanwhile is optimised a little more than several.QUICK asks for.

    XLA's CPU code generator at level 0 turns numbers into NaNs where a fused loop ends in bfloat16 or float16 (jaxlib
    0.10.2; not at level 1, and not with its default emitters).
    """
    plain = jax.jit
    jax.jit = functools.partial(plain, compiler_options={"xla_backend_optimization_level": 1})  # type: ignore[assignment]
    try:
        yield
    finally:
        jax.jit = plain


@contextmanager
def counting_compilations() -> Iterator[list[str]]:
    """The list that is given grows by one entry for each program that the compiler makes meanwhile."""
    made: list[str] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            made.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield made
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def with_rl(cfg: config.Config, **knobs: Any) -> config.Config:
    return dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, **knobs))


def poison(tree, value, *path):
    """`tree` with `value` in one element of the array at `path`."""
    leaf = tree
    for key in path:
        leaf = leaf[key]
    changed = leaf.at[(0,) * leaf.ndim].set(value)

    def build(node, keys):
        return changed if not keys else {**node, keys[0]: build(node[keys[0]], keys[1:])}

    return build(tree, path)
