# SPDX-License-Identifier: Apache-2.0
"""The base of all studies (t1jax.study): tiny.py with fewer prompts and steps of RL, so that many runs fit into hours.

Only what differs from tiny.py; every knob is explained in base.py. What each study changes: t1jax/studies/claims.py.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    cfg = tiny.get_config()
    cfg.unlock()
    cfg.sft.num_steps = 1400

    cfg.rl.num_steps = 24
    cfg.rl.prompts_per_step = 8
    cfg.rl.micro_batches = 8

    cfg.eval.num_problems = 512
    cfg.eval.every = 0  # what is measured, and when, the study says

    cfg.scaling.budgets = (8, 16, 32, 64, 128)

    cfg.checkpoint.every = 7  # 30, 60 and 100 % of the steps (7, 14, 24) are measured from checkpoints
    cfg.checkpoint.keep = 4
    return cfg.lock()
