# SPDX-License-Identifier: Apache-2.0
"""The reward functions of examples/, in the processes of a run: rewards by hand, and what code may not do.

examples/own_reward.py and own_advantage.py are run in tests/test_python.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from configs import tiny
from t1jax import config, main
from t1jax.checks import plain_reward, reward_terms, right_and_wrong
from t1jax.config import RewardConfig, VerifierConfig
from t1jax.rewards.functions import Functions

EXAMPLES = Path(__file__).parents[2] / "examples"


def rewards(name: str, responses: list[str], rows: list[dict], deadline: float = 3.0) -> list[float | None]:
    cfg = dataclasses.replace(
        config.load(tiny.get_config()),
        reward=RewardConfig(f"{EXAMPLES / name}", ()),
        verifier=VerifierConfig(workers=2, deadline=deadline, memory=1024, recycle=5000),
    )
    with Functions(cfg) as functions:
        functions.begin("p", responses[0], rows[0])
        return functions.rewards(["p"] * len(responses), responses, rows)


def test_the_form():
    texts = ["a thought</think>\n\\boxed{5}", "no closing \\boxed{5}", "thought</think>\\boxed{5} more", "nothing"]
    assert rewards("format_reward.py:form", texts, [{}] * 4) == [1.0, 0.5, 0.5, 0.0]


def test_a_config_file_names_a_function_of_its_own():
    """And the command line says the same in flags."""
    path = EXAMPLES / "format_reward.py"
    cfg, *_ = main.parse(["t1jax", f"--config={path}"])
    assert reward_terms(cfg.reward) == [("correct", 1.0), (f"{path}:form", 0.2)]
    flags = [f"--config.reward.function=correct,{path}:form", "--config.reward.weights=(1.0, 0.2)"]
    by_flags, *_ = main.parse(["t1jax", *flags])
    assert by_flags == cfg and right_and_wrong(cfg.reward) and not plain_reward(cfg.reward)
    one, *_ = main.parse(["t1jax", f"--config.reward.function={path}:form"])
    assert reward_terms(one.reward) == [(f"{path}:form", 1.0)]


def test_a_regular_expression_and_one_that_takes_for_ever():
    rows = [{"pattern": r"2024-\d\d-\d\d"}] * 2 + [{"pattern": ""}, {"pattern": r"(a+)+b"}]
    texts = ["I think.</think> 2024-02-29 ", "2024-2-29", "x", "a" * 60]
    assert rewards("regex_reward.py:matches", texts, rows, deadline=0.5) == [1.0, 0.0, None, None]


TESTS = {"tests": ["assert double(2) == 4", "assert double(-1) == -2", "assert double('a') == 'aa'"]}
HOSTILE = {  # what -> code that must not pass a test
    "an endless loop": "while True: pass",
    "memory": "x = bytearray(2 << 30)",
    "leaves early": "import os\nos._exit(0)",
    "a file too large": "open('big', 'wb').write(b'0' * (4 << 20))\ndef double(x): return x * 2",
    "prints": "print('passed-')\nimport sys\nsys.exit(0)",
}


def test_code_is_run_against_unit_tests():
    def block(code: str) -> str:
        return f"It is</think>\n```python\n{code}\n```\n"

    texts = [
        block("def double(x):\n    return x * 2"),
        block("def double(x):\n    return abs(x) * 2"),
        block("def double(x)"),
        "no code",
        f"{block('raise')} or {block('double = lambda x: x + x')}",
    ]
    assert rewards("code_reward.py:passes", texts, [TESTS] * 5) == pytest.approx([1.0, 1 / 3, 0.0, 0.0, 1.0])
    assert rewards("code_reward.py:passes", texts[:1], [{"tests": []}]) == [None]


@pytest.mark.slow  # each is given its 5 seconds
def test_hostile_code_passes_nothing():
    texts = [f"```python\n{code}\n```" for code in HOSTILE.values()]
    found = rewards("code_reward.py:passes", texts, [{"tests": TESTS["tests"][:1]}] * len(texts))
    assert found == [0.0] * len(texts), dict(zip(HOSTILE, found, strict=True))
