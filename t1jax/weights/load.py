# SPDX-License-Identifier: Apache-2.0
"""Loads weights from a Hugging Face folder, the output of t1jax.convert, or the checkpoints of a run.

Where: before the prompts. The parameters are lazy arrays (arrays.py); `load` reads only what each device's shards need.
Deliberately not here: file formats (safetensors_files.py, orbax_arrays.py), the table of names (tensor_table.py),
writing (conversion.py), resuming a run (checkpoint.py).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t1jax import config
from t1jax.config import Config, ConfigError, ModelConfig
from t1jax.host import hub, place
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place
from t1jax.model import parameters, qwen
from t1jax.types import Params
from t1jax.weights import adapters, families, peft, safetensors_files, steps, strict
from t1jax.weights.arrays import PARAMS, STATE, Array, Source, arrays
from t1jax.weights.orbax_arrays import KeyPath

METADATA = "_METADATA"
FILES = (*families.CARRIED, peft.CONFIG, "*.safetensors", "*.safetensors.index.json")  # of a model of the hub
# knobs of `model` that say how it runs, not what it computes
NOT_STORED = ("checkpoint", "compute_dtype", "remat", "attention", *adapters.KNOBS)
MAY_BE_0 = ("num_experts", "experts_per_token")


def find(path: str | Place, what: str = "--checkpoint", whole: bool = False) -> Source:
    """Finds the weights in a folder.

    Args:
      what: the flag or knob that names it.
      whole: refuse PEFT's folder of an adapter.
      path: a model of the Hugging Face hub (OWNER/NAME or OWNER/NAME@REVISION, which is downloaded), or
        a Hugging Face folder (config.json and *.safetensors), the output of t1jax.convert (config.json and
        params/), a run's workdir (the last step of RL, else of the cold start), the checkpoints of one stage (the
        last step), or one step; or PEFT's folder of an adapter, which names its base.

    Raises:
      ConfigError: it is none of these.
    """
    named = not isinstance(path, Bucket) and hub.is_model(os.fspath(path))
    folder = hub.model(os.fspath(path), what, FILES).resolve() if named else place.of(path, what).absolute()
    name = os.fspath(path).removeprefix(hub.SCHEME) if named else folder.resolve().name
    return dataclasses.replace(_in(folder, path, named, whole), name=name)


def _in(folder: Place, path: str | Place, named: bool, whole: bool) -> Source:
    """The weights in `folder`, which the user means by `path`; `named`: of the Hugging Face hub."""
    if named and not peft.is_adapter(folder):
        return Source(folder, "hf", None)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise ConfigError(f"{path}: {found}; expected a folder with weights, or OWNER/NAME of the Hugging Face hub")
    if isinstance(folder, Bucket) and (folder / steps.UNFINISHED).exists():
        raise ConfigError(f"{path}: a conversion to it was interrupted; run the same t1jax.convert again")
    if peft.is_adapter(folder):
        if whole:
            raise ConfigError(f"{path} is an adapter; expected whole weights, as t1jax.convert --merge writes them")
        base = _base(folder / peft.CONFIG, peft.BASE, peft.base_of(folder), whole=True)
        return dataclasses.replace(base, adapter=folder)
    if (folder / PARAMS / METADATA).is_file() and steps.is_whole(folder / PARAMS):
        return Source(folder, "orbax", None)
    if folder.name.isdecimal() and (folder / STATE).is_dir():
        return _run(folder.parent, folder)
    for stage in (folder / "checkpoints" / "rl", folder / "checkpoints" / "sft", folder):
        saved = (path for path in reversed(steps.folders(stage).values()) if steps.is_whole(path))
        if newest := next((path for path in saved if (path / STATE).is_dir()), None):
            return _run(stage, newest)
    if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
        return Source(folder, "hf", None)
    raise ConfigError(
        f"{path} holds no weights; expected config.json and *.safetensors, or config.json and {PARAMS}/ of "
        "t1jax.convert, or the checkpoints of a run"
    )


def _run(stage: Place, step: Place) -> Source:
    """A step of a run, and with LoRA its base."""
    found = adapters.knobs(step)
    base = _base(step / "config" / "metadata", "model.checkpoint", found.checkpoint) if found else None
    return Source(stage, "run", step, base)


def _base(file: Place, key: str, path: str, whole: bool = False) -> Source:
    """The weights that an adapter is beside, by this key of its file."""
    try:
        return find(path, key, whole)
    except ConfigError as error:
        said = str(error).removeprefix(key).lstrip(":= ")
        raise ConfigError(f"{file}: {key}: {said}; put the base's weights there, or name their folder") from error


def model_config(source: Source, like: ModelConfig) -> ModelConfig:
    """The model whose weights these are, with compute_dtype, remat, attention and checkpoint from `like`.

    Raises:
      ConfigError: config.json, or the run's saved config, describes a model that t1jax does not support.
    """
    file = _describing(source)
    if source.step is None:
        return families.model_config(families.read_config(source.folder), like, str(file))
    saved = config.completed(strict.read_object(file, families.MAX_BYTES)).get("model")
    if not isinstance(saved, dict):
        raise ConfigError(f"{file}: model is {safetensors_files.SHORT.repr(saved)}; expected a section of knobs")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(ModelConfig):
        if field.name in NOT_STORED:
            continue
        kind: type = type(getattr(like, field.name))
        value: Any = saved.get(field.name)
        if type(value) is int and kind is float:
            value = float(value)
        if type(value) is not kind or (kind is int and value not in range(field.name not in MAY_BE_0, 2**31)):
            found = f"is {safetensors_files.SHORT.repr(value)}" if field.name in saved else "is missing"
            raise ConfigError(f"{file}: model.{field.name} {found}; expected {kind.__name__}; is the run older?")
        values[field.name] = value
    return dataclasses.replace(like, **values)


def began_with(source: Source) -> str:
    """model.checkpoint of the run with these weights: what its cold start, or its RL, began with.

    Raises:
      ConfigError: they are no run's, or the run began with random weights.
    """
    model: Any = {}
    if source.step is not None:
        model = strict.read_object(_describing(source), families.MAX_BYTES).get("model")
    found = model.get("checkpoint") if isinstance(model, dict) else None
    if not isinstance(found, str) or not found:
        raise ConfigError(
            f"scaling.answerer is base, but {source.folder} does not tell what it was trained from; expected a run "
            "that began with model.checkpoint, or scaling.answerer to be self or a folder"
        )
    return found


def run_config(source: Source) -> Config | None:
    """The config of the run that saved these weights; None: they are no run's.

    Raises:
      ConfigError: it is damaged.
    """
    return None if source.step is None else config.load(strict.read_object(_describing(source), families.MAX_BYTES))


def sized(source: Source, cfg: ModelConfig, given: Collection[str]) -> ModelConfig:
    """`cfg` with the sizes of the model whose weights these are, and all else that says what it computes.

    What agrees up to rounding, and RoPE knobs that are not used, stay as they are in `cfg`.

    Args:
      given: knobs of `model` that somebody has set, which must agree with the weights.

    Raises:
      ConfigError: they do not; lists the knobs, what they are set to, and what the weights have.
    """
    found = model_config(source, cfg)
    names = families.differences(cfg, found)
    differing = [
        f"model.{name} is {getattr(cfg, name)!r}, not {getattr(found, name)!r}" for name in names if name in given
    ]
    if differing:
        raise ConfigError(
            f"{_describing(source)} describes another model than the config, where {'; '.join(differing)}; "
            "leave these knobs out, as the checkpoint has them, or use its own checkpoint"
        )
    return dataclasses.replace(cfg, **{name: getattr(found, name) for name in names})


def with_sizes(cfg: Config, given: Collection[str]) -> Config:
    """`cfg` with the sizes of the model in its model.checkpoint, if it names one; see `sized`.

    Raises:
      ConfigError: there are no weights, or they are of another model than `given` says.
    """
    if not cfg.model.checkpoint:
        return cfg
    source = find(cfg.model.checkpoint, "model.checkpoint")
    return dataclasses.replace(cfg, model=sized(source, cfg.model, given))


def refuse_mismatch(source: Source, cfg: ModelConfig) -> None:
    """Checks that these are weights of `cfg`'s model.

    Raises:
      ConfigError: they are not; lists the knobs that differ.
    """
    sized(source, cfg, [field.name for field in dataclasses.fields(cfg)])


def load(source: Source, model: qwen.Transformer, dtype: str = "float32", which: str = "policy") -> Params:
    """Loads the parameters, sharded as in `qwen.shardings(model)`. Each process reads only what its shards need.

    Args:
      source: from `find`; must have the weights of `model.cfg` (see `refuse_mismatch`).
      model: the model, with the layout for the parameters.
      dtype: dtype of matrices and tables; norms and biases are float32, as in training.
      which: "policy"; or, for an RL run, "anchor": params + anchor_offset, in float32.

    Raises:
      ConfigError: an array is missing, unexpected, damaged, of another shape or dtype, or not finite.
    """
    given = arrays(source, model.cfg, which)

    shardings = qwen.shardings(model)

    def place(keys: Any, sharding: jax.sharding.NamedSharding, kind: str) -> jax.Array:
        to = "float32" if kind == "vector" else dtype
        array = given[tuple(key.key for key in keys)]
        parts: dict[Any, np.ndarray] = {}  # several devices may hold the same slice

        def part(index: Any) -> np.ndarray:
            key = tuple((each.start, each.stop) for each in index)
            if key not in parts:
                parts[key] = array.read(index).astype(to, copy=False)
            return parts[key]

        return jax.make_array_from_callback(array.shape, sharding, part)

    params = jax.tree_util.tree_map_with_path(place, shardings, parameters.kinds(shardings))
    _refuse_not_finite(params, given, model)
    return params


def _describing(source: Source) -> Place:
    """The file that describes the model."""
    return source.folder / "config.json" if source.step is None else source.step / "config" / "metadata"


def _refuse_not_finite(params: Params, given: Mapping[KeyPath, Array], model: qwen.Transformer) -> None:
    """ConfigError if a parameter is not finite. Runs on the devices; all processes get the same result."""

    def check(tree: Params) -> Params:
        def one(keys: Any, x: jax.Array) -> jax.Array:
            path = tuple(key.key for key in keys)
            return jnp.isfinite(x).all(axis=tuple(range(parameters.stacked(path), x.ndim)))  # per layer, and expert

        return jax.tree_util.tree_map_with_path(one, tree)

    finite = jax.jit(check, out_shardings=model.layout.sharding())(params)
    bad = []
    for keys, values in jax.tree_util.tree_leaves_with_path(finite):
        array = given[tuple(key.key for key in keys)]
        bad += [array.where(tuple(map(int, at))) for at in np.argwhere(~np.asarray(values))]
    if bad:
        more = f" and {len(bad) - safetensors_files.LISTED} more" if len(bad) > safetensors_files.LISTED else ""
        listed = "; ".join(bad[: safetensors_files.LISTED])
        raise ConfigError(f"{listed}{more}: NaN or infinite numbers found; expected finite ones")
