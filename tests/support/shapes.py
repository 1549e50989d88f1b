# SPDX-License-Identifier: Apache-2.0
"""The axis letters of array names, checked by chex: what is called `x_BT` has the B and the T of the call's others.

`checked` wraps the public functions of the numerics for the tests; the product runs none of it. It imports modules
from the ground up, before others can take a function that is not wrapped.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import chex

NUMERICS = (
    "model.precision",
    "model.blocked",
    "model.splash",
    "model.cudnn",
    "model.attention",
    "model.ring",
    "model.experts",
    "model.qwen",
    "update.masking",
    "update.advantages",
    "update.losses",
    "update.logprobs",
    "update.packing",
    "rollouts.rng",
    "rollouts.sampling",
    "rollouts.log",
    "rollouts.repeats",
    "rollouts.lanes",
)
_NAMED = re.compile(r"[a-z][a-z0-9_]*_([A-Za-z]*[A-Z][A-Za-z]*)")


def check(where: str, arrays: Mapping[str, Any]) -> None:
    """Fails if two arrays differ in the size of a letter that both names have.

    Raises:
      AssertionError: names `where` and the array.
    """
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        if dataclasses.is_dataclass(array):  # whose fields agree among themselves
            check(f"{where}: {name}", {field.name: getattr(array, field.name) for field in dataclasses.fields(array)})
        named = _NAMED.fullmatch(name)
        if named is None or not hasattr(array, "shape"):
            continue
        letters = named[1]
        expected = [None if not x.isalpha() else sizes.get(x) for x in letters]
        try:
            chex.assert_shape(array, expected)
        except AssertionError as error:
            raise AssertionError(f"{where}: {name}, where {sizes}: {error}") from error
        sizes |= {x: size for x, size in zip(letters, array.shape, strict=True) if x.isalpha()}


def _checking(function: types.FunctionType) -> Callable[..., Any]:
    signature, where = inspect.signature(function), f"{function.__module__}.{function.__qualname__}"

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check(where, signature.bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return call


def checked(modules: Iterable[str] = NUMERICS) -> int:
    """Wraps the public functions of these modules whose arguments have letters; returns how many."""
    count = 0
    for name in modules:
        module = importlib.import_module(f"t1jax.{name}")
        for of, function in list(vars(module).items()):
            mine = isinstance(function, types.FunctionType) and function.__module__ == module.__name__
            if mine and not of.startswith("_") and any(map(_NAMED.fullmatch, inspect.signature(function).parameters)):
                setattr(module, of, _checking(function))
                count += 1
    return count
