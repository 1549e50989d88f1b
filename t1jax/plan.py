# SPDX-License-Identifier: Apache-2.0
"""Whether a config fits hardware that you don't have, and how fast it would be: `python -m t1jax.plan`.

It compiles the real training step ahead of time for the slice and prints what the compiler reports: memory,
communication between chips and flops, with an estimate of the step's time.
Deliberately not here: how that is found (planning/fit.py), the slices (planning/slices.py).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from absl import flags

from t1jax.config import ConfigError
from t1jax.host import command_line
from t1jax.planning import slices
from t1jax.planning.slices import GIB

if TYPE_CHECKING:  # imported where it is used: jax must not start before hardware.find
    from t1jax.config import Config
    from t1jax.planning.fit import Found

USAGE = """\
usage: python -m t1jax.plan --config=configs/qwen32b.py --topology=v5p:4x4x8 [--cycles] [--json] [--suggest]
                            [--config.KNOB=VALUE]

Compiles the config's training step for hardware that you don't have. Prints its memory per chip, the communication
between chips and an estimate of its time. Exit codes: 0 it fits, 1 it does not, 2 an error. If the slice needs another
mesh than the config's, set it with --config.mesh.fsdp and so on.

  --topology  KIND:SHAPE, for example v5e:2x2 v5e:4x4 v5e:16x16 v5p:4x4x4 v5p:4x4x8 v6e:8x8 v6e:16x16 (TPUs: compiled
              with pip install '.[plan]' in the folder of t1jax), gpu:1xl4 gpu:1xrtx4080 gpu:1xrtx4090 gpu:8xa100
              gpu:8xh100 gpu:8xh200 gpu:8xb200 (with pip install '.[plan-gpu]' there by XLA's GPU compiler, else CPUs
              stand in), cpu:8; several slices, joined by a network: 2xv5e:16x16
  --json      print one JSON object on stdout; everything else goes to stderr
  --cycles    also print where the cycles of a TPU go, by its compiler's estimate, beside a floor; JSON has them anyway
  --suggest   also estimate other meshes, lanes and micro-batches, compile the fastest that fits, and print it
  --fast      only estimate from shapes: takes seconds, compiles nothing
  --length    response length, in tokens, that the time is estimated for; default: rl.max_new_tokens
"""
EXIT_TOO_BIG = 1


def cli() -> None:
    """The `python -m t1jax.plan` command."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    verdict = [0]

    def body(argv: list[str]) -> None:
        verdict[0] = _plan(argv)

    return command_line.call("t1jax.plan", USAGE, body, argv, interrupted="interrupted") or verdict[0]


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("topology", "", "the slice", flag_values=values)
    flags.DEFINE_boolean("json", False, "print JSON", flag_values=values)
    flags.DEFINE_boolean("cycles", False, "print cycles", flag_values=values)
    flags.DEFINE_boolean("suggest", False, "try other settings", flag_values=values)
    flags.DEFINE_boolean("fast", False, "do not compile", flag_values=values)
    flags.DEFINE_integer("length", 0, "tokens of a response", flag_values=values)


def _plan(argv: list[str]) -> int:
    cfg, values, extra = command_line.read_config(argv, _define, "configs/qwen32b.py")
    if extra:
        raise ConfigError(f"got {' '.join(extra)}; expected flags only, see --help")
    if values.length < 0 or values.length > cfg.rl.max_new_tokens:
        raise ConfigError(f"--length is {values.length}; expected 1 to rl.max_new_tokens = {cfg.rl.max_new_tokens}")
    if values.cycles and (values.fast or slices.parts(values.topology)[1] in ("cpu", "gpu")):
        raise ConfigError(
            f"--cycles with {'--fast' if values.fast else f'--topology={values.topology}'}; expected a TPU slice, "
            "compiled: only its compiler estimates cycles"
        )
    where = slices.find(values.topology, compiled=not values.fast)
    cfg = sized(cfg, command_line.sizes_set(cfg, argv))
    note = untrained_positions(cfg)
    length = float(values.length or cfg.rl.max_new_tokens)
    from rich.console import Console

    from t1jax.host.progress import Progress
    from t1jax.model import heads
    from t1jax.planning import fit, suggest

    found: Found | None = None
    why = ""
    with Progress(Console(stderr=True, highlight=False)) as progress:
        progress.doing("planning")
        better = suggest.suggest(cfg, where, length, compiled=not values.fast) if values.suggest else None
        try:
            found = fit.plan(cfg, where, length, compiled=not values.fast)
            why = "" if found.fits else found.why_not()
        except ConfigError as error:
            if better is None:
                raise
            why = str(error)
    if values.json:
        suggestion = {"suggestion": better and better.knobs() | {"plan": better.as_dict()}} if values.suggest else {}
        print(json.dumps((found.as_dict() if found else {"fits": False}) | suggestion))
    else:
        print(table(found) if found else f"{values.topology}: the config does not work on this slice")
        if values.cycles and found and found.compiled:
            print(cycles_table(found))
        if values.suggest:
            print(f"\nsuggestion: {better.command() if better else 'none of the settings tried fits'}")
    for line in (heads.note(cfg.model, found.mesh[2]) if found else "", note):
        if line:
            print(f"t1jax.plan: {line}", file=sys.stderr)
    if why:
        print(f"t1jax.plan: {why}", file=sys.stderr)
        return EXIT_TOO_BIG
    return 0


def sized(cfg: Config, given: Collection[str]) -> Config:
    """`cfg` with the sizes of the model in model.checkpoint, if that folder is here; of its files config.json will do.

    Of a model of the Hugging Face hub the small files are downloaded.

    Raises:
      ConfigError: a size that is `given` is another.
    """
    from t1jax.host import hub, place
    from t1jax.host.bucket import Unreachable
    from t1jax.weights import families
    from t1jax.weights import load as weights

    name = cfg.model.checkpoint
    folder = place.of("" if hub.is_model(name) else name, "model.checkpoint")
    if hub.is_model(name):
        try:
            folder = hub.model(name, "model.checkpoint", families.CARRIED)
        except (ConfigError, Unreachable) as error:
            if "hidden_size" not in given:
                raise
            print(f"t1jax.plan: planned with the config's own sizes: {error}", file=sys.stderr)
            return cfg
    elif not name or not folder.is_dir():
        return cfg
    told = (folder / "config.json").is_file() and "architectures" in families.read_config(folder)
    source = weights.Source(folder, "hf", None) if told else weights.find(folder, "model.checkpoint")
    return dataclasses.replace(cfg, model=weights.sized(source, cfg.model, given))


def untrained_positions(cfg: Config) -> str:
    """A note if prompt and response have more positions than model.checkpoint was trained for, by its rope's knobs.

    Where that folder is here, its config.json decides, as it does in t1jax.main.

    Raises:
      ConfigError: by config.json they have more.
    """
    from t1jax.host import hub
    from t1jax.text import tokenizer
    from t1jax.weights import rope

    folder = cfg.model.checkpoint
    if not folder:  # a model that is trained from scratch, at these lengths
        return ""
    if not hub.is_model(folder) and tokenizer.is_saved(folder):
        tokenizer.refuse_too_long(tokenizer.load(folder), cfg, cfg.scaling.budgets)
        return ""
    positions, trained = cfg.data.prompt_length + cfg.rl.max_new_tokens, rope.configured_length(cfg.model)
    if trained is None or positions <= trained:
        return ""
    return (
        f"data.prompt_length + rl.max_new_tokens is {positions}, more than the {trained} positions that {folder} was "
        "trained for by model.rope_original_length and model.rope_scaling; t1jax.main goes by its config.json: lower "
        "them, or scale the rope"
    )


def table(found: Found) -> str:
    """For a person."""
    from t1jax.devices import multihost
    from t1jax.planning import estimate

    chip, todo, time, told = found.where.chip, found.work, found.seconds, found.compiled
    shape = " x ".join(f"{name} {size}" for name, size in zip(("data", "fsdp", "tensor"), found.mesh, strict=True))
    lines = [
        f"{found.where.topology}: {len(found.where.devices)} devices of {chip.memory / GIB:.0f} GiB"
        + (f"; compiled for CPUs instead: {slices.EXTRA.format('plan-gpu')}" if found.where.stands_in and told else ""),
        *order(found),
        f"mesh {shape}; {found.parameters / 1e9:.2f} billion parameters; {found.memory.lanes} lanes per prompt; "
        f"{found.cfg.rl.micro_batches} micro-batches",
        multihost.describe(found.fed),
        "",
        "Memory per chip, estimated from shapes",
        *(f"  {line}" for line in str(found.memory).splitlines()),
    ]
    if told and not told.refused:
        lines += [
            "Memory per chip, as compiled",
            f"  state and prompts {told.arguments / GIB:.2f} GiB + temporaries {told.temporaries / GIB:.2f} GiB + "
            f"code {told.code / GIB:.2f} GiB + process {found.memory.of('host') / GIB:.2f} GiB = "
            f"{found.total / GIB:.2f} GiB",
            "",
            "Communication between chips",
            *(
                f"  {place.replace('_', ' '):12} {kind:25} {count / GIB:10.2f} GiB per step and chip"
                for place, kinds in found.moved().items()
                for kind, count in sorted(kinds.items())
            ),
            f"  all-gathers of weights inside the token loop: {found.gathers}",
        ]
        if told.launches:
            lines += ["", "Kernels, as compiled", *(f"  {stage}" for stage in told.launches)]
    share, verdict = found.total / chip.memory, "fits" if found.fits else "DOES NOT FIT"
    ratio = found.update_ratio
    compiled = f"; as compiled, the update takes {ratio:.2f} of the count, attention aside" if ratio else ""
    return "\n".join(
        [
            *lines,
            "",
            f"{found.total / GIB:.1f} of {chip.memory / GIB:.0f} GiB ({share:.0%}): {verdict}",
            f"Flops of a step, every response {found.length:.0f} tokens: {todo.total:.3g}, "
            f"{todo.remat / todo.total:.0%} of it recomputation{compiled}",
            f"Seconds of a step: {time.total:.0f} = prefill {time.prefill:.1f} + decode {time.decode:.0f} "
            f"({time.iterations:.0f} tokens in sequence) + update {time.update:.0f}",
            f"  by {estimate.assumptions(found.where.slices)}",
        ]
    )


def order(found: Found) -> list[str]:
    """How far apart neighbours in the mesh are: a line, or none where they are not joined by links."""
    axes = zip(("data", "fsdp", "tensor"), found.hops, strict=True)
    near = ", ".join(f"{name} {links:.2f}" for name, links in axes if links is not None)
    hops = [f"mean hops to the neighbour: {near}"] if near else []
    if found.where.slices > 1:
        network = found.where.chip.network / 1e9
        hops += [f"data goes over the network between {found.where.slices} slices, {network:.1f} GB/s a device"]
    return [f"order of devices: {'; '.join(hops)}"] if hops else []


def cycles_table(found: Found) -> str:
    """Where a TPU's cycles go, for a person."""
    told = found.compiled.cycles if found.compiled else ()
    return "\n".join(
        ["", "Cycles of a chip, by its compiler: a token, a part of the anchor, of the update", *map(str, told)]
    )


if __name__ == "__main__":
    cli()
