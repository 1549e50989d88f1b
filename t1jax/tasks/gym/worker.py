# SPDX-License-Identifier: Apache-2.0
"""The code that a worker process (rewards/worker.py) runs for reasoning-gym: makes items and scores answers.

A question is a pair of strings:
    "describe", ""      -> {} or the error: {"missing": ...}, {"names": [...]}, {"fields": [...]}, {"refused": ...}
    "item", "7"         -> {"question": ..., "answer": ...} of item 7; the answer may be null
    "score 7", answer   -> 1, 0 or -1: right, wrong, or its verifier failed

Both need a separate process. Some datasets iterate over sets of strings, so their items depend on the hash seed, which
every worker fixes. Some verifiers pass the answer to `eval` or to sympy's parser, which amounts to the same: the answer
is then a program that the model wrote. So once started, the process exits as soon as anything tries to start a program,
open a connection, load a library, or change a file. This stops accidents and what a policy could stumble on; it is not
a sandbox against someone who knows Python well.
Where: tasks -> rewards. Only the standard library and reasoning-gym are imported.
Deliberately not here: deadlines and memory (rewards/verifier.py), which item is whose (task.py).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from typing import Any

SEED = 1  # of every dataset; an item is identified by its number
RIGHT_SCORE = 1.0  # datasets give less for partly right answers
_HARMLESS = {"os.listdir", "os.scandir", "os.fwalk", "os.walk"}  # listing a folder, as imports do
_FORBIDDEN = (
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "pty.",
    "fcntl.",
    "signal.",
    "urllib.",
    "tempfile.",
)
_state: dict[str, Any] = {}  # set by `start`: the dataset, and the error if there is one


def start(name: str, size: str, options: str) -> dict[str, Any]:
    """Creates the dataset; `options` is its configuration as JSON. "describe" later returns what the user got wrong."""
    sys.dont_write_bytecode = True  # imports write no other files
    try:
        _state["problem"] = _make(name, int(size), json.loads(options))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    sys.addaudithook(_guard)
    return {"ready": True}


def answer(kind: str, text: str) -> Any:
    """Answers one question; see the module docstring."""
    if kind == "describe":
        return _state["problem"]
    if kind == "item":
        entry = _item(int(text))
        return {"question": entry["question"], "answer": entry["answer"] if isinstance(entry["answer"], str) else None}
    entry = _item(int(kind.removeprefix("score ")))
    try:
        return int(float(_state["dataset"].score_answer(text, entry)) >= RIGHT_SCORE)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the verifier failed: neither right nor wrong
        return -1


def _make(name: str, size: int, options: dict[str, Any]) -> dict[str, Any]:
    """Sets the dataset. Returns {}, or what is wrong with the request."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset  # type: ignore[import-untyped]
    except ImportError as error:
        return {"missing": str(error)}
    if name not in DATASETS:
        return {"names": sorted(DATASETS)}
    fields = [field.name for field in dataclasses.fields(DATASETS[name][1])]
    if unknown := [option for option in options if option not in fields]:
        return {"fields": [field for field in fields if field not in ("seed", "size")], "unknown": unknown[0]}
    try:
        _state["dataset"] = create_dataset(name, **options, seed=SEED, size=size)
        _item(0)
    except Exception as error:  # datasets reject a configuration in their own ways
        return {"refused": f"{type(error).__name__}: {error}"}
    return {}


@functools.lru_cache(maxsize=4096)  # a problem has many answers
def _item(number: int) -> dict[str, Any]:
    return dict(_state["dataset"][number])


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that ends the process on events that no verifier needs."""
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        writes = isinstance(mode, str) and set(mode) & set("wax+") or isinstance(flags, int) and flags & _WRITING
        if not writes:
            return
    elif event in _HARMLESS or not event.startswith(_FORBIDDEN):
        return
    os._exit(3)


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
