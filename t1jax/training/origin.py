# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a run come from: what it starts from, and with LoRA what its adapters are beside.

A checkpoint of a run with LoRA has the adapters and a digest of the base, not the base: that is read again from
model.checkpoint, and refused if its digest is another one.
Deliberately not here: formats of weights (weights/), when checkpoints are read (checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from t1jax import config
from t1jax.config import Config, ConfigError
from t1jax.devices.sharding import train_layout
from t1jax.host.place import Place
from t1jax.model import lora, qwen
from t1jax.rollouts import rng
from t1jax.types import Adapted, Params
from t1jax.weights import load as weights

# knobs of the model that may differ from those it was saved with
NOT_SHAPE = ("checkpoint", "compute_dtype", "remat", "attention")


def policy(cfg: Config, mesh: Mesh, base: Params | None = None) -> Params | Adapted:
    """What training starts from: the weights of cfg.model.checkpoint in float32, or random ones; or new adapters.

    `base`: of `base_of`, if it has been read.
    """
    model, key = qwen.Transformer(cfg.model, train_layout(mesh)), rng.key_for(jax.random.key(cfg.seed), "init", 0)
    if cfg.model.lora_rank:
        return Adapted(base_of(cfg, mesh) if base is None else base, lora.init(model, key))
    if cfg.model.checkpoint:
        return weights.load(weights.find(cfg.model.checkpoint, "model.checkpoint"), model)
    return qwen.init_params(model, key)


def base_of(cfg: Config, mesh: Mesh) -> Params | None:
    """With LoRA: the weights of cfg.model.checkpoint, which stay; matrices and tables in compute dtype. Else None."""
    if not cfg.model.lora_rank:
        return None
    model = qwen.Transformer(cfg.model, train_layout(mesh))
    return weights.load(weights.find(cfg.model.checkpoint, "model.checkpoint"), model, cfg.model.compute_dtype)


def refuse_other_model(where: Place, saved: Mapping[str, Any], cfg: Config) -> None:
    """ConfigError unless the checkpoint at `where`, saved with the knobs `saved`, is of `cfg`'s model."""
    old, model = config.completed(saved)["model"], cfg.to_dict()["model"]
    names = [n for n in {**old, **model} if n not in NOT_SHAPE and old.get(n) != model.get(n)]
    if (old["compute_dtype"] == "float16") != (model["compute_dtype"] == "float16"):  # only it has a loss scale
        names.append("compute_dtype")
    elif cfg.model.lora_rank and old["compute_dtype"] != model["compute_dtype"]:  # the base is kept in it
        names.append("compute_dtype")
    if names:
        found = ", ".join(f"model.{name} = {old.get(name)} (now {model.get(name)})" for name in sorted(names))
        raise ConfigError(f"{where} has {found}; set it back or start a new workdir")
