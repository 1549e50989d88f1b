# SPDX-License-Identifier: Apache-2.0
"""One iteration of T1 as ONE compiled program: sampling -> scoring -> advantages -> update -> anchor.

    rollouts      = sample(params, prompts)           R responses a prompt, one copy of the weights
    scores, plan  = score(prompts, rollouts)          on the host, each shard its own rows
    state, report = update(state, prompts, rollouts, scores, plan)

`make_train_step` composes the three inside one `jax.jit` with donated state. The pieces are public: a test shows that
apart they give what they give fused.

With rl.overdraw the first two take more groups of responses than the update learns from; scoring chooses which.

Axes: P prompts, R responses per prompt, B = P*R responses (p*R + r), C prompt positions, T response positions; of the
update: j parts of b packed rows, S positions of a row.
Source: T1 (arXiv 2501.11651) section 2. What differs from the paper and what it does not say: docs/method.md.
Deliberately not here: the loop (rl.py), what a step is made of (setup.py), the equations (update/), the token loop
(rollouts/decode.py), passes through the model (passes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from t1jax.checks import right_and_wrong
from t1jax.config import RlConfig
from t1jax.devices import scopes
from t1jax.model import parameters
from t1jax.rewards.answers import UNSCORABLE
from t1jax.rollouts import decode, repeats, rng
from t1jax.rollouts.sampling import SamplingSettings
from t1jax.training import passes
from t1jax.training.scoring import Scorer, make_score
from t1jax.training.setup import RlSetup
from t1jax.training.step_report import describe, fates, mismatch
from t1jax.types import Params, Plan, Prompts, Report, Rollouts, Scores, TrainState
from t1jax.update import advantages, losses, optim, packing
from t1jax.update.masking import Mean


def make_sample(
    setup: RlSetup, stop_tokens: tuple[int, ...], on_progress: Callable[[int, int], None] | None = None
) -> Callable[[Params, Prompts, jax.Array, jax.Array], Rollouts]:
    """A traceable `sample(params, prompts, rng, step) -> Rollouts` of P * R rows with the settings of `cfg.rl`."""
    model, rl = setup.sampler, setup.cfg.rl
    rollout = decode.make_rollout(
        model,
        num_responses=rl.responses_per_prompt,
        max_new_tokens=rl.max_new_tokens,
        lanes=setup.lanes,
        window=rl.window,
        repeat_rule=repeats.Rule(rl.stop_repeats, rl.repeat_length, rl.repeat_count) if rl.stop_repeats else None,
        stop_tokens=stop_tokens,
        on_progress=on_progress,
    )

    @jax.named_scope(scopes.SAMPLE)
    def sample(params: Params, prompts: Prompts, root: jax.Array, step: jax.Array) -> Rollouts:
        settings = SamplingSettings(jnp.float32(rl.temperature), rl.top_k, rl.top_p, rl.min_p)
        key = rng.key_for(jax.random.wrap_key_data(root), "rollout", step)
        return rollout(parameters.cast_for_decode(model, params), prompts, key, settings)

    return sample


def learnt_from(plan: Plan, rollouts: Rollouts, scores: Scores) -> tuple[Rollouts, Scores]:
    """What the update learns from: with rl.overdraw, responses of groups that are not kept have no token and score."""
    if plan.kept_B is None:
        return rollouts, scores
    outcome_B = jnp.where(plan.kept_B, scores.outcome_B, jnp.int8(UNSCORABLE))
    sampled_BT = rollouts.sampled_BT & plan.kept_B[:, None]
    return replace(rollouts, sampled_BT=sampled_BT), replace(scores, outcome_B=outcome_B)


def make_update(
    setup: RlSetup, advantage: Callable[[Scores, jax.Array, RlConfig], jax.Array] = advantages.advantages
) -> Callable[..., tuple[TrainState, Report]]:
    """A traceable `update(state, prompts, rollouts, scores, plan[, read]) -> (state, report)`: one optimiser update.

    Then the anchor moves. A gradient that is not finite changes neither; only the step counts on.

    Packed rows go through the model first under the anchor, and with kl_logprobs "learner" under the policy
    (log-probabilities for the KL, made by one program), then under the policy, for the gradient. `read`: the weights
    that were sampled from, `setup.read(state.policy)`, if they are there already.

    `advantage(scores, kl_B, cfg.rl) -> float32[B]`: how much each response is to be reinforced; see
    advantages.advantages, which is the paper's.

    With rl.overdraw the report speaks of all that was sampled, so that accuracy and reward are those of the policy on
    the prompts; what is learnt, and `mixed_groups_kept`, is of the groups that are kept.
    """
    rl, layout, grid = setup.cfg.rl, setup.layout, setup.grid

    @jax.named_scope(scopes.UPDATE)
    def update(
        state: TrainState, prompts: Prompts, rollouts: Rollouts, scores: Scores, plan: Plan, read: Params | None = None
    ) -> tuple[TrainState, Report]:
        read = setup.read(state.policy) if read is None else read
        rows = packing.pack(layout, grid, plan, prompts, rollouts)
        parts, share_filled = packing.filled(layout, grid, plan)
        # After sampling: XLA may else make the anchor's weights before it, to be kept beside the cache.
        offset, rows = jax.lax.optimization_barrier((state.anchor_offset, rows))
        anchor = optim.anchor_params(offset, state.params)
        anchor_read = setup.read(replace(state, params=anchor).policy)

        def of_response(x_jbS: jax.Array) -> jax.Array:
            return packing.total(layout, rows, plan, x_jbS)

        def kl_of_token(logprob_jbS: jax.Array) -> jax.Array:
            return advantages.kl_of_token(logprob_jbS, anchor_jbS, rows.sampled_jbS, rl.kl_clip)

        with jax.named_scope(scopes.ANCHOR_PARTS):
            anchor_jbS = passes.logprobs(setup, anchor_read, rows, parts)
            learner_kl = rl.kl_logprobs == "learner"
            policy_jbS = passes.logprobs(setup, read, rows, parts) if learner_kl else rows.logprob_jbS
        learnt, judged = learnt_from(plan, rollouts, scores)
        scorable_B = advantages.scorable(scores)
        counted_B = scorable_B if plan.kept_B is None else scorable_B & plan.kept_B
        kl_jbS = kl_of_token(policy_jbS)
        kl_B = of_response(kl_jbS)
        if rl.kl_reduction == "mean":
            kl_B = kl_B / jnp.maximum(learnt.sampled_BT.sum(-1, dtype=jnp.float32), 1.0)
        advantage_B = advantage(judged, kl_B, rl)
        counts = losses.loss_counts(learnt.sampled_BT, counted_B, rl.loss_normalisation)
        scorable_jbS, advantage_jbS = (packing.spread(layout, rows, x_B) for x_B in (counted_B, advantage_B))
        advantage_jbS = advantages.token_advantages(advantage_jbS, kl_jbS, rl)
        share_B = losses.shares(learnt.sampled_BT, rl.loss_normalisation)
        share_jbS = None if share_B is None else packing.spread(layout, rows, share_B)
        alpha = losses.entropy_weight(learnt.entropy_BT, learnt.sampled_BT, rl)
        loss, learner_jbS, rerouted, gradient = passes.policy_gradient(
            setup, state.params, read, state.loss_scale, rows, parts, anchor_jbS, scorable_jbS, advantage_jbS,
            share_jbS, counts, alpha,
        )  # fmt: skip
        gradient = optim.unscaled(gradient, state.loss_scale)
        params, opt_state, norm, applied = optim.apply_finite(setup.optimizer, gradient, state.opt_state, state.params)
        follows = (state.step + 1) % rl.anchor_every == 0
        decay = jnp.where(follows, jnp.float32(rl.anchor_decay), 1.0) if rl.anchor_every > 1 else rl.anchor_decay
        anchor = optim.update_anchor(state.anchor_offset, state.params, params, decay)
        log_ratio_jbS, packed_B = learner_jbS - rows.logprob_jbS, plan.row_B >= 0
        report = describe(rollouts, scores, rl, right_and_wrong(setup.cfg.reward))
        report |= mismatch(log_ratio_jbS, rows.sampled_jbS, of_response(log_ratio_jbS), packed_B)
        report |= fates(rollouts, scorable_B, packed_B, applied, plan.kept_B)
        report |= {
            "loss": loss,
            "grad_norm": norm,
            "skipped": 1.0 - applied.astype(jnp.float32),
            "learning_rate": setup.schedule(state.step),
            "kl_anchor": Mean.of(of_response(kl_of_token(learner_jbS)), packed_B).value(),
            "packed_rows": share_filled,
            "packed_positions": packing.held(rows, parts),
        }
        if alpha is not None:
            report["alpha"] = alpha
        if plan.kept_B is not None:
            mixed_P = advantages.mixed_groups(judged, rl.responses_per_prompt)
            report["mixed_groups_kept"] = mixed_P.sum(dtype=jnp.float32) / rl.prompts_per_step
        if rerouted is not None:
            tokens = rows.sampled_jbS.sum(dtype=jnp.float32)
            report["route_gap"] = rerouted.astype(jnp.float32) / jnp.maximum(tokens, 1.0)
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


def make_train_step(
    setup: RlSetup,
    scorer: Scorer,
    *,
    stop_tokens: tuple[int, ...],
    on_progress: Callable[[int, int], None] | None = None,
    call: Callable[..., Any] = io_callback,
    advantage: Callable[[Scores, jax.Array, RlConfig], jax.Array] = advantages.advantages,
) -> Any:
    """The compiled T1 iteration: `state, report = train_step(state, prompts)`, one program, the state donated.

    Args:
      setup: what the step is made of; its config says all that happens here.
      scorer: host function on NumPy arrays of one shard's rows, see rewards/score.py. Called from inside the program.
      stop_tokens: token ids that end a response.
      on_progress: told every `cfg.rl.window` iterations how far sampling is, as decode.Progress says.
      call: how the program calls the scorer, see scoring.py.
      advantage: see make_update. With another than the paper's all scorable responses, of groups that are kept, are in
        the update.
    """
    sample = make_sample(setup, stop_tokens, on_progress)
    score = make_score(setup, scorer, call, every=advantage is not advantages.advantages)
    update = make_update(setup, advantage)

    def train_step(state: TrainState, prompts: Prompts) -> tuple[TrainState, Report]:
        read = setup.read(state.policy)
        rollouts = sample(read, prompts, state.rng, state.step)
        return update(state, prompts, rollouts, *score(prompts, rollouts), read)

    return jax.jit(train_step, donate_argnums=0, out_shardings=(setup.state_shardings(), None))
