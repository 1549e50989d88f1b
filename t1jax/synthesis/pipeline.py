# SPDX-License-Identifier: Apache-2.0
"""Problems -> attempts -> notes -> one checked chain each: T1's cold-start data, in four steps.

    1 attempt   several attempts at each problem, split among the attempters and judged by the verifier
    2 note      the critic's note on each usable attempt, for problems with a right one
    3 merge     attempts and notes merged into one chain, which is checked
    4 rewrite   the chain rewritten as fluent reasoning, which is checked again
Each step finishes for all problems before the next begins, so that writers always have enough requests. The writers
store what is written; this module has no files and is deterministic given their texts.
Source: T1 (arXiv 2501.11651) section on the cold start.
Deliberately not here: what is asked (subjects.py, rules.py), who writes (endpoints.py, local.py), files
(t1jax/synthesize.py).
"""

from __future__ import annotations

import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from t1jax.config import Config
from t1jax.host.progress import Progress
from t1jax.synthesis import checks
from t1jax.synthesis.prompts import Messages
from t1jax.synthesis.record import PROGRAM, Attempt, Item, Piece, Story
from t1jax.synthesis.subjects import Subject
from t1jax.synthesis.writers import Completion, Failure, Request, Writer

TEMPERATURE = 0.3  # of critic, merger and rewriter
NO_RIGHT = "no attempt is right"
FAILED = "a request was given up"

Outcomes = dict[str, Piece | Failure]
CountTokens = Callable[[str], int]


class Synthesis:
    """The four steps, for one kind of problem."""

    def __init__(
        self,
        cfg: Config,
        subject: Subject,
        writers: Mapping[str, Writer],
        progress: Progress,
        count_tokens: CountTokens | None = None,
    ) -> None:
        """
        Args:
          cfg: the whole config; cfg.synthesis says who writes what.
          subject: the kind of problem.
          writers: name -> writer, for the names in cfg.synthesis; not needed for steps that the subject writes itself.
          progress: shows each step.
          count_tokens: counts the tokens of a text; None: use the count that the writer reported.
        """
        self.cfg, self._subject, self._writers, self._progress = cfg, subject, writers, progress
        self._count_tokens = count_tokens
        self._limits = checks.Limits(
            cfg.synthesis.chain_tokens, cfg.rl.repeat_length, cfg.rl.repeat_count, cfg.rl.garbled_share
        )

    def run(self, items: Sequence[Item]) -> list[Story]:
        """A story for each item, in order, with either a response or the reason why there is none."""
        stories = [Story(item) for item in items]
        self._attempt(stories)
        self._note([story for story in stories if story.reason is None])
        self._merge([story for story in stories if story.reason is None])
        self._rewrite([story for story in stories if story.reason is None])
        return stories

    def _attempt(self, stories: Sequence[Story]) -> None:
        synthesis = self.cfg.synthesis
        asked = [
            (
                synthesis.attempters[number % len(synthesis.attempters)],
                _attempt_key(story, number),
                self._subject.attempt(story.item),
            )
            for story in stories
            for number in range(synthesis.attempts)
        ]
        found = self._ask("attempt", asked, synthesis.attempt_tokens, synthesis.temperature)
        written = [
            (story, piece)
            for story in stories
            for number in range(synthesis.attempts)
            if isinstance(piece := found[_attempt_key(story, number)], Piece)
        ]
        texts = [self._subject.said(piece.text) for _, piece in written]
        judged = self._subject.judge([story.item for story, _ in written], texts)
        for (story, piece), (outcome, answer) in zip(written, judged, strict=True):
            story.attempts.append(Attempt(piece, outcome, answer))
        for story in stories:
            if not story.attempts or self._is_missing(story, found):
                story.reject("attempt", FAILED)
            elif not story.right:
                story.reject("attempt", NO_RIGHT)

    def _is_missing(self, story: Story, found: Outcomes) -> bool:
        """Whether an attempt is missing that a later run may get. Then notes and chain would be paid for twice."""
        outcomes = (found[_attempt_key(story, number)] for number in range(self.cfg.synthesis.attempts))
        return any(isinstance(outcome, Failure) and outcome.passing for outcome in outcomes)

    def _note(self, stories: Sequence[Story]) -> None:
        asked = [
            (self.cfg.synthesis.critic, _note_key(attempt), self._subject.note(story.item, attempt))
            for story in stories
            for attempt in (*story.wrong, *story.right)
        ]
        found = self._ask("note", asked, self.cfg.synthesis.attempt_tokens, TEMPERATURE)
        for story in stories:
            for attempt in (*story.wrong, *story.right):
                note = found[_note_key(attempt)]
                if isinstance(note, Piece):
                    attempt.note = note
                else:
                    story.reject("note", FAILED)

    def _merge(self, stories: Sequence[Story]) -> None:
        asked = [(self.cfg.synthesis.merger, f"merge/{s.item.row}", self._subject.merge(s)) for s in stories]
        found = self._ask("merge", asked, self.cfg.synthesis.chain_tokens, TEMPERATURE)
        written = []
        for story in stories:
            chain = found[f"merge/{story.item.row}"]
            if isinstance(chain, Piece):
                story.merge = chain
                written.append((story, chain))
            else:
                story.reject("merge", FAILED)
        self._check("merge", written)

    def _rewrite(self, stories: Sequence[Story]) -> None:
        rewriter = self.cfg.synthesis.rewriter
        if not rewriter:
            return
        asked = [
            (rewriter, f"rewrite/{s.item.row}", self._subject.rewrite(s.item, s.merge.text)) for s in stories if s.merge
        ]
        found = self._ask("rewrite", asked, self.cfg.synthesis.chain_tokens, TEMPERATURE)
        written = []
        for story in stories:
            chain = found[f"rewrite/{story.item.row}"]
            if isinstance(chain, Piece):
                story.rewrite = chain
                written.append((story, chain))
            else:
                story.reject("rewrite", FAILED)
        self._check("rewrite", written)

    def _check(self, stage: str, written: Sequence[tuple[Story, Piece]]) -> None:
        """Turns each chain into a response, or rejects it with a reason."""
        parts = [self._subject.response(piece.text) for _, piece in written]
        judged = self._subject.judge([story.item for story, _ in written], [response for _, response in parts])
        for (story, piece), (thinking, response), (outcome, answer) in zip(written, parts, judged, strict=True):
            tokens = self._count_tokens(response) if self._count_tokens else piece.completion_tokens
            context = checks.Context(
                problem=story.item.prompt,
                golds=(story.item.gold, answer or ""),
                wrong=[(self._subject.said(attempt.piece.text), attempt.answer or "") for attempt in story.wrong],
                words=self._subject.words,
            )
            reason = checks.fault(thinking, response, outcome, piece.finished, tokens, context, self._limits)
            story.tokens, story.response = tokens, response
            if reason is not None:
                story.reject(stage, reason)

    def _ask(
        self, stage: str, asked: Sequence[tuple[str, str, Messages | str]], max_tokens: int, temperature: float
    ) -> Outcomes:
        """Key -> outcome of each (writer, key, messages). A str in place of messages is the text itself."""
        found: Outcomes = {}
        requests: dict[str, list[Request]] = {}
        for writer, key, messages in asked:
            if isinstance(messages, str):
                found[key] = Piece(key, writer, PROGRAM, messages, finished=True)
            else:
                request = Request(key, messages, max_tokens, temperature, seed_of(self.cfg.seed, key))
                requests.setdefault(writer, []).append(request)
        with self._progress.stage(stage, len(asked), len(found)) as line:
            for writer, request, outcome in together(self._writers, requests):
                found[request.key] = outcome if isinstance(outcome, Failure) else _piece(request, writer, outcome)
                line.update(len(found))
        return found


def together(
    writers: Mapping[str, Writer], requests: Mapping[str, Sequence[Request]]
) -> Iterator[tuple[str, Request, Completion | Failure]]:
    """Yields (writer, request, outcome) as they arrive; the writers work in parallel.

    Raises:
      Whatever a writer raises.
    """
    if len(requests) < 2:
        for name, mine in requests.items():
            for request, outcome in writers[name].write(mine):
                yield name, request, outcome
        return
    events: queue.SimpleQueue[tuple[str, Request, Completion | Failure] | BaseException | None] = queue.SimpleQueue()

    def work(name: str, mine: Sequence[Request]) -> None:
        try:
            for request, outcome in writers[name].write(mine):
                events.put((name, request, outcome))
            events.put(None)
        except BaseException as error:  # raised again below, in the caller's thread
            events.put(error)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in requests.items()]
    for thread in threads:
        thread.start()
    working = len(requests)
    try:
        while working:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                working -= 1
            else:
                yield event
    finally:  # on an error or an early exit: the other writers finish first, and keep what they paid for
        if working:
            for name in requests:
                writers[name].stop()
        for thread in threads:
            thread.join()


def seed_of(seed: int, key: str) -> int:
    """The seed of a request, 31 bits."""
    return zlib.crc32(f"{seed} {key}".encode()) >> 1


def _attempt_key(story: Story, number: int) -> str:
    return f"attempt/{story.item.row}/{number}"


def _note_key(attempt: Attempt) -> str:
    return attempt.piece.key.replace("attempt/", "note/", 1)


def _piece(request: Request, writer: str, completion: Completion) -> Piece:
    return Piece(
        request.key, writer, completion.model, completion.text, completion.finish_reason == "stop",
        completion.prompt_tokens, completion.completion_tokens, completion.cost,
    )  # fmt: skip
