# SPDX-License-Identifier: Apache-2.0
"""A regular expression of each problem: the rows of the file have a column `pattern`, and need no answer.

{"problem": "Write a date of the year 2024 as YYYY-MM-DD.", "pattern": "2024-\\d\\d-\\d\\d"}

t1jax train --config.reward.function=examples/regex_reward.py:matches --config.data.train=dates.jsonl ...
"""

import re


def matches(prompt: str, response: str, row: dict) -> float | None:
    """1 if what follows the thinking matches the row's pattern as a whole, 0 if not; None without a pattern.

    A pattern that takes for ever (catastrophic backtracking) is ended by verifier.deadline: the response is unscorable.
    """
    if not row.get("pattern"):
        return None
    answer = response.rpartition("</think>")[2].strip()
    return float(re.fullmatch(row["pattern"], answer) is not None)
