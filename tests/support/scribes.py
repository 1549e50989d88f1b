# SPDX-License-Identifier: Apache-2.0
"""For tests of synthesis: problems in the style of real files, and a model that plays every role by a script."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console

from configs import base
from t1jax import config
from t1jax.host.progress import Progress
from t1jax.rewards.answers import RIGHT, WRONG
from t1jax.synthesis import pipeline, subjects
from t1jax.synthesis.record import Item
from t1jax.synthesis.writers import Completion, Failure, Request

CFG = config.load(base.get_config())

# The texts of all roles for three problems: `wrong` and `right` are attempts.
TEXTS: list[dict[str, str]] = [
    {
        "problem": "A baker sells 3 trays of 12 rolls and gives 5 more away. How many rolls leave the shop?",
        "answer": "so the rolls are\n#### 41",
        "gold": "41",
        "wrong": "3 * 12 = 26 and 26 + 5 = 31. The answer is \\boxed{31}.",
        "right": "3 * 12 = 36 and 36 + 5 = 41. The answer is \\boxed{41}.",
        "critic_wrong": "Where: '3 * 12 = 26'. Why: 12 + 12 is 24, and a third 12 is more than 2.",
        "critic_right": "41 - 5 = 36, and 36 / 3 = 12, one tray.",
        "merge": "There are 3 trays of 12 rolls: 3 * 12 = 26, and with 5 more 26 + 5 = 31 rolls leave.\n\n"
        "Wait, two trays are 24 rolls, and a third tray cannot add 2. So I go back to the product: 24 + 12 = 36. "
        "Then 36 + 5 = 41.\n\n"
        "I check it: 41 - 5 = 36, and 36 / 3 = 12, one tray.\n\nThe answer is \\boxed{41}.",
    },
    {
        "problem": "What is the sum of the solutions of $x^2 - 7x + 10 = 0$? {answer} \\boxed{}",
        "answer": "$7$",
        "gold": "7",
        "wrong": "By Vieta the sum is the coefficient, \\boxed{-7}.",
        "right": "(x - 2)(x - 5) = 0, so 2 + 5 = \\boxed{7}.",
        "critic_wrong": "Where: 'the coefficient'. Why: both solutions are positive, as 0 < 10.",
        "critic_right": "4 - 14 + 10 = 0 and 25 - 35 + 10 = 0.",
        "merge": "By Vieta the sum should be the coefficient of x, that is -7.\n\nHmm, but then a solution were "
        "negative, and every term is positive there. I try to factor it instead: (x - 2)(x - 5) has product 10. "
        "Its zeros are 2 and 5, and 2 + 5 = 7. Put in, 4 - 14 + 10 = 0 and 25 - 35 + 10 = 0.\n\nSo it is \\boxed{7}.",
    },
    {
        "problem": "Write $0.75$ as a common fraction.",
        "answer": "\\frac{3}{4}",
        "gold": "\\frac{3}{4}",
        "wrong": "It is \\boxed{\\frac{7}{5}}.",
        "right": "75/100 = \\boxed{\\dfrac{3}{4}}.",
        "critic_wrong": "Where: the answer. Why: it is larger than 1.",
        "critic_right": "3 / 4: 3.00 / 4 = 0.75.",
        "merge": "I read the digits as a fraction, \\frac{7}{5}.\n\nThat cannot be right: it is more than 1. "
        "Again: 75 hundredths, "
        "and both 75 and 100 are divisible by 25, which leaves \\frac{3}{4}. Indeed 3 divided by 4 is 0.75.\n\nSo it "
        "is \\boxed{\\frac{3}{4}}.",
    },
]  # fmt: skip
ROLES = ("attempt", "critic_wrong", "critic_right", "merge", "rewrite")


def rows() -> list[dict[str, str]]:
    """The problems as a file has them."""
    return [{"problem": text["problem"], "answer": text["answer"]} for text in TEXTS]


def make_config(**knobs: Any) -> config.Config:
    """configs/base.py where one endpoint `sage` plays every role, with knobs of cfg.synthesis set."""
    sage = config.EndpointConfig("http://127.0.0.1:1/v1", "sage-1", "", 4, 0, 0, 1.0, 2.0, 5.0, 0)
    roles: dict[str, Any] = {"attempters": ("sage",), "critic": "sage", "merger": "sage", "rewriter": "sage"}
    knobs = {"attempts": 3, "endpoints": {"sage": sage}} | roles | knobs
    synthesis = dataclasses.replace(CFG.synthesis, **knobs)
    return dataclasses.replace(CFG, synthesis=synthesis)


def role_of(message: str) -> str:
    """Which template a message was made of."""
    begins = {
        "Solve the problem": "attempt",
        "You review a solution whose final answer is wrong": "critic_wrong",
        "You review a solution whose final answer is right": "critic_right",
        "Below are a problem, several": "merge",
        "Below are a problem and a draft": "rewrite",
    }
    return next(role for begin, role in begins.items() if message.startswith(begin))


def script(key: str, message: str) -> str:
    """What the scripted model says: every attempt but the last is wrong; the rewrite is the draft, joined."""
    text = next(text for text in TEXTS if text["problem"] in message)
    role = role_of(message)
    if role == "attempt":
        return text["right" if key.endswith("/2") else "wrong"]
    if role == "rewrite":
        return "<think>how do I put it</think>" + text["merge"].replace("\n\n", "\n", 1)
    return text[role]


class Scribe:
    """A Writer that answers by a script, and remembers what it was asked."""

    def __init__(self, name: str = "sage", say: Callable[[str, str], str | Failure] = script) -> None:
        self.name, self.say = name, say
        self.asked: list[Request] = []
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion | Failure]]:
        for request in reversed(requests):  # any order is allowed
            self.asked.append(request)
            said = self.say(request.key, request.messages[-1]["content"])
            if isinstance(said, str):
                finish = "length" if said.endswith("...") else "stop"
                yield request, Completion(said, f"{self.name}-1", 10, len(said.split()), 0.5, finish)
            else:
                yield request, said


class Plain:
    """A verifier that compares texts."""

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        return [RIGHT if answer.replace("dfrac", "frac") == gold else WRONG for answer, gold in pairs]


def items():
    return [Item(i, i + 1, text["problem"], text["gold"], None) for i, text in enumerate(TEXTS)]


def quiet():
    return Progress(Console(file=open("/dev/null", "w")))


def run(say=script, cfg=None, **writers):
    cfg = cfg or make_config()
    writers = writers or {"sage": Scribe(say=say)}
    subject = subjects.FileSubject(Plain())
    stories = pipeline.Synthesis(cfg, subject, writers, quiet()).run(items())
    return stories, writers


def but(role, said, row="0"):
    """The script, except for a role in the problem with this number."""

    def say(key, message):
        if role_of(message) == role and TEXTS[int(row)]["problem"] in message:
            return said
        return script(key, message)

    return say
