# SPDX-License-Identifier: Apache-2.0
"""The step through a slice's compiler, without the slice: its memory, flops, exchanges, cycles and launches.

Deliberately not here: the slices (planning/slices.py), reading the compiled text (planning/hlo.py), what is asked of a
config (planning/fit.py).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from t1jax.config import ConfigError
from t1jax.devices import scopes
from t1jax.model import attention
from t1jax.planning import cycles, exchanges, hlo, launches
from t1jax.planning.exchanges import Collective
from t1jax.planning.slices import EXTRA, Slice
from t1jax.training import step
from t1jax.training.setup import RlSetup
from t1jax.types import Prompts

STAGES = {"decode": scopes.TOKEN_LOOP, "anchor": scopes.ANCHOR_PARTS, "update": scopes.UPDATE_PARTS}


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of the step. Bytes and flops are of one device."""

    arguments: int  # the state and the prompts; results take their place
    temporaries: int  # what the program has beside them at its peak
    code: int
    flops: float = 0.0  # of matrix products; attention is seen in part: not in a kernel, and one block of the ring
    stages: Mapping[str, float] = field(default_factory=dict)  # of those, in each of STAGES
    exchanges: tuple[Collective, ...] = ()
    cycles: tuple[cycles.Stage, ...] = ()  # of a TPU
    launches: tuple[launches.Launches, ...] = ()  # of a GPU
    refused: str = ""  # the compiler's words, where it found no room; then only the bytes are known

    @property
    def total(self) -> int:
        """Bytes at the program's peak."""
        return self.arguments + self.temporaries + self.code


def compiled(setup: RlSetup, where: Slice, length: float, trips: dict[str, float]) -> Compiled:
    """The step of `setup` through the compiler of `where`.

    Args:
      length: tokens of a response, on average.
      trips: how often each scope's loop turns, by its name.

    Raises:
      ConfigError: the compiler needs what is not installed.
    """

    def no_scorer(*_: Any) -> Any:
        raise AssertionError("a plan scores nothing")

    def no_call(_: Any, shapes: list[jax.ShapeDtypeStruct], *arrays: jax.Array) -> list[jax.Array]:
        zeros, _ = jax.lax.optimization_barrier(([jnp.zeros(x.shape, x.dtype) for x in shapes], arrays))
        return zeros

    layout, rows, width = setup.layout, setup.cfg.rl.drawn, setup.cfg.data.prompt_length

    def prompt(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.sharding("batch", *(None for _ in shape[1:])))

    prompts = Prompts(prompt(jnp.int32, rows, width), prompt(jnp.bool_, rows, width), prompt(jnp.int32, rows))
    call = no_call if where.compiler == "cuda" else io_callback  # lowered for a GPU, that wants a live backend
    train_step = step.make_train_step(setup, no_scorer, stop_tokens=(0,), call=call)
    print(f"compiling for {where.topology}; minutes for a large model", file=sys.stderr)
    try:
        lowered = train_step.trace(setup.state_shapes(), prompts).lower(lowering_platforms=(where.compiler,))
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        raise ConfigError(
            f"--topology={where.topology}: {error}; expected cuDNN 9, which rows of at most {attention.CUDNN_LENGTH} "
            f"positions are attended with: {EXTRA.format('plan-gpu')}, or set model.attention to triton"
        ) from error
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = " ".join(str(error).split())
        size = max(wanted(said), setup.memory.program)
        return Compiled(0, size, 0, refused=f"the compiler finds no room: {said[:160]}")
    stats, text = program.memory_analysis(), hlo.parse(program.as_text())
    arguments, temporaries = held(stats, where.compiler)
    return Compiled(
        arguments=arguments,
        temporaries=temporaries,
        code=stats.generated_code_size_in_bytes,
        flops=text.flops(trips),
        stages={stage: text.flops(trips, scope) for stage, scope in STAGES.items()},
        exchanges=tuple(exchanges.collectives(text, trips)),
        cycles=cycles.stages(text, setup, where.chip, length) if where.compiler == "tpu" else (),
        launches=launches.stages(text, setup, length) if where.compiler == "cuda" else (),
    )


def held(stats: Any, compiler: str) -> tuple[int, int]:
    """(arguments, temporaries) of a program's `memory_analysis()`, in bytes of a device.

    Of a TPU the temporaries are the peak less the arguments: within 3 % of what libtpu's buffer assignment takes, which
    decides whether a program fits. Its `temp_size_in_bytes` is 5 to 40 % above that (libtpu 0.0.42). Of a GPU the two
    agree; of a CPU the peak leaves temporaries out (jaxlib 0.10.2).
    """
    arguments = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    tpu = compiler == "tpu"
    return arguments, stats.peak_memory_in_bytes - arguments if tpu else stats.temp_size_in_bytes


def wanted(said: str) -> int:
    """The bytes that a compiler which found no room says that it needs; 0 if it does not say."""
    found = re.search(r"(?:Used |temporaries \()([0-9.]+)([KMG])\b", said)
    return int(float(found[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[found[2]]) if found else 0
