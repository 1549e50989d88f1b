# SPDX-License-Identifier: Apache-2.0
"""The line of a response: what it says, that it is read back the same, and lines as they used to be written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from t1jax.evaluation.responses import Response
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG

# as runs wrote them
OF_A_RUN = (
    b'{"stage": "rl", "step": 9, "problem": 5, "difficulty": 4, "prompt": "Pick two.\\n<think>\\n", "response": '
    b'"2+3=5, need 5: yes\\n</think>\\n\\\\boxed{2+3}", "gold": "2+3", "outcome": "right", "tokens": 9, '
    b'"overlong": false}\n'
)
# as t1jax.evaluate and t1jax.filter wrote them, and write them
OF_A_COMMAND = (
    b'{"problem": 0, "row": 1, "response": 3, "outcome": "wrong", "answer": "7", "gold": "42", "tokens": 3, '
    b'"overlong": true, "text": "It is \\\\boxed{7}", "ids": [5, 6, 7]}\n'
)
WHOLE = Response(
    problem=5, text="a \ud800 \x00 \u2028 \n \x1b[31m 中", outcome=UNSCORABLE, tokens=2, overlong=True, answer="\ud800",
    response=3, row=6, difficulty="hard", prompt="b", stage="rl", step=9, ids=np.array([1, 2], np.int32),
)  # fmt: skip


def parse(line):
    return Response.parse(json.loads(line))


def test_a_line_of_a_run_as_it_used_to_be_is_read():
    assert parse(OF_A_RUN) == Response(
        problem=5, text="2+3=5, need 5: yes\n</think>\n\\boxed{2+3}", outcome=RIGHT, tokens=9, overlong=False,
        gold="2+3", difficulty=4, prompt="Pick two.\n<think>\n", stage="rl", step=9,
    )  # fmt: skip


def test_a_line_of_a_command_is_read_and_written_as_it_used_to_be():
    found = parse(OF_A_COMMAND)
    assert found == Response(
        problem=0, text="It is \\boxed{7}", outcome=WRONG, tokens=3, overlong=True, answer="7", gold="42", response=3,
        row=1,
    )  # fmt: skip
    assert found.ids.tolist() == [5, 6, 7] and found.ids.dtype == np.int32
    assert found.line() == OF_A_COMMAND


def test_a_line_survives_any_text():
    line = WHOLE.line()
    assert line.isascii() and line.count(b"\n") == 1 and b"\x1b" not in line
    again = parse(line)
    assert again == WHOLE and again.ids.tolist() == [1, 2] and again.line() == line


def test_what_is_not_known_is_left_out_and_null_is_said():
    bare = Response(problem=5, text="", outcome=WRONG, tokens=0, overlong=True)
    assert list(json.loads(bare.line())) == "problem response outcome answer gold tokens overlong text".split()
    assert parse(bare.line()) == bare
    of_run = dataclasses.replace(bare, stage="sft", step=0, difficulty=4, prompt="")
    assert json.loads(of_run.line())["step"] == 0 and parse(of_run.line()) == of_run


@pytest.mark.parametrize(
    "change",
    [{"outcome": "fine"}, {"tokens": -1}, {"tokens": True}, {"text": 3}, {"response": None}, {"ids": [1]},
     {"problem": "5"}, {"overlong": 0}, {"step": "9"}, {"stage": 3}, {"row": "1"}, {"prompt": 2}],
)  # fmt: skip
def test_what_is_no_response_is_refused(change):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Response.parse(json.loads(WHOLE.line()) | change)
    for other in ([1], "text", {}, 3, None):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Response.parse(other)
