# SPDX-License-Identifier: Apache-2.0
"""Config files: the ones that come with t1jax, by name or by path, those of users, and those that runs leave.

A config file is a Python program with a `get_config()`. It may say `from configs import base`, wherever it is and
however t1jax was installed: while it runs, `configs` is the folder that comes with t1jax. In a checkout that is
configs/ beside the package, once installed t1jax/configs/.
Deliberately not here: what the knobs mean (configs/base.py), their types (sections.py), flags (command_line.py).
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from t1jax import config
from t1jax.config import ConfigError
from t1jax.host import hub, place

PACKAGE = Path(__file__).absolute().parent.parent
NAME = "configs"
CHECKPOINTS = "checkpoints"  # the folder of a workdir that has those of each stage


def shipped() -> dict[str, Path]:
    """name -> file of each config that comes with t1jax."""
    return {path.stem: path for path in sorted(_folder().glob("*.py")) if not path.stem.startswith("_")}


def find(given: str) -> Path:
    """The file that --config=`given` means: a file, else the name of a shipped one, or its path in a checkout.

    Raises:
      ConfigError: there is none; the message lists the names of the shipped ones.
    """
    path, known = Path(given), shipped()
    if path.is_file():
        return path
    name = path.stem if path.parent == Path(NAME) and path.suffix == ".py" else given
    if name in known:
        return known[name]
    expected = f"expected a Python file, or one of the configs that come with t1jax: {', '.join(known)}"
    raise ConfigError(f"--config={given}: no such file; {expected}")


def load(path: Path) -> ConfigDict:
    """What get_config() of the file returns.

    Raises:
      ConfigError: running the file failed, or it returned something else.
    """
    try:
        with _importable(path):
            tree = runpy.run_path(str(path))["get_config"]()
    except (Exception, SystemExit) as error:  # the user's program: what it raises is the user's to mend
        raise ConfigError(f"{path}: {type(error).__name__}: {error}; expected a get_config() that works") from error
    if not isinstance(tree, ConfigDict):
        raise ConfigError(f"{path}: get_config() returned {type(tree).__name__}; expected a ConfigDict, see configs/")
    return tree


def of_run(checkpoint: str | os.PathLike[str]) -> ConfigDict | None:
    """The config of the run whose checkpoints these are: its workdir, those of a stage, or one of them; else None.

    Raises:
      ConfigError: its config.json is damaged.
    """
    if hub.is_model(os.fspath(checkpoint)):
        return None
    folder = place.of(checkpoint, "--checkpoint").absolute()
    inside = next((up for up in (folder, folder.parent) if up.parent.name == CHECKPOINTS), None)
    workdir = folder if inside is None else inside.parent.parent
    path = workdir / "config.json"
    if not ((workdir / CHECKPOINTS).is_dir() and path.exists()):
        return None
    try:
        return ConfigDict(config.load(json.loads(path.read_text(encoding="utf-8"))).to_dict())
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; expected what t1jax wrote: put it back, or give --config=FILE") from error


def _folder() -> Path:
    """Where the shipped configs are: installed, else in a checkout."""
    installed = PACKAGE / NAME
    return installed if installed.is_dir() else PACKAGE.parent / NAME


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """`import configs` finds the shipped folder meanwhile; first the folder of `path`, if that is called configs too.

    Putting t1jax/ itself on sys.path would do as well, but for types.py there, which would hide the standard library's.
    """

    def loaded() -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == NAME}

    before = loaded()
    folder = path.absolute().parent
    alias = ModuleType(NAME)
    alias.__path__ = list(dict.fromkeys([*([str(folder)] if folder.name == NAME else []), str(_folder())]))
    for name in before:
        del sys.modules[name]
    sys.modules[NAME] = alias
    try:
        yield
    finally:
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)
