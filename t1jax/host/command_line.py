# SPDX-License-Identifier: Apache-2.0
"""What all commands share: flags, configs with overridden knobs, one-line errors, exit codes.

    def main(argv): return cli.call("t1jax.sample", USAGE, body, argv)

A user's mistake prints a one-line error and exits with code 2. Nothing heavy is imported here, so --help is instant.
Deliberately not here: what the programs do (main.py, convert.py, evaluate.py, filter.py, sample.py).
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from t1jax import checks, config, typed
from t1jax.config import Config, ConfigError
from t1jax.devices import waiting
from t1jax.host import config_files, failures, hub, place
from t1jax.host.bucket import Refused, Unreachable
from t1jax.host.failures import EXIT_MISTAKE
from t1jax.host.place import Place
from t1jax.host.stopping import EXIT_FAILED, Interrupted, Stopped

EXIT_INTERRUPTED = 130
LONGEST = 2000  # characters of a message: files may call their parts what they like
INTERRUPTED = "interrupted; the same command resumes"


def call(
    program: str, usage: str, body: Callable[[list[str]], None], argv: list[str], interrupted: str = INTERRUPTED
) -> int:
    """Runs `body(argv)`; returns the exit code: 0 done, 2 the user's mistake, 130 Ctrl-C, else as stopping.py says.
    Other errors are a line too (failures.py).

    --help prints `usage` instead. A ConfigError becomes one line, "PROGRAM: what was wrong", inert on a terminal.
    """
    if any(arg in ("--help", "-help", "-h") for arg in argv[1:]):
        print(usage, end="")
        return 0
    waiting.be_patient()
    try:
        body(argv)
        sys.stdout.flush()  # here, where an error is told
    except ConfigError as error:
        said = typed.inert(" ".join(str(error).split()))
        print(f"{program}: {said if len(said) <= LONGEST else said[:LONGEST] + '...'}", file=sys.stderr)
        return EXIT_MISTAKE
    except Unreachable as error:
        refused = isinstance(error, Refused)
        resumes = "" if refused else "; the same command resumes"
        print(f"{program}: {error}{resumes}", file=sys.stderr)
        return EXIT_MISTAKE if refused else EXIT_FAILED
    except Stopped as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt as error:
        print(f"{program}: {str(error) or interrupted}", file=sys.stderr)
        return error.code if isinstance(error, Interrupted) else EXIT_INTERRUPTED
    except Exception as error:
        return failures.tell(program, argv, error)
    return 0


def invocation(command: str, module: str) -> str:
    """How the user would call another command from here: as `t1jax COMMAND` if this one was, else with this Python."""
    if Path(sys.argv[0]).stem == "t1jax":
        return f"t1jax {command}"
    python = Path(sys.executable)
    if "python" == python.name and shutil.which("python") == str(python):
        return f"python -m t1jax.{module}"
    near = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shlex.quote(str(near))} -m t1jax.{module}"


class _Called(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        model = importlib.import_module("t1jax.api.model")
        return getattr(model, self.__name__.rpartition(".")[2])(*args, **settings)


def callable_module(name: str) -> None:
    """Makes the module `name` a function too: importing the command t1jax.sample must not take t1jax.sample() away."""
    sys.modules[name].__class__ = _Called


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    After a signal at once: what the devices still compute would crash in an interpreter that is being taken down.
    """
    if code < 128:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def read_flags(argv: list[str], define: Callable[[flags.FlagValues], None]) -> tuple[flags.FlagValues, list[str]]:
    """The values of the flags that `define` defines, and the other arguments.

    Raises:
      ConfigError: a flag that does not exist, or a value of the wrong type.
    """
    values = flags.FlagValues()
    define(values)
    try:
        extra = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise _illegal(error) from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    for name in values:
        value: Any = values[name].value
        if isinstance(value, float) and not math.isfinite(value) and not name.startswith("config"):
            raise ConfigError(f"--{name}={value}; expected a finite number")
    return values, extra


def read_config(
    argv: list[str], define: Callable[[flags.FlagValues], None], default: str
) -> tuple[Config, flags.FlagValues, list[str]]:
    """The config of --config=FILE with its --config.KNOB=VALUE, the flags that `define` defines, other arguments.

    Without --config it is that of the run that --checkpoint names: a model is asked as it was trained.

    Args:
      argv: the command line, program name first.
      define: defines flags in the values that it is given; may not define `config`.
      default: the file, or the name of one that comes with t1jax, if the command line names neither.

    Raises:
      ConfigError: anything is misspelt, missing or of the wrong type.
    """
    given, rest = take(argv, "config")
    checkpoint, _ = take(rest, "checkpoint")
    tree = config_files.of_run(checkpoint) if checkpoint and given is None else None
    if tree is None:
        tree = config_files.load(config_files.find(default if given is None else given))
    for name in overridden(rest):
        if name not in _knobs(tree):
            raise config.unknown_knob(name)

    def define_all(values: flags.FlagValues) -> None:
        define(values)
        config_flags.DEFINE_config_dict("config", tree, "", values, sys_argv=rest)

    values, extra = read_flags(rest, define_all)
    cfg = config.load(values.config)
    return named(cfg), values, extra


def sizes_set(cfg: Config, argv: list[str]) -> set[str]:
    """The knobs of `model` that are set: on the command line, or by a config other than configs/base.py has them."""
    base = config.load(config_files.load(config_files.shipped()["base"])).model
    names = {field.name for field in dataclasses.fields(base)}
    return {name for name in names if getattr(cfg.model, name) != getattr(base, name)} | {
        knob.removeprefix("model.") for knob in overridden(argv) if knob.startswith("model.")
    }


def take_config_file(argv: list[str], default: str) -> tuple[Path, list[str]]:
    """The config file that the command line names, or the default; and the other arguments.

    Raises:
      ConfigError: there is no such file, and no config of this name comes with t1jax.
    """
    given, rest = take(argv, "config")
    return config_files.find(default if given is None else given), rest


def take(argv: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value of --FLAG, before flags are read; and the other arguments. None: it is not there."""
    given, rest = None, []
    arguments = iter(argv)
    for arg in arguments:
        if match := re.fullmatch(rf"--?{flag}(?:=(.*))?", arg, re.DOTALL):
            given = match[1] if match[1] is not None else next(arguments, "")
        else:
            rest.append(arg)
    return given, rest


def out_file(name: str | None) -> Place:
    """The file --out, JSON lines; its folder is made if need be.

    Raises:
      ConfigError: it has another ending, or the folder cannot be made.
    """
    out = place.of(name or "", "--out")
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out={name or ''}; expected a file that ends in .jsonl")
    out_folder(out.parent)
    return out


def out_folder(out: Place) -> Place:
    """`out`, made if need be.

    Raises:
      ConfigError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out={out}: {error.strerror}; expected a writable folder") from error
    return out


def named(cfg: Config) -> Config:
    """`cfg` with a split for each data set of the hub.

    Raises:
      ConfigError: a knob names files by a URL that is not supported.
    """
    if not hub.is_model(cfg.model.checkpoint):
        place.of(cfg.model.checkpoint, "model.checkpoint")
    data = dataclasses.replace(
        cfg.data,
        train=",".join(place.data(name, "data.train") for name in checks.train_files(cfg.data.train)),
        eval=place.data(cfg.data.eval, "data.eval", "test"),
        sft=place.data(cfg.data.sft, "data.sft"),
    )
    benchmarks = {
        name: dataclasses.replace(one, data=place.data(one.data, f"benchmarks.{name}.data", "test"))
        for name, one in cfg.benchmarks.items()
    }
    return dataclasses.replace(cfg, data=data, benchmarks=benchmarks)


def _knobs(tree: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[str]:
    """The dotted name of every knob that the file sets."""
    for name, value in tree.items():
        if isinstance(value, ConfigDict):
            yield from _knobs(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def overridden(argv: list[str]) -> list[str]:
    """The knobs that the command line sets, as it spells them."""
    return [match[1] for arg in argv[1:] if (match := re.match(r"--?(?:no)?config\.([^=]*)", arg))]


def _illegal(error: flags.IllegalFlagValueError) -> ConfigError:
    """absl's complaint about a value, in our words."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    if match is None:
        return ConfigError(str(error))
    knob, found = match.groups()
    return ConfigError(f"{knob} is {found!r}; expected {typed.expected(Config, knob)}")
