# SPDX-License-Identifier: Apache-2.0
"""A base of studies in which T1's two figures could come out: harder Countdown, with more room to think.

    python -m t1jax.study inference_scaling oversampling --config=configs/study_figures.py --seeds=5 --out=DIR

Why these values, and what the demo's task cannot show: docs/findings.md, "The paper's two figures". All [ours].
"""

from ml_collections import ConfigDict

from configs import study_countdown


def get_config() -> ConfigDict:
    cfg = study_countdown.get_config()
    cfg.unlock()
    cfg.task.min_numbers = 4  # up to 18 attempts, 9 with three numbers
    cfg.task.max_value = 12  # targets stay below 100, so fewer attempts come near; small sums are easier to compute
    cfg.task.impatient_share = 0.9  # one chain in ten is patient: more thinking brings the cold start little

    cfg.sft.num_steps = 3200
    cfg.sft.batch_size = 6
    cfg.sft.sequence_length = 464  # a prompt and the longest response

    cfg.rl.num_steps = 30
    cfg.rl.max_new_tokens = 448  # 18 attempts are 270: room to be overlong in

    cfg.scaling.budgets = (28, 56, 112, 224, 448)  # from where most cold-start chains end, as in the paper
    cfg.scaling.answer_temperature = 0.0  # no luck in the answer to a thought that was cut

    cfg.checkpoint.every = 9  # 30, 60 and 100 % of the steps: 9, 18, 30
    return cfg.lock()
