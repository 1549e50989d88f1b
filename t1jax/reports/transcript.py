# SPDX-License-Identifier: Apache-2.0
"""Sampled responses for the report: the same problem before and after RL, side by side.

Prompts are shown as the chat that they are. Where responses have the lines of an embedded task (tasks/pairs/task.py:
`6+22=28, need 20: too big`, `check 20-6=14: yes`), attempts are marked and counted; other responses are prose with
formulas.
Deliberately not here: whether a step is true (tasks/honesty.py), formulas (formulas.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.reports.formulas import prose
from t1jax.reports.page import details, escape

STAGE_HEADS = {"sft": "Before RL", "rl": "After RL"}
VERDICTS = {"too small": "small", "too big": "big", "yes": "yes", "no": "no"}
STEP_LINE = re.compile(rf"^(check )?(.*: )({'|'.join(VERDICTS)})$")
TURNS = (  # role and text of a turn, as chat templates mark them
    re.compile(r"<\|im_start\|>(?P<role>\w+)\n(?P<text>.*?)(?:<\|im_end\|>\n?|\Z)", re.DOTALL),  # Qwen, SmolLM
    re.compile(
        r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\n\n(?P<text>.*?)(?:<\|eot_id\|>|\Z)", re.DOTALL
    ),  # Llama
    re.compile(r"<\|(?P<role>system|user|assistant)\|>\n?(?P<text>.*?)(?=<\|\w+\|>|\Z)", re.DOTALL),  # GLM
)
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
    stepwise = any(_steps(sample["response"]) for sample in samples)
    shown = [_pair(prompt, pair, stepwise) for prompt, pair in pairs.items()]
    legend = "".join(
        f'<span><span class="{kind or "tag"}">{escape(word)}</span> {meaning}</span>' for kind, word, meaning in LEGEND
    )
    return (
        '<p class="lead">Sampled at temperature 1 on held-out problems; not chosen by hand.</p>'
        + (f'<div class="legend">{legend}</div>' if stepwise else "")
        + "".join(shown[:OPEN_PAIRS])
    ) + (details(f"{len(shown) - OPEN_PAIRS} more", "".join(shown[OPEN_PAIRS:])) if len(shown) > OPEN_PAIRS else "")


def _pair(prompt: str, pair: Mapping[str, Mapping[str, Any]], stepwise: bool) -> str:
    any_sample = next(iter(pair.values()))
    facts = []
    if any_sample.get("difficulty") is not None:
        facts.append(f"difficulty {escape(any_sample['difficulty'])}")
    if any_sample.get("gold") is not None:
        facts.append(f"a right answer: {prose(str(any_sample['gold']))}")
    answers = [_answer(stage, pair[stage], stepwise) for stage in sorted(pair, key=("sft", "rl").index)]
    return (
        f'<div class="pair">{question(prompt)}<div class="interval">{" · ".join(facts)}</div>'
        f'<div class="grid">{"".join(answers)}</div></div>'
    )


def question(prompt: str) -> str:
    """What was asked, as HTML: turns of a chat by role, what the user said in bold; other prompts as they are."""
    turns = next((found for turn in TURNS if (found := list(turn.finditer(prompt)))), [])
    if not turns:
        return f'<div class="ask">{prose(prompt.rstrip().removesuffix("<think>").strip())}</div>'
    shown = []
    for turn in turns:
        role, text = turn["role"], turn["text"].strip()
        if role == "user":
            shown.append(f'<div class="ask">{prose(text)}</div>')
        elif text and role != "assistant":
            shown.append(f'<div class="told"><span class="tag">{escape(role)}</span> {escape(text)}</div>')
        elif text:  # the response goes on from there
            shown.append(f'<div class="told"><span class="tag">begun</span> {escape(text)}</div>')
    return "".join(shown)


def _steps(response: str) -> list[re.Match[str]]:
    return [match for match in map(STEP_LINE.match, response.split("\n")) if match]


def _answer(stage: str, sample: Mapping[str, Any], stepwise: bool) -> str:
    count = ""
    if stepwise:
        steps = _steps(sample["response"])
        checks = sum(1 for match in steps if match.group(1))
        attempts = len(steps) - checks
        counts = [f"{attempts} attempt{'' if attempts == 1 else 's'}"]
        if checks:
            counts.append(f"{checks} verification{'' if checks == 1 else 's'}")
        count = f'<span class="count">{", ".join(counts)}</span>'
    correct = {True: ("yes", "right"), False: ("no", "wrong"), None: ("tag", "not scored")}[sample.get("correct")]
    if isinstance(sample.get("reward"), int | float):
        words = "" if sample.get("correct") is None else f"{correct[1]}, "
        correct = correct[0], f"{words}reward {sample['reward']:.3g}"
    colour = "before" if stage == "sft" else "after"
    text = mark(sample["response"]) if stepwise else f'<div class="prose">{prose(sample["response"].rstrip())}</div>'
    return (
        f'<div class="answer {colour}"><div class="head"><h3>{STAGE_HEADS[stage]}</h3>'
        f'<span class="pill {correct[0]}">{correct[1]}</span>{count}</div>'
        f'<div class="chain">{text}</div></div>'
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
