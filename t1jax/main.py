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
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from t1jax import config
from t1jax.config import Config, ConfigError

USAGE = """\
usage: python -m t1jax.main [--config=FILE] [--workdir=DIR] [--config.SECTION.KNOB=VALUE ...]

All of T1: cold start, reinforcement learning, evaluation, inference scaling, report.

  --config=FILE       a Python file with get_config() (default: configs/tiny.py)
  --workdir=DIR       what the run writes, and where it continues (default: workdirs/NAME for NAME.py)
  --config.KNOB=...   any knob of the config, after --config, e.g. --config.rl.num_steps=5;
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
    path = _config_path(argv)
    for name in _overrides(argv):
        if name not in config.knobs():
            raise config.unknown_knob(name)
    values = flags.FlagValues()
    try:
        flags.DEFINE_string("workdir", str(Path("workdirs") / Path(path.partition(":")[0]).stem), "", values)
        config_flags.DEFINE_config_file("config", path, "", values, sys_argv=argv)
        rest = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise _illegal(error) from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    except Exception as error:  # the config file is the user's program: whatever it raises is said in one line
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; flags start with --, see --help")
    return config.load(values.config), _checked_workdir(values.workdir)


def _validate(cfg: Config) -> None:
    """All checks of the config, for the devices that are here."""
    import jax

    config.validate(cfg, jax.device_count())


def _config_path(argv: list[str]) -> str:
    """The config file that the command line names, or the default one: beside the caller or as installed."""
    path = DEFAULT_CONFIG
    for i, arg in enumerate(argv[1:], start=1):
        if match := re.fullmatch(r"--?config(?:=(.*))?", arg, re.DOTALL):
            path = match[1] if match[1] is not None else "".join(argv[i + 1 : i + 2])
            break
    else:
        if not Path(path).is_file():
            import configs

            path = str(Path(configs.__path__[0]) / Path(path).name)
    if not Path(path.partition(":")[0]).is_file():
        raise ConfigError(f"--config={path}: no such file; expected a Python file like {DEFAULT_CONFIG}")
    return path


def _overrides(argv: list[str]) -> list[str]:
    """The knobs that the command line sets, as it spells them."""
    return [match[1] for arg in argv[1:] if (match := re.match(r"--?(?:no)?config\.([^=]*)", arg))]


def _illegal(error: flags.IllegalFlagValueError) -> ConfigError:
    """absl's complaint about a value, in our words."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    if match is None:  # raised by the config file itself, with its traceback: the last line says what
        return ConfigError(str(error).strip().splitlines()[-1])
    knob, found = match.groups()
    return ConfigError(f"{knob} is {found!r}; expected {config.expected_type(knob)}")


def _checked_workdir(name: str) -> Path:
    """The workdir, if it is one or can be made."""
    workdir = Path(name)
    nearest = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--workdir={name}: {nearest} is a file; expected a directory")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"--workdir={name}: cannot write to {nearest}; choose another directory")
    return workdir


if __name__ == "__main__":
    cli()
