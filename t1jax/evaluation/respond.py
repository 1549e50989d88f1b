# SPDX-License-Identifier: Apache-2.0
"""Questions -> sampled and judged responses, kept in a file that survives every kill.

prompts -> rollouts -> rewards, for evaluation and for the filter: the same sampler, the same verifier. Random numbers
are named by problem and response, and the batches of a resumed run are those of an unbroken one, so their files are
the same. Only an answer on which the verifier runs out of time may be judged otherwise the second time.
Deliberately not here: the file (journal.py), what the responses show (evaluation/figures.py), which problems
(questions.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.devices.sharding import decode_layout
from t1jax.evaluation.figures import pass_rate
from t1jax.evaluation.journal import Journal
from t1jax.evaluation.responses import Response
from t1jax.host.progress import Progress
from t1jax.rewards import answers
from t1jax.rewards.answers import UNSCORABLE, WRONG
from t1jax.rollouts.generate import Generator
from t1jax.tasks.files.problems import Checker
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Params


@dataclass(frozen=True)
class Question:
    """What responses are sampled to, and what they are judged by."""

    id: int  # names the random numbers: int32, different for each question of a job
    problem: int
    row: int  # of the problem in its file
    prompt: tuple[int, ...]  # token ids
    gold: str | None  # None: nothing can be judged, each response is unscorable
    response: int = 0  # number of the first response
    begun: tuple[int, ...] = ()  # tokens at the end of the prompt that are part of the response


class Responder:
    """Samples and judges responses with one set of weights."""

    def __init__(
        self,
        cfg: Config,
        mesh: Mesh,
        params: Params,
        tokenizer: Tokenizer,
        verifier: Checker,
        progress: Progress,
        checkpoint: str,
    ) -> None:
        """`checkpoint`: where `params` are from, for people."""
        self.cfg, self.tokenizer = cfg, tokenizer
        self._params, self._verifier, self._progress = params, verifier, progress
        self._shards = decode_layout(mesh).batch_shards
        self._new_tokens = 0
        self._generate = Generator(cfg, mesh, tokenizer, self._tell)
        self._weights: dict[str, Any] = {"checkpoint": checkpoint, "weights": checksum(params)}

    def respond(
        self,
        path: Path,
        name: str,
        questions: Sequence[Question],
        *,
        data: str,
        samples: int,
        temperature: float,
        length: int,
        new_tokens: int,
    ) -> list[Response]:
        """`samples` responses to each question, from `path` as far as they are there; the others are appended to it.

        Args:
          path: of the responses, see journal.py.
          name: of the random stream, and of the line that a person watches.
          data: the file of the problems, for people.
          length: positions that prompts are padded to, tokens; none may be longer.
          new_tokens: most tokens of a response, begun ones not counted.

        Returns:
          by response within batches, as in the file.

        Raises:
          ConfigError: the file belongs to other settings, or is damaged.
        """
        rounds, size = self._batch_shape(samples)
        batches = [
            (first, questions[start : start + size])
            for first in range(0, samples, rounds)
            for start in range(0, len(questions), size)
        ]
        settings = self._weights | {
            "data": data, "questions": _digest(questions), "name": name, "samples": samples,
            "responses_per_call": rounds, "temperature": temperature, "top_k": self.cfg.rl.top_k,
            "top_p": self.cfg.rl.top_p, "min_p": self.cfg.rl.min_p, "seed": self.cfg.seed, "prompt_length": length,
            "new_tokens": new_tokens, "compute_dtype": self.cfg.model.compute_dtype,
        }  # fmt: skip
        keys = [[(q.problem, q.response + first + r) for q in part for r in range(rounds)] for first, part in batches]
        journal = Journal(path, settings)
        done = journal.resume(keys)
        whole = [0, *itertools.accumulate(map(len, keys))].index(len(done))
        self._new_tokens = new_tokens
        with self._progress.stage(name, len(questions) * samples, len(done)) as stage:
            for first, part in batches[whole:]:
                began = time.monotonic()
                drawn = self._generate(
                    self._params, [q.prompt for q in part], f"{name}/{first}", length=length, new_tokens=new_tokens,
                    responses=rounds, temperature=temperature, top_k=self.cfg.rl.top_k, top_p=self.cfg.rl.top_p,
                    min_p=self.cfg.rl.min_p, ids=[q.id for q in part],
                )  # fmt: skip
                seconds = time.monotonic() - began
                batch = self._judge(first, part, drawn)
                journal.append(batch)
                done += batch
                speed = sum(len(ids) for responses in drawn for ids in responses) / seconds
                stage.update(len(done), _figures(done) | {"tokens_per_second": speed})
        return done

    def _batch_shape(self, samples: int) -> tuple[int, int]:
        """(responses of a question in one call, questions in one call), for cfg.eval.batch_size rows.

        As many responses as fit and divide `samples`, so that every call has the same shape.
        """
        rows = max(1, self.cfg.eval.batch_size // self._shards)  # of one shard
        rounds = max(r for r in range(1, min(samples, rows) + 1) if samples % r == 0)
        return rounds, rows // rounds * self._shards

    def _judge(self, first: int, part: Sequence[Question], drawn: Sequence[Sequence[list[int]]]) -> list[Response]:
        """The responses that `drawn` holds to the questions of `part`, all checked at once."""
        rows = [
            (question, question.response + first + r, np.array([*question.begun, *ids], np.int32), ids)
            for question, responses in zip(part, drawn, strict=True)
            for r, ids in enumerate(responses)
        ]
        texts = [self.tokenizer.decode(ids) for _, _, ids, _ in rows]
        found = [answers.final_answer(text) for text in texts]
        golds = [question.gold for question, *_ in rows]
        pairs = [(a, gold) for a, gold in zip(found, golds, strict=True) if a is not None and gold is not None]
        checked = iter(self._verifier.check(pairs))
        outcomes = [
            UNSCORABLE if gold is None else WRONG if answer is None else next(checked)
            for answer, gold in zip(found, golds, strict=True)
        ]
        stops = self.tokenizer.stop_ids
        return [
            Response(
                problem=q.problem,
                row=q.row,
                response=number,
                outcome=outcome,
                answer=answer,
                gold=q.gold,
                tokens=len(ids),
                overlong=not new or new[-1] not in stops,
                text=text,
                ids=ids,
            )  # fmt: skip
            for (q, number, ids, new), text, answer, outcome in zip(rows, texts, found, outcomes, strict=True)
        ]

    def _tell(self, done: int, live: int) -> None:
        self._progress.sampling(int(done), self._new_tokens, int(live))


def checksum(params: Params) -> str:
    """12 hex digits that differ when any weight does, wherever the weights are from and however they are sharded."""

    def total(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint16)
        return jnp.sum(bits.astype(jnp.uint32))  # modulo 2^32: the same in any order

    sums = multihost.to_host(jax.jit(lambda tree: jax.tree.map(total, tree))(params))
    named = [(jax.tree_util.keystr(path), int(value)) for path, value in jax.tree_util.tree_leaves_with_path(sums)]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:12]


def _figures(responses: Sequence[Response]) -> dict[str, float]:
    """What a person watches of the responses so far."""
    rate = pass_rate(response.outcome for response in responses)
    row = {
        "response_length": sum(response.tokens for response in responses) / len(responses),
        "unscorable": (len(responses) - rate.n) / len(responses),
    }
    return row if rate.value is None else row | {"accuracy": rate.value}


def _digest(questions: Sequence[Question]) -> str:
    """12 hex digits that differ when any question does: its prompt, its answer, where a response of it begins."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(repr(question).encode())
    return digest.hexdigest()[:12]
