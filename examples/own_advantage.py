# SPDX-License-Identifier: Apache-2.0
"""Another advantage than the paper's, outside of the package: only the best responses of a group are reinforced."""

from functools import partial

import jax.numpy as jnp

import t1jax
from t1jax.training.step import make_train_step
from t1jax.update.advantages import raw_reward, scorable


def best_of_group(scores, kl_B, rl):
    """float32[B]: how far a response is above the mean of its group, if nothing in the group is above it; else 0."""
    groups = (-1, rl.responses_per_prompt)
    reward_PR = jnp.where(scorable(scores), raw_reward(scores), 0.0).reshape(groups)
    above_PR = reward_PR - reward_PR.mean(-1, keepdims=True)
    return jnp.where(above_PR == above_PR.max(-1, keepdims=True), above_PR, 0.0).reshape(-1)


if __name__ == "__main__":
    step = partial(make_train_step, advantage=best_of_group)
    t1jax.train("tiny", workdir="workdirs/own_advantage", make_train_step=step)
