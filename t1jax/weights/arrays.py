# SPDX-License-Identifier: Apache-2.0
"""The parameters in a folder of any kind as lazy arrays, of which any slice can be read by itself.

Where: before the prompts, when weights are loaded or converted.
Deliberately not here: finding the folder (load.py), file formats (safetensors_files.py, orbax_arrays.py), the table of
names (tensor_table.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

from t1jax.config import ConfigError, ModelConfig
from t1jax.host.place import Place
from t1jax.model import lora
from t1jax.weights import adapters, orbax_arrays, peft, safetensors_files, tensor_table
from t1jax.weights.orbax_arrays import Index, KeyPath, StoredArray
from t1jax.weights.safetensors_files import StoredTensor, several
from t1jax.weights.tensor_table import Tensor

PARAMS, STATE = "params", "state"
HEAD, EMBEDDING = "lm_head.weight", ("embedding",)


@dataclass(frozen=True)
class Source:
    """A folder with weights; see `load.find`."""

    folder: Place  # has the tokenizer's files and, except in some runs, config.json
    kind: Literal["hf", "orbax", "run"]
    step: Place | None  # for a run: the folder of the step, which has `state`
    base: Source | None = None  # for a run with LoRA: the weights that its adapters are beside
    adapter: Place | None = None  # a folder of PEFT beside these weights
    name: str = field(default="", compare=False)  # the last part of the folder's, or OWNER/NAME@REVISION of the hub

    @property
    def where(self) -> Place:
        """The folder that is of these weights alone: adapters share their base's."""
        return self.adapter or self.step or self.folder


class Array(Protocol):
    """A parameter that has not been read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self, index: Index) -> np.ndarray:
        """Reads only this slice. Raises ConfigError if the files are damaged."""

    def where(self, at: tuple[int, ...]) -> str:
        """The file and the tensor's name, for error messages. `at`: as `Tensor.at`."""


def arrays(source: Source, cfg: ModelConfig, which: str = "policy") -> dict[KeyPath, Array]:
    """The parameters of `cfg`'s model by key path, unread. Every array in the folder is used exactly once.

    Args:
      source: from `load.find`.
      cfg: the model, whose shapes the arrays must have.
      which: "policy"; or, for a run, "anchor".

    Adapters are in the matrices that they belong to.

    Raises:
      ConfigError: an array is missing, unexpected, or of another shape or dtype (lists them); or `which` is unknown.
    """
    if which not in ("policy", "anchor"):
        raise ConfigError(f"which is {which!r}; expected policy or anchor")
    if which == "anchor" and source.step is None:
        raise ConfigError(f"{source.folder} is not a run; only the checkpoints of a run have an anchor")
    if source.adapter is not None:
        adapter, base = peft.read_config(source.adapter), arrays(replace(source, adapter=None), cfg, which)
        return adapters.merged(base, peft.factors(adapter, cfg), adapter.names, adapter.scale)
    if source.kind == "hf":
        return _stacked(source, cfg)
    if source.step is None:
        return dict(_stored(source.folder / PARAMS, "", cfg))
    if source.base is not None and (found := adapters.knobs(source.step)) is not None:
        base, of = arrays(source.base, cfg), adapters.of_run(source.step, found, cfg, which)
        adapters.refuse_other_base(source.step, base, found)
        return adapters.merged(base, of, lora.TARGETS[found.targets], found.scale, found.compute_dtype)
    params = _stored(source.step / STATE, "params", cfg)
    if which == "policy":
        return dict(params)
    offsets = _stored(source.step / STATE, "anchor_offset", cfg)
    return {path: _Anchor(params[path], offsets[path]) for path in params}


@dataclass(frozen=True)
class _Stacked:
    """A parameter made of tensors in a Hugging Face folder, or of parts of them: one, or one per layer and expert."""

    rows: Sequence[Tensor]
    files: Sequence[StoredTensor]
    twin: StoredTensor | None = None  # a copy under another name, which must be equal

    @property
    def shape(self) -> tuple[int, ...]:
        row = self.rows[0]
        return self.leading + tuple(row.split[axis] for axis in row.order)

    @property
    def leading(self) -> tuple[int, ...]:
        """How many tensors are stacked on each leading axis."""
        return tuple(n + 1 for n in self.rows[-1].at)

    @property
    def dtype(self) -> np.dtype:
        return self.files[0].dtype

    def read(self, index: Index) -> np.ndarray:
        lead = self.leading
        if not lead:
            part = np.array(self.rows[0].to_ours(self.files[0].view())[index])
            if self.twin is not None and (part != self.rows[0].to_ours(self.twin.view())[index]).any():
                raise ConfigError(
                    f"{self.twin.file}: tensor {self.twin.name} differs from {self.rows[0].name}; expected them equal, "
                    "because config.json sets tie_word_embeddings"
                )
            return part
        part = np.empty([len(range(n)[each]) for n, each in zip(self.shape, index, strict=True)], self.dtype)
        number = np.arange(len(self.rows)).reshape(lead)[index[: len(lead)]]
        for place, row in np.ndenumerate(number):
            part[place] = self.rows[int(row)].to_ours(self.files[int(row)].view())[index[len(lead) :]]
        return part

    def where(self, at: tuple[int, ...]) -> str:
        file = self.files[int(np.ravel_multi_index(at, self.leading)) if at else 0]
        return f"{file.file}: tensor {file.name}"


@dataclass(frozen=True)
class _Anchor:
    """The anchor of a run: theta_ref = theta + delta."""

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

    def where(self, at: tuple[int, ...]) -> str:
        return f"{self.params.where(at)} + {self.offset.name}"


def _stacked(source: Source, cfg: ModelConfig) -> dict[KeyPath, Array]:
    """The arrays of a Hugging Face folder."""
    folder = source.folder
    found = {
        name: tensor
        for name, tensor in safetensors_files.open_tensors(folder).items()
        if not tensor_table.UNUSED.fullmatch(name)
    }
    expected = tensor_table.tensors(cfg)
    # Some tied models store a copy of the embedding as the head (Qwen3-0.6B); it must be equal.
    twin = found.pop(HEAD) if cfg.tie_embeddings and HEAD in found else None
    shapes = {tensor.name: tensor.shape for tensor in expected}
    if twin is not None and twin.shape != (embedding := (cfg.vocab_size, cfg.hidden_size)):
        raise ConfigError(f"{twin.file}: tensor {twin.name} has shape {twin.shape}; expected {embedding}")
    _refuse_other_shapes(f"{folder}", {name: tensor.shape for name, tensor in found.items()}, shapes)
    grouped: dict[KeyPath, list[Tensor]] = {}
    for tensor in expected:
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


def _stored(folder: Place, below: str, cfg: ModelConfig) -> dict[KeyPath, StoredArray]:
    """The arrays of an Orbax folder under the key `below`."""
    found = orbax_arrays.open_arrays(folder, below)
    if not found:
        raise ConfigError(f"{folder} holds no {below or 'arrays'}; expected them in the checkpoint")
    names = {path: ".".join(path) for path in {**found, **tensor_table.shapes(cfg)}}
    shapes = {names[path]: shape for path, shape in tensor_table.shapes(cfg).items()}
    _refuse_other_shapes(f"{folder}", {names[path]: array.shape for path, array in found.items()}, shapes)
    for array in found.values():
        if array.dtype not in safetensors_files.DTYPES.values():
            expected = ", ".join(str(dtype) for dtype in safetensors_files.DTYPES.values())
            raise ConfigError(f"{folder}: {array.name} is {array.dtype}; expected one of {expected}")
    return found


def _refuse_other_shapes(
    where: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """ConfigError unless both have the same names with the same shapes."""
    for what, names, shapes in (
        ("lacks", expected.keys() - found.keys(), expected),
        ("has", found.keys() - expected.keys(), found),
    ):
        if names:
            listed = several(f"{name} {shapes[name]}" for name in names)
            reason = "which the model needs" if what == "lacks" else "which the model does not have"
            counts = f"found {len(found)} tensors, expected {len(expected)}"
            raise ConfigError(f"{where} {what} {listed}, {reason}; {counts}")
    if wrong := [name for name, shape in expected.items() if found[name] != shape]:
        listed = several(f"{name} {found[name]}, not {expected[name]}" for name in wrong)
        raise ConfigError(f"{where} has shapes that differ from those of config.json: {listed}")
