# SPDX-License-Identifier: Apache-2.0
"""Weights from any folder: Hugging Face's, one that t1jax.convert made, or the checkpoints of a run.

Where: WEIGHTS -> prompts -> rollouts -> ... -> report. Whatever the folder, its parameters are arrays of which any part
can be read by itself; `load` puts on each device what its shards need, and nothing else is read.
Deliberately not here: bytes of files (weights/safetensors_files.py, weights/orbax_arrays.py), the table of names
(weights/families.py), writing (conversion.py), going on with a run (checkpoint.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t1jax.config import ConfigError, ModelConfig
from t1jax.model import parameters, qwen
from t1jax.types import Params
from t1jax.weights import families, orbax_arrays, safetensors_files, strict
from t1jax.weights.families import Tensor
from t1jax.weights.orbax_arrays import Index, KeyPath, StoredArray
from t1jax.weights.safetensors_files import StoredTensor, several

PARAMS, STATE, METADATA = "params", "state", "_METADATA"
# knobs of `model` that say how it runs, not what it is
NOT_STORED = ("checkpoint", "compute_dtype", "remat", "attention")
HEAD, EMBEDDING = "lm_head.weight", ("embedding",)


@dataclass(frozen=True)
class Source:
    """A folder with weights; made by `find`."""

    folder: Path  # holds config.json where there is one, and the tokenizer's files
    kind: Literal["hf", "orbax", "run"]
    step: Path | None  # of a run: the step's folder, with `state`


class Array(Protocol):
    """A parameter that is not read yet."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self, index: Index) -> np.ndarray:
        """A part of it, and only that. ConfigError: the files are damaged."""

    def where(self, layer: int | None) -> str:
        """The file and the name, for errors."""


def find(path: str | Path) -> Source:
    """The weights of a folder: Hugging Face's (config.json and *.safetensors), t1jax.convert's (config.json and
    params/), a run's workdir (its checkpoints/rl if that has a step, else checkpoints/sft), the folder of a stage's
    checkpoints (the newest step), or one step.

    Raises:
      ConfigError: it is none of these.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise ConfigError(f"{path}: {found}; expected a folder with weights")
    if (folder / PARAMS / METADATA).is_file():
        return Source(folder, "orbax", None)
    if folder.name.isdecimal() and (folder / STATE).is_dir():
        return Source(folder.parent, "run", folder)
    for stage in (folder / "checkpoints" / "rl", folder / "checkpoints" / "sft", folder):
        steps = [s.parent for s in stage.glob(f"*/{STATE}") if s.parent.name.isdecimal()] if stage.is_dir() else []
        if steps:
            return Source(stage, "run", max(steps, key=lambda step: int(step.name)))
    if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
        return Source(folder, "hf", None)
    raise ConfigError(
        f"{path} holds no weights; expected config.json and *.safetensors, or config.json and {PARAMS}/ of "
        "t1jax.convert, or the checkpoints of a run"
    )


def model_config(source: Source, like: ModelConfig) -> ModelConfig:
    """The model whose weights these are; compute_dtype, remat, attention and checkpoint of `like`.

    Raises:
      ConfigError: config.json, or what the run saved, describes no model that t1jax knows.
    """
    file = _describing(source)
    if source.step is None:
        return families.model_config(families.read_config(source.folder), like, str(file))
    saved = strict.read_object(file, families.MAX_BYTES).get("model")
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
        if type(value) is not kind or (kind is int and value not in range(1, 2**31)):
            found = f"is {safetensors_files.SHORT.repr(value)}" if field.name in saved else "is missing"
            raise ConfigError(f"{file}: model.{field.name} {found}; expected {kind.__name__}; is the run older?")
        values[field.name] = value
    return dataclasses.replace(like, **values)


def refuse_mismatch(source: Source, cfg: ModelConfig) -> None:
    """Checks that these are weights of `cfg`'s model.

    Raises:
      ConfigError: names each knob that differs.
    """
    found = model_config(source, cfg)
    names = families.differences(cfg, found)
    differing = [f"model.{name} is {getattr(cfg, name)!r}, not {getattr(found, name)!r}" for name in names]
    if differing:
        raise ConfigError(
            f"{_describing(source)} describes another model than the config, where {'; '.join(differing)}; "
            "set these knobs, or take the config of this model"
        )


def load(source: Source, model: qwen.Transformer, dtype: str = "float32", which: str = "policy") -> Params:
    """The parameters, sharded like `qwen.shardings(model)`; each process reads only what its shards need.

    Args:
      source: from `find`; must hold weights of `model.cfg` (`refuse_mismatch`).
      model: whose layout says where they go.
      dtype: what matrices and tables become; norms and biases become float32, as training reads them.
      which: "policy", or of a run in reinforcement learning "anchor": params + anchor_offset, in float32.

    Raises:
      ConfigError: anything is missing, left over, damaged, of another shape or dtype, or not finite.
    """
    given = arrays(source, model.cfg, which)

    shardings = qwen.shardings(model)

    def place(keys: Any, sharding: jax.sharding.NamedSharding, kind: str) -> jax.Array:
        to = "float32" if kind == "vector" else dtype
        array = given[tuple(key.key for key in keys)]
        parts: dict[Any, np.ndarray] = {}  # several devices may hold the same part

        def part(index: Any) -> np.ndarray:
            key = tuple((each.start, each.stop) for each in index)
            if key not in parts:
                parts[key] = array.read(index).astype(to, copy=False)
            return parts[key]

        return jax.make_array_from_callback(array.shape, sharding, part)

    params = jax.tree_util.tree_map_with_path(place, shardings, parameters.kinds(shardings))
    _refuse_not_finite(params, given, model)
    return params


def arrays(source: Source, cfg: ModelConfig, which: str = "policy") -> dict[KeyPath, Array]:
    """The parameters of `cfg`'s model by key path; none is read yet. What the folder holds is used exactly once.

    Raises:
      ConfigError: lists what is missing or left over, or has another shape or dtype; or there is no such `which`.
    """
    if which not in ("policy", "anchor"):
        raise ConfigError(f"which is {which!r}; expected policy or anchor")
    if which == "anchor" and source.step is None:
        raise ConfigError(f"{source.folder} is no run; expected the checkpoints of one for the anchor")
    if source.kind == "hf":
        return _stacked(source, cfg)
    if source.step is None:
        return dict(_stored(source.folder / PARAMS, "", cfg))
    params = _stored(source.step / STATE, "params", cfg)
    if which == "policy":
        return dict(params)
    offsets = _stored(source.step / STATE, "anchor_offset", cfg)
    return {path: _Anchor(params[path], offsets[path]) for path in params}


def _describing(source: Source) -> Path:
    """The file that says what the model is."""
    return source.folder / "config.json" if source.step is None else source.step / "config" / "metadata"


@dataclass(frozen=True)
class _Stacked:
    """A parameter as tensors of a Hugging Face folder: one, or one a layer."""

    rows: Sequence[Tensor]
    files: Sequence[StoredTensor]
    twin: StoredTensor | None = None  # a tensor that must equal the only one

    @property
    def shape(self) -> tuple[int, ...]:
        row = self.rows[0]
        return (len(self.rows),) * (row.layer is not None) + tuple(row.split[axis] for axis in row.order)

    @property
    def dtype(self) -> np.dtype:
        return self.files[0].dtype

    def read(self, index: Index) -> np.ndarray:
        if self.rows[0].layer is None:
            part = np.array(self.rows[0].to_ours(self.files[0].view())[index])
            if self.twin is not None and (part != self.rows[0].to_ours(self.twin.view())[index]).any():
                raise ConfigError(
                    f"{self.twin.file}: tensor {self.twin.name} differs from {self.rows[0].name}; expected the same or "
                    "none, because config.json says tie_word_embeddings"
                )
            return part
        part = np.empty([len(range(n)[each]) for n, each in zip(self.shape, index, strict=True)], self.dtype)
        for place, layer in enumerate(range(len(self.rows))[index[0]]):
            part[place] = self.rows[layer].to_ours(self.files[layer].view())[index[1:]]
        return part

    def where(self, layer: int | None) -> str:
        file = self.files[layer or 0]
        return f"{file.file}: tensor {file.name}"


@dataclass(frozen=True)
class _Anchor:
    """theta_ref = theta + delta, of a run."""

    params: StoredArray
    offset: StoredArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.params.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def read(self, index: Index) -> np.ndarray:
        return self.params.read(index).astype(np.float32) + self.offset.read(index)

    def where(self, layer: int | None) -> str:
        return f"{self.params.where(layer)} + {self.offset.name}"


def _stacked(source: Source, cfg: ModelConfig) -> dict[KeyPath, Array]:
    """The arrays of a Hugging Face folder."""
    folder = source.folder
    found = {
        name: tensor
        for name, tensor in safetensors_files.open_tensors(folder).items()
        if not families.UNUSED.fullmatch(name)
    }
    expected = {tensor.name: tensor for tensor in families.tensors(cfg)}
    # Some folders of tied models keep a copy of the embedding as the head (Qwen3-0.6B); it must be the same.
    twin = found.pop(HEAD) if cfg.tie_embeddings and HEAD in found else None
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    if twin is not None and twin.shape != (embedding := (cfg.vocab_size, cfg.hidden_size)):
        raise ConfigError(f"{twin.file}: tensor {twin.name} has shape {twin.shape}; expected {embedding}")
    _refuse_other_shapes(f"{folder}", {name: tensor.shape for name, tensor in found.items()}, shapes)
    grouped: dict[KeyPath, list[Tensor]] = {}
    for tensor in expected.values():
        grouped.setdefault(tensor.path, []).append(tensor)
    opened: dict[KeyPath, Array] = {}
    for path, rows in grouped.items():
        files = [found[row.name] for row in rows]
        for file in files:
            if file.dtype != files[0].dtype:
                raise ConfigError(
                    f"{file.file}: tensor {file.name} is {file.dtype}; expected {files[0].dtype}, as {files[0].name} is"
                )
        opened[path] = _Stacked(rows, files, twin if path == EMBEDDING else None)
    return opened


def _stored(folder: Path, below: str, cfg: ModelConfig) -> dict[KeyPath, StoredArray]:
    """The arrays of an Orbax folder below a key."""
    found = orbax_arrays.open_arrays(folder, below)
    if not found:
        raise ConfigError(f"{folder} holds no {below or 'arrays'}; expected them in the checkpoint")
    names = {path: ".".join(path) for path in {**found, **families.shapes(cfg)}}
    shapes = {names[path]: shape for path, shape in families.shapes(cfg).items()}
    _refuse_other_shapes(f"{folder}", {names[path]: array.shape for path, array in found.items()}, shapes)
    for array in found.values():
        if array.dtype not in safetensors_files.DTYPES.values():
            expected = ", ".join(str(dtype) for dtype in safetensors_files.DTYPES.values())
            raise ConfigError(f"{folder}: {array.name} is {array.dtype}; expected one of {expected}")
    return found


def _refuse_other_shapes(
    where: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Checks that both have the same names, each once, with the same shapes."""
    for what, names, shapes in (
        ("lacks", expected.keys() - found.keys(), expected),
        ("has", found.keys() - expected.keys(), found),
    ):
        if names:
            listed = several(f"{name} {shapes[name]}" for name in names)
            reason = "which the model needs" if what == "lacks" else "which the model has no place for"
            counts = f"found {len(found)} tensors, expected {len(expected)}"
            raise ConfigError(f"{where} {what} {listed}, {reason}; {counts}")
    if wrong := [name for name, shape in expected.items() if found[name] != shape]:
        listed = several(f"{name} {found[name]}, not {expected[name]}" for name in wrong)
        raise ConfigError(f"{where} has another shape than config.json asks for: {listed}")


def _refuse_not_finite(params: Params, given: Mapping[KeyPath, Array], model: qwen.Transformer) -> None:
    """Checks each tensor on the devices where it lies; every process sees the same answer."""

    def check(tree: Params) -> Params:
        def one(keys: Any, x: jax.Array) -> jax.Array:
            return jnp.isfinite(x).all(axis=tuple(range(len(keys) - 1, x.ndim)))  # of what is stacked: a layer each

        return jax.tree_util.tree_map_with_path(one, tree)

    finite = jax.jit(check, out_shardings=model.layout.sharding())(params)
    bad = []
    for keys, values in jax.tree_util.tree_leaves_with_path(finite):
        array = given[tuple(key.key for key in keys)]
        if values.ndim:
            bad += [array.where(int(layer)) for layer in np.flatnonzero(~np.asarray(values))]
        elif not values:
            bad.append(array.where(None))
    if bad:
        more = f" and {len(bad) - safetensors_files.LISTED} more" if len(bad) > safetensors_files.LISTED else ""
        listed = "; ".join(bad[: safetensors_files.LISTED])
        raise ConfigError(f"{listed}{more}: NaN or infinite numbers found; expected finite ones")
