# SPDX-License-Identifier: Apache-2.0
"""PEFT's folder of an adapter: adapter_config.json and adapter_model.safetensors, read and written.

Where: before the prompts, and on export. In the files A is [r, in] and B is [out, r] for each layer's matrix, as torch
multiplies; ours are [in ..., r] and [r, out ...], layers stacked. Every setting is honoured or refused.
Source: peft 0.21, LoraConfig; vLLM reads the same names.
Deliberately not here: the sum with the base (adapters.py), other tensors' names (tensor_table.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from t1jax.config import ConfigError, ModelConfig
from t1jax.host import files, hub
from t1jax.host.place import Place
from t1jax.model import lora
from t1jax.model.parameters import MATRICES
from t1jax.weights import safetensors_files, safetensors_writing, strict, tensor_table
from t1jax.weights.adapters import Factors
from t1jax.weights.safetensors_files import StoredTensor, several
from t1jax.weights.tensor_table import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE, PREFIX = "base_model_name_or_path", "base_model.model."
MAX_BYTES = 1 << 20  # largest adapter_config.json
# keys that say nothing about the weights that come out
SILENT = {BASE, "task_type", "auto_mapping", "peft_version", "inference_mode", "lora_dropout"}
SILENT |= {"megatron_core", "qalora_group_size", "ensure_weight_tying"}
READ = {"peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "init_lora_weights", "bias", "revision"}
PLAIN = (True, False, None, "gaussian", "orthogonal", "eva")  # initial values that leave the base as it is
MODULES = {name.split(".")[-2]: path[-1] for name, path, *_ in tensor_table.TENSORS if path[-1] in lora.TARGETS["all"]}


@dataclass(frozen=True)
class Adapter:
    """An adapter that has not been read."""

    folder: Place
    rank: int
    scale: float  # alpha / r, or alpha / sqrt(r) with use_rslora
    names: tuple[str, ...]  # our names of the matrices that it adds to


def is_adapter(folder: Place) -> bool:
    """Whether this is a folder that PEFT wrote."""
    return (folder / CONFIG).is_file()


def base_of(folder: Place) -> str:
    """The weights that the adapter belongs to: a folder, or OWNER/NAME of the hub with the revision that it names.

    Raises:
      ConfigError: it names none.
    """
    values = strict.read_object(folder / CONFIG, MAX_BYTES)
    found, revision = values.get(BASE), values.get("revision")
    if not isinstance(found, str) or not found:
        raise ConfigError(f"{folder / CONFIG}: {BASE} is {found!r:.60}; expected the folder of the base's weights")
    return f"{found}@{revision}" if isinstance(revision, str) and revision and hub.is_model(found) else found


def read_config(folder: Place) -> Adapter:
    """What adapter_config.json says.

    Raises:
      ConfigError: a setting that t1jax does not honour: names the key, its value, and what was expected.
    """
    values = strict.read_object(folder / CONFIG, MAX_BYTES)
    section = strict.Section(values, str(folder / CONFIG))
    if values.get("peft_type") != "LORA":
        section.refuse("peft_type", '"LORA"')
    for key, value in values.items():
        if key not in SILENT | READ and value not in (None, False, 0, "", [], {}):
            section.refuse(key, "none: t1jax reads plain LoRA")
    section.fixed("bias", "none")
    if values.get("init_lora_weights") not in PLAIN:
        section.refuse("init_lora_weights", "true: others change the base; convert the adapter with PEFT first")
    rank = section.whole("r", 2**17)
    alpha = section.number("lora_alpha", 1e-9, 1e9)
    modules = values.get("target_modules")
    if modules == "all-linear":
        modules = list(MODULES)
    if not isinstance(modules, list) or not modules:
        section.refuse("target_modules", f"a list of some of {', '.join(MODULES)}")
    for module in modules:
        if not isinstance(module, str) or module not in MODULES:
            shown = safetensors_files.SHORT.repr(module)
            raise ConfigError(f"{folder / CONFIG}: target_modules has {shown}; expected some of {', '.join(MODULES)}")
    names = tuple(name for module, name in MODULES.items() if module in modules)
    scale = alpha / math.sqrt(rank) if section.truth("use_rslora") else alpha / rank
    return Adapter(folder, rank, scale, names)


def factors(adapter: Adapter, cfg: ModelConfig) -> Callable[[str], Factors]:
    """name -> the factors of a matrix, read from adapter_model.safetensors when asked for.

    Raises:
      ConfigError: a tensor is missing, unexpected, damaged or of another shape than the base's model needs; or the
        adapter is of experts.
    """
    if cfg.num_experts and (inside := [m for m, name in MODULES.items() if name in adapter.names and name in lora.MLP]):
        where = f"{adapter.folder / CONFIG}: target_modules has {', '.join(inside)}"
        raise ConfigError(f"{where}; expected matrices of attention alone: the base's experts take no adapters")
    if not (adapter.folder / WEIGHTS).is_file():
        raise ConfigError(f"{adapter.folder} has no {WEIGHTS}; expected it beside {CONFIG}")
    found = {t.name: t for t in safetensors_files.read_header(safetensors_files.inside(adapter.folder, WEIGHTS))}
    rows = {(row.path[-1], *row.at): row for row in _rows(cfg, adapter.names)}
    expected: dict[str, tuple[int, ...]] = {}
    for row in rows.values():
        expected |= dict(zip(tensor_names(row), _in_file(row, adapter.rank), strict=True))
    for what, names in (("lacks", expected.keys() - found.keys()), ("has", found.keys() - expected.keys())):
        if names:
            reason = "which the base's layers need" if what == "lacks" else "which is no factor of the base's matrices"
            raise ConfigError(f"{adapter.folder / WEIGHTS} {what} {several(names)}, {reason}: is it for another base?")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ConfigError(
                f"{adapter.folder / WEIGHTS}: tensor {name} has shape {found[name].shape}; expected {shape} by the "
                "base's config.json and r: is it for another base?"
            )

    def of(name: str) -> Factors:
        def read(layer: int) -> tuple[np.ndarray, np.ndarray]:
            row = rows[name, layer]
            a, b = (_float(found[each]) for each in tensor_names(row))
            into, onto = _split(row)
            return a.T.reshape(*into, adapter.rank), b.T.reshape(adapter.rank, *onto)

        return read

    return of


def write(
    folder: Place, cfg: ModelConfig, of: Callable[[str], Factors], targets: str, rank: int, alpha: float, base: str
) -> None:
    """Writes both files, float32; `folder` is there. Everything is on disk on return."""
    names = lora.TARGETS[targets]
    modules = sorted(module for module, name in MODULES.items() if name in names)
    values: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank}
    name, _, revision = base.removeprefix(hub.SCHEME).partition("@") if hub.is_model(base) else (base, "", "")
    values |= {BASE: name, "revision": revision or None}
    values["lora_alpha"] = int(alpha) if alpha == int(alpha) else alpha  # PEFT declares an int
    values |= {"target_modules": modules, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False}
    values |= {"use_rslora": False, "use_dora": False, "modules_to_save": None, "inference_mode": True}
    files.write_json(folder / CONFIG, values)
    new = []
    for row in _rows(cfg, names):

        def factor(index: int, row: Tensor = row) -> Any:
            x = of(row.path[-1])(*row.at)[index]
            flat = x.reshape(-1, rank) if index == 0 else x.reshape(rank, -1)
            yield np.ascontiguousarray(flat.T, np.float32)

        for index, (name, shape) in enumerate(zip(tensor_names(row), _in_file(row, rank), strict=True)):
            pieces = lambda index=index, factor=factor: factor(index)  # noqa: E731
            new.append(safetensors_writing.NewTensor(name, np.dtype(np.float32), shape, pieces))
    safetensors_writing.write_shard(folder / WEIGHTS, new)


def tensor_names(row: Tensor) -> tuple[str, str]:
    """The names of a matrix's factors in the file."""
    stem = PREFIX + row.name.removesuffix(".weight")
    a, b = (f"{stem}.lora_{factor}.weight" for factor in "AB")
    return a, b


def _rows(cfg: ModelConfig, names: tuple[str, ...]) -> list[Tensor]:
    rows = [row for row in tensor_table.tensors(cfg) if row.path[0] == "layers" and row.path[-1] in names]
    for row in rows:
        if math.prod(row.shape) != row.size:
            raise ConfigError(
                f"{row.name} holds several matrices, so that PEFT's folder has no place for an adapter of "
                f"{row.path[-1]}; expected adapters of attention alone (model.lora_targets), or --merge"
            )
    return rows


def _in_file(row: Tensor, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    out, into = row.shape
    return (rank, into), (out, rank)


def _split(row: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of our matrix that its input has, and its output."""
    shape = tuple(row.split[axis] for axis in row.order)
    into, onto = MATRICES[row.path[-1]]
    return tuple(shape[axis - 1] for axis in into), tuple(shape[axis - 1] for axis in onto)


def _float(tensor: StoredTensor) -> np.ndarray:
    return np.asarray(tensor.view()).astype(np.float32)
