# SPDX-License-Identifier: Apache-2.0
"""What a worker (rewards/worker.py) does for a dataset of reasoning-gym: make its items, and score answers.

A question is a pair of texts:
    "describe", ""      -> {} or what is wrong: {"missing": ...}, {"names": [...]}, {"fields": [...]}, {"refused": ...}
    "item", "7"         -> {"question": ..., "answer": ...} of item 7; the answer may be null
    "score 7", answer   -> 1, 0 or -1: right, wrong, or its verifier failed

In a process of its own because of both. Some datasets iterate over sets of texts, so their items depend on the hash
seed, which every worker fixes. Some verifiers give the answer to `eval` or to sympy's parser, which is the same: such
an answer is a program that the model wrote. So after the start the process ends itself as soon as anything tries to
start a program, open a connection, load a library, or change a file. That stops accidents and what a policy could
stumble on; it is no sandbox against somebody who knows Python well.
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

SEED = 1  # of the dataset; items are told apart by their number
RIGHT_SCORE = 1.0  # datasets give parts of it for answers that are nearly right
_HARMLESS = {"os.listdir", "os.scandir", "os.fwalk", "os.walk"}  # reading a folder, as an import does
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
_state: dict[str, Any] = {}  # what `start` made: the dataset, or the problem with it


def start(name: str, size: str, options: str) -> dict[str, Any]:
    """Make the dataset; `options`: JSON of its configuration. The user's mistakes are told when asked for."""
    sys.dont_write_bytecode = True  # the only files that an import writes
    try:
        _state["problem"] = _make(name, int(size), json.loads(options))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    sys.addaudithook(_guard)
    return {"ready": True}


def answer(kind: str, text: str) -> Any:
    """The answer to one question, see above."""
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
    except Exception:  # whatever the verifier trips over: neither right nor wrong
        return -1


def _make(name: str, size: int, options: dict[str, Any]) -> dict[str, Any]:
    """Sets the dataset; {} or what is wrong with the request."""
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
    except Exception as error:  # each dataset refuses a configuration in its own way
        return {"refused": f"{type(error).__name__}: {error}"}
    return {}


@functools.lru_cache(maxsize=4096)  # many answers to one problem
def _item(number: int) -> dict[str, Any]:
    return dict(_state["dataset"][number])


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: ends the process on what no verifier does."""
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        writes = isinstance(mode, str) and set(mode) & set("wax+") or isinstance(flags, int) and flags & _WRITING
        if not writes:
            return
    elif event in _HARMLESS or not event.startswith(_FORBIDDEN):
        return
    os._exit(3)


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
