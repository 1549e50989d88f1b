# SPDX-License-Identifier: Apache-2.0
"""Multiple choice whose choices stand in columns of their own, as in GPQA: they get letters, the answer is one of them.

    Question | Correct Answer | Incorrect Answer 1 | Incorrect Answer 2 | Incorrect Answer 3

The order of a question's choices depends on data.choice_seed and on the texts of the question and its choices, and so
not on the file, its order or its other rows. Each choice is equally likely to come first.
Source: the columns of gpqa_diamond.csv (arXiv 2311.12022), which openai/simple-evals reads in gpqa_eval.py; letters and
the last line are ours.
Deliberately not here: comparing the letter with a response's (rewards/pairing.py).
"""

from __future__ import annotations

import hashlib
import string

from t1jax.tasks.files.rows import Row, named

CORRECT, INCORRECT = "correct answer", "incorrect answer {}"
ASKED = "Answer with the letter of the right choice."


def choice_columns(row: Row) -> tuple[str, ...]:
    """The columns with the choices, the right one first; () if the row has none."""
    found = named(row, CORRECT)
    for number in range(1, len(string.ascii_uppercase)):
        if not found or not (wrong := named(row, INCORRECT.format(number))):
            break
        found += wrong
    return tuple(found) if len(found) > 1 else ()


def lettered(question: str, choices: list[str], seed: int) -> tuple[str, str] | None:
    """(the question with its choices, the letter of the first of `choices`); None if they cannot be told apart."""
    if not all(choices) or len({" ".join(choice.split()) for choice in choices}) < len(choices):
        return None
    order = sorted(choices, key=lambda choice: hashlib.sha256(f"{seed}\n{question}\n{choice}".encode()).digest())
    lines = [f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, order, strict=False)]
    text = "\n".join(lines)
    return f"{question}\n\n{text}\n\n{ASKED}", string.ascii_uppercase[order.index(choices[0])]
