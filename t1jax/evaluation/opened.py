# SPDX-License-Identifier: Apache-2.0
"""A checkpoint, opened to sample from: its weights, its tokenizer and a config with its model's sizes, checked.

**checkpoint** -> prompts -> rollouts -> ..., for every command that does not train: evaluate, filter, sample and
synthesize. The sizes of the model are the checkpoint's, whatever the config says, so that one config serves any model.
Deliberately not here: formats of weights (weights/), the checkpoints of a run that trains (training/checkpoint.py).
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from t1jax import validation
from t1jax.checks import plain_reward
from t1jax.config import Config, ConfigError, MeshConfig
from t1jax.devices import multihost, sharding
from t1jax.evaluation import answerer
from t1jax.evaluation.evaluator import Evaluator
from t1jax.host import config_files, workdir
from t1jax.host.progress import Progress
from t1jax.model import heads, qwen
from t1jax.model.parameters import checksum
from t1jax.tasks.task import Grader
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Params
from t1jax.weights import load as weights


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose weights are not read yet."""

    cfg: Config  # with the sizes of the checkpoint's model
    source: weights.Source
    tokenizer: Tokenizer  # of either kind

    @property
    def where(self) -> str:
        """The folder that holds the weights."""
        return str(self.source.where)

    @property
    def name(self) -> str:
        """What the model is called: the last part of its folder's name, or of its name on the hub."""
        return self.source.name.rpartition("/")[2]

    def params(self, mesh: Mesh) -> Params:
        """The weights, in compute dtype and laid out for decode."""
        model = qwen.Transformer(self.cfg.model, sharding.decode_layout(mesh))
        return weights.load(self.source, model, dtype=self.cfg.model.compute_dtype)

    def with_base(self) -> Opened:
        """The same, with scaling.answerer = base as the folder of the model that these weights were trained from.

        Raises:
          ConfigError: they do not tell.
        """
        if self.cfg.scaling.answerer != answerer.BASE:
            return self
        scaling = dataclasses.replace(self.cfg.scaling, answerer=weights.began_with(self.source))
        return dataclasses.replace(self, cfg=dataclasses.replace(self.cfg, scaling=scaling))

    def evaluator(self, task: Grader, progress: Progress) -> tuple[Evaluator, Params, dict[str, Any]]:
        """Reads the weights: (what samples responses, the weights, what a journal says of them)."""
        mesh = sharding.make_mesh(self.cfg.mesh)
        progress.doing("reading the weights")
        params = self.params(mesh)
        evaluator, origin = self.evaluator_of(params, mesh, task, progress)
        progress.doing("compiling")  # until something is sampled
        return evaluator, params, origin

    def evaluator_of(
        self, params: Params, mesh: Mesh, task: Grader, progress: Progress
    ) -> tuple[Evaluator, dict[str, Any]]:
        """The same with weights that were read already."""
        if copied := heads.note(self.cfg.model, mesh.shape["tensor"]):
            progress.note(copied)
        for note in getattr(self.tokenizer, "notes", ()):
            progress.note(note)
        origin: dict[str, Any] = {"checkpoint": self.where, "weights": checksum(params), "reward": None}
        if not plain_reward(self.cfg.reward):
            judged = self.cfg.reward.function, self.cfg.reward.weights, workdir.reward_digest(self.cfg)
            origin["reward"] = " ".join(map(str, judged))
        return Evaluator(self.cfg, mesh, task, self.tokenizer, progress), origin

    def for_files(self, budgets: Sequence[int] = ()) -> HFTokenizer:
        """The tokenizer, of the kind that problems from files need.

        Args:
          budgets: of thinking, in tokens, after which answers are sampled.

        Raises:
          ConfigError: it is of another kind, or responses are longer than the model was trained for.
        """
        if not isinstance(self.tokenizer, HFTokenizer):
            raise ConfigError(f"{self.source.folder} has no tokenizer.json; expected one: problems of files need it")
        tokenizer.refuse_too_long(self.tokenizer, self.cfg, budgets)
        if budgets:
            scaling = dataclasses.replace(self.cfg.scaling, budgets=tuple(budgets))
            answerer.check(dataclasses.replace(self.cfg, scaling=scaling), self.tokenizer)
        return self.tokenizer


def open_checkpoint(cfg: Config, folder: str | None, argv: Sequence[str] = ()) -> Opened:
    """The checkpoint in `folder`, else the config's.

    Args:
      argv: the command line: a size of the model in it would be ignored, and is refused.

    Raises:
      ConfigError: there is no checkpoint, its tokenizer is another model's, or a knob cannot work.
    """
    what = "--checkpoint" if folder else "model.checkpoint"
    folder = folder or cfg.model.checkpoint
    if not folder:
        raise ConfigError("--checkpoint is missing; expected a folder of weights, see --help")
    for arg in argv:
        match = re.match(r"--?(?:no)?config\.model\.([^=]*)", arg)
        if match and (match[1] not in weights.NOT_STORED or match[1].startswith("lora_")):
            raise ConfigError(f"{arg}: the model is that of {folder}; expected no knob of it: leave this one out")
    source = weights.find(folder, what)
    model = dataclasses.replace(weights.model_config(source, cfg.model), checkpoint=folder, lora_rank=0)
    cfg = dataclasses.replace(cfg, model=model, mesh=_mesh(cfg, folder))
    validation.validate(cfg, jax.device_count())
    tokens = tokenizer.load(source.folder)
    tokenizer.refuse_too_big(tokens, cfg.model.vocab_size, str(source.folder))
    return Opened(cfg, source, tokens)


def _mesh(cfg: Config, folder: str) -> MeshConfig:
    """The config's mesh; if it is that of the run in `folder`, and the devices are others, one that fits them."""
    run = config_files.of_run(folder)
    if run is None or MeshConfig(**run.mesh) != cfg.mesh:
        return cfg.mesh
    mesh, told = sharding.fitting(cfg.mesh, jax.device_count())
    if told and multihost.is_main():
        print(told, file=sys.stderr)
    return mesh
