# SPDX-License-Identifier: Apache-2.0
"""The command line: read the flags, refuse what cannot work, run.

    python -m t1jax.main --config=configs/tiny.py --workdir=workdirs/tiny --config.rl.num_steps=5

A user's mistake is one line on stderr and exit code 2, before anything is compiled or written. Nothing heavy is
imported before the flags are read, so that --help answers at once.
Deliberately not here: the stages (pipeline.py), what the knobs mean (configs/base.py).
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from t1jax import config, validation
from t1jax.config import Config, ConfigError

USAGE = """\
usage: python -m t1jax.main [--config=FILE] [--workdir=DIR] [--config.SECTION.KNOB=VALUE ...]

All of T1: cold start, reinforcement learning, evaluation, inference scaling, report.

  --config=FILE       a Python file with get_config() (default: configs/tiny.py)
  --workdir=DIR       what the run writes, and where it continues (default: workdirs/NAME for NAME.py)
  --config.KNOB=...   any knob of the config, such as --config.rl.num_steps=5;
                      configs/base.py explains each
  --help              this text

Exit codes: 0 done, 1 a failure (with its traceback), 2 a mistake in flags or config, 130 interrupted.
"""
DEFAULT_CONFIG = "configs/tiny.py"
EXIT_MISTAKE, EXIT_INTERRUPTED = 2, 130


def cli() -> None:
    """What `t1jax` and `python -m t1jax.main` call."""
    sys.exit(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    if any(arg in ("--help", "-help", "-h") for arg in argv[1:]):
        print(USAGE, end="")
        return 0
    try:
        cfg, workdir = parse(argv)
        _validate(cfg)
        from t1jax import pipeline

        report = pipeline.run(cfg, workdir)
        print(f"report: {report.resolve()}")
    except ConfigError as error:
        print(f"t1jax: config: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        print("t1jax: interrupted; the same command continues from the newest checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def parse(argv: list[str]) -> tuple[Config, Path]:
    """The typed config and the workdir of a command line; imports nothing heavy, writes nothing.

    Raises:
      ConfigError: anything is misspelt, missing or of the wrong type.
    """
    path, rest = _take_config_file(argv)
    for name in _overridden(rest):
        if name not in config.knobs():
            raise config.unknown_knob(name)
    values = flags.FlagValues()
    try:
        flags.DEFINE_string("workdir", str(Path("workdirs") / Path(path).stem), "", values)
        config_flags.DEFINE_config_dict("config", _load_file(path), "", values, sys_argv=rest)
        extra = values(rest)[1:]
    except flags.IllegalFlagValueError as error:
        raise _illegal(error) from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if extra:
        raise ConfigError(f"unexpected argument {extra[0]!r}; flags start with --, see --help")
    return config.load(values.config), _checked_workdir(values.workdir)


def _validate(cfg: Config) -> None:
    """All checks of the config, for the devices that are here."""
    import jax

    validation.validate(cfg, jax.device_count())


def _take_config_file(argv: list[str]) -> tuple[str, list[str]]:
    """The config file that the command line names, or tiny.py, here or as installed; and the other arguments."""
    path, rest = None, []
    arguments = iter(argv)
    for arg in arguments:
        if match := re.fullmatch(r"--?config(?:=(.*))?", arg, re.DOTALL):
            path = match[1] if match[1] is not None else next(arguments, "")
        else:
            rest.append(arg)
    if path is None:
        path = DEFAULT_CONFIG
        if not Path(path).is_file():
            import configs

            path = str(Path(configs.__path__[0]) / Path(path).name)
    if not Path(path).is_file():
        raise ConfigError(f"--config={path}: no such file; expected a Python file like {DEFAULT_CONFIG}")
    return path, rest


def _load_file(path: str) -> ConfigDict:
    """What get_config() of the file returns."""
    try:
        tree = runpy.run_path(path)["get_config"]()
    except Exception as error:  # the user's program: whatever it raises is the user's to mend, and said in one line
        raise ConfigError(f"{path}: {type(error).__name__}: {error}; expected a get_config() that works") from error
    if not isinstance(tree, ConfigDict):
        raise ConfigError(f"{path}: get_config() returned {type(tree).__name__}; expected a ConfigDict, see configs/")
    return tree


def _overridden(argv: list[str]) -> list[str]:
    """The knobs that the command line sets, as it spells them."""
    return [match[1] for arg in argv[1:] if (match := re.match(r"--?(?:no)?config\.([^=]*)", arg))]


def _illegal(error: flags.IllegalFlagValueError) -> ConfigError:
    """absl's complaint about a value, in our words."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    if match is None:
        return ConfigError(str(error))
    knob, found = match.groups()
    return ConfigError(f"{knob} is {found!r}; expected {config.expected_type(knob)}")


def _checked_workdir(name: str) -> Path:
    """The workdir, if it is one or can be made."""
    if not name:
        raise ConfigError("--workdir is empty; expected a directory")
    workdir = Path(name).absolute()
    nearest = next(path for path in (workdir, *workdir.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--workdir={name}: {nearest} is a file; expected a directory")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"--workdir={name}: cannot write to {nearest}; choose another directory")
    return Path(name)


if __name__ == "__main__":
    cli()
