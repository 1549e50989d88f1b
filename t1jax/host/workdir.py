# SPDX-License-Identifier: Apache-2.0
"""Ties a workdir to one process at a time, one config and its files of problems.

    lock          held by the process that uses the workdir; released when it ends, for whatever reason (in a bucket
                  it says so by no longer writing it: lock.py)
    config.json   every knob of the run
    inputs.json   SHA-256 of each file of problems that the config names, and of what its reward functions' files say

The mesh may change between starts. Changes of other knobs are rejected and listed, unless --allow_change names them and
checkpoints do not depend on them.
Deliberately not here: what else lies in the workdir (training/stages.py), damaged checkpoints (checkpoint.py).
"""

from __future__ import annotations

import ast
import fcntl
import functools
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from t1jax import checks, config
from t1jax.config import Config, ConfigError
from t1jax.devices import multihost
from t1jax.host import bucket, files, lock, place
from t1jax.host.bucket import Bucket, Unreachable
from t1jax.host.place import Place

# knobs that may change without a word; that never may; and of the latter those that may nevertheless
FREE = ("mesh.", "compilation_cache_mib", "tensorboard_mib", "checkpoint.keep_damaged", "metrics.", "rl.profile")
FILTER = ("rl.filter_pass_rate", "rl.filter_samples", "rl.filter_problems")
FIXED = (
    "seed", "model.", "tokenizer.", "task.", "data.", "reward.", "sft.", "rl.prompts_per_step", "rl.overdraw", *FILTER,
)  # fmt: skip
NOT_FIXED = ("model.compute_dtype", "model.remat", "model.attention")
INPUTS = "inputs.json"
FOLDERS = ("checkpoints", "checkpoints/sft", "checkpoints/rl", "measured", "responses", "tokenizer", "tensorboard")
OWN_FILES = (
    "lock", "config.json", INPUTS, "usage.json", "metrics.jsonl", "loggers.json", "filter.json", "results.json",
    "report.html",
)  # fmt: skip
FILES = ("data.train", "data.eval", "data.sft")
REWARDS = "reward.function"


@contextmanager
def locked(workdir: Place, flag: str = "--workdir", note: Callable[[str], None] = print) -> Iterator[None]:
    """This process alone runs in `workdir`; of several processes of one run, process 0 speaks for all.

    Args:
      flag: what the user names the folder with.
      note: is told where a lock is waited for.

    Raises:
      ConfigError: another one does, says which; or there can be no such folder.
    """
    if not multihost.is_main():
        yield
        return
    if isinstance(workdir, Bucket):
        with lock.held(workdir / "lock", flag, note):
            yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / "lock", "a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{flag}={workdir}: {error.strerror}; expected a writable folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise ConfigError(
                f"{workdir} is in use by {file.read().strip() or 'another process'}; wait for it, stop it, or give "
                f"another {flag}"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def claim(cfg: Config, workdir: Place, allowed: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Checks that the run in `workdir`, if there is one, was started with this config.

    Args:
      allowed: knobs that may differ.

    Returns:
      knob -> (was, is now) of those that do, but for FREE ones.

    Raises:
      ConfigError: a knob differs that may not, or a file that one names; or `allowed` has a knob that never may.
    """
    for name in allowed:
        if name not in config.knobs():
            raise config.unknown_knob(name)
        if _is(name, FIXED) and not _is(name, NOT_FIXED):
            raise ConfigError(
                f"--allow_change={name}: {name} cannot change in a run: its checkpoints and metrics depend on it; give "
                "another --workdir"
            )
    _refuse_other_kinds(workdir)
    path = workdir / "config.json"
    if not path.exists():
        return {}
    changed = changes(config.completed(read(path)), files.json_ready(cfg.to_dict()))
    refused = [name for name in changed if name not in allowed]
    if refused:
        listed = "; ".join(f"{name} is {changed[name][1]}, was {changed[name][0]}" for name in refused)
        could = [name for name in refused if not _is(name, FIXED) or _is(name, NOT_FIXED)]
        flag = f", pass --allow_change={','.join(could)}" if could == refused else ""
        raise ConfigError(
            f"{workdir} was started with other settings: {listed}; set them back{flag}, or give another --workdir"
        )
    refuse_other_files(cfg, workdir)
    return changed


def _refuse_other_kinds(workdir: Place) -> None:
    """ConfigError: a file of the run is a folder, or a folder a file. In a bucket that cannot be."""
    if isinstance(workdir, Bucket):
        return
    for name in FOLDERS:
        if (workdir / name).exists() and not (workdir / name).is_dir():
            raise ConfigError(f"{workdir / name} is a file; expected a folder of the run: move it away")
    for name in OWN_FILES:
        if (workdir / name).is_dir():
            raise ConfigError(f"{workdir / name} is a folder; expected a file of the run: move it away")


def refuse_other_processes(cfg: Config, versions: Mapping[str, str]) -> None:
    """Compares this process with the others of the run: config, files of problems, versions of packages.

    Raises:
      ConfigError: they differ; each process raises it, and names what.
    """
    if jax.process_count() == 1:
        return
    tree: Any = files.json_ready(cfg.to_dict())
    values = {name: functools.reduce(lambda node, key: node[key], name.split("."), tree) for name in config.knobs()}
    found = digests(cfg)
    values |= {f"the content of {name}": found.get(name) for name in (*FILES, REWARDS)}
    values |= {f"the version of {name}": number for name, number in versions.items()}
    names = multihost.different(values)
    if names:
        listed = ", ".join(f"{name} ({values[name]} here)" for name in names)
        raise ConfigError(
            f"processes differ in {listed}; expected the same command, files and packages on all {jax.process_count()}"
        )


def begin(cfg: Config, workdir: Place, outdated: Sequence[Place]) -> None:
    """Writes down whose the workdir is; `outdated` files, which another config made, and those of killed writers go."""
    files.sweep(workdir)
    for path in outdated:
        path.unlink(missing_ok=True)
    files.write_json(workdir / "config.json", cfg.to_dict())
    if not (workdir / INPUTS).exists():
        files.write_json(workdir / INPUTS, digests(cfg))


def digests(cfg: Config) -> dict[str, str]:
    """SHA-256 of each file of FILES that the config names, by its knob; under REWARDS that of its functions' files.

    Raises:
      ConfigError: one cannot be read.
      Unreachable: a bucket does not serve it now.
    """
    found = {}
    for knob in FILES:
        path = getattr(cfg.data, knob.partition(".")[2])
        if path:
            names = checks.train_files(path) if knob == "data.train" else [path]
            paths = [file for name in names for file in place.data_files(name)]
            try:
                found[knob] = _digest(paths)
            except (ConfigError, Unreachable):
                raise
            except Exception as error:  # each file system has errors of its own
                raise ConfigError(f"{knob} is {path}: {bucket.reason(error)}; expected a file of rows") from error
    if digest := reward_digest(cfg):
        found[REWARDS] = digest
    return found


def reward_digest(cfg: Config) -> str | None:
    """SHA-256 of the files with the functions of reward.function; None without any.

    Raises:
      ConfigError: one cannot be read.
    """
    programs = [Path(name.rpartition(":")[0]) for name, _ in checks.reward_terms(cfg.reward) if name != checks.CORRECT]
    try:
        contents = [_program(path.read_bytes()) for path in dict.fromkeys(programs)]
    except OSError as error:
        said = f"{error.filename}: {error.strerror}"
        raise ConfigError(f"{REWARDS} is {cfg.reward.function}: {said}; expected FILE.py:NAME") from error
    return hashlib.sha256(b"\0".join(contents)).hexdigest() if contents else None


def _digest(paths: Sequence[str]) -> str:
    """SHA-256 of a file; of several, of theirs."""
    each = []
    for path in paths:
        with place.open_data(path) as file:
            each.append(hashlib.file_digest(file, "sha256").hexdigest())
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def _program(text: bytes) -> bytes:
    """What of a Python file decides its functions: no comments, and nothing under `if __name__ == "__main__":`."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # whoever loads it will say so
        return text
    main = ast.dump(ast.parse('__name__ == "__main__"', mode="eval").body)
    tree.body = [part for part in tree.body if not (isinstance(part, ast.If) and ast.dump(part.test) == main)]
    return ast.dump(tree).encode()


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """knob -> (old, new) of all that differs between two configs as nested dicts, but for FREE ones."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**old, **new}:
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= changes(a, b, f"{prefix}{name}.")
        elif a != b and not _is(prefix + name, FREE):
            found[prefix + name] = (a, b)
    return found


def refuse_other_files(cfg: Config, workdir: Place) -> None:
    """ConfigError: a file of problems or of reward functions is not the one that inputs.json in `workdir` tells of."""
    path = workdir / INPUTS
    theirs = read(path) if path.exists() else {}
    for knob, digest in digests(cfg).items():
        if theirs.get(knob, digest) != digest:
            raise ConfigError(
                f"{checks.get(cfg, knob)} ({knob}) is not the file that {workdir} was started "
                f"with: its SHA-256 is {digest[:12]}, was {theirs[knob][:12]}; put that back, or give another --workdir"
            )


def _is(knob: str, names: Sequence[str]) -> bool:
    """Whether `knob` is one of the names or in one of the sections, which end with a dot."""
    return any(knob == name or (name.endswith(".") and knob.startswith(name)) for name in names)


def read(path: Place, flag: str = "--workdir") -> dict[str, Any]:
    """What one of our JSON files holds. ConfigError: it is damaged; `flag`: what the user names its folder with."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; expected what t1jax wrote: delete it, or give another {flag}") from error
