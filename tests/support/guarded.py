# SPDX-License-Identifier: Apache-2.0
"""A guard around the loop of RL: its steps, rows and checkpoints move nothing to a device that nobody asked for.

Allowed are what makes the prompts a global array, which JAX counts as implicit, and evaluations, which begin with the
host's numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import jax

from t1jax.devices import multihost
from t1jax.training import rl
from t1jax.training.loop import Saving


def _allowed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.transfer_guard("allow"):
            return function(*args, **kwargs)

    return call


@contextmanager
def loop_of_rl() -> Iterator[None]:
    """Inside, `rl.train` refuses transfers from the moment that its loop begins until it returns."""
    real = rl.train

    def train(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as guard:

            class Guarded(Saving):
                def begin(self, *args: Any) -> None:
                    super().begin(*args)
                    guard.enter_context(jax.transfer_guard("disallow"))

            with mock.patch.object(rl, "Saving", Guarded):
                return real(*args, **kwargs)

    with (
        mock.patch.object(rl, "train", train),
        mock.patch.object(rl, "_evaluate", _allowed(rl._evaluate)),
        mock.patch.object(multihost, "global_batch", _allowed(multihost.global_batch)),
    ):
        yield
