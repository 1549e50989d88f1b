# SPDX-License-Identifier: Apache-2.0
"""One iteration of T1 as ONE compiled program: sampling -> scoring -> advantages -> update -> anchor.

    rollouts      = sample(params, prompts)           R responses a prompt, one copy of the weights
    scores, plan  = score(prompts, rollouts)          on the host, each shard its own rows
    state, report = update(state, prompts, rollouts, scores, plan)

`make_train_step` composes the three inside one `jax.jit` with donated state. The pieces are public: a test shows that
apart they give what they give fused.

Axes: P prompts, R responses per prompt, B = P*R responses (p*R + r), C prompt positions, T response positions, D width,
V vocabulary; of the update: j parts of b packed rows, S positions of a row.
Source: T1 (arXiv 2501.11651) section 2. What differs from the paper and what it does not say: docs/method.md.
Deliberately not here: the loop (rl.py), the equations (advantages.py, losses.py, optim.py), the token loop (decode.py),
where a response stands in the update's rows (packing.py).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.experimental import io_callback
from jax.sharding import Mesh, NamedSharding

from t1jax.config import Config
from t1jax.devices.sharding import decode_layout, like_params, train_layout
from t1jax.model import attention, parameters, precision, qwen
from t1jax.rollouts import decode, repeats, rng
from t1jax.rollouts.sampling import SamplingSettings
from t1jax.training import memory
from t1jax.types import Params, Plan, Prompts, Report, Rollouts, Scores, TrainState
from t1jax.update import advantages, losses, optim, packing
from t1jax.update.masking import Mean, masked

# (problem_B, tokens_BT, sampled_BT, stopped_B) -> outcome, overlong, repetition, garbled; NumPy in and out
Scorer = Callable[..., Any]
LOG_RATIO = math.log(1.25)  # a response's log pi / mu beyond which, or its negative, the two policies are apart
FAILED = -2  # outcome of responses whose scorer raised: nothing is learnt from them, and the loop ends (loop.py)

logger = logging.getLogger(__name__)


def make_sample(
    cfg: Config, mesh: Mesh, stop_tokens: tuple[int, ...], on_progress: Callable[[int, int], None] | None = None
) -> Callable[[Params, Prompts, jax.Array, jax.Array], Rollouts]:
    """A traceable `sample(params, prompts, rng, step) -> Rollouts` of P * R rows with the settings of `cfg.rl`."""
    model, rl = qwen.Transformer(cfg.model, decode_layout(mesh)), cfg.rl
    rollout = decode.make_rollout(
        model,
        num_responses=cfg.rl.responses_per_prompt,
        max_new_tokens=cfg.rl.max_new_tokens,
        lanes=memory.lanes(cfg, mesh),
        window=cfg.rl.window,
        repeat_rule=repeats.Rule(rl.stop_repeats, rl.repeat_length, rl.repeat_count) if rl.stop_repeats else None,
        stop_tokens=stop_tokens,
        on_progress=on_progress,
    )
    settings = SamplingSettings(jnp.float32(cfg.rl.temperature), cfg.rl.top_k, cfg.rl.top_p, cfg.rl.min_p)

    def sample(params: Params, prompts: Prompts, root: jax.Array, step: jax.Array) -> Rollouts:
        key = rng.key_for(jax.random.wrap_key_data(root), "rollout", step)
        return rollout(parameters.cast_for_decode(model, params), prompts, key, settings)

    return sample


def make_score(cfg: Config, mesh: Mesh, scorer: Scorer) -> Callable[[Prompts, Rollouts], tuple[Scores, Plan]]:
    """A traceable `score(prompts, rollouts) -> (scores, plan)`: `scorer` judges, packing.py plans, on the host.

    Each shard of the batch hands its own rows to the process it lives on; nothing else leaves the devices. Where
    devices hold copies of the same rows (mesh.tensor > 1), the first of them asks and tells the others. A scorer that
    raises gives FAILED: an error inside the program would leave the other devices waiting for this one for ever.
    """
    layout = train_layout(mesh)
    rows = layout.spec("batch")

    def local(prompts: Prompts, rollouts: Rollouts) -> tuple[Scores, Plan]:
        B = rollouts.stopped_B.shape[0]
        R = B // prompts.problem_P.shape[0]
        grid = packing.make_grid(cfg, layout, B * layout.batch_shards, prompts.tokens_PC.shape[1])
        shapes = [jax.ShapeDtypeStruct((B,), jnp.int32)] * 7

        def judge(*arrays: Any) -> list[np.ndarray]:
            try:
                return [np.asarray(x, np.int32).reshape(B) for x in scorer(*(np.asarray(x) for x in arrays))]
            except Exception:
                logger.exception("the scorer failed on %d responses", B)
                no = np.zeros(B, np.int32)
                return [no + FAILED, no, no, no]

        def host(prompt: Any, problem: Any, tokens: Any, sampled: Any, stopped: Any) -> list[np.ndarray]:
            scores = judge(problem, tokens, sampled, stopped)
            wanted = packing.wanted(scores, cfg.rl)
            return [*scores, *packing.plan(np.asarray(prompt), np.asarray(sampled).sum(-1), wanted, R, grid)]

        def ask(_: None) -> Any:
            prompt_P = prompts.valid_PC.sum(-1, dtype=jnp.int32)
            each = (jnp.repeat(x_P, R) for x_P in (prompt_P, prompts.problem_P))
            return io_callback(host, shapes, *each, rollouts.tokens_BT, rollouts.sampled_BT, rollouts.stopped_B)

        def wait(_: None) -> Any:
            return [jnp.zeros(x.shape, x.dtype) for x in shapes]

        mine = jax.lax.cond(jax.lax.axis_index("tensor") == 0, ask, wait, None)
        outcome_B, *rest = jax.lax.psum(mine, "tensor")
        return Scores(outcome_B.astype(jnp.int8), *(x.astype(bool) for x in rest[:3])), Plan(*rest[3:])

    return jax.shard_map(local, mesh=mesh, in_specs=(rows, rows), out_specs=rows, check_vma=False)


def split(tree: Any, parts: int) -> Any:
    """Each [B, ...] as [parts, B // parts, ...]: every part takes rows from every shard, so none moves."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def make_update(
    cfg: Config, mesh: Mesh
) -> Callable[[TrainState, Prompts, Rollouts, Scores, Plan], tuple[TrainState, Report]]:
    """A traceable `update(state, prompts, rollouts, scores, plan) -> (state, report)`: one optimiser update, then the
    anchor. A gradient that is not finite changes neither; only the step counts on.

    Responses go through the model in packed rows, a part of them at a time, as far as rows are filled: first under the
    anchor, and with kl_logprobs "learner" under the policy (log-probabilities for the KL, made by one program), then
    under the policy (gradients, summed in float32 and divided once).
    """
    layout = train_layout(mesh)
    model = qwen.Transformer(cfg.model, layout)
    optimizer = optim.make_optimizer(cfg.rl, cfg.rl.num_steps, "constant")
    schedule = optim.make_schedule(cfg.rl, cfg.rl.num_steps, "constant")
    shared = attention.shares_prompts(cfg.model, mesh.devices.flat[0].platform)
    learner_kl, put = cfg.rl.kl_logprobs == "learner", partial(jax.lax.dynamic_update_index_in_dim, axis=0)

    def token_stats(params: Params, rows: packing.Rows) -> tuple[jax.Array, jax.Array]:
        """log-probabilities and entropies, [b, S], of the sampled tokens of a part."""
        parent_bS = rows.parent_jbS if shared else None
        hidden_bSD, _ = qwen.forward(
            model,
            params,
            rows.tokens_jbS,
            rows.position_jbS,
            segment_BT=rows.segment_jbS,
            parent_BT=parent_bS,
        )
        return losses.token_logprobs_and_entropy(
            precision.pick(hidden_bSD, rows.state_jbS),
            qwen.head(params),
            rows.target_jbS,
            rows.sampled_jbS,
            cfg.rl.learner_temperature,
            cfg.rl.vocab_chunks,
            layout,
        )

    def update(
        state: TrainState, prompts: Prompts, rollouts: Rollouts, scores: Scores, plan: Plan
    ) -> tuple[TrainState, Report]:
        grid = packing.make_grid(cfg, layout, plan.row_B.shape[0], prompts.tokens_PC.shape[1])
        rows, first_B = packing.pack(layout, grid, plan, prompts, rollouts)
        parts, share_filled = packing.filled(layout, grid, plan)
        anchor = optim.anchor_params(state.anchor_offset, state.params)

        def logprobs(params: Params) -> jax.Array:
            """[j, b, S], part after part, under these weights."""

            def one(j: jax.Array, logprob_jbS: jax.Array) -> jax.Array:
                logprob_bS, _ = token_stats(params, packing.part(rows, j))
                return put(logprob_jbS, logprob_bS, j)

            return jax.lax.fori_loop(0, parts, one, jnp.zeros_like(rows.logprob_jbS))

        def by_response(x_jbS: jax.Array) -> jax.Array:
            return packing.unpack(layout, first_B, rollouts.sampled_BT, x_jbS)

        with jax.named_scope("anchor_parts"):
            anchor_jbS = logprobs(anchor)
            policy_BT = by_response(logprobs(state.params)) if learner_kl else rollouts.logprob_BT
        anchor_BT, packed_B = by_response(anchor_jbS), plan.row_B >= 0
        packed_BT = rollouts.sampled_BT & packed_B[:, None]
        kl_B = advantages.kl_of_response(policy_BT, anchor_BT, packed_BT, cfg.rl.kl_clip)
        scorable_B = advantages.scorable(scores)
        advantage_B = advantages.advantages(scores, kl_B, cfg.rl)
        counts = losses.loss_counts(rollouts.sampled_BT, scorable_B, cfg.rl.loss_normalisation)
        of_responses = [packing.spread(layout, rows, x_B) for x_B in (scorable_B, advantage_B)]

        def loss(params: Params, part: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            rows, *rest = part
            stats = token_stats(params, rows)
            # every token as a row of its own: its response's advantage, and whether that is scorable, stand beside it
            policy, entropy, anchor, sampled = (x.reshape(-1, 1) for x in (*stats, rest[0], rows.sampled_jbS))
            scorable, advantage = (x.reshape(-1) for x in rest[1:])
            sampler = rows.logprob_jbS.reshape(-1, 1)
            share = losses.policy_loss(policy, entropy, anchor, sampled, scorable, advantage, counts, cfg.rl, sampler)
            return optim.scaled(share, state.loss_scale), (share, stats[0])

        def accumulate(j: jax.Array, total: Any) -> Any:
            part = packing.part((rows, anchor_jbS, *of_responses), j)
            gradient, (share, logprob_bS) = jax.grad(loss, has_aux=True)(state.params, part)
            loss_sum, logprob_jbS, gradients = total
            return loss_sum + share, put(logprob_jbS, logprob_bS, j), jax.tree.map(jnp.add, gradients, gradient)

        zero = (jnp.float32(0), jnp.zeros_like(rows.logprob_jbS), jax.tree.map(jnp.zeros_like, state.params))
        with jax.named_scope("update_parts"):
            loss_sum, learner_jbS, gradient = jax.lax.fori_loop(0, parts, accumulate, zero)

        gradient = optim.unscaled(gradient, state.loss_scale)
        params, opt_state, norm, applied = optim.apply_finite(optimizer, gradient, state.opt_state, state.params)
        anchor = optim.update_anchor(state.anchor_offset, state.params, params, cfg.rl.anchor_decay)
        learner_BT = by_response(learner_jbS)
        report = describe(rollouts, scores, cfg) | mismatch(learner_BT, rollouts.logprob_BT, packed_BT)
        report |= {
            "loss": loss_sum,
            "grad_norm": norm,
            "skipped": 1.0 - applied.astype(jnp.float32),
            "learning_rate": schedule(state.step),
            "kl_anchor": Mean.of(
                advantages.kl_of_response(learner_BT, anchor_BT, packed_BT, cfg.rl.kl_clip), packed_B
            ).value(),
            "packed_rows": share_filled,
        }
        state = replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            anchor_offset=optim.either(applied, anchor, state.anchor_offset),
            loss_scale=optim.next_loss_scale(state.loss_scale, applied),
        )
        return state, report

    return update


def describe(rollouts: Rollouts, scores: Scores, cfg: Config) -> Report:
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
        "overlong": scores.overlong_B.mean(dtype=jnp.float32),
        "repetition": scores.repetition_B.mean(dtype=jnp.float32),
        "garbled": scores.garbled_B.mean(dtype=jnp.float32),
        "right": (scores.outcome_B == 1).mean(dtype=jnp.float32),
        "wrong": (scores.outcome_B == 0).mean(dtype=jnp.float32),
        "unscorable": 1.0 - scorable_B.mean(dtype=jnp.float32),
        "failed": (scores.outcome_B == FAILED).mean(dtype=jnp.float32),
        "mixed_groups": mixed_P.mean(dtype=jnp.float32),
    }


def mismatch(learner_BT: jax.Array, sampler_BT: jax.Array, counted_BT: jax.Array) -> Report:
    """How far log pi of the learner is from the sampler's, of the same weights: float32[]; 0 but for rounding.

    logprob_gap: the largest difference of a token. log_ratio_mean, log_ratio_std: of a token's log pi - log mu.
    log_ratio_std_response: std of their sums over responses. ratio_outside: share of responses whose ratio pi / mu is
    below 0.8 or above 1.25. All nats but the last.
    """
    log_ratio_BT = masked(learner_BT - sampler_BT, counted_BT)
    log_ratio_B, has_B = log_ratio_BT.sum(-1), counted_BT.any(-1)

    def std(x: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.sqrt(Mean.of(jnp.square(x - Mean.of(x, mask).value()), mask).value())

    return {
        "logprob_gap": jnp.abs(log_ratio_BT).max(),
        "log_ratio_mean": Mean.of(log_ratio_BT, counted_BT).value(),
        "log_ratio_std": std(log_ratio_BT, counted_BT),
        "log_ratio_std_response": std(log_ratio_B, has_B),
        "ratio_outside": Mean.of(jnp.abs(log_ratio_B) > LOG_RATIO, has_B).value(),
    }


def make_train_step(
    cfg: Config,
    mesh: Mesh,
    scorer: Scorer,
    *,
    stop_tokens: tuple[int, ...],
    on_progress: Callable[[int, int], None] | None = None,
) -> Any:
    """The compiled T1 iteration: `state, report = train_step(state, prompts)`, one program, the state donated.

    Args:
      cfg: the whole config; `rl` says all that happens here.
      mesh: the devices.
      scorer: host function on NumPy arrays of one shard's rows, see rewards/score.py. Called from inside the program.
      stop_tokens: token ids that end a response.
      on_progress: told every `cfg.rl.window` iterations how far sampling is, as decode.Progress says.
    """
    sample = make_sample(cfg, mesh, stop_tokens, on_progress)
    score = make_score(cfg, mesh, scorer)
    update = make_update(cfg, mesh)

    def train_step(state: TrainState, prompts: Prompts) -> tuple[TrainState, Report]:
        rollouts = sample(state.params, prompts, state.rng, state.step)
        return update(state, prompts, rollouts, *score(prompts, rollouts))

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
        loss_scale=jax.tree.map(
            lambda x: place(x, whole), jax.eval_shape(lambda: optim.start_loss_scale(cfg.model.compute_dtype))
        ),
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
            loss_scale=optim.start_loss_scale(cfg.model.compute_dtype),
        )

    shardings = state_shardings(cfg, mesh, optimizer, anchor=anchor)
    return jax.jit(make, donate_argnums=0, out_shardings=shardings)(params)
