# SPDX-License-Identifier: Apache-2.0
"""Converts weights between a Hugging Face folder and an Orbax folder, in both directions.

Where: WEIGHTS -> prompts -> rollouts -> ... -> report -> WEIGHTS. Both ways go tensor by tensor and, within one, piece
by piece, so that a host needs little memory, whatever the model's size. The destination is written beside its place
and renamed when complete: it is whole or absent.
Deliberately not here: flags (convert.py), names and shapes (families.py, tensor_table.py), files (safetensors_files.py,
orbax_arrays.py), sources (load.py).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from t1jax import config
from t1jax.config import ConfigError, ModelConfig
from t1jax.host import config_files, files
from t1jax.host.progress import Progress
from t1jax.weights import families, orbax_arrays, safetensors_files, tensor_table
from t1jax.weights import load as weights
from t1jax.weights.arrays import Array, Source
from t1jax.weights.orbax_arrays import Index
from t1jax.weights.tensor_table import Tensor

PIECE = 64 << 20  # bytes that are read, checked and written at a time, or a row of chunks where that is more
SENTENCEPIECE = "tokenizer.model"  # of a run whose model is not from Hugging Face
WORDS = {"hf": "a Hugging Face folder", "orbax": "a folder of hf-to-orbax", "run": "the checkpoints of a run"}
MB = 10**6


def hf_to_orbax(src: str | Path, dst: str | Path, progress: Progress) -> None:
    """Writes the weights of a Hugging Face folder to `dst`/params by Orbax, the other files to `dst` as they came.

    Raises:
      ConfigError: something in `src` is not right, or `dst` cannot be written; `dst` is then as it was.
    """
    source = weights.find(src)
    if source.kind != "hf":
        raise ConfigError(f"{src} is {WORDS[source.kind]}; expected {WORDS['hf']}")
    cfg = weights.model_config(source, _any_model())
    arrays = weights.arrays(source, cfg)
    rows: dict[tuple[str, ...], list[Tensor]] = {path: [] for path in arrays}
    for row in tensor_table.tensors(cfg):
        rows[row.path].append(row)
    total = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())
    with _beside(Path(dst), total) as folder, _Meter(progress, "hf-to-orbax", total) as meter:

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
    src: str | Path, dst: str | Path, progress: Progress, dtype: str = "", which: str = "policy", max_bytes: int = 0
) -> None:
    """Writes what hf_to_orbax wrote, or the weights of a run, as a Hugging Face folder.

    Args:
      src: see `weights.find`.
      dst: does not exist, or is an empty folder.
      progress: shows how far it is.
      dtype: of the result; "": as stored; of a run what its config.json says, float32 if it has none.
      which: of a run: "policy" or "anchor".
      max_bytes: of data in a file; 0: all in one.

    Raises:
      ConfigError: something in `src` is not right, or `dst` cannot be written; `dst` is then as it was.
    """
    dtypes = {str(each): each for each in safetensors_files.DTYPES.values()}
    if dtype and dtype not in dtypes:
        raise ConfigError(f"--dtype is {dtype!r}; expected one of {', '.join(dtypes)}")
    source = weights.find(src)
    if source.kind == "hf":
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
    total = sum(math.prod(row.shape) * to[row.path].itemsize for row in rows)
    with _beside(Path(dst), total) as folder, _Meter(progress, "orbax-to-hf", total) as meter:

        def parts(row: Tensor) -> Iterator[np.ndarray]:
            for _, part in _parts(row, arrays[row.path], to[row.path]):
                one_layer = part if row.layer is None else part[0]
                yield meter.count(np.ascontiguousarray(one_layer.transpose(np.argsort(row.order))))

        _carry(source, folder)
        if hf_config != base:
            files.write_text(folder / "config.json", json.dumps(hf_config, indent=2) + "\n")
        new = [safetensors_files.NewTensor(row.name, to[row.path], row.shape, partial(parts, row)) for row in rows]
        safetensors_files.write_tensors(folder, new, max_bytes or total)


def pieces(row: Tensor, itemsize: int, chunk: tuple[int, ...] = ()) -> Iterator[Index]:
    """Where in our array the tensor's pieces lie, in the order of its bytes in a Hugging Face file.

    A piece is a range on the file's first axis, of about PIECE bytes, and whole in chunks of the shape `chunk`.
    """
    stacked = row.layer is not None
    axis = row.order.index(0)
    step = max(1, PIECE // (math.prod(row.split[1:]) * itemsize))
    if chunk:
        unit = chunk[axis + stacked]
        step = max(1, step // unit) * unit
    for start in range(0, row.split[0], step):
        index = [slice(0, row.split[each]) for each in row.order]
        index[axis] = slice(start, min(start + step, row.split[0]))
        yield (slice(row.layer, row.layer + 1), *index) if row.layer is not None else tuple(index)


def _parts(
    row: Tensor, array: Array, dtype: np.dtype, chunk: tuple[int, ...] = ()
) -> Iterator[tuple[Index, np.ndarray]]:
    """The pieces of a tensor as `dtype`, and where in our array they lie. ConfigError: a number is not finite."""
    for index in pieces(row, array.dtype.itemsize, chunk):
        part = array.read(index)
        with np.errstate(over="ignore"):  # told below, with the name
            part = part.astype(dtype, copy=False)
        if not np.isfinite(part).all():
            raise ConfigError(f"{array.where(row.layer)} is NaN or infinite as {dtype}; expected finite numbers")
        yield index, part


class _Meter:
    """Counts the bytes that are done and shows them."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._stage, self._done = progress.stage(f"{name}, MB", max(1, total // MB)), 0

    def count(self, part: np.ndarray) -> np.ndarray:
        """`part`, counted."""
        self._done += part.nbytes
        self._stage.update(self._done // MB)
        return part

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stage.__exit__(*error)


@contextmanager
def _beside(dst: Path, size: int) -> Iterator[Path]:
    """A new folder beside `dst` that takes its name if all goes well, and is removed if not.

    Raises:
      ConfigError: `dst` exists and is not empty, there is no room for `size` bytes, or writing failed.
    """
    dst = dst.resolve()
    beside = dst.with_name(f".{dst.name}.{os.getpid()}.tmp")
    try:
        if dst.exists() and not dst.is_dir():
            raise ConfigError(f"{dst} is a file; expected a folder that does not exist yet or is empty")
        if dst.exists() and any(dst.iterdir()):
            raise ConfigError(f"{dst} is not empty; expected a folder that does not exist yet or is empty")
        if not dst.parent.is_dir():
            raise ConfigError(f"{dst.parent} is no folder; expected one to write {dst.name} in; make it")
        if (free := shutil.disk_usage(dst.parent).free) < size:
            raise ConfigError(f"{dst.parent} has room for {free // MB} MB; expected {size // MB} MB or more")
        beside.mkdir()
        yield beside
        os.replace(beside, dst)
        _sync(dst.parent)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise ConfigError(f"{error.filename or dst}: {reason}; nothing was written to {dst}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _carry(source: Source, folder: Path) -> None:
    """Copies what lies beside the weights and goes with them as it came."""
    for name in (*families.CARRIED, SENTENCEPIECE):
        if (source.folder / name).is_file():
            shutil.copyfile(safetensors_files.inside(source.folder, name), folder / name)
            _sync(folder / name)


def _sync(path: Path) -> None:
    """Returns when the file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _any_model() -> ModelConfig:
    """Gives the knobs that a folder does not say: how the model runs; conversion does not run it."""
    return config.load(config_files.load(config_files.shipped()["base"])).model
