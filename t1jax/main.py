# SPDX-License-Identifier: Apache-2.0
"""The command line: read the flags, reject what cannot work, run.

    python -m t1jax.main --config=configs/tiny.py --workdir=workdirs/tiny --config.rl.num_steps=5

A user's mistake prints a one-line error and exits with code 2, before anything is compiled or written. Heavy imports
wait until the flags are read, so that --help is instant.
Deliberately not here: the stages (training/stages.py), what the knobs mean (configs/base.py).
"""

from __future__ import annotations

import os
import shlex
import sys

from absl import flags

from t1jax.config import Config, ConfigError
from t1jax.host import command_line, place, processes
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place

USAGE = f"""\
usage: python -m t1jax.main [--config=FILE] [--workdir=DIR] [--config.SECTION.KNOB=VALUE ...] [--allow_change=KNOB,...]
                            [--multiprocess | --coordinator=HOST:PORT --num_processes=N --process_id=I]

Runs all of T1: cold-start SFT, reinforcement learning, evaluation, inference scaling, report.

  --config=FILE       a Python file with get_config(), or the name of a config that comes with t1jax, such as tiny
                      (default: configs/tiny.py)
  --workdir=DIR       where the run writes, and resumes from: a local path, or gs://BUCKET/...
                      (default: workdirs/NAME for NAME.py)
  --config.KNOB=...   set any knob of the config, such as --config.rl.num_steps=5;
                      configs/base.py explains each
  --allow_change=KNOB,...  resume a workdir although these knobs have changed, such as rl.num_steps
{processes.HELP}  --help              show this text

Exit codes: 0 success, 1 failure (names the file of its traceback), 2 error in flags, config or data, 3 no readable
checkpoint, or something could not be written, 4 too many consecutive steps without a finite gradient, 130 stopped by
Ctrl-C (SIGINT), 143 by SIGTERM. After 1, 3, 130 and 143 the same command resumes from the latest checkpoint.
"""
DEFAULT_CONFIG = "configs/tiny.py"
INTERRUPTED = "interrupted; the same command resumes from the latest checkpoint"


def cli() -> None:
    """What `t1jax` and `python -m t1jax.main` call."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax", USAGE, _run, argv, INTERRUPTED)


def parse(argv: list[str]) -> tuple[Config, Place, list[str], processes.Group | None]:
    """The typed config, the workdir, the knobs that may have changed, and the processes of a command line.

    Imports nothing heavy, writes nothing.

    Raises:
      ConfigError: anything is misspelt, missing or of the wrong type.
    """
    cfg, values, extra = command_line.read_config(argv, _define, DEFAULT_CONFIG)
    if extra:
        raise ConfigError(f"unexpected argument {extra[0]!r}; flags start with --, see --help")
    path, _ = command_line.take_config_file(argv, DEFAULT_CONFIG)
    workdir = f"workdirs/{path.stem}" if values.workdir is None else values.workdir
    return cfg, _checked_workdir(workdir), values.allow_change, processes.asked(values)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "", values)
    flags.DEFINE_list("allow_change", [], "", values)
    processes.define(values)


def _run(argv: list[str]) -> None:
    cfg, workdir, allow_change, group = parse(argv)
    with processes.joined(group):
        from t1jax.api import given
        from t1jax.api.training import train

        cfg = given.sized(cfg, workdir, command_line.sizes_set(cfg, argv))
        _validate(cfg)
        from t1jax.devices import multihost

        run = train(cfg, workdir=workdir, allow_change=allow_change)
        if multihost.is_main():
            print(f"report: {run.report.resolve()}", *next_commands(cfg, workdir), sep="\n")


def next_commands(cfg: Config, workdir: Place) -> list[str]:
    """The lines that a finished run ends with: what to do with it next, as commands to paste.

    Prompt, limits, reward and mesh are those of the run without a flag, see command_line.read_config.
    """
    from t1jax.tasks import embedded

    def line(what: str, command: str, module: str, *arguments: str) -> str:
        return f"{what + ':':9} {' '.join([command_line.invocation(command, module), *map(shlex.quote, arguments)])}"

    run, beside = str(workdir), str(workdir.parent / workdir.name)
    question = embedded.example(cfg) or "What is 12 times 13?"
    measure = line("look", "analyze", "analyze", run)
    if cfg.data.eval:
        flags = (f"--checkpoint={run}", f"--data={cfg.data.eval}", "--samples=4", f"--out={beside}-evaluated")
        measure = line("evaluate", "evaluate", "evaluate", *flags)
    return [
        line("ask", "sample", "sample", f"--checkpoint={run}", question),
        measure,
        line("export", "convert", "convert", "orbax-to-hf", f"--src={run}", f"--dst={beside}-hf"),
    ]


def _validate(cfg: Config) -> None:
    """All checks of the config, for the devices that are here."""
    import jax

    from t1jax import validation

    validation.validate(cfg, jax.device_count())


def _checked_workdir(name: str) -> Place:
    """The workdir, if it is one or can be made."""
    if not name:
        raise ConfigError("--workdir is empty; expected a directory")
    given = place.of(name, "--workdir")
    if isinstance(given, Bucket):
        return given
    workdir = given.absolute()
    nearest = next(path for path in (workdir, *workdir.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--workdir={name}: {nearest} is a file; expected a directory")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"--workdir={name}: cannot write to {nearest}; choose another directory")
    return given


if __name__ == "__main__":
    cli()
