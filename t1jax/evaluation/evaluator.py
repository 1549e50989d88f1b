# SPDX-License-Identifier: Apache-2.0
"""Questions -> sampled and judged responses, for a run, its filter and studies, for t1jax.evaluate and t1jax.filter.

prompts -> rollouts -> rewards, outside training, with the sampler of training, compiled once for a length of prompts, a
number of new tokens and a number of responses. What is sampled depends only on the weights, the questions and the name
of the random stream. Responses may be kept in a journal: a resumed call samples the batches of an unbroken one, so
their files are the same. Only an answer on which the verifier runs out of time may be judged otherwise the second time.

Source: T1 (arXiv 2501.11651) section 3.
Deliberately not here: what is asked (questions.py), what the responses show (figures.py), the journal's file
(journal.py), cutting the thinking at budgets (scaling.py), tokens that nobody judges (rollouts/generate.py).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t1jax.checks import plain_reward, right_and_wrong
from t1jax.config import Config, ModelConfig
from t1jax.devices import multihost
from t1jax.devices.sharding import decode_layout
from t1jax.evaluation.figures import MAIN, accuracy
from t1jax.evaluation.journal import Journal
from t1jax.evaluation.questions import Question, digest
from t1jax.evaluation.responses import Response
from t1jax.host.progress import Progress, duration
from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, Outcome
from t1jax.rewards.score import Judged
from t1jax.rollouts import decode
from t1jax.rollouts.generate import Generator
from t1jax.tasks.task import Grader
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Params

Drawn = Sequence[Sequence[Sequence[int]]]  # of each question, of each response: token ids
LONG = 60.0  # seconds that an evaluation of a run must still take for it to be told, where nothing else tells
Batch = tuple[int, Sequence[Question]]  # number of the first response, what is asked


class Evaluator:
    """Samples responses with any weights of the config's shape, and judges them by one task's rules."""

    def __init__(
        self, cfg: Config, mesh: Mesh, task: Grader, tokenizer: Tokenizer, progress: Progress | None = None,
        lenient: bool = True,
    ) -> None:  # fmt: skip
        """`progress` shows how far sampling is. Without it no program calls the host, so JAX can keep all of them.

        `lenient`: judge answers outside of boxes too (Response.lenient).
        """
        self._graded, self._plain = right_and_wrong(cfg.reward), plain_reward(cfg.reward)
        self._lenient = lenient and self._plain  # functions judge a response as it is
        self.cfg, self.mesh, self.task, self.tokenizer, self._progress = cfg, mesh, task, tokenizer, progress
        self.sampled = 0  # tokens of all responses so far, those of journals too
        self._shards = decode_layout(mesh).batch_shards
        self._generate = self.generator(cfg.model)

    def generator(self, model: ModelConfig) -> Generator:
        """A sampler with the evaluator's settings, of a model with the same vocabulary and perhaps other sizes."""
        cfg = dataclasses.replace(self.cfg, model=model)
        told = functools.partial(self._progress.sampling, then="judging") if self._progress else None
        return Generator(cfg, self.mesh, self.tokenizer, told)

    def respond(
        self,
        params: Params,
        name: str,
        questions: Sequence[Question],
        *,
        samples: int = 1,
        temperature: float = 1.0,
        truncate: bool = False,
        forbid_giving_up: bool = False,
        length: int | None = None,
        new_tokens: int | None = None,
        journal: Journal | None = None,
        tell: Callable[[Sequence[Response]], None] | None = None,
        generator: Generator | None = None,
    ) -> list[Response]:
        """`samples` responses to each question, one question after the other; with a journal in the order of its lines.

        Args:
          params: in float32 or compute dtype.
          name: of the random stream; the same name gives the same numbers.
          temperature: 0 for greedy.
          truncate: leave out unlikely tokens, as cfg.rl.top_k, top_p and min_p say.
          forbid_giving_up: thinking may end only after a line that claims "yes".
          length: positions that prompts are padded to, tokens; none may be longer. Default: cfg.data.prompt_length.
          new_tokens: most tokens of a response, begun ones not counted. Default: cfg.rl.max_new_tokens.
          journal: keeps the responses. Those that it has are not sampled again.
          tell: with a journal, is given all responses so far after each batch.
          generator: samples instead of the evaluator's own: `params` are those of another model.

        Raises:
          ConfigError: the journal belongs to other settings, or is damaged.
        """
        rl, ban = self.cfg.rl, self._ban(forbid_giving_up)
        length, new_tokens = length or self.cfg.data.prompt_length, new_tokens or rl.max_new_tokens

        def draw(stream: str, part: Sequence[Question], responses: int) -> Drawn:
            return (generator or self._generate)(
                params, [q.prompt for q in part], stream, length=length, new_tokens=new_tokens, responses=responses,
                temperature=temperature, truncate=truncate, forbid=ban, ids=[q.id for q in part],
            )  # fmt: skip

        if journal is None:
            return self._counted(questions, self.judge(questions, draw(name, questions, samples)))
        if journal.plain:
            rounds, size = samples, max(self.cfg.eval.batch_size // samples // self._shards, 1) * self._shards
        else:
            rounds, size = self._batch_shape(samples)
        batches = [
            (first, questions[start : start + size])
            for first in range(0, samples, rounds)
            for start in range(0, len(questions), size)
        ]
        settings = {
            "questions": digest(questions), "name": name, "samples": samples, "responses_per_call": rounds,
            "temperature": temperature, "top_k": rl.top_k if truncate else 0, "top_p": rl.top_p if truncate else 1.0,
            "min_p": rl.min_p if truncate else 0.0, "seed": self.cfg.seed, "prompt_length": length,
            "new_tokens": new_tokens, "compute_dtype": self.cfg.model.compute_dtype,
        }  # fmt: skip
        if journal.plain:
            settings["forbid_giving_up"] = forbid_giving_up

        def draw_batch(first: int, part: Sequence[Question]) -> Drawn:
            return draw(name if journal.plain else f"{name}/{first}", part, rounds)

        return self._counted(questions, self._complete(journal, settings, batches, draw_batch, tell))

    def judge(self, questions: Sequence[Question], drawn: Drawn, first: int = 0) -> list[Response]:
        """The responses that `drawn` holds to each question, from number `first` on; the processes share them out."""
        rows = [
            (question, question.response + first + r, np.array([*question.begun, *ids], np.int32), ids)
            for question, responses in zip(questions, drawn, strict=True)
            for r, ids in enumerate(responses)
        ]
        problems = [question.problem for question, *_ in rows]
        texts = [self.tokenizer.decode(ids) for _, _, ids, _ in rows]
        judged = self._judged(problems, texts)
        lenient = self._leniently(problems, texts)
        stops = self.tokenizer.stop_ids
        return [
            Response(
                problem=q.problem.index,
                row=q.row,
                difficulty=None if q.row else q.problem.difficulty,  # of a file the row tells it, and the prompt
                prompt=None if q.row else q.text,
                gold=q.gold,
                response=number,
                text=text,
                outcome=one.outcome,
                reward=None if self._plain else one.reward,
                graded=self._graded,
                answer=answers.final_answer(text),
                tokens=len(ids),
                overlong=not new or new[-1] not in stops,
                ids=ids,
                lenient=lenient.get(place),
                analysis=self.task.analyse(q.problem, text),
            )
            for place, ((q, number, ids, new), text, one) in enumerate(zip(rows, texts, judged, strict=True))
        ]

    def _judged(self, problems: Sequence[Any], texts: Sequence[str]) -> list[Judged]:
        """Outcome and reward of each text; the processes share them out."""
        mine: list[Judged] = []

        def of(part: slice) -> list[int]:
            mine.extend(map(Judged.of, self.task.score(problems[part], texts[part])))
            return [one.outcome for one in mine]

        outcomes = [Outcome(outcome) for outcome in multihost.divided(of, len(texts))]
        if self._plain:
            return [Judged.of(outcome) for outcome in outcomes]
        rewards = multihost.divided(lambda _: [one.reward for one in mine], len(texts), np.float32)
        return [Judged(outcome, reward) for outcome, reward in zip(outcomes, rewards, strict=True)]

    def _leniently(self, problems: Sequence[Any], texts: Sequence[str]) -> dict[int, Outcome]:
        """place -> RIGHT, of texts without a box whose last term or number would be right in one."""
        if not self._lenient:
            return {}
        asked = [
            (place, f"{text}\n{answers.BOX}{answer}}}")
            for place, text in enumerate(texts)
            if answers.final_answer(text) is None
            for answer in answers.loose(text)
        ]

        def of(part: slice) -> list[int]:
            found = self.task.score([problems[place] for place, _ in asked[part]], [text for _, text in asked[part]])
            return [Judged.of(one).outcome for one in found]

        outcomes = multihost.divided(of, len(asked))
        return {place: RIGHT for (place, _), outcome in zip(asked, outcomes, strict=True) if outcome == RIGHT}

    def _batch_shape(self, samples: int) -> tuple[int, int]:
        """(responses of a question in one call, questions in one call), for cfg.eval.batch_size rows.

        As many responses as fit and divide `samples`, so that every call has the same shape.
        """
        rows = max(1, self.cfg.eval.batch_size // self._shards)  # of one shard
        rounds = max(r for r in range(1, min(samples, rows) + 1) if samples % r == 0)
        return rounds, rows // rounds * self._shards

    def _complete(
        self,
        journal: Journal,
        settings: Mapping[str, Any],
        batches: Sequence[Batch],
        draw: Callable[[int, Sequence[Question]], Drawn],
        tell: Callable[[Sequence[Response]], None] | None,
    ) -> list[Response]:
        """The responses of `batches`, in their order; those that `journal` lacks are drawn, and appended to it."""
        rounds = settings["responses_per_call"]
        keys = [[(q.problem.index, q.response + first + r) for q in qs for r in range(rounds)] for first, qs in batches]
        asked = {question.problem.index: question for _, questions in batches for question in questions}
        done = [self._known(asked[response.problem], response) for response in journal.resume(settings, keys)]
        whole = [0, *itertools.accumulate(map(len, keys))].index(len(done))
        total = sum(map(len, keys))
        shown = None if journal.plain else self._progress  # a run shows what it measures
        with shown.stage(settings["name"], total, len(done)) if shown else nullcontext() as stage:
            for number, (first, part) in enumerate(batches[whole:]):
                began = time.monotonic()
                drawn = draw(first, part)
                seconds = time.monotonic() - began
                batch = self.judge(part, drawn, first)
                journal.append(batch)
                done += batch
                if tell:
                    tell(done)
                elif journal.plain and self._progress:
                    self._progress.part(settings["name"], len(done), total)
                if number == 1 and not tell and journal.plain and self._progress:  # the first compiles
                    left = (total - len(done)) / len(batch) * (time.monotonic() - began)
                    if left > LONG:
                        self._progress.note(f"{settings['name']}: {total} responses, {duration(left)} left")
                if stage:
                    speed = sum(len(ids) for responses in drawn for ids in responses) / seconds
                    stage.update(len(done), _figures(done) | {"tokens_per_second": speed})
        return done

    def _counted(self, questions: Sequence[Question], responses: list[Response]) -> list[Response]:
        """`responses`, with the tokens that were drawn for them counted."""
        begun = {(question.problem.index, question.response): len(question.begun) for question in questions}
        self.sampled += sum(r.tokens - begun.get((r.problem, r.response), 0) for r in responses)
        return responses

    def _known(self, question: Question, response: Response) -> Response:
        """A response of a journal with what its line does not hold."""
        return dataclasses.replace(
            response,
            difficulty=None if question.row else question.problem.difficulty,
            prompt=None if question.row else question.text,
            gold=question.gold,
            graded=self._graded,
            analysis=self.task.analyse(question.problem, response.text),
        )

    def _ban(self, giving_up: bool) -> decode.Forbid | None:
        """A ban on giving up, if the task can tell; where `giving_up` is False one on nothing, by the same program."""
        ban = self.task.forbid_giving_up(self.tokenizer)
        if ban is None:
            return None
        token, allowed = ban
        after_V = np.isin(np.arange(self.cfg.model.vocab_size), allowed)
        return decode.Forbid(jnp.int32(token if giving_up else -1), jnp.asarray(after_V))


def _figures(responses: Sequence[Response]) -> dict[str, float]:
    """What a person watches of the responses so far."""
    found = accuracy(responses)
    row = {
        "response_length": sum(response.tokens for response in responses) / len(responses),
        "unscorable": (len(responses) - found["n"]) / len(responses),
    }
    return row | {name: found[name] for name in (MAIN & found.keys()) if not math.isnan(found[name])}
