# SPDX-License-Identifier: Apache-2.0
"""The embedded task with a reward of one's own, from Python: a right answer, and the fewer attempts the better."""

import re

import t1jax
from t1jax.rewards.answers import last_box


def quick(prompt, response, row):
    """1 for a pair of the list with the right sum, less 0.05 for each attempt; 0 for anything else."""
    answer = re.fullmatch(r"(\d+)\+(\d+)", last_box(response) or "")
    if answer is None:
        return 0.0
    left, right = map(int, answer.groups())
    found = left != right and {left, right} <= set(row["numbers"]) and left + right == row["target"]
    return max(0.0, 1 - 0.05 * response.count(", need ")) if found else 0.0


if __name__ == "__main__":
    run = t1jax.train("tiny", workdir="workdirs/own_reward", reward=quick)
    print(run.results["sft"]["mean_reward"], "before,", run.results["rl"]["mean_reward"], "after")
