# SPDX-License-Identifier: Apache-2.0
"""Weights with the adapters of LoRA in them, as lazy arrays: of a run's checkpoint, or of PEFT's folder (peft.py).

Where: before the prompts, when weights are loaded or converted. A slice of W + scale A B reads only what it needs of
the three. A checkpoint's adapters are refused beside weights with another digest than those they were trained beside.
Deliberately not here: the same sum on devices (model/lora.py), names of files (peft.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from t1jax.config import ConfigError, ModelConfig
from t1jax.devices import multihost
from t1jax.host.place import Place
from t1jax.model import lora
from t1jax.model.parameters import VECTORS, digest_of_sums
from t1jax.weights import orbax_arrays, strict, tensor_table
from t1jax.weights.orbax_arrays import Index, KeyPath

KNOBS = ("lora_rank", "lora_alpha", "lora_targets")
MAX_BYTES = 1 << 20  # largest JSON of a checkpoint
PIECE = 64 << 20  # bytes read at a time for a digest
Factors = Callable[[int], tuple[np.ndarray, np.ndarray]]  # of a layer, float32: [in ..., r] and [r, out ...]


@dataclass(frozen=True)
class Knobs:
    """How a run with LoRA was set."""

    rank: int
    alpha: float
    targets: str
    checkpoint: str  # the folder of its base
    compute_dtype: str  # in which its base is kept

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class Cast:
    """A parameter that the run kept in another dtype than its folder has."""

    base: Any  # an arrays.Array
    kept: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.kept

    def read(self, index: Index) -> np.ndarray:
        found: np.ndarray = self.base.read(index).astype(self.kept, copy=False)
        return found

    def where(self, at: tuple[int, ...]) -> str:
        return str(self.base.where(at))


@dataclass(frozen=True)
class Merged(Cast):
    """A stacked matrix with its adapter in it; `base` and the sum are rounded to `kept`."""

    name: str
    factors: Factors
    scale: float

    def read(self, index: Index) -> np.ndarray:
        part = self.base.read(index).astype(self.kept, copy=False)
        out = np.empty(part.shape, self.kept)
        for place, layer in enumerate(range(self.shape[0])[index[0]]):
            product = np.tensordot(*self.factors(layer), 1)  # the whole one: parts alone are added up in another order
            out[place] = part[place].astype(np.float32) + np.float32(self.scale) * product[tuple(index[1:])]
        return out

    def where(self, at: tuple[int, ...]) -> str:
        return f"{self.base.where(at)} with its adapter"


def knobs(step: Place) -> Knobs | None:
    """How the run of this step was set; None without LoRA.

    Raises:
      ConfigError: its saved config has other types.
    """
    file = step / "config" / "metadata"
    saved: Any = strict.read_object(file, MAX_BYTES).get("model")
    if not isinstance(saved, dict) or not saved.get("lora_rank"):
        return None
    kinds = {"lora_rank": int, "lora_alpha": float, "lora_targets": str, "checkpoint": str, "compute_dtype": str}
    for name, kind in kinds.items():
        if type(saved.get(name)) is not kind:
            raise ConfigError(f"{file}: model.{name} is {saved.get(name)!r:.60}; expected {kind.__name__}")
    if saved["lora_targets"] not in lora.TARGETS or saved["lora_rank"] < 1:
        raise ConfigError(f"{file}: model.lora_targets is {saved['lora_targets']!r:.60}; expected what t1jax wrote")
    return Knobs(*(saved[name] for name in kinds))


def of_run(step: Place, found: Knobs, cfg: ModelConfig, which: str) -> Callable[[str], Factors]:
    """name -> the factors of the policy or the anchor, of a step's checkpoint.

    Raises:
      ConfigError: one is missing, unexpected or of another shape.
    """
    state = step / "state"
    trees = {"policy": ("params",), "anchor": ("params", "anchor_offset")}
    if which not in trees:
        raise ConfigError(f"which is {which!r}; expected policy or anchor")
    stored = {below: orbax_arrays.open_arrays(state, below) for below in trees[which]}
    expected = _shapes(cfg, found)
    for below, arrays in stored.items():
        shapes = {path: array.shape for path, array in arrays.items()}
        if shapes != expected:
            wrong = sorted(".".join(path) for path, _ in shapes.items() ^ expected.items())
            raise ConfigError(
                f"{state}: {below}.{wrong[0]} and {len(wrong) - 1} more are missing, unexpected or of another shape; "
                f"expected adapters of rank {found.rank} for {found.targets}"
            )

    def of(name: str) -> Factors:
        def read(layer: int) -> tuple[np.ndarray, np.ndarray]:
            def one(key: str) -> np.ndarray:
                each = [arrays["layers", name, key] for arrays in stored.values()]
                index = (slice(layer, layer + 1), *(slice(0, n) for n in each[0].shape[1:]))
                return sum((x.read(index)[0] for x in each[1:]), start=each[0].read(index)[0])

            return one(lora.A), one(lora.B)

        return read

    return of


def _shapes(cfg: ModelConfig, found: Knobs) -> dict[KeyPath, tuple[int, ...]]:
    """Path -> shape of each factor in a checkpoint."""
    whole = tensor_table.shapes(cfg)
    return {
        ("layers", name, key): shape
        for name in lora.TARGETS[found.targets]
        for key, shape in lora.factors(whole["layers", name], name, found.rank).items()
    }


def merged(
    base: Mapping[KeyPath, Any], of: Callable[[str], Factors], names: tuple[str, ...], scale: float, kept: str = ""
) -> dict[KeyPath, Any]:
    """The parameters of `base` with the factors of the matrices `names` in them.

    `kept`: the dtype that matrices and tables of the base are rounded to; "": they stay as they are.
    """
    out: dict[KeyPath, Any] = {}
    for path, array in base.items():
        dtype = np.dtype(np.float32) if path[-1] in VECTORS else np.dtype(_named(kept)) if kept else array.dtype
        cast = Cast(array, dtype) if kept else array
        adapted = path[0] == "layers" and path[-1] in names
        out[path] = Merged(cast, dtype, path[-1], of(path[-1]), scale) if adapted else cast
    return out


def _named(dtype: str) -> Any:
    return ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype


def refuse_other_base(step: Place, base: Mapping[KeyPath, Any], found: Knobs) -> None:
    """ConfigError unless the base has the digest that the checkpoint of `step` notes.

    Reads all of it once, in pieces that the processes share; all of them make the call.
    """
    saved = strict.read_object(step / "base" / "metadata", MAX_BYTES).get("digest")
    digest = digest_of_sums(_sums(merged(base, _none, (), 1.0, found.compute_dtype)))
    refuse_other_digest(step, saved, digest, found.checkpoint)


def refuse_other_digest(where: Place, saved: Any, found: str, checkpoint: str) -> None:
    """ConfigError unless both digests are the same: of the base that the adapters at `where` are beside, and now."""
    if saved != found:
        raise ConfigError(
            f"{where} has adapters for weights with the digest {str(saved):.20}; those of model.checkpoint = "
            f"{checkpoint} have {found}: put the weights back that the run began with"
        )


def _none(_: str) -> Factors:
    raise AssertionError("no matrix has factors")


def _sums(arrays: Mapping[KeyPath, Any]) -> dict[KeyPath, int]:
    """The sum of each array's bits modulo 2^32, as parameters.checksum adds them up."""
    pieces: list[tuple[KeyPath, slice]] = []
    for path, array in arrays.items():
        rows = max(1, PIECE // (math.prod(array.shape[1:]) * array.dtype.itemsize))
        pieces += [(path, slice(at, min(at + rows, array.shape[0]))) for at in range(0, array.shape[0], rows)]

    def bits(path: KeyPath, rows: slice) -> int:
        part = np.ascontiguousarray(arrays[path].read((rows, *(slice(0, n) for n in arrays[path].shape[1:]))))
        return int(part.view(np.uint32 if part.itemsize == 4 else np.uint16).sum(dtype=np.uint64)) % 2**32

    found = multihost.divided(lambda part: [bits(*piece) for piece in pieces[part]], len(pieces), np.uint32)
    sums = dict.fromkeys(arrays, 0)
    for (path, _), each in zip(pieces, found, strict=True):
        sums[path] = (sums[path] + each) % 2**32
    return sums
