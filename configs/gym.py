# SPDX-License-Identifier: Apache-2.0
"""T1 on a dataset of reasoning-gym, spell_backward: needs pip install 'reasoning-gym>=0.1.25'; see docs/tasks.md.

Only what differs from configs/tiny.py, all of it [ours]. There are no chains to learn from, so the cold start is short,
and leaves the model unsure of letters: what RL has to find is to be right in all of them. Another dataset:
--config.task.gym_dataset=NAME, with lengths and a vocabulary that suit it.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    cfg = tiny.get_config()
    cfg.unlock()
    cfg.model.vocab_size = 148  # every ASCII character, and pieces of the question

    cfg.task.name = "gym"
    cfg.task.gym_dataset = "spell_backward"
    cfg.task.gym_options = ("min_word_len=3", "max_word_len=6")

    cfg.data.prompt_length = 24

    cfg.sft.num_steps = 160
    cfg.sft.sequence_length = 80

    cfg.rl.max_new_tokens = 16
    cfg.rl.window = 16

    cfg.scaling.budgets = ()
    return cfg.lock()
