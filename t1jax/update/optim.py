# SPDX-License-Identifier: Apache-2.0
"""What an update does to the weights: schedule, clip -> Adam or Muon -> decay -> step, and the anchor that follows.

prompts -> rollouts -> rewards -> advantages -> UPDATE.

The anchor theta_ref is kept as its offset from the parameters, delta = theta_ref - theta, in float32. T1's
theta_ref <- gamma theta_ref + (1 - gamma) theta  then reads  delta <- gamma (delta + theta_before - theta_after),
and nothing is lost: an update of 1e-6 is small beside theta, but not beside delta. A float32 theta_ref itself stands
still or drifts as soon as (1 - gamma) (theta - theta_ref) is below its rounding; one in bfloat16 never moves.

Axes: L layers (stacked on axis 0), D width, N query heads, K kv heads, H head dim, F mlp width, V vocabulary.
Source: T1 (arXiv 2501.11651) section 2, dynamic anchor; AdamW settings from THUDM/TreeRL; Muon: Jordan et al. 2024,
scaled as in arXiv 2502.16982.
Deliberately not here: gradients (step.py, sft.py), where state is placed (sharding.py).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from t1jax.config import RlConfig, SftConfig
from t1jax.model.parameters import MATRICES, kinds
from t1jax.types import LossScale, Params

LARGEST_SCALE = 2.0**15  # of the loss in float16, and the first: its gradients are below 1, float16 ends at 65,504
SCALE_STEPS = 2000  # finite gradients after which the scale is doubled


def make_schedule(
    section: SftConfig | RlConfig, total_steps: int, schedule: Literal["cosine", "constant"]
) -> optax.Schedule:
    """Updates done so far -> learning rate of the next one: linear warm-up to the peak, then cosine to zero or flat.

    lr(s) = peak * min(1, (s + 1) / W) for s < W, so that no update is lost at rate 0; then peak, or
    peak * (1 + cos(pi (s - W) / (total - W))) / 2. Source: T1 sections 1 (cosine) and 2 (warm-up, constant).

    Args:
      section: cfg.sft (warmup_steps) or cfg.rl (warmup_fraction of total_steps); learning_rate is the peak.
      total_steps: updates of the whole stage.
      schedule: what follows the warm-up.
    """
    if isinstance(section, SftConfig):
        warmup = section.warmup_steps
    else:
        warmup = round(section.warmup_fraction * total_steps)

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        done = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0.0, 1.0)
        after = 0.5 * (1.0 + jnp.cos(jnp.pi * done)) if schedule == "cosine" else 1.0
        return section.learning_rate * jnp.minimum(1.0, (step + 1.0) / max(warmup, 1)) * after

    return rate


def make_optimizer(section: SftConfig | RlConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """clip by global norm -> Adam, or Muon for the matrices -> decoupled decay of matrices and tables -> -lr.

    Muon's updates are scaled to the size of Adam's (arXiv 2502.16982), so one learning rate and one decay serve both.
    cfg.rl has no choice: T1's RL uses AdamW.

    Args:
      section: cfg.sft or cfg.rl.
      schedule: its learning rate, from `make_schedule`.
    """
    direction = optax.scale_by_adam(section.b1, section.b2)
    if isinstance(section, SftConfig) and section.optimizer == "muon":
        muon = optax.chain(scale_by_muon(weight_dimension_numbers=_dimensions), optax.stateless(_sized_like_adam))
        direction = optax.partition({"matrix": muon, "table": direction, "vector": direction}, kinds)
    return optax.chain(
        optax.clip_by_global_norm(section.grad_clip),
        direction,
        optax.add_decayed_weights(
            section.weight_decay, lambda params: jax.tree.map(lambda k: k != "vector", kinds(params))
        ),
        optax.scale_by_learning_rate(schedule),
    )


def _dimensions(matrices: Params) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: MuonDimensionNumbers(*MATRICES[path[-1].key]), matrices)


def _sized_like_adam(updates: Params, _: Params | None) -> Params:
    """An orthogonal update times 0.2 sqrt(max(fan in, fan out)): root mean square 0.2, as Adam's usually is."""

    def one(path: Any, x: jax.Array) -> jax.Array:
        fans = (math.prod(x.shape[i] for i in axes) for axes in MATRICES[path[-1].key])
        return x * (0.2 * math.sqrt(max(fans)))

    return jax.tree_util.tree_map_with_path(one, updates)


def apply_finite(
    optimizer: optax.GradientTransformation, gradient: Params, opt_state: Any, params: Params
) -> tuple[Params, Any, jax.Array, jax.Array]:
    """One optimiser update, unless the gradient is not finite: then nothing changes, neither weights nor moments.

    Only the schedule of the learning rate goes on: it counts steps, skipped ones too, so that it ends with the last.

    Returns:
      parameters, optimiser state, float32[] norm of the gradient, bool[] whether it was applied: the norm is finite.
    """
    norm = optax.tree.norm(gradient)
    applied = jnp.isfinite(norm)
    change, new_state = optimizer.update(gradient, opt_state, params)
    params = either(applied, optax.apply_updates(params, change), params)

    def keep(new: Any, old: Any) -> Any:
        return new if _is_schedule(new) else either(applied, new, old)

    return params, jax.tree.map(keep, new_state, opt_state, is_leaf=_is_schedule), norm, applied


def _is_schedule(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)


def start_loss_scale(compute_dtype: str) -> LossScale | None:
    """The scale that training in float16 begins with; None in another dtype, which needs none."""
    return LossScale(jnp.float32(LARGEST_SCALE), jnp.int32(0)) if compute_dtype == "float16" else None


def scaled(loss: jax.Array, loss_scale: LossScale | None) -> jax.Array:
    """The loss whose gradient is taken: times the scale, so that small gradients are not 0 in float16."""
    return loss if loss_scale is None else loss * loss_scale.scale


def unscaled(gradient: Params, loss_scale: LossScale | None) -> Params:
    """The float32 gradient of the loss, from that of the scaled one; what overflowed stays infinite or NaN."""
    return gradient if loss_scale is None else jax.tree.map(lambda x: x / loss_scale.scale, gradient)


def next_loss_scale(loss_scale: LossScale | None, finite: jax.Array) -> LossScale | None:
    """Half the scale after a gradient that is not finite; twice, up to LARGEST_SCALE, after SCALE_STEPS finite ones.

    Source: dynamic loss scaling, arXiv 1710.03740 section 3.2; the interval as in PyTorch's GradScaler.
    """
    if loss_scale is None:
        return None
    steps = jnp.where(finite, loss_scale.steps + 1, 0)
    grown = jnp.minimum(loss_scale.scale * 2, LARGEST_SCALE)
    scale = jnp.where(finite, jnp.where(steps == SCALE_STEPS, grown, loss_scale.scale), loss_scale.scale / 2)
    return LossScale(scale, steps % SCALE_STEPS)


def either(condition: jax.Array, new: Any, old: Any) -> Any:
    """`new` where the bool[] is true, else `old`: trees of arrays, element by element."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def start_anchor(params: Params) -> Params:
    """The offset of an anchor that equals the parameters: zeros, float32."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), params)


def update_anchor(offset: Params, before: Params, after: Params, decay: float | jax.Array) -> Params:
    """delta <- gamma (delta + theta_before - theta_after), which is theta_ref <- gamma theta_ref + (1 - gamma) theta:

    because theta_ref' - theta_after = gamma (theta_ref - theta_after). The difference of two near floats is exact, so
    each update adds a rounding of delta only. Source: T1 section 2, dynamic anchor; trap 3.

    Args:
      offset: float32, theta_ref - theta_before, from `start_anchor` or the last call.
      before: float32, parameters before the update.
      after: float32, parameters after it, as they are stored.
      decay: gamma, cfg.rl.anchor_decay; 1 leaves theta_ref where it is.

    Returns:
      float32, theta_ref' - theta_after.
    """
    after = jax.lax.optimization_barrier(after)  # the stored values, not a recomputation with another rounding
    return jax.tree.map(lambda d, old, new: decay * (d + (old - new)), offset, before, after)


def anchor_params(offset: Params, params: Params) -> Params:
    """theta_ref = theta + delta, float32: the parameters of the reference policy."""
    return jax.tree.map(jnp.add, params, offset)
