# SPDX-License-Identifier: Apache-2.0
"""The objective of T1's public ancestor, THUDM/TreeRL at f0edbea (rule-based reward, chains instead of trees), where
it differs from the paper's: a preset to compare with, or to start from where the paper is silent.

    A_it = max(r_i - mean of the others' r, -largest of the group) - beta * clip(log pi - log pi_ref, +-0.5)
           where r_i = 1 if right and not flagged, else 0; then -1 for a flagged response
    L    = - mean over responses of the mean over tokens of A_it log pi(y_it)

Its PPO clip (0.2, upwards 0.26) does nothing here: a step has one update, of responses of the same weights.
Only what differs from configs/base.py; every knob is explained there. Use as `--config=kin` with model.checkpoint.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    cfg = base.get_config()
    cfg.unlock()
    cfg.data.system_prompt = base.BOXED  # for Qwen, as the system's turn
    cfg.data.template = "{problem}"

    cfg.rl.top_p = 0.95
    cfg.rl.min_p = 0.05
    cfg.rl.advantage_floor = True
    cfg.rl.penalty_site = "wrong"
    cfg.rl.garbled_share = 1.0  # never: it flags repetition, 80 characters 20 times, and responses without an end alone
    cfg.rl.kl_site = "token"
    cfg.rl.kl_coef = 1e-4  # 0.004 in its first scripts, 0 in the last
    cfg.rl.loss_normalisation = "response_mean"
    cfg.rl.entropy_coef = 0.0
    cfg.rl.anchor_decay = 1.0  # the reference is the model that RL began with
    return cfg.lock()
