# SPDX-License-Identifier: Apache-2.0
"""T1 on the Countdown task: make a number out of three or four with + - *. A CPU is enough; see docs/tasks.md.

Only what differs from configs/tiny.py, all of it [ours]: chains are about three times as long as the demo's, and a step
has two operations.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    cfg = tiny.get_config()
    cfg.unlock()
    cfg.model.vocab_size = 128  # a token for each number up to the largest target

    cfg.task.name = "countdown"
    cfg.task.min_numbers = 3
    cfg.task.max_numbers = 4
    cfg.task.max_value = 12
    cfg.task.max_target = 40  # sums that so small a model can learn: docs/tasks.md
    cfg.task.row_order_share = 0.75  # two orders teach the steps better than one: docs/tasks.md
    cfg.task.impatient_share = 0.8
    cfg.task.give_up = 0.8

    cfg.data.prompt_length = 16

    cfg.sft.batch_size = 8
    cfg.sft.sequence_length = 272  # a prompt and the longest response

    cfg.rl.max_new_tokens = 256

    cfg.scaling.budgets = (7, 14, 28, 42, 56, 84, 112, 168, 256)
    cfg.scaling.answer_tokens = 10
    return cfg.lock()
