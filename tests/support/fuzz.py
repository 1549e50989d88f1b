# SPDX-License-Identifier: Apache-2.0
"""Random and mutated texts into everything that reads what a model said, in this process.

    python -m tests.support.fuzz --inputs=100000 --seed=0

Exit code 0: nothing crashed, every answer was consistent, and no call took more than BOUND_MS of processor time.
What math-verify reads in processes of its own, and what becomes of it when it hangs, is in test_verifier.py.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from t1jax.config import ConfigError
from t1jax.reports import transcript
from t1jax.rewards import answers, notation, pairing, penalties, precheck
from t1jax.tasks import honesty
from t1jax.tasks.files import overlap, problems

LONGEST = 20_000  # characters
BOUND_MS = 100.0  # of processor time, for one call; linear time is below 40
PIECES = (
    "\\boxed{", "\\boxed ", "\\fbox{", "\\boxed", "{", "}", "\\{", "\\}", "\\", "$", "$$", "\\(", "\\)", "\\[", "\\]",
    "<answer>", "</answer>", "<think>", "</think>", "\\frac", "\\frac{1}{2}", "\\dfrac12", "\\text{", "\\text{ cm}",
    "\\left", "\\right.", "\\Bigl(", "\\sqrt{", "\\!", "\\,", "{,}", "^", "_", "^{", "**", "~", "%", "\\%", "\\$", "°",
    "^\\circ", "#### 5", "1,000", "1{,}000", "0.5", "-", "\u2212", "+", "=", ":", " ", "\n", "\t", "7", "00", "/", ".",
    "(A)", "a", "é", "数", "１", "½", "\ufdfa", "\u202e", "\u200b", "\x00", "\x1b[2J", "\x9b", "\ud800", "\ufffd",
    "\U0001f600", "\u0301", "\\begin{matrix}", "\\\\", "&", "<script>", "2+3", "1/0", "\\frac{1}{0}",
    "6+22=28, need 20: too big\n", "check 20-6=14: yes\n", "9" * 60, "10^{10^", "!", "e", "\\cdot", "\r\n",
)  # fmt: skip
WHOLE = (
    "So the answer is \\boxed{\\frac{3}{4}}.",
    "First \\boxed{6}. Wait, \\boxed{\\text{(B)}}",
    "<think>\n6+22=28, need 20: too big\n6+14=20, need 20: yes\ncheck 20-6=14: yes\n</think>\n\\boxed{6+14}",
    "<answer> $1,\\!234.50$ </answer>",
    "Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72",
    "$\\left[ -\\dfrac{1}{2}, 3 \\right)$ and \\(x^2 + 1\\)",
    "\\boxed{3\\frac{1}{2} \\text{ square inches}}",
)

Check = Callable[[str], Any]


class Result(NamedTuple):
    """What a run found."""

    inputs: int
    characters: int
    crashes: list[str]
    slowest_ms: float
    slowest: str  # the function, and how its input begins


def texts(seed: int) -> Iterator[str]:
    """Texts without end: nine in ten short, one in a hundred up to LONGEST."""
    rng = random.Random(seed)
    while True:
        limit = rng.choices((3, 60, 400, 3000, LONGEST), (20, 40, 30, 9, 1))[0]
        text = rng.choice((_drawn, _mutated, _repeated, _nested))(rng, limit)
        yield text[:LONGEST]


def _drawn(rng: random.Random, limit: int) -> str:
    """Pieces and characters in any order."""
    parts, size = [], 0
    while size < limit:
        parts.append(rng.choice(PIECES) if rng.random() < 0.9 else chr(rng.randrange(0x110000)))
        size += len(parts[-1])
    return "".join(parts)


def _mutated(rng: random.Random, limit: int) -> str:
    """A text of a model with a few changes; long ones are several."""
    text = rng.choice(WHOLE)
    while len(text) < limit // 2:
        text += rng.choice(("\n", " ", "")) + rng.choice(WHOLE)
    for _ in range(rng.randint(1, 8)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randint(0, 6))
        change = rng.choice(("", rng.choice(PIECES), text[start:end] * 3, chr(rng.randrange(0x110000)), text[:start]))
        text = (text[:start] + change + text[end:])[: 2 * limit + 100]
    return text


def _repeated(rng: random.Random, limit: int) -> str:
    """One to three pieces again and again, as what backtracks likes it, with something before and behind."""
    unit = "".join(rng.choices(PIECES, k=rng.randint(1, 3)))
    return rng.choice(PIECES) + unit * (limit // len(unit) + 1) + rng.choice(PIECES)


def _nested(rng: random.Random, limit: int) -> str:
    """Openings, a heart, and as many closings, or nearly."""
    opening, closing = rng.choice((("{", "}"), ("\\boxed{", "}"), ("\\frac{1}{1+", "}"), ("$", "$"), ("(", ")")))
    depth = max(1, limit // (len(opening) + 1))
    return (
        "\\boxed{" * rng.randint(0, 1) + opening * depth + rng.choice(PIECES) + closing * (depth - rng.randint(-1, 1))
    )


def _last_box(text: str) -> bool:
    found = answers.last_box(text)
    return found is None or f"{answers.BOX}{found}}}" in text


def _final_answer(text: str) -> bool:
    found = answers.final_answer(text)
    return found is None or found in text


def _tidy(text: str) -> bool:
    return len(answers.tidy(text)) <= len(text)


def _quick(text: str) -> bool:
    verdicts = (answers.quick(text, "5"), answers.quick("1/2", text), answers.quick(text, "\\text{(B)}"))
    return answers.quick(text, text) is not False and set(verdicts) <= {True, False, None}


def _gold(text: str) -> bool:
    """A row's answer, or a ConfigError that names the row where it is no text."""
    try:
        return isinstance(problems._gold("rows.jsonl", 1, {"answer": text}, False, "answer"), str)
    except ConfigError as error:
        return "\0" in text or "half of a surrogate pair" in str(error)


def _judged(text: str) -> bool:
    """A box around a text without braces is found again."""
    plain = text.translate({ord(c): None for c in "{}\\"})
    return answers.final_answer(f"{text} so {answers.BOX}{plain}}}") == plain


def _rewritten(text: str) -> bool:
    """Rules bear anything as long as what is asked, and leave few things to do."""
    return len(notation.rewrite(text[:1500])) <= 100_000


CHECKS: dict[str, Check] = {
    "last_box": _last_box,
    "final_answer": _final_answer,
    "a box behind": _judged,
    "tidy": _tidy,
    "quick": _quick,
    "compare": lambda text: answers.compare(text, (2, 3, 5), 5) in (True, False),
    "intractable": lambda text: precheck.intractable(text) in (True, False),
    "rewrite": _rewritten,
    "decide": lambda text: bool(pairing.decide(text[:750], text[750:1500])) in (True, False),
    "plain": lambda text: isinstance(notation.plain(text[:1500]), str),
    "gold": _gold,
    "normalise": lambda text: isinstance(overlap.normalise(text), str),
    "repetitive": lambda text: penalties.repetitive(text, 20, 20) in (True, False),
    "garbled": lambda text: penalties.garbled(text, 0.1) in (True, False),
    "analyse": lambda text: honesty.analyse((6, 14, 22), 20, text).malformed >= 0,
    "mark": lambda text: not set("\x00\x1b\x9b\u202e\ud800") & set(transcript.mark(text)),
}


def fuzz(inputs: int, seed: int) -> Result:
    """Gives so many texts to every function of CHECKS; False from one, or an exception, is a crash."""
    crashes: list[str] = []
    characters, worst, slowest = 0, 0.0, ""
    for _, text in zip(range(inputs), texts(seed), strict=False):
        characters += len(text)
        for name, check in CHECKS.items():
            start = time.process_time()
            try:
                said = "" if check(text) else "inconsistent"
            except Exception as error:  # whatever it is, it is what this looks for
                said = f"{type(error).__name__}: {error}"
            took = 1000 * (time.process_time() - start)
            if said:
                crashes.append(f"{name}: {ascii(said)[:200]} on {ascii(text)[:400]}")
            if took > worst:
                worst, slowest = took, f"{name} of {len(text)} characters, {ascii(text[:40])}..."
    return Result(inputs, characters, crashes, worst, slowest)


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz", description="Random texts for answers.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args(argv)
    began = time.monotonic()
    found = fuzz(wanted.inputs, wanted.seed)
    for crash in found.crashes[:20]:
        print(crash)
    print(
        f"{found.inputs} inputs, {found.characters} characters, {len(CHECKS)} functions, "
        f"{time.monotonic() - began:.0f} s: {len(found.crashes)} crashes; slowest {found.slowest_ms:.1f} ms of at most "
        f"{BOUND_MS:.0f} ({found.slowest})"
    )
    return 0 if not found.crashes and found.slowest_ms <= BOUND_MS else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
