# SPDX-License-Identifier: Apache-2.0
"""The responses as JSON for the script of their page: prompts, lines of marked pieces, and facts.

Control characters are made visible (reports/page.py).
Deliberately not here: the page around them (page.py), what counts as what (behaviour.py, prose.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from t1jax.behaviour import phrases
from t1jax.behaviour.behaviour import HABITS, STOPS, Behaviour
from t1jax.evaluation.responses import OUTCOMES, Response
from t1jax.evaluation.saved import Evaluation
from t1jax.reports.page import visible
from t1jax.tasks.pairs import chains

MOST = 12_000_000  # characters of all responses on the page, shared out over the evaluations
LONGEST = 200_000  # characters of a response; the middle of a longer one is left out
Line = list[Any]  # 1 for an attempt, else 0; then pieces: text, or [kind, text]
_STEP = re.compile(rf"(check )?(.*: )({'|'.join((*chains.VERDICTS, 'no'))})")
_BOX = re.compile(r"(\\boxed\{[^{}\n]*\}|</?think>)")
_VERDICTS = {"too small": "small", "too big": "big", "yes": "yes", "no": "no"}


def counts(evaluations: Sequence[Evaluation]) -> list[int]:
    """How many responses of each evaluation fit on the page: at least one."""
    room, found = MOST // max(1, len(evaluations)), []
    for evaluation in evaluations:
        used = count = 0
        for record in evaluation.responses:
            used += min(len(record.text), LONGEST) + len(record.prompt or "")
            if used > room and count:
                break
            count += 1
        found.append(count)
    return found


def data_of(
    kept: Sequence[Sequence[Response]], behaviours: Sequence[Sequence[Behaviour]], by_rules: bool
) -> dict[str, Any]:
    """{prompts, records}: what the script reads; a record names its evaluation, prompt, outcome and stop by number."""
    prompts: dict[str, int] = {}
    outcomes = list(OUTCOMES.values())
    found = []
    for evaluation, records in enumerate(kept):
        for number, (record, does) in enumerate(zip(records, behaviours[evaluation], strict=False)):
            prompt = record.prompt if record.prompt is not None else f"problem {record.problem}"
            shown = visible(prompt.removesuffix("\n").removesuffix("<think>").strip())
            found.append(
                {
                    "e": evaluation,
                    "i": number,
                    "p": record.problem,
                    "q": prompts.setdefault(shown, len(prompts)),
                    "d": None if record.difficulty in (None, "") else visible(str(record.difficulty)),
                    "g": None if record.gold is None else visible(record.gold),
                    "o": outcomes.index(record.outcome),
                    "s": STOPS.index(does.stop),
                    "h": sum(1 << place for place, habit in enumerate(HABITS.values()) if habit(does)),
                    "t": record.tokens,
                    "c": [does.attempts, does.reflections, does.backtracks, does.verifications, does.repeated],
                    "x": lines_of(record.text, by_rules),
                }
            )
    return {"prompts": list(prompts), "records": found}


def lines_of(text: str, by_rules: bool) -> list[Line]:
    """A response as lines of marked pieces; control characters are made visible."""
    if len(text) > LONGEST:
        half = LONGEST // 2
        missing = f"\n[{len(text) - 2 * half:,} characters are left out here]\n"
        text = text[:half] + missing + text[-half:]
    return [_ruled(line) for line in text.rstrip("\n").split("\n")] if by_rules else _worded(text.rstrip("\n"))


def _ruled(line: str) -> Line:
    """A line of the embedded task."""
    if step := _STEP.fullmatch(line):
        check, words, verdict = step.groups()
        start = [["check", "check"], " "] if check else []
        return [0 if check else 1, *start, visible(words), [_VERDICTS[verdict], verdict]]
    pieces = _BOX.split(line)  # odd ones are boxes and tags
    return [0, *(
        [("box" if piece.startswith("\\") else "tag"), visible(piece)] if place % 2 else visible(piece)
        for place, piece in enumerate(pieces) if piece
    )]  # fmt: skip


def _worded(text: str) -> list[Line]:
    """Lines of running text with marked phrases."""
    lines: list[Line] = [[0]]

    def add(piece: str, kind: str | None) -> None:
        for number, part in enumerate(piece.split("\n")):
            if number:
                lines.append([0])
            if part:
                lines[-1].append([kind, visible(part)] if kind else visible(part))

    end = 0
    for start, stop, kind in phrases.marks(text):
        add(text[end:start], None)
        add(text[start:stop], "box" if kind == "answer" else kind)
        end = stop
    add(text[end:], None)
    return lines
