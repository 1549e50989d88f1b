# SPDX-License-Identifier: Apache-2.0
"""The knobs of a small run on problems from files, and how such files are written."""

from __future__ import annotations

import json

KNOBS = {
    "mesh__fsdp": 1,
    "mesh__data": 8,
    "data__template": "{problem}",
    "data__prompt_length": 32,
    "sft__num_steps": 3,
    "sft__sequence_length": 48,
    "rl__num_steps": 3,
    "rl__max_new_tokens": 16,
    "rl__window": 8,
    "eval__num_problems": 12,
    "eval__batch_size": 8,
    "eval__quick_problems": 8,
    "eval__every": 2,
    "eval__samples": 2,
    "scaling__budgets": (4, 16),
    "scaling__answer_prefix": "\n</think>\n\\boxed{",
    "checkpoint__sft_every": 2,
    "checkpoint__every": 2,
    "verifier__workers": 1,
}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
