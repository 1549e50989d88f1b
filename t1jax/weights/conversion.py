# SPDX-License-Identifier: Apache-2.0
"""Converts weights between a Hugging Face folder and an Orbax folder, in both directions.

Where: before and after training. Tensors are converted one after another, in pieces, so that the host needs little
memory whatever the model's size. The result is written to a temporary folder and renamed when complete, so it is never
partial.
Deliberately not here: flags (convert.py), names and shapes (families.py, tensor_table.py), files (safetensors_*.py,
orbax_arrays.py), the folder that is written (output.py), sources (load.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from t1jax import config
from t1jax.config import ConfigError, ModelConfig
from t1jax.host import config_files, files, place
from t1jax.host.place import Place
from t1jax.host.progress import Progress
from t1jax.weights import adapters, families, orbax_arrays, output, peft, safetensors_files, tensor_table
from t1jax.weights import load as weights
from t1jax.weights import safetensors_writing as writing
from t1jax.weights.arrays import Array, Source
from t1jax.weights.orbax_arrays import Index
from t1jax.weights.tensor_table import Tensor

PIECE = 64 << 20  # bytes read, checked and written at a time; more if one row of chunks is larger
SENTENCEPIECE = "tokenizer.model"  # in runs of the embedded tasks
WORDS = {"hf": "a Hugging Face folder", "orbax": "a folder of hf-to-orbax", "run": "the checkpoints of a run"}
MB = 10**6


def hf_to_orbax(src: str | Place, dst: str | Place, progress: Progress, merge: bool = False) -> None:
    """Writes the weights of a Hugging Face folder to `dst`/params with Orbax, and copies the other files to `dst`.

    Args:
      src: a Hugging Face folder.
      dst: must not exist, or be an empty folder.
      progress: shows the MB written.
      merge: `src` is PEFT's folder of an adapter: its base with it is written.

    Raises:
      ConfigError: `src` is invalid, or `dst` cannot be written; `dst` is then unchanged.
    """
    source = _find(src, merge)
    if source.kind != "hf":
        raise ConfigError(f"{src} is {WORDS[source.kind]}; expected {WORDS['hf']}")
    cfg = weights.model_config(source, _any_model())
    arrays = weights.arrays(source, cfg)
    rows: dict[tuple[str, ...], list[Tensor]] = {path: [] for path in arrays}
    for row in tensor_table.tensors(cfg):
        rows[row.path].append(row)
    total = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())
    with output.folder(place.of(dst, "--dst"), total) as folder, _Meter(progress, "hf-to-orbax", total) as meter:

        def parts(path: tuple[str, ...], chunk: tuple[int, ...]) -> Iterator[tuple[Index, np.ndarray]]:
            for row in rows[path]:
                for index, part in _parts(row, arrays[path], arrays[path].dtype, chunk):
                    yield index, meter.count(part)

        _carry(source, folder)
        new = {
            path: orbax_arrays.NewArray(array.shape, array.dtype, partial(parts, path))
            for path, array in arrays.items()
        }
        orbax_arrays.write_arrays(folder / weights.PARAMS, new)


def orbax_to_hf(
    src: str | Place, dst: str | Place, progress: Progress, dtype: str = "", which: str = "policy", max_bytes: int = 0,
    merge: bool = False,
) -> None:  # fmt: skip
    """Writes the output of hf_to_orbax, or the weights of a run, as a Hugging Face folder; adapters as PEFT's folder.

    Args:
      src: a folder as for `load.find`.
      dst: must not exist, or be an empty folder.
      progress: shows the MB written.
      dtype: float32, float16 or bfloat16. "": as stored; for a run, as in its config.json, else float32.
      which: for a run, "policy" or "anchor".
      max_bytes: the most data per file, bytes; 0: one file.
      merge: `src` has adapters: the weights with these in them are written.

    Raises:
      ConfigError: `src` is invalid, or `dst` cannot be written; `dst` is then unchanged.
    """
    dtypes = {str(each): each for each in safetensors_files.DTYPES.values()}
    if dtype and dtype not in dtypes:
        raise ConfigError(f"--dtype is {dtype!r}; expected one of {', '.join(dtypes)}")
    source = _find(src, merge)
    if source.base is not None and source.step is not None and not merge:
        _write_adapter(source, source.step, dst, progress, dtype, which)
        return
    if source.kind == "hf" and source.adapter is None:
        raise ConfigError(f"{src} is {WORDS['hf']} already; expected {WORDS['orbax']} or {WORDS['run']}")
    cfg = weights.model_config(source, _any_model())
    arrays = weights.arrays(source, cfg, which)
    described = source.folder / "config.json"
    base = families.read_config(source.folder) if described.exists() else {}
    stated = next((base[key] for key in ("dtype", "torch_dtype") if base.get(key) is not None), None)
    if source.kind == "run" and not dtype:
        dtype = "float32" if stated is None else stated
        if dtype not in dtypes:
            raise ConfigError(f"{described}: dtype is {dtype!r}; expected one of {', '.join(dtypes)}; or give --dtype")
    hf_config = families.hf_config(cfg, base)
    if dtype and dtype != stated:
        hf_config = families.with_dtype(hf_config, dtype)
    to = {path: dtypes[dtype] if dtype else array.dtype for path, array in arrays.items()}
    rows = tensor_table.tensors(cfg)
    total = sum(row.size * to[row.path].itemsize for row in rows)
    with output.folder(place.of(dst, "--dst"), total) as folder, _Meter(progress, "orbax-to-hf", total) as meter:

        def parts(of_one: list[Tensor]) -> Iterator[np.ndarray]:
            for row in of_one:
                if to[row.path] != to[of_one[0].path]:
                    raise ConfigError(
                        f"{src}: {row.path[-1]} is {to[row.path]} and {of_one[0].path[-1]} is {to[of_one[0].path]}; "
                        f"expected one dtype, because {row.name} holds both: give --dtype"
                    )
                for _, part in _parts(row, arrays[row.path], to[row.path]):
                    one = part.reshape(part.shape[len(row.at) :])
                    yield meter.count(np.ascontiguousarray(one.transpose(np.argsort(row.order))))

        _carry(source, folder)
        if hf_config != base:
            files.write_text(folder / "config.json", json.dumps(hf_config, indent=2) + "\n")
        new = [
            writing.NewTensor(name, to[of_one[0].path], of_one[0].shape, partial(parts, of_one))
            for name, of_one in tensor_table.together(rows).items()
        ]
        writing.write_tensors(folder, new, max_bytes or total)


def _find(src: str | Place, merge: bool) -> Source:
    """The weights to convert; ConfigError if `merge` does not fit them."""
    source = weights.find(src, "--src")
    if source.adapter is not None and not merge:
        raise ConfigError(f"{src} is an adapter beside {source.folder}; expected --merge, which writes their sum")
    if merge and source.adapter is None and source.base is None:
        raise ConfigError(f"--merge: {src} has no adapters; expected PEFT's folder, or a run with model.lora_rank")
    return source


def _write_adapter(source: Source, step: Place, dst: str | Place, progress: Progress, dtype: str, which: str) -> None:
    """Writes the adapters of a run as PEFT's folder, in float32."""
    found, cfg = adapters.knobs(step), weights.model_config(source, _any_model())
    assert found is not None and source.base is not None
    if source.base.adapter is not None or source.base.base is not None:
        raise ConfigError(f"{step} is beside {found.checkpoint}, which has adapters itself; expected --merge")
    if dtype not in ("", "float32"):
        raise ConfigError(f"--dtype is {dtype}; expected float32, in which adapters are written, or --merge")
    adapters.refuse_other_base(step, weights.arrays(source.base, cfg), found)
    factors = adapters.of_run(step, found, cfg, which)
    with output.folder(place.of(dst, "--dst"), 0) as folder, progress.stage("adapter", total=1):
        _carry(source, folder, but=("config.json", "generation_config.json"))
        peft.write(folder, cfg, factors, found.targets, found.rank, found.alpha, found.checkpoint)


def pieces(row: Tensor, itemsize: int, chunk: tuple[int, ...] = ()) -> Iterator[Index]:
    """The indices of a tensor's pieces in t1jax's array, in the order of bytes in a Hugging Face file.

    A piece is a range on the first axis of the file's tensor: about PIECE bytes, in whole chunks of shape `chunk`.
    """
    axis = row.order.index(0)
    step = max(1, PIECE // (math.prod(row.split[1:]) * itemsize))
    if chunk:
        unit = chunk[axis + len(row.at)]
        step = max(1, step // unit) * unit
    for start in range(0, row.split[0], step):
        index = [slice(0, row.split[each]) for each in row.order]
        index[axis] = slice(start, min(start + step, row.split[0]))
        yield (*(slice(n, n + 1) for n in row.at), *index)


def _parts(
    row: Tensor, array: Array, dtype: np.dtype, chunk: tuple[int, ...] = ()
) -> Iterator[tuple[Index, np.ndarray]]:
    """(index in t1jax's array, piece as `dtype`) of each piece; ConfigError if a number is not finite."""
    for index in pieces(row, array.dtype.itemsize, chunk):
        part = array.read(index)
        with np.errstate(over="ignore"):  # reported below, with the name
            part = part.astype(dtype, copy=False)
        if not np.isfinite(part).all():
            raise ConfigError(f"{array.where(row.at)} is NaN or infinite as {dtype}; expected finite numbers")
        yield index, part


class _Meter:
    """Shows how many MB have been converted."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._stage, self._done = progress.stage(f"{name}, MB", max(1, total // MB)), 0

    def count(self, part: np.ndarray) -> np.ndarray:
        """Counts the bytes of `part` and returns it."""
        self._done += part.nbytes
        self._stage.update(self._done // MB)
        return part

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stage.__exit__(*error)


def _carry(source: Source, folder: Place, but: tuple[str, ...] = ()) -> None:
    """Copies the tokenizer and config files, unchanged."""
    for name in (*families.CARRIED, SENTENCEPIECE):
        if name not in but and (source.folder / name).is_file():
            files.write_bytes(folder / name, safetensors_files.inside(source.folder, name).read_bytes())


def _any_model() -> ModelConfig:
    """Supplies the knobs that a folder does not set, which say how the model runs: conversion does not run it."""
    return config.load(config_files.load(config_files.shipped()["base"])).model
