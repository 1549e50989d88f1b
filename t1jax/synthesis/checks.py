# SPDX-License-Identifier: Apache-2.0
"""Checks whether a written chain is fit for training; returns the first reason to reject it.

problems -> attempts -> notes -> chains -> **checks**. A chain must be complete and end in a right box, and must not be
too long, repetitive, or in another language. If there was a wrong attempt, the chain must backtrack from it, and it
must not give the answer before it finds it. These are rules about text: they may reject a good chain or miss a subtle
leak.

How leaks are found: each wrong attempt has an answer. The chain is on a wrong track until it has named all of these and
then backtracks ("wait", "that's wrong"). Until then, the right answer must not occur; or, where it may occur by chance
(a single character, or also in the problem or a wrong attempt), not after words that call it the answer ("it should be
12"). The sentence that backtracks must not call it the answer either. A wrong answer that may occur by chance (a single
character, or also in the problem) is named where words introduce it as a result ("I get 2", "= 2"), if there are any.
Numbers are compared by value: 4,100 equals 4100.0, and 1/2 equals 0.5.
Deliberately not here: whether the box is right (rewards/verifier.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from t1jax.rewards import answers, penalties
from t1jax.rewards.answers import RIGHT, UNSCORABLE, Outcome

CUT = "cut off at the limit of tokens"
NO_BOX = "no box at its end"
NOT_RIGHT = "the last box is not right"
NOT_JUDGED = "the last box cannot be judged"
NO_REASONING = "no reasoning before the answer"
TOO_LONG = "longer than synthesis.chain_tokens"
GARBLED = "broken characters or another language"
REPETITIVE = "repeats itself"
KNOWS = "says that it knows the answer"
SOURCES = "speaks of the attempts or notes it was made of"
NO_TURN = "no attempt is turned back"
LEAK = "names the answer before it is found"


@dataclass(frozen=True)
class Words:
    """Patterns for the phrases of one kind of chain."""

    turn: re.Pattern[str]  # backtracks: this was wrong, try again
    knows: re.Pattern[str] | None  # claims to know the answer beforehand
    sources: re.Pattern[str] | None  # refers to the attempts, notes or drafts
    aims: re.Pattern[str] | None  # introduces the answer; matched at its end
    finds: re.Pattern[str] | None  # introduces a result; matched at its end


ENGLISH = Words(
    turn=re.compile(
        r"\b(?:wait|hold on|hmm|but that|mistake|wrong|incorrect|error|contradict\w*|impossible|turn(?:ing)? back"
        r"|go(?:ing)? back|start(?:ing)? (?:over|again)|try(?:ing)? (?:again|another|something else|a different)"
        r"|another (?:way|approach)|instead|reconsider|redo|re-?examine|re-?check|recount|overlooked|forgot"
        r"|(?:can ?not|can't|isn't|is not|not quite|doesn't seem|does not seem|could ?n[o']t) (?:be )?(?:right|correct)"
        r"|(?:does not|doesn't|do not|don't) (?:work|fit|match|hold|add up|agree|satisfy))\b",
        re.IGNORECASE,
    ),
    knows=re.compile(
        r"\b(?:(?:reference|known|expected|official|model|target) answer|(?:reference|official|model) solution"
        r"|answer key|ground[- ]truth|gold(?:en)? (?:answer|solution)"
        r"|(?:given|provided|supplied|stated) (?:right |correct )?(?:answer|solution)(?! choices)"
        r"|(?:right|correct|true|actual|real) answer (?:is|was) (?:known|given|provided|supposed)"
        r"|(?:we|i) (?:already )?know (?:that )?the (?:right |correct |final )?answer"
        r"|(?:we|i) (?:was|were|am|are|have been) (?:told|given) (?:that )?the (?:right |correct |final )?answer)\b",
        re.IGNORECASE,
    ),
    sources=re.compile(
        r"</?(?:attempt|note|draft|problem|right_answer|solution)\b|\battempt (?:#|number |no\. ?)?[0-9]\b"
        r"|\b(?:the|this|that) (?:reviewer|critic|draft)(?:'s)?\b|\b(?:reviewer|critic)'s note\b"
        r"|\bnote (?:says|said|points out|pointed out|suggests)\b",
        re.IGNORECASE,
    ),
    aims=re.compile(
        r"(?:(?:should|must|ought to|supposed to|has to|have to|needs? to)\s+(?:really\s+|actually\s+)?(?:be|equal|give"
        r"|have\s+been|get|reach|make|come\s+(?:out\s+)?(?:to|as|at))"
        r"|(?:answer|result|solution|correct\s+value|right\s+value)\s*(?:is|was|=|:)|(?:\bexpect(?:ed|ing)?|\bknown|\bwanted"
        r"|\blooking\s+for|\brather\s+than|\bnot)|\\boxed\{)\s*(?:to\s+be\s+|the\s+|a\s+|exactly\s+|equal\s+to\s+)?[$\\(:=*\s]*\Z",
        re.IGNORECASE,
    ),
    finds=re.compile(
        r"(?:=|\\approx|\\boxed\{|\b(?:is|equals?|gets?|got|gives?|giving|makes?|making|leaves?|leaving|find|found|obtain"
        r"|reach|totals?|total\s+of|answer|result|so)\b)\s*(?:me\s+|us\s+|just\s+|only\s+|exactly\s+|then\s+)?[$\\(:*\s]*\Z",
        re.IGNORECASE,
    ),
)  # fmt: skip
EMBEDDED = Words(
    turn=re.compile(r": too (?:small|big)$", re.MULTILINE), knows=None, sources=None, aims=None, finds=None
)

_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # characters that text files cannot hold
_AHEAD = 80  # characters before an answer that are searched for such phrases
_SENTENCE_END = re.compile(r"[.!?]\s|\n|\Z")
_BY_ITSELF = (r"(?<![0-9A-Za-z\\])(?<![0-9][.,])", r"(?![0-9A-Za-z])(?![.,][0-9])")  # before and after a number
_DECIMAL = r"(?:[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_FRACTION = r"\\[dtc]?frac\s*(?:\{[0-9]+\}|[0-9])\s*(?:\{[0-9]+\}|[0-9])|[0-9]+\s*/\s*[0-9]+"
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+|[A-Za-z]+|\S")


@dataclass(frozen=True)
class Limits:
    """Limits on length, repetition and garbled text; the last three as in cfg.rl."""

    tokens: int  # of the response, at most
    repeat_length: int
    repeat_count: int
    garbled_share: float


@dataclass(frozen=True)
class Context:
    """What a chain was made from."""

    problem: str
    golds: Sequence[str]  # the right answer, in one or more notations
    wrong: Sequence[tuple[str, str]]  # (text, answer) of each wrong attempt
    words: Words


def fault(
    thinking: str, response: str, outcome: Outcome, finished: bool, tokens: int, context: Context, limits: Limits
) -> str | None:
    """Why a chain is rejected, one of the reasons above; None if it passes all checks.

    Args:
      thinking: the chain up to its answer.
      response: the whole text that would be trained on.
      outcome: the verifier's outcome for the last box.
      finished: False if the writer was cut off.
      tokens: length of the response.
      context: the problem and the wrong attempts.
      limits: the limits to check.
    """
    words = context.words
    if not finished:
        return CUT
    if answers.final_answer(response) is None:
        return NO_BOX
    if outcome != RIGHT:
        return NOT_JUDGED if outcome == UNSCORABLE else NOT_RIGHT
    if not thinking.strip():
        return NO_REASONING
    if tokens > limits.tokens:
        return TOO_LONG
    if _NO_TEXT.search(response) or penalties.garbled(response, limits.garbled_share):
        return GARBLED
    if penalties.repetitive(response, limits.repeat_length, limits.repeat_count):
        return REPETITIVE
    if words.knows and words.knows.search(response):
        return KNOWS
    if words.sources and words.sources.search(response):
        return SOURCES
    return _fault_of_turns(thinking, context)


def mentions(text: str, answer: str) -> list[int]:
    """Offsets in `text` of `answer`, in any LaTeX spacing, or of an equal number. 12 does not match 112 or 1.12."""
    tidied = answers.tidy(answer)
    tokens = _TOKEN.findall(tidied)
    if not tokens:
        return []
    parts = [r"\\[dtc]?frac" if token == "\\frac" else re.escape(token) for token in tokens]
    pattern = r"(?:\\[,;:! ]|\s|\\left|\\right)*".join(parts)
    before = _BY_ITSELF[0] if tokens[0][-1].isalnum() else ""
    after = _BY_ITSELF[1] if tokens[-1][-1].isalnum() else ""
    places = {match.start() for match in re.finditer(before + pattern + after, text)}
    return sorted(places | set(_equal(text, tidied)))


def _equal(text: str, answer: str) -> Iterator[int]:
    """Offsets of numbers in `text` equal to `answer`. If it is an integer, fractions are not considered."""
    size = answer.lstrip("+-")
    sign = r"[-\u2212]\s*" if answer.startswith("-") else ""
    number = _DECIMAL if size.isdecimal() else f"{_FRACTION}|{_DECIMAL}"
    for match in re.finditer(rf"{sign}{_BY_ITSELF[0]}({number}){_BY_ITSELF[1]}", text):
        if answers.quick(match[1], size):
            yield match.start()


def _fault_of_turns(thinking: str, context: Context) -> str | None:
    words, golds = context.words, [gold for gold in dict.fromkeys(context.golds) if gold]
    if not context.wrong:
        first_sentence = _SENTENCE_END.search(thinking)
        end = first_sentence.start() if first_sentence else len(thinking)
        return LEAK if any(_aimed_at(thinking, place, words) for place in _before(thinking, golds, end)) else None
    named = [place for _, answer in context.wrong if (place := _named(thinking, answer, context)) is not None]
    turn = words.turn.search(thinking, max(named)) if named else None
    if turn is None:
        return NO_TURN
    sentence = _SENTENCE_END.search(thinking, turn.end())
    end = sentence.start() if sentence else len(thinking)
    for gold in golds:
        loose = _loose(gold, (context.problem, *(text for text, _ in context.wrong)))
        for place in _before(thinking, [gold], end):
            if _aimed_at(thinking, place, words) or (place < turn.start() and not loose):
                return LEAK
    return None


def _named(thinking: str, answer: str, context: Context) -> int | None:
    """The offset where a chain first names a wrong answer as its result; None if it never does."""
    places, words = mentions(thinking, answer), context.words
    if words.finds is not None and _loose(answer, (context.problem,)):
        for place in places:
            if words.finds.search(thinking[max(0, place - _AHEAD) : place]) and words.turn.search(thinking, place):
                return place
    return places[0] if places else None


def _loose(answer: str, texts: Sequence[str]) -> bool:
    """Whether `answer` is likely to occur without being meant as the answer."""
    return len(answers.tidy(answer)) == 1 or any(mentions(text, answer) for text in texts)


def _before(text: str, golds: Sequence[str], end: int) -> list[int]:
    return [place for gold in golds for place in mentions(text, gold) if place < end]


def _aimed_at(text: str, place: int, words: Words) -> bool:
    """Whether the words before `place` introduce the answer."""
    return words.aims is not None and words.aims.search(text[max(0, place - _AHEAD) : place]) is not None
