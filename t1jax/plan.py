# SPDX-License-Identifier: Apache-2.0
"""Whether a config fits hardware that you don't have, and how fast it would be: `python -m t1jax.plan`.

It compiles the real training step ahead of time for the slice and prints what the compiler reports: memory,
communication between chips and flops, with an estimate of the step's time. With --have it turns the question round:
what can be trained there.
Deliberately not here: how that is found (planning/fit.py, recipes.py), the slices (planning/slices.py).
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from t1jax import config
from t1jax.config import ConfigError
from t1jax.host import command_line, config_files, hub, place
from t1jax.planning import slices
from t1jax.planning.slices import GIB

if TYPE_CHECKING:  # imported where it is used: jax must not start before hardware.find
    from t1jax.config import Config
    from t1jax.host.place import Place
    from t1jax.planning.fit import Found

USAGE = """\
usage: python -m t1jax.plan --model=Qwen/Qwen2.5-1.5B --have=v5e:2x2 [--hours=H] [--nofast] [--json]
       python -m t1jax.plan --config=configs/qwen32b.py --topology=v5p:4x4x8 [--cycles] [--json] [--suggest]
                            [--config.KNOB=VALUE]

--have answers what can be trained on the hardware that you have: of T1's workload and smaller ones, all weights and
LoRA, with the mesh, lanes and micro-batches that are estimated fastest of those that fit, and the command that runs the
largest that takes at most --hours. Knobs that you set stay. Exit code 1: nothing fits, and what would fit is said.

  --have      the hardware, as for --topology
  --model     OWNER/NAME of the Hugging Face hub, a local folder, or a config, by name or as a file
  --hours     how long the run may take; default: 24
  --nofast    compile the step of that command for the hardware; else all is estimated from shapes, without a compiler

--topology plans one config.

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
RECIPE = {"sft.num_steps": 0, "rl.vocab_chunks": 64, "data.train": "openai/gsm8k", "data.eval": "openai/gsm8k"}


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
    flags.DEFINE_boolean("fast", None, "do not compile", flag_values=values)
    flags.DEFINE_string("have", "", "the hardware", flag_values=values)
    flags.DEFINE_string("model", "", "the model", flag_values=values)
    flags.DEFINE_float("hours", 24.0, "longest run", flag_values=values)
    flags.DEFINE_integer("length", 0, "tokens of a response", flag_values=values)


def _plan(argv: list[str]) -> int:
    """A plan of one config, or what is possible on some hardware."""
    have, model = (command_line.take(argv, flag)[0] for flag in ("have", "model"))
    if have is not None or model is not None:
        return _recipe(argv, have or "", model or "")
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
    from t1jax.model import experts, heads
    from t1jax.planning import fit, suggest, tables

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
        print(tables.table(found) if found else f"{values.topology}: the config does not work on this slice")
        if values.cycles and found and found.compiled:
            print(tables.cycles_table(found))
        if values.suggest:
            print(f"\nsuggestion: {better.command() if better else 'none of the settings tried fits'}")
    beside = experts.note(cfg.model, where.chip.platform)
    for line in (heads.note(cfg.model, found.mesh[2]) if found else "", beside, note):
        if line:
            print(f"t1jax.plan: {line}", file=sys.stderr)
    if why:
        print(f"t1jax.plan: {why}", file=sys.stderr)
        return EXIT_TOO_BIG
    return 0


def _recipe(argv: list[str], have: str, model: str) -> int:
    """What can be trained of `model` on the hardware `have`, and the command that does it."""
    from rich.console import Console

    from t1jax.host.progress import Progress
    from t1jax.model import experts
    from t1jax.planning import recipes, tables

    cfg, values, name = _asked(argv, have, model)
    given = {*command_line.overridden(argv), *(() if name == model else ("model.checkpoint",))}
    if wrong := [knob for knob in given if knob in recipes.CHOSEN or knob not in config.knobs()]:
        raise ConfigError(f"--have with --config.{wrong[0]}, which it chooses or has no use for; expected it left out")
    given |= {"rl.micro_batches"} if name == model else set()  # a config that is named has them for a reason
    slices_there, chip, count = slices.sizes(have)
    devices = slices.cpu_devices(max(count, recipes.DEVICES))
    with Progress(Console(stderr=True, highlight=False)) as progress:
        progress.doing("planning")
        tries = list(recipes.tries(cfg, slices.stood_in(have, devices), given, _longest(cfg)))
        best = recipes.recommended(tries, values.hours)
        why = "" if best else recipes.refusal(model, cfg, tries, devices)
    knobs = best.knobs_beside(name, {*given, *RECIPE}) if best else {}
    flags_of = [f"--config={name}", *(f"--config.{knob}={value}" for knob, value in knobs.items())]
    memory = "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 " if chip.name in slices.GPUS else ""  # JAX takes 75 % by itself
    train = command_line.invocation("train", "main")
    run = Path(model).stem if name == model else model.rstrip("/").rpartition("/")[2].partition("@")[0]
    command = f"{memory}{train} {shlex.join([f'--workdir=workdirs/{run}', *flags_of])}" if best else ""
    compiled = None
    if best and values.fast is False:  # in a process of its own: CPUs stand in for the hardware in this one
        again = [sys.executable, "-m", "t1jax.plan", f"--topology={have}", *flags_of, *(["--json"] * values.json)]
        compiled = subprocess.run(again, stdout=subprocess.PIPE, text=True, check=False)
    if values.json:
        told: dict[str, Any] = {"model": model, "have": have, "tries": [one.as_dict() for one in tries], "why": why}
        told |= {"recommended": tries.index(best) if best else None, "config": name, "knobs": knobs, "command": command}
        print(json.dumps(told | {"compiled": compiled and json.loads(compiled.stdout or "null")}))
    else:
        size = f"{chip.memory / GIB:.0f} GiB, {recipes.USABLE:.0%} of them usable"
        print(f"{model} on {have}: {count} device{'s' * (count > 1)} of {size}\n\n{tables.of_tries(tries)}")
        if best:
            print(f"\n{best.words(values.hours)}\n\n{command}\n\n{recipes.assumed(slices_there)}")
        print(compiled.stdout if compiled else "", end="")
    if beside := experts.note(cfg.model, chip.platform):
        print(f"t1jax.plan: {beside}", file=sys.stderr)
    if why:
        print(f"t1jax.plan: {why}", file=sys.stderr)
        return EXIT_TOO_BIG
    return compiled.returncode if compiled else 0


def _asked(argv: list[str], have: str, model: str) -> tuple[Config, flags.FlagValues, str]:
    """(config with the model's sizes, flags, the config's name) of a question for a recipe."""
    file, rest = command_line.take(argv, "config")
    if not model or not have:
        raise ConfigError(f"--have={have} --model={model}; expected both: the hardware, and what is trained on it")
    slices.sizes(have, "--have")
    ours = model in config_files.shipped() or model.endswith(".py")
    if ours and file is not None:
        raise ConfigError(f"--model={model} with --config={file}; expected one config, or a model of the hub")
    if not ours and not hub.is_model(model) and not Path(model).is_dir():
        known = ", ".join(config_files.shipped())
        expected = f"expected OWNER/NAME of the hub, a folder, or one of {known}"
        raise ConfigError(f"--model={model}: nothing of that name; {expected}")
    name = model if ours else file or "base"
    knobs = ({} if ours else {"model.checkpoint": model}) | ({} if ours or file else RECIPE)
    line = [rest[0], *(f"--config.{knob}={value}" for knob, value in knobs.items()), *rest[1:]]
    cfg, values, extra = command_line.read_config(line, _define, name)
    if extra or values.topology or values.suggest or values.length or values.cycles:
        expected = "expected with --have: --model --hours --json --nofast --config.KNOB"
        raise ConfigError(f"got {shlex.join(rest[1:])}; {expected}")
    if values.hours <= 0:
        raise ConfigError(f"--hours is {values.hours}; expected more than 0")
    return sized(cfg, command_line.sizes_set(cfg, argv)), values, name


def sized(cfg: Config, given: Collection[str]) -> Config:
    """`cfg` with the sizes of the model in model.checkpoint, if that folder is here; of its files config.json will do.

    Of a model of the Hugging Face hub the small files are downloaded.

    Raises:
      ConfigError: a size that is `given` is another.
    """
    from t1jax.host.bucket import Unreachable
    from t1jax.weights import families
    from t1jax.weights import load as weights

    try:
        folder = _folder(cfg)
    except (ConfigError, Unreachable) as error:
        if "hidden_size" not in given or not hub.is_model(cfg.model.checkpoint):
            raise
        print(f"t1jax.plan: planned with the config's own sizes: {error}", file=sys.stderr)
        return cfg
    if folder is None:
        return cfg
    told = (folder / "config.json").is_file() and "architectures" in families.read_config(folder)
    source = weights.Source(folder, "hf", None) if told else weights.find(folder, "model.checkpoint")
    return dataclasses.replace(cfg, model=weights.sized(source, cfg.model, given))


def _folder(cfg: Config) -> Place | None:
    """The folder of model.checkpoint, with a hub's small files downloaded; None: it is not here."""
    from t1jax.weights import families

    name = cfg.model.checkpoint
    if hub.is_model(name):
        return hub.model(name, "model.checkpoint", families.CARRIED)
    folder = place.of(name, "model.checkpoint")
    return folder if name and folder.is_dir() else None


def _longest(cfg: Config) -> int | None:
    """Positions that the model was trained for, by its config.json, or where that is not here by its rope's knobs."""
    from t1jax.weights import families, rope

    folder = _folder(cfg)
    if folder is not None and (folder / "config.json").is_file():
        return rope.trained_length(families.read_config(folder), str(folder / "config.json"))
    return rope.configured_length(cfg.model) if cfg.model.checkpoint else None


def untrained_positions(cfg: Config) -> str:
    """A note if prompt and response have more positions than model.checkpoint was trained for, by its rope's knobs.

    Where that folder is here, its config.json decides, as it does in t1jax.main.

    Raises:
      ConfigError: by config.json they have more.
    """
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


if __name__ == "__main__":
    cli()
