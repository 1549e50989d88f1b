# SPDX-License-Identifier: Apache-2.0
"""Format and correctness: a right answer earns 1, and a response in the expected form 0.2 more.

    t1jax train --config=examples/format_reward.py
    t1jax train --config.reward.function=correct,examples/format_reward.py:form --config.reward.weights="(1.0, 0.2)"

Both are the same: a config file may name a function of its own. `correct` is t1jax's own check, so that accuracy is
still measured; the function only looks at the form.
"""

import re

FORM = re.compile(r"[^<]*</think>\s*\\boxed\{[^{}]*\}\s*", re.DOTALL)  # the prompt has opened <think>


def form(prompt: str, response: str, row: dict) -> float:
    """1 if the thinking is closed once and nothing but one box follows; 0.5 if there is a box at all; else 0."""
    if FORM.fullmatch(response.replace("<|im_end|>", "")):
        return 1.0
    return 0.5 if "\\boxed{" in response else 0.0


def get_config():
    """The demo's config with this reward. `configs` is there only while a config is read, so it is imported here."""
    from configs import tiny

    cfg = tiny.get_config()
    cfg.reward.function = f"correct,{__file__}:form"
    cfg.reward.weights = (1.0, 0.2)
    return cfg
