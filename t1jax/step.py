# SPDX-License-Identifier: Apache-2.0
"""One iteration of T1 as ONE compiled program: sampling -> scoring -> advantages -> update -> anchor.

    rollouts  = sample(params, prompts)               R responses a prompt, one copy of the weights
    scores    = score(prompts, rollouts)              on the host, each shard its own rows
    state     = update(state, prompts, rollouts, scores)

`make_train_step` composes the three inside one `jax.jit` with donated state. The pieces are public: a test shows that
apart they give what they give fused.

Axes: P prompts, R responses per prompt, B = P*R rows (b = p*R + r), C prompt positions, T response positions,
D width, V vocabulary.
Source: T1 (arXiv 2501.11651) section 2. What differs from the paper and what it does not say: docs/method.md.
Deliberately not here: the loop (rl.py), the equations (advantages.py, losses.py, optim.py), the token loop (decode.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.experimental import io_callback
from jax.sharding import Mesh, NamedSharding

from t1jax import advantages, decode, losses, optim, rng
from t1jax.config import Config
from t1jax.masking import Mean
from t1jax.model import qwen
from t1jax.sampling import SamplingSettings
from t1jax.sharding import Layout, decode_layout, like_params, train_layout
from t1jax.types import Params, Prompts, Report, Rollouts, Scores, TrainState

# (problem_B, tokens_BT, sampled_BT, stopped_B) -> outcome, overlong, repetition, garbled; NumPy in and out
Scorer = Callable[..., Any]
FAILED = -2  # outcome of responses whose scorer raised: nothing is learnt from them, and the loop ends (loop.py)

logger = logging.getLogger(__name__)


def cast_for_decode(model: qwen.Transformer, params: Params) -> Params:
    """The parameters in compute dtype under the decode layout: done once a step, outside the token loop."""
    dtype = model.cfg.compute_dtype
    return jax.tree.map(
        lambda x, sharding: jax.lax.with_sharding_constraint(x.astype(dtype), sharding), params, qwen.shardings(model)
    )


def make_sample(
    cfg: Config, mesh: Mesh, stop_tokens: tuple[int, ...], on_progress: Callable[[int, int], None] | None = None
) -> Callable[[Params, Prompts, jax.Array, jax.Array], Rollouts]:
    """A traceable `sample(params, prompts, rng, step) -> Rollouts` of P * R rows with the settings of `cfg.rl`."""
    model = qwen.Transformer(cfg.model, decode_layout(mesh))
    rollout = decode.make_rollout(
        model,
        num_responses=cfg.rl.responses_per_prompt,
        max_new_tokens=cfg.rl.max_new_tokens,
        lanes=cfg.rl.lanes,
        window=cfg.rl.window,
        stop_tokens=stop_tokens,
        on_progress=on_progress,
    )
    settings = SamplingSettings(jnp.float32(cfg.rl.temperature), cfg.rl.top_k, cfg.rl.top_p, cfg.rl.min_p)

    def sample(params: Params, prompts: Prompts, root: jax.Array, step: jax.Array) -> Rollouts:
        key = rng.key_for(jax.random.wrap_key_data(root), "rollout", step)
        return rollout(cast_for_decode(model, params), prompts, key, settings)

    return sample


def make_score(layout: Layout, num_responses: int, scorer: Scorer) -> Callable[[Prompts, Rollouts], Scores]:
    """A traceable `score(prompts, rollouts) -> Scores` that calls `scorer` on the host.

    Each shard of the batch hands its own rows to the process it lives on; nothing else leaves the devices. Where
    devices hold copies of the same rows (mesh.tensor > 1), the first of them asks and tells the others. A scorer that
    raises gives FAILED: an error inside the program would leave the other devices waiting for this one for ever.
    """
    rows = layout.spec("batch")

    def local(problem_P: jax.Array, tokens_BT: jax.Array, sampled_BT: jax.Array, stopped_B: jax.Array) -> Scores:
        problem_B = jnp.repeat(problem_P, num_responses)
        B = problem_B.shape[0]
        shapes = Scores(*[jax.ShapeDtypeStruct((B,), jnp.int32)] * 4)

        def host(*arrays: Any) -> Scores:
            try:
                scores = scorer(*(np.asarray(x) for x in arrays))
                return Scores(*(np.asarray(x, np.int32).reshape(B) for x in scores))
            except Exception:
                logger.exception("the scorer failed on %d responses", B)
                no = np.zeros(B, np.int32)
                return Scores(no + FAILED, no, no, no)

        def ask(_: None) -> Scores:
            return io_callback(host, shapes, problem_B, tokens_BT, sampled_BT, stopped_B)

        def wait(_: None) -> Scores:
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        mine = jax.lax.cond(jax.lax.axis_index("tensor") == 0, ask, wait, None)
        scores = jax.lax.psum(mine, "tensor")
        flags = (x.astype(bool) for x in (scores.overlong_B, scores.repetition_B, scores.garbled_B))
        return Scores(scores.outcome_B.astype(jnp.int8), *flags)

    sharded = jax.shard_map(local, mesh=layout.mesh, in_specs=(rows, rows, rows, rows), out_specs=rows, check_vma=False)
    return lambda prompts, rollouts: sharded(
        prompts.problem_P, rollouts.tokens_BT, rollouts.sampled_BT, rollouts.stopped_B
    )


@struct.dataclass
class Rows:
    """What the update needs of each response: prompt and response in one row, the prompt shifted right to meet it."""

    tokens_BS: jax.Array  # int32[B, C + T]
    position_BS: jax.Array  # int32[B, C + T]
    segment_BS: jax.Array  # int32[B, C + T] 1 for prompt and sampled tokens, 0 for padding
    rollouts: Rollouts
    advantage_B: jax.Array | None = None  # float32[B]
    anchor_logprob_BT: jax.Array | None = None  # float32[B, T]


def join(prompts: Prompts, rollouts: Rollouts) -> Rows:
    """One row per response: [padding, prompt, response, padding], C + T long, response token t at C + t."""
    B, _ = rollouts.tokens_BT.shape
    P, C = prompts.tokens_PC.shape
    pad_P = C - prompts.valid_PC.sum(-1, dtype=jnp.int32)
    position_PC = jnp.arange(C, dtype=jnp.int32)[None] - pad_P[:, None]
    prompt_PC = jnp.take_along_axis(prompts.tokens_PC, jnp.maximum(position_PC, 0), axis=1)
    prompt_PC = jnp.where(position_PC >= 0, prompt_PC, 0)
    T = rollouts.tokens_BT.shape[1]
    start_P = C - pad_P
    position_PS = jnp.concatenate(
        [jnp.maximum(position_PC, 0), start_P[:, None] + jnp.arange(T, dtype=jnp.int32)[None]], axis=1
    )

    def each(x_P: jax.Array) -> jax.Array:
        return jnp.repeat(x_P, B // P, axis=0)

    return Rows(
        tokens_BS=jnp.concatenate([each(prompt_PC), rollouts.tokens_BT], axis=1),
        position_BS=each(position_PS),
        segment_BS=jnp.concatenate([each(position_PC >= 0), rollouts.sampled_BT], axis=1).astype(jnp.int32),
        rollouts=rollouts,
    )


def split(tree: Any, parts: int) -> Any:
    """Each [B, ...] as [parts, B // parts, ...]: every part takes rows from every shard, so none moves."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def merge(tree: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


def make_update(
    cfg: Config, mesh: Mesh
) -> Callable[[TrainState, Prompts, Rollouts, Scores], tuple[TrainState, Report]]:
    """A traceable `update(state, prompts, rollouts, scores) -> (state, report)`: one optimiser update, then the anchor.

    Rows go through the model in `cfg.rl.micro_batches` parts, first under the anchor (log-probabilities for the KL),
    then under the policy (gradients, summed in float32 and divided once).
    """
    layout = train_layout(mesh)
    model = qwen.Transformer(cfg.model, layout)
    optimizer = optim.make_optimizer(cfg.rl, cfg.rl.num_steps, "constant")
    schedule = optim.make_schedule(cfg.rl, cfg.rl.num_steps, "constant")
    parts = cfg.rl.micro_batches

    def token_stats(params: Params, rows: Rows) -> tuple[jax.Array, jax.Array]:
        """log-probabilities and entropies, [b, T], of the sampled tokens of some rows."""
        hidden_bSD, _ = qwen.forward(model, params, rows.tokens_BS, rows.position_BS, segment_BT=rows.segment_BS)
        T = rows.rollouts.tokens_BT.shape[1]
        return losses.token_logprobs_and_entropy(
            losses.predictors(hidden_bSD)[:, -T:],
            qwen.head_weight(model, params),
            rows.rollouts.tokens_BT,
            rows.rollouts.sampled_BT,
            cfg.rl.learner_temperature,
            cfg.rl.vocab_chunks,
        )

    def update(state: TrainState, prompts: Prompts, rollouts: Rollouts, scores: Scores) -> tuple[TrainState, Report]:
        rows = join(prompts, rollouts)
        anchor = optim.anchor_params(state.anchor_offset, state.params)
        anchor_logprob_BT = merge(jax.lax.map(lambda part: token_stats(anchor, part)[0], split(rows, parts)))
        kl_B = advantages.kl_of_response(rollouts.logprob_BT, anchor_logprob_BT, rollouts.sampled_BT, cfg.rl.kl_clip)
        scorable_B = advantages.scorable(scores)
        advantage_B = advantages.advantages(scores, kl_B, cfg.rl)
        counts = losses.loss_counts(rollouts.sampled_BT, scorable_B, cfg.rl.loss_normalisation)

        def loss(params: Params, part: Any) -> tuple[jax.Array, jax.Array]:
            rows, anchor_logprob_bT, scorable_b, advantage_b = part
            logprob_bT, entropy_bT = token_stats(params, rows)
            sampled_bT = rows.rollouts.sampled_BT
            share = losses.policy_loss(
                logprob_bT, entropy_bT, anchor_logprob_bT, sampled_bT, scorable_b, advantage_b, counts, cfg.rl
            )
            gap_bT = jnp.where(sampled_bT, jnp.abs(logprob_bT - rows.rollouts.logprob_BT), 0.0)
            return share, gap_bT.max()

        def accumulate(total: Any, part: Any) -> tuple[Any, None]:
            (value, gap), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, part)
            loss_sum, worst, gradients = total
            return (loss_sum + value, jnp.maximum(worst, gap), jax.tree.map(jnp.add, gradients, gradient)), None

        zero = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
        all_parts = split((rows, anchor_logprob_BT, scorable_B, advantage_B), parts)
        (loss_sum, logprob_gap, gradient), _ = jax.lax.scan(accumulate, zero, all_parts)

        change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        report = describe(rollouts, scores, kl_B, cfg) | {
            "loss": loss_sum,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": schedule(state.step),
            "logprob_gap": logprob_gap,
        }
        state = replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            anchor_offset=optim.update_anchor(state.anchor_offset, state.params, params, cfg.rl.anchor_decay),
        )
        return state, report

    return update


def describe(rollouts: Rollouts, scores: Scores, kl_B: jax.Array, cfg: Config) -> Report:
    """What a metrics row says of a step's responses: float32[] means over all rows, or over the rows named."""
    scorable_B = advantages.scorable(scores)
    reward_B = advantages.penalised_reward(scores.outcome_B, advantages.penalised(scores), cfg.rl.penalty)
    length_B = rollouts.sampled_BT.sum(-1, dtype=jnp.float32)
    mixed_P = advantages.mixed_groups(scores, cfg.rl.responses_per_prompt)
    return {
        "reward": Mean.of(reward_B, scorable_B).value(),
        "accuracy": Mean.of(scores.outcome_B == 1, scorable_B).value(),
        "response_length": length_B.mean(),
        "tokens": length_B.sum(),
        "entropy": Mean.of(rollouts.entropy_BT, rollouts.sampled_BT).value(),
        "kl_anchor": kl_B.mean(),
        "overlong": scores.overlong_B.mean(dtype=jnp.float32),
        "repetition": scores.repetition_B.mean(dtype=jnp.float32),
        "garbled": scores.garbled_B.mean(dtype=jnp.float32),
        "right": (scores.outcome_B == 1).mean(dtype=jnp.float32),
        "wrong": (scores.outcome_B == 0).mean(dtype=jnp.float32),
        "unscorable": 1.0 - scorable_B.mean(dtype=jnp.float32),
        "failed": (scores.outcome_B == FAILED).mean(dtype=jnp.float32),
        "mixed_groups": mixed_P.mean(dtype=jnp.float32),
    }


def make_train_step(
    cfg: Config,
    mesh: Mesh,
    scorer: Scorer,
    *,
    stop_tokens: tuple[int, ...],
    on_progress: Callable[[int, int], None] | None = None,
) -> Callable[[TrainState, Prompts], tuple[TrainState, Report]]:
    """The compiled T1 iteration: `state, report = train_step(state, prompts)`, one program, the state donated.

    Args:
      cfg: the whole config; `rl` says all that happens here.
      mesh: the devices.
      scorer: host function on NumPy arrays of one shard's rows, see rewards/score.py. Called from inside the program.
      stop_tokens: token ids that end a response.
      on_progress: told every `cfg.rl.window` iterations how far sampling is, as decode.Progress says.
    """
    sample = make_sample(cfg, mesh, stop_tokens, on_progress)
    score = make_score(train_layout(mesh), cfg.rl.responses_per_prompt, scorer)
    update = make_update(cfg, mesh)

    def train_step(state: TrainState, prompts: Prompts) -> tuple[TrainState, Report]:
        rollouts = sample(state.params, prompts, state.rng, state.step)
        return update(state, prompts, rollouts, score(prompts, rollouts))

    shardings = state_shardings(cfg, mesh, optim.make_optimizer(cfg.rl, cfg.rl.num_steps, "constant"), anchor=True)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))


def state_shapes(cfg: Config, mesh: Mesh, optimizer: optax.GradientTransformation, *, anchor: bool) -> TrainState:
    """The shapes of a train state, as jax.ShapeDtypeStruct with shardings: what a checkpoint is restored into."""
    model = qwen.Transformer(cfg.model, train_layout(mesh))
    lies = qwen.shardings(model)
    params = nn.unbox(qwen.boxed_shapes(model))
    opt_state = jax.eval_shape(optimizer.init, params)
    whole = model.layout.sharding()

    def place(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    placed = jax.tree.map(place, params, lies)
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
        params=placed,
        opt_state=jax.tree.map(place, opt_state, like_params(opt_state, lies, whole)),
        anchor_offset=placed if anchor else None,
        rng=jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=whole),
    )


def state_shardings(cfg: Config, mesh: Mesh, optimizer: optax.GradientTransformation, *, anchor: bool) -> TrainState:
    """The NamedSharding of every array of a train state; all that mirrors the parameters lies like them."""
    return jax.tree.map(lambda x: x.sharding, state_shapes(cfg, mesh, optimizer, anchor=anchor))


def init_state(
    cfg: Config, mesh: Mesh, optimizer: optax.GradientTransformation, params: Params, *, anchor: bool
) -> TrainState:
    """A train state at step 0 from sharded parameters, which it takes over; with `anchor`, theta_ref = theta."""

    def make(params: Params) -> TrainState:
        return TrainState(
            step=jnp.int32(0),
            params=params,
            opt_state=optimizer.init(params),
            anchor_offset=optim.start_anchor(params) if anchor else None,
            rng=jax.random.key_data(jax.random.key(cfg.seed)),
        )

    shardings = state_shardings(cfg, mesh, optimizer, anchor=anchor)
    return jax.jit(make, donate_argnums=0, out_shardings=shardings)(params)
