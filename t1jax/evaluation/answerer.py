# SPDX-License-Identifier: Apache-2.0
"""Who writes the answer from a cut thought: the policy itself, the model before its training, or any checkpoint.

    self      the weights that wrote the thought
    base      model.checkpoint, before the cold start and RL; t1jax.evaluate finds it in the config of the run
    a folder  any weights with the same vocabulary, of any size

By two digests of T1's paper a "summary model" writes the answer, by one the base model: not the policy. Then all curves
have the same writer, and differ in the thinking alone. The paper calls Qwen2.5-32B, before any training, its base.
The answerer continues the policy's tokens: prompt, cut thought, scaling.answer_prefix. It stops at the policy's stop
tokens.
Its weights are read once there is something to answer and are dropped with the curve: a device holds two sets of
parameters only meanwhile. The base of a run with LoRA is in memory already, and read no second time.
Source: T1 (arXiv 2501.11651) section 3, inference scaling.
Deliberately not here: where thoughts are cut (cut.py), the curve (scaling.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from t1jax import validation
from t1jax.config import Config, ConfigError, ModelConfig
from t1jax.devices.sharding import decode_layout
from t1jax.evaluation.cut import ASK_FOR_BOX, BOX_TOKENS
from t1jax.evaluation.evaluator import Evaluator
from t1jax.model import qwen
from t1jax.model.parameters import checksum
from t1jax.rewards import answers
from t1jax.rollouts.generate import Generator
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Adapted, Params
from t1jax.weights import load as weights

SELF, BASE = "self", "base"


@dataclass(frozen=True)
class Answerer:
    """The weights that answer, and what samples with them."""

    params: Params
    generator: Generator | None  # None: the evaluator's own
    told: Mapping[str, Any]  # what the journals of its answers say of it; {} of the policy itself
    suffix: str  # of the names of these journals


def check(cfg: Config, tokens: Tokenizer) -> None:
    """Finds whom scaling.answerer names, without reading its weights: a run should not end there.

    Raises:
      ConfigError: there are no such weights, their tokens are others, they cannot be split as the mesh says, or they
        were trained for shorter texts.
    """
    _refuse_too_long(cfg, tokens)
    if (found := _find(cfg, tokens)) is None:
        return
    _refuse_too_long(cfg, tokenizer.load(found[0].folder))
    try:
        validation.validate(dataclasses.replace(cfg, model=found[1]), jax.device_count())
    except ConfigError as error:
        raise ConfigError(f"scaling.answerer is {cfg.scaling.answerer}: {error}") from error


def open_answerer(evaluator: Evaluator, params: Params) -> Answerer:
    """Reads the weights that scaling.answerer names, in compute dtype and laid out for decode.

    Args:
      params: the policy's; where they are Adapted, the base is theirs.
    """
    cfg = evaluator.cfg
    if (found := _find(cfg, evaluator.tokenizer)) is None:
        return Answerer(params, None, {}, "")
    source, model = found
    if cfg.scaling.answerer == BASE and isinstance(params, Adapted):
        theirs = params.base
    else:
        theirs = weights.load(source, qwen.Transformer(model, decode_layout(evaluator.mesh)), dtype=model.compute_dtype)
    told = {"answerer": str(source.where), "answerer_weights": checksum(theirs)}
    name = cfg.scaling.answerer if cfg.scaling.answerer == BASE else source.name
    return Answerer(theirs, evaluator.generator(model), told, "-" + re.sub(r"[^\w.@-]", "_", name))


def _refuse_too_long(cfg: Config, tokens: Tokenizer) -> None:
    """ConfigError if an answer, and its box where that is asked for, is longer than its model was trained for."""
    if not isinstance(tokens, HFTokenizer):
        return
    written = len(tokens.encode(cfg.scaling.answer_prefix)) + cfg.scaling.answer_tokens
    opened = cfg.scaling.answer_prefix.endswith(answers.BOX)
    asked = 0 if opened else len(tokens.encode(ASK_FOR_BOX)) + BOX_TOKENS
    thought = min(max(cfg.scaling.budgets, default=0), cfg.rl.max_new_tokens)
    tokens.refuse_too_long(
        cfg.data.prompt_length + thought + written + asked,
        "data.prompt_length + the largest budget + scaling.answer_prefix + scaling.answer_tokens"
        + f" + {asked} for a box" * bool(asked),
    )


def _find(cfg: Config, tokens: Tokenizer) -> tuple[weights.Source, ModelConfig] | None:
    """(the answerer's weights, its model); None: the policy answers."""
    who = cfg.scaling.answerer
    if who == SELF:
        return None
    what = "model.checkpoint" if who == BASE else "scaling.answerer"
    source = weights.find(cfg.model.checkpoint if who == BASE else who, what)
    theirs = tokenizer.load(source.folder)
    if theirs.vocabulary != tokens.vocabulary:
        raise ConfigError(
            f"{what}: {source.folder} has another tokenizer than the policy; expected the same one: its answers "
            "continue the policy's tokens"
        )
    model = dataclasses.replace(weights.model_config(source, cfg.model), lora_rank=0)  # whole weights, read as they are
    tokenizer.refuse_too_big(theirs, model.vocab_size, str(source.folder))
    return source, model
