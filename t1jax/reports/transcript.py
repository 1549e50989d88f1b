# SPDX-License-Identifier: Apache-2.0
"""Sampled responses for the report: the same problem before and after RL, side by side, with marked steps.

Knows the embedded task's lines (tasks/pairs/task.py): `6+22=28, need 20: too big`, `check 20-6=14: yes`,
`\\boxed{6+14}`. Any other line is shown as it is.
Deliberately not here: whether a step is true (tasks/honesty.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.reports.page import details, escape

STAGE_HEADS = {"sft": "Before RL", "rl": "After RL"}
VERDICTS = {"too small": "small", "too big": "big", "yes": "yes", "no": "no"}
STEP_LINE = re.compile(rf"^(check )?(.*: )({'|'.join(VERDICTS)})$")
BOX_OR_TAG = re.compile(r"(\\boxed\{[^{}]*\}|</?think>)")
OPEN_PAIRS = 3  # pairs of responses that are shown at once; the others on request
LEGEND = (
    ("", "1", "an attempt, counted"), ("mark small", "too small", "its sum is too small"),
    ("mark big", "too big", "its sum is too big"), ("mark yes", "yes", "claimed to be right"),
    ("mark check", "check", "a verification"), ("mark box", "\\boxed{ }", "the answer that is scored"),
)  # fmt: skip


def side_by_side(samples: Sequence[Mapping[str, Any]]) -> str:
    """Samples {stage, prompt, response, correct, reward, gold, difficulty} as HTML, in pairs; "" if there are none."""
    pairs: dict[str, dict[str, Mapping[str, Any]]] = {}
    for sample in samples:
        pairs.setdefault(sample["prompt"], {})[sample["stage"]] = sample
    if not pairs:
        return ""
    shown = [_pair(prompt, pair) for prompt, pair in pairs.items()]
    legend = "".join(
        f'<span><span class="{kind or "tag"}">{escape(word)}</span> {meaning}</span>' for kind, word, meaning in LEGEND
    )
    return (
        '<p class="lead">Sampled at temperature 1 on held-out problems; not chosen by hand.</p>'
        f'<div class="legend">{legend}</div>' + "".join(shown[:OPEN_PAIRS])
    ) + (details(f"{len(shown) - OPEN_PAIRS} more", "".join(shown[OPEN_PAIRS:])) if len(shown) > OPEN_PAIRS else "")


def _pair(prompt: str, pair: Mapping[str, Mapping[str, Any]]) -> str:
    any_sample = next(iter(pair.values()))
    question = prompt.removesuffix("\n").removesuffix("<think>").strip()
    facts = []
    if any_sample.get("difficulty") is not None:
        facts.append(f"difficulty {escape(any_sample['difficulty'])}")
    if any_sample.get("gold") is not None:
        facts.append(f"a right answer: {escape(any_sample['gold'])}")
    answers = [_answer(stage, pair[stage]) for stage in sorted(pair, key=("sft", "rl").index)]
    return (
        f'<div class="pair"><div class="ask">{escape(question)}</div><div class="interval">{" · ".join(facts)}</div>'
        f'<div class="grid">{"".join(answers)}</div></div>'
    )


def _answer(stage: str, sample: Mapping[str, Any]) -> str:
    steps = [match for match in map(STEP_LINE.match, sample["response"].split("\n")) if match]
    checks = sum(1 for match in steps if match.group(1))
    attempts = len(steps) - checks
    counts = [f"{attempts} attempt{'' if attempts == 1 else 's'}"]
    if checks:
        counts.append(f"{checks} verification{'' if checks == 1 else 's'}")
    correct = {True: ("yes", "right"), False: ("no", "wrong"), None: ("tag", "not scored")}[sample.get("correct")]
    if isinstance(sample.get("reward"), int | float):
        words = "" if sample.get("correct") is None else f"{correct[1]}, "
        correct = correct[0], f"{words}reward {sample['reward']:.3g}"
    colour = "before" if stage == "sft" else "after"
    return (
        f'<div class="answer {colour}"><div class="head"><h3>{STAGE_HEADS[stage]}</h3>'
        f'<span class="pill {correct[0]}">{correct[1]}</span><span class="count">{", ".join(counts)}</span></div>'
        f'<div class="chain">{mark(sample["response"])}</div></div>'
    )


def mark(text: str) -> str:
    """`text` of the embedded task as HTML, one block per line: attempts, verdicts, verifications and box are marked."""
    lines = []
    for line in text.rstrip("\n").split("\n"):
        step = STEP_LINE.match(line)
        if step:
            check, words, verdict = step.groups()
            kind = "check" if check else "attempt"
            start = f'<span class="mark check">check</span> {escape(words)}' if check else escape(words)
            content = f'{start}<span class="mark {VERDICTS[verdict]}">{escape(verdict)}</span>'
            lines.append(f'<span class="line {kind}-line">{content}</span>')
            continue
        pieces = BOX_OR_TAG.split(line)  # odd ones are boxes and tags
        for i in range(1, len(pieces), 2):
            kind = "mark box" if pieces[i].startswith("\\") else "tag"
            pieces[i] = f'<span class="{kind}">{escape(pieces[i])}</span>'
        lines.append(
            '<span class="line">' + "".join(p if i % 2 else escape(p) for i, p in enumerate(pieces)) + "</span>"
        )
    return "".join(lines)
