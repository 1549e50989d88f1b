# SPDX-License-Identifier: Apache-2.0
"""Judging responses on the host, from inside the compiled step.

prompts -> rollouts -> REWARDS -> advantages -> update.

Axes: P prompts, R responses per prompt, B = P*R responses (p*R + r), C prompt positions, T response positions.
Deliberately not here: what a response earns (rewards/), where it stands in the update's rows (packing.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from t1jax.checks import plain_reward
from t1jax.devices import multihost, scopes
from t1jax.training.setup import RlSetup
from t1jax.training.step_report import FAILED
from t1jax.types import Plan, Prompts, Rollouts, Scores
from t1jax.update import advantages, packing

# (problem_B, tokens_BT, sampled_BT, stopped_B) -> outcome, overlong, repetition, garbled, and maybe reward; in NumPy
Scorer = Callable[..., Any]

logger = logging.getLogger(__name__)


def make_score(
    setup: RlSetup, scorer: Scorer, call: Callable[..., Any] = io_callback, every: bool = False
) -> Callable[[Prompts, Rollouts], tuple[Scores, Plan]]:
    """A traceable `score(prompts, rollouts) -> (scores, plan)`: `scorer` judges, packing.py plans, on the host.

    Each shard of the batch hands its own rows to the process it lives on; nothing else leaves the devices. Where
    devices hold copies of the same rows (mesh.tensor > 1), one of them asks and tells the others, so that processes
    share the work. A scorer that raises gives FAILED: an error inside the program would leave the other devices waiting
    for this one for ever.

    With rl.overdraw each shard keeps its part of rl.prompts_per_step groups, of its own: nothing moves between shards,
    and each has as much to do in the update. So which groups are kept depends on how many shards there are.

    `every`: all scorable responses are in the update, also those of which the paper's advantages are known to be 0.
    `call(function, shapes, *arrays)` runs the host's function; a plan, which has no devices, puts another in its place.
    """
    rl = setup.cfg.rl
    rows, R = setup.layout.spec("batch"), rl.responses_per_prompt
    keeps = rl.prompts_per_step // setup.layout.batch_shards if rl.drawn > rl.prompts_per_step else None  # groups
    own = not plain_reward(setup.cfg.reward)  # rewards that outcomes do not tell
    kinds = [jnp.int32] * 4 + [jnp.float32] * own  # of outcome, overlong, repetition, garbled, reward
    askers = multihost.askers(setup.layout)

    def judge(*arrays: Any) -> list[np.ndarray]:
        B = len(arrays[0])
        try:
            *told, reward = (*scorer(*(np.asarray(x) for x in arrays)), None)[:5]
            told.append(np.asarray(told[0]) == 1 if reward is None else reward)
            return [np.asarray(x, kind).reshape(B) for x, kind in zip(told, kinds, strict=False)]
        except Exception:
            logger.exception("the scorer failed on %d responses", B)
            return [np.full(B, FAILED, np.int32), *(np.zeros(B, kind) for kind in kinds[1:])]

    def host(prompt: Any, perplexed: Any, problem: Any, tokens: Any, sampled: Any, stopped: Any) -> list[np.ndarray]:
        told = judge(problem, tokens, sampled, stopped)
        flags = (*(x.astype(bool) for x in told[1:4]), np.asarray(perplexed))
        scores = Scores(told[0], *flags, *told[4:])
        wanted = advantages.teaches(scores, rl) | (every & advantages.scorable(scores))
        kept = [] if keeps is None else [advantages.kept(scores, R, keeps)]
        wanted = np.logical_and.reduce([wanted, *kept])
        where = packing.plan(np.asarray(prompt), np.asarray(sampled).sum(-1), wanted, R, setup.grid)
        return [*told, *where, *(x.astype(np.int32) for x in kept)]

    traced = jax.profiler.annotate_function(host, scopes.SCORE)

    def local(prompts: Prompts, rollouts: Rollouts) -> tuple[Scores, Plan]:
        perplexed_B = advantages.perplexed(rollouts.logprob_BT, rollouts.sampled_BT, rl)
        of_plan = [jnp.int32] * (3 if keeps is None else 4)
        shapes = [jax.ShapeDtypeStruct(rollouts.stopped_B.shape, kind) for kind in (*kinds, *of_plan)]

        def ask(_: None) -> Any:
            prompt_P = prompts.valid_PC.sum(-1, dtype=jnp.int32)
            prompt_B, problem_B = (jnp.repeat(x_P, R) for x_P in (prompt_P, prompts.problem_P))
            told = (prompt_B, perplexed_B, problem_B)
            return call(traced, shapes, *told, rollouts.tokens_BT, rollouts.sampled_BT, rollouts.stopped_B)

        def wait(_: None) -> Any:
            return [jnp.zeros(x.shape, x.dtype) for x in shapes]

        asker = jnp.asarray(askers)[jax.lax.axis_index("data"), jax.lax.axis_index("fsdp")] if askers.any() else 0
        mine = jax.lax.cond(jax.lax.axis_index("tensor") == asker, ask, wait, None)
        said = jax.lax.psum(mine, "tensor")
        outcome_B, overlong_B, repetition_B, garbled_B, *reward = said[: len(kinds)]
        flags = (*(x.astype(bool) for x in (overlong_B, repetition_B, garbled_B)), perplexed_B)
        row_B, start_B, prompt_start_B, *kept = said[len(kinds) :]
        plan = Plan(row_B, start_B, prompt_start_B, *(x.astype(bool) for x in kept))
        return Scores(outcome_B.astype(jnp.int8), *flags, *reward), plan

    mapped = jax.shard_map(local, mesh=setup.mesh, in_specs=(rows, rows), out_specs=rows, check_vma=False)
    return jax.named_scope(scopes.SCORE)(mapped)
