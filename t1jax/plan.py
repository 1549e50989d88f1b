# SPDX-License-Identifier: Apache-2.0
"""Whether a config fits a slice that is not here, and how fast it can be: `python -m t1jax.plan`.

Where: before anything else. It compiles the very step of training ahead of time for the slice and reads what the
compiler says of it: memory, exchanges between chips, flops.
Deliberately not here: the counts from shapes (memory.py, estimate.py), the slices (hardware.py), reading the compiled
text (program.py).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from absl import flags

from t1jax import cli as command_line
from t1jax import hardware
from t1jax.config import Config, ConfigError, mesh_shape
from t1jax.hardware import GIB, Slice

if TYPE_CHECKING:  # imported where they are used: jax must not start before hardware.find
    from t1jax.estimate import Seconds, Work
    from t1jax.memory import MemoryPlan
    from t1jax.program import Collective, Program

USAGE = """\
usage: python -m t1jax.plan --config=configs/qwen32b.py --topology=v5p:4x4x8 [--json] [--suggest] [--config.KNOB=VALUE]

Compiles the config's training step for a slice that is not here. Prints what it takes of each chip, what chips
exchange, and an estimate of its time. Exit code 0: it fits; 1: it does not; 2: a mistake.

  --topology  KIND:SHAPE, for example v5e:2x2 v5e:4x4 v5e:16x16 v5p:4x4x4 v5p:4x4x8 v6e:8x8 v6e:16x16 (TPUs: needs
              pip install 't1jax[plan]'), gpu:8xh100, cpu:8
  --json      one JSON object on stdout; everything else goes to stderr
  --suggest   also tries other meshes, lanes and micro-batches on paper, compiles the fastest that fits, and prints it
  --length    tokens of a response that time is estimated for; default: rl.max_new_tokens
"""
EXIT_TOO_BIG = 1
USABLE = 0.9  # of a chip's memory


def cli() -> None:
    """The `python -m t1jax.plan` command."""
    sys.exit(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    verdict = [0]

    def body(argv: list[str]) -> None:
        verdict[0] = _plan(argv)

    return command_line.call("t1jax.plan", USAGE, body, argv, interrupted="interrupted") or verdict[0]


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("topology", "", "the slice", flag_values=values)
    flags.DEFINE_boolean("json", False, "print JSON", flag_values=values)
    flags.DEFINE_boolean("suggest", False, "try other settings", flag_values=values)
    flags.DEFINE_integer("length", 0, "tokens of a response", flag_values=values)


def _plan(argv: list[str]) -> int:
    cfg, values, extra = command_line.read_config(argv, _define, "configs/qwen32b.py")
    if extra:
        raise ConfigError(f"got {' '.join(extra)}; expected flags only, see --help")
    if values.length < 0 or values.length > cfg.rl.max_new_tokens:
        raise ConfigError(f"--length is {values.length}; expected 1 to rl.max_new_tokens = {cfg.rl.max_new_tokens}")
    where = hardware.find(values.topology)
    found = compile_for(cfg, where, float(values.length or cfg.rl.max_new_tokens))
    advice = _suggest(cfg, where, found) if values.suggest else None
    if values.json:
        print(json.dumps(found.as_dict() | ({"suggestion": advice} if values.suggest else {})))
    else:
        print(found.table())
        if advice is not None:
            print("\nsuggestion: " + " ".join(f"--config.{knob}={value}" for knob, value in advice.items()))
    if not found.fits:
        print(f"t1jax.plan: {found.why_not()}", file=sys.stderr)
    return 0 if found.fits else EXIT_TOO_BIG


@dataclass(frozen=True)
class Found:
    """What is known of a config on a slice. Bytes and flops are of one device."""

    cfg: Config
    where: Slice
    mesh: tuple[int, int, int]
    parameters: int
    memory: MemoryPlan  # from shapes
    arguments: int  # from here on: of the compiled program
    temporaries: int
    code: int
    flops: float
    exchanges: tuple[Collective, ...]
    work: Work
    seconds: Seconds
    length: float

    @property
    def total(self) -> int:
        """Bytes at the program's peak."""
        return self.arguments + self.temporaries + self.code

    @property
    def fits(self) -> bool:
        return self.total <= USABLE * self.where.chip.memory

    @property
    def gathers(self) -> int:
        """All-gathers inside the token loop as large as a layer's smallest matrix: weights that move for every token."""
        model = self.cfg.model
        value = 2 if model.compute_dtype == "bfloat16" else 4
        smallest = model.hidden_size * model.num_kv_heads * model.head_dim * value // self.mesh[2]
        return sum(x.in_token_loop and x.kind == "all-gather" and x.bytes >= smallest for x in self.exchanges)

    def why_not(self) -> str:
        """The largest consumer and the knob that makes it smaller."""
        most, chip = self.memory.largest, self.where.chip
        return (
            f"a step takes {self.total / GIB:.1f} GiB of each chip; expected at most {USABLE:.0%} of the "
            f"{chip.memory / GIB:.0f} GiB of {chip.name}; the most, {most.bytes / GIB:.1f} GiB, is {most.name}: {most.knob}"
        )

    def moved(self) -> dict[str, dict[str, float]]:
        """Bytes that a device receives in a step, by kind, inside the token loop and outside of it."""
        found: dict[str, dict[str, float]] = {"token_loop": defaultdict(float), "elsewhere": defaultdict(float)}
        for x in self.exchanges:
            found["token_loop" if x.in_token_loop else "elsewhere"][x.kind] += x.bytes * x.times
        return {place: dict(kinds) for place, kinds in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        chip = self.where.chip
        return {
            "topology": self.where.topology,
            "devices": len(self.where.devices),
            "mesh": dict(zip(("data", "fsdp", "tensor"), self.mesh, strict=True)),
            "compiler": self.where.compiler,
            "parameters": self.parameters,
            "lanes": self.memory.lanes,
            "bytes_per_chip": {f"{part.phase}: {part.name}": part.bytes for part in self.memory.parts},
            "planned_bytes_per_chip": self.memory.total,
            "argument_bytes_per_chip": self.arguments,
            "temporary_bytes_per_chip": self.temporaries,
            "code_bytes_per_chip": self.code,
            "total_bytes_per_chip": self.total,
            "hbm_bytes_per_chip": chip.memory,
            "fits": self.fits,
            "weight_gathers_in_token_loop": self.gathers,
            "exchanged_bytes_per_chip": self.moved(),
            "flops_per_chip_compiled": self.flops,
            "flops": dataclasses.asdict(self.work) | {"total": self.work.total},
            "remat_share": self.work.remat / self.work.total,
            "response_length": self.length,
            "seconds": dataclasses.asdict(self.seconds) | {"total": self.seconds.total},
        }

    def table(self) -> str:
        """For a person."""
        chip, todo, time = self.where.chip, self.work, self.seconds
        moved = [
            f"  {place.replace('_', ' '):12} {kind:20} {count / GIB:10.2f} GiB a step and chip"
            for place, kinds in self.moved().items()
            for kind, count in sorted(kinds.items())
        ]
        shape = " x ".join(f"{name} {size}" for name, size in zip(("data", "fsdp", "tensor"), self.mesh, strict=True))
        stand_in = "" if self.where.compiler != "cpu" or chip.name == "cpu" else "; compiled for CPUs in their place"
        return "\n".join(
            [
                f"{self.where.topology}: {len(self.where.devices)} devices of {chip.memory / GIB:.0f} GiB{stand_in}",
                f"mesh {shape}; {self.parameters / 1e9:.2f} billion parameters; {self.memory.lanes} lanes a prompt",
                "",
                "Memory of a chip, counted from shapes",
                *(f"  {line}" for line in str(self.memory).splitlines()),
                "Memory of a chip, as compiled",
                f"  state and prompts {self.arguments / GIB:.2f} GiB + temporaries {self.temporaries / GIB:.2f} GiB + "
                f"code {self.code / GIB:.2f} GiB = {self.total / GIB:.2f} GiB of {chip.memory / GIB:.0f} GiB "
                f"({self.total / chip.memory:.0%}): {'fits' if self.fits else 'DOES NOT FIT'}",
                "",
                "Exchanges between chips",
                *moved,
                f"  all-gathers of weights inside the token loop: {self.gathers}",
                "",
                f"Flops of a step, every response {self.length:.0f} tokens: {todo.total:.3g}, of them again to save "
                f"memory {todo.remat / todo.total:.0%}; as compiled, {self.flops * len(self.where.devices):.3g}",
                f"Seconds of a step, at {estimate_shares()}: {time.total:.0f} = prefill {time.prefill:.1f} + decode "
                f"{time.decode:.0f} ({time.iterations:.0f} tokens one after the other) + update {time.update:.0f}",
            ]
        )


def estimate_shares() -> str:
    """The assumptions of the estimate, in words."""
    from t1jax import estimate

    return f"{estimate.MATMUL:.0%} of the chip's flops and {estimate.READ:.0%} of its bandwidth"


def compile_for(cfg: Config, where: Slice, length: float) -> Found:
    """Compiles the step of `cfg` for the slice.

    Raises:
      ConfigError: the config cannot work there.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh  # noqa: F401

    from t1jax import estimate, memory, optim, program, sharding, step, validation
    from t1jax.types import Prompts

    validation.validate(cfg, len(where.devices))
    shape = mesh_shape(cfg.mesh, len(where.devices))
    mesh = sharding.make_mesh(cfg.mesh, where.devices)
    planned = memory.plan(cfg, mesh, where.chip.memory)
    cfg = dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, lanes=planned.lanes))

    def no_scorer(*_: Any) -> Any:
        raise AssertionError("a plan scores nothing")

    train_step = step.make_train_step(cfg, mesh, no_scorer, stop_tokens=(0,))
    state = step.state_shapes(cfg, mesh, optim.make_optimizer(cfg.rl, cfg.rl.num_steps, "constant"), anchor=True)
    layout, rows, width = sharding.train_layout(mesh), cfg.rl.prompts_per_step, cfg.data.prompt_length

    def prompt(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.sharding("batch", *(None for _ in shape[1:])))

    prompts = Prompts(prompt(jnp.int32, rows, width), prompt(jnp.bool_, rows, width), prompt(jnp.int32, rows))
    print(f"compiling for {where.topology}; minutes for a large model", file=sys.stderr)
    lowered = train_step.trace(state, prompts).lower(lowering_platforms=(where.compiler,))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise _too_big(error, planned, where) from error
    stats = compiled.memory_analysis()
    text = program.parse(compiled.as_text())
    parts = -(-int(cfg.rl.micro_batches * length // cfg.rl.max_new_tokens) // 1) or 1
    seconds = estimate.seconds(cfg, shape, where.chip, length, planned.lanes)
    trips = {"token_loop": seconds.iterations, "anchor_parts": parts, "update_parts": parts}
    return Found(
        cfg=cfg,
        where=where,
        mesh=shape,
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        memory=planned,
        arguments=stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        flops=text.flops(trips),
        exchanges=tuple(text.collectives(trips)),
        work=estimate.work(cfg, length),
        seconds=seconds,
        length=length,
    )


def _too_big(error: Exception, planned: MemoryPlan, where: Slice) -> Exception:
    """The compiler's refusal in our words, where it is about memory."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return error
    most = planned.largest
    return ConfigError(
        f"the compiler finds no room on {where.topology}: {' '.join(str(error).split())[:200]}; by shapes a step takes "
        f"{planned.total / GIB:.1f} GiB of each chip, the most of it {most.name}: {most.knob}"
    )


def _suggest(cfg: Config, where: Slice, now: Found) -> dict[str, int]:
    raise NotImplementedError
