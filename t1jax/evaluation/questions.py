# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and a file of problems -> what to ask the model: token ids, and the answers to judge by.

**prompts** -> rollouts -> ..., for evaluation and for the filter. The sizes of the model are the checkpoint's, whatever
the config says, so that one config evaluates any model.
Deliberately not here: the command lines (evaluate.py, filter.py), sampling (responses.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from t1jax import validation
from t1jax.config import Config, ConfigError
from t1jax.devices import sharding
from t1jax.evaluation.journal import Response
from t1jax.evaluation.responses import Question, Responder
from t1jax.evaluation.scaling import close, end_of
from t1jax.host.progress import Progress
from t1jax.model import qwen
from t1jax.tasks.files.problems import Checker, Problem, comparable, read_problems, thought_end, usable, verifiable
from t1jax.tasks.files.prompts import render
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import Tokenizer
from t1jax.weights import load as weights


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose weights are not read yet."""

    cfg: Config  # with the sizes of the checkpoint's model
    source: weights.Source
    tokenizer: HFTokenizer
    mesh: Mesh

    @property
    def where(self) -> str:
        """The folder that holds the weights."""
        return str(self.source.step or self.source.folder)

    def responder(self, verifier: Checker, progress: Progress) -> Responder:
        """Reads the weights, in compute dtype."""
        for note in self.tokenizer.notes:
            progress.note(note)
        model = qwen.Transformer(self.cfg.model, sharding.decode_layout(self.mesh))
        params = weights.load(self.source, model, dtype=self.cfg.model.compute_dtype)
        return Responder(self.cfg, self.mesh, params, self.tokenizer, verifier, progress, self.where)


def open_checkpoint(cfg: Config, folder: str | None, argv: Sequence[str], budgets: Sequence[int] = ()) -> Opened:
    """The checkpoint in `folder`, else the config's.

    Args:
      argv: the command line: a size of the model in it would be ignored, and is refused.
      budgets: of thinking, after which answers are sampled.

    Raises:
      ConfigError: there is no checkpoint, it has no tokenizer for problems of files, a knob cannot work, or responses
        are longer than the model was trained for.
    """
    cfg, source, tokens = open_weights(cfg, folder, argv)
    if not isinstance(tokens, HFTokenizer):
        raise ConfigError(f"{source.folder} has no tokenizer.json; expected one: problems of files need it")
    tokenizer.refuse_too_long(tokens, cfg, budgets)
    return Opened(cfg, source, tokens, sharding.make_mesh(cfg.mesh))


def open_weights(cfg: Config, folder: str | None, argv: Sequence[str]) -> tuple[Config, weights.Source, Tokenizer]:
    """(the config with the sizes of the checkpoint's model, where its weights are, its tokenizer, whatever kind)."""
    folder = folder or cfg.model.checkpoint
    if not folder:
        raise ConfigError("--checkpoint is missing; expected a folder of weights, see --help")
    for arg in argv:
        match = re.match(r"--?(?:no)?config\.model\.([^=]*)", arg)
        if match and match[1] not in weights.NOT_STORED:
            raise ConfigError(f"{arg}: the model is that of {folder}; expected no knob of it: leave this one out")
    source = weights.find(folder)
    model = dataclasses.replace(weights.model_config(source, cfg.model), checkpoint=folder)
    cfg = dataclasses.replace(cfg, model=model)
    validation.validate(cfg, jax.device_count())
    tokens = tokenizer.load(source.folder)
    tokenizer.refuse_too_big(tokens, cfg.model.vocab_size, str(source.folder))
    return cfg, source, tokens


def read_questions(
    path: str, opened: Opened, verifier: Checker, limit: int | None = None
) -> tuple[list[Problem], list[Question], list[str]]:
    """(the problems of a file that can be asked, what to ask, a line for each reason to leave some out).

    A problem whose answer does not verify against itself is asked, and all its responses are unscorable. For one whose
    answer cannot be compared by value see data.text_golds.

    Args:
      limit: at most so many problems, the first ones.

    Raises:
      ConfigError: the file cannot be used.
    """
    cfg, tokens = opened.cfg.data, opened.tokenizer
    problems, notes = read_problems(path, cfg, "held_out")
    problems, unusable = usable(problems[:limit], cfg, tokens)
    problems, as_text = comparable(problems, verifier, cfg.text_golds)
    scorable, unscorable = verifiable(problems, verifier, "unscorable")
    known = {problem.index for problem in scorable}
    questions = [
        Question(
            id=problem.index,
            problem=problem.index,
            row=problem.row,
            prompt=tuple(tokens.encode(render(problem.text, cfg, tokens, problem.before))),
            gold=problem.gold if problem.index in known else None,
        )
        for problem in problems
    ]
    return problems, questions, [*notes, *unusable, *as_text, *unscorable]


def cut_thoughts(
    responder: Responder,
    questions: Sequence[Question],
    responses: Sequence[Response],
    samples: int,
    budgets: Sequence[int],
) -> dict[int, list[Question]]:
    """For each budget, what to ask where the thinking does not end within it: prompt, cut thought, answer prefix.

    A response that ends its thinking, or itself, within the budget keeps its own answer: see scaling.py.
    """
    tokens, prefix = responder.tokenizer, responder.cfg.scaling.answer_prefix
    asked = {question.problem: question for question in questions}
    ends = [end_of(r.ids, thought_end(r.ids, tokens), tokens) for r in responses] if budgets else []
    cut: dict[int, list[Question]] = {budget: [] for budget in budgets}
    for budget, others in cut.items():
        for r, end in zip(responses, ends, strict=True):
            if end > budget:
                question = asked[r.problem]
                thought = tuple(close(r.ids[:budget].tolist(), prefix, tokens))
                others.append(
                    dataclasses.replace(
                        question,
                        id=question.id * samples + r.response,
                        prompt=question.prompt + thought,
                        response=r.response,
                        begun=thought,
                    )
                )
    return cut
