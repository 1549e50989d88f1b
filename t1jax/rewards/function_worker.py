# SPDX-License-Identifier: Apache-2.0
"""The code that a worker process (worker.py) runs for reward functions of users: loads them and calls them.

A question is three strings:
    "describe", "", "1"    -> {"batched": [true, ...]}: whether each function takes lists; or {"error": ...}
    "0", JSON, "4"         -> the rewards of function 0 for 4 responses: numbers, null (unscorable) or {"error": ...}

The JSON holds `prompts`, `responses` and `rows`, lists of one length. `score(prompt, response, row)` is called once for
each; `score(prompts, responses, rows)` once for all. Files are run under names of their own, with their folder at the
end of sys.path. What a function prints goes nowhere, and it finds no input.
Where: rollouts -> rewards. Only the standard library is imported.
Deliberately not here: deadlines and memory (pool.py); a sandbox: a reward function may do what its user may do.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import numbers
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ONE, MANY = ("prompt", "response", "row"), ("prompts", "responses", "rows")
REWARD_PROCESS = "T1JAX_REWARD_PROCESS"  # variable of the environment that is set here: a program must not train here
LARGEST = 1e30  # of a reward; float32 overflows at 3.4e38, and squares are taken of it
_functions: list[Callable[..., Any]] = []
_batched: list[bool] = []
_problem: list[str] = []


def start(names: str) -> dict[str, Any]:
    """Loads the functions FILE:NAME of a JSON list. What is wrong with them is told by "describe"."""
    sys.dont_write_bytecode = True
    os.environ[REWARD_PROCESS] = "1"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nobody reads what is printed, and a pipe that is full would block
    sys.path.append(str(Path(__file__).parents[2]))  # t1jax itself, where it is not installed
    loaded: dict[str, ModuleType] = {}
    for name in json.loads(names):
        path, _, function = name.rpartition(":")
        try:
            if path not in loaded:
                loaded[path] = _load(path, len(loaded))
            _functions.append(_named(loaded[path], path, function))
            _batched.append(_takes_lists(_functions[-1], name))
        except _Refused as error:
            _problem.append(str(error))
        except BaseException as error:  # the user's program: what it raises is the user's to mend
            _problem.append(f"{path} does not load: {describe(error)}; expected a file that Python can import")
        if _problem:
            break
    return {"ready": True}


def answer(kind: str, text: str, responses: str) -> Any:
    """Answers one question; see the module docstring. `responses`: how many, for the deadline."""
    if kind == "describe":
        return {"error": _problem[0]} if _problem else {"batched": _batched}
    function, asked = _functions[int(kind)], json.loads(text)
    if not _batched[int(kind)]:
        return [
            _call(function, *each) for each in zip(asked["prompts"], asked["responses"], asked["rows"], strict=True)
        ]
    found = _guarded(lambda: function(**asked))
    count = len(asked["responses"])
    if isinstance(found, dict):
        return [found] * count
    try:
        rewards = list(found)
    except TypeError:
        return [{"error": f"returned {_shown(found)}; expected a list of {count} numbers or None"}] * count
    if len(rewards) != count:
        return [{"error": f"returned {len(rewards)} rewards; expected one for each of {count} responses"}] * count
    return [_reward(reward) for reward in rewards]


class _Refused(Exception):
    """What is wrong with a function, in words."""


def _load(path: str, number: int) -> ModuleType:
    if not Path(path).is_file():
        raise _Refused(f"{path}: no such file; expected a Python file with a reward function")
    sys.path.append(os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location(f"_t1jax_reward_{number}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def _named(loaded: ModuleType, path: str, name: str) -> Callable[..., Any]:
    function = getattr(loaded, name, None)
    if not callable(function):
        there = [other for other, value in vars(loaded).items() if inspect.isfunction(value)]
        raise _Refused(f"{path} has no function {name}; it has {', '.join(there) or 'none'}")
    return function


def _takes_lists(function: Callable[..., Any], name: str) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise _Refused(f"{name} is {function!r}, which says no arguments; expected a function") from error
    for names in (ONE, MANY):
        try:
            signature.bind(**dict.fromkeys(names))
        except TypeError:
            continue
        if inspect.iscoroutinefunction(function):
            break
        return names is MANY
    raise _Refused(
        f"{name} takes {signature}{', and is async' if inspect.iscoroutinefunction(function) else ''}; expected "
        f"({', '.join(ONE)}), or ({', '.join(MANY)}) for many at once"
    )


def _call(function: Callable[..., Any], prompt: str, response: str, row: Any) -> Any:
    found = _guarded(lambda: function(prompt=prompt, response=response, row=row))
    return found if isinstance(found, dict) else _reward(found)


def _guarded(call: Callable[[], Any]) -> Any:
    """What it returns, or {"error": what it raised}."""
    try:
        found = call()
    except MemoryError:
        raise  # nothing here can be trusted any more
    except BaseException as error:  # SystemExit too: it is the user's function, and the run goes on
        return {"error": f"raised {describe(error)}"}
    return {"error": f"returned {_shown(found)}; expected a number or None"} if isinstance(found, dict) else found


def _reward(found: Any) -> Any:
    """A number, null, or {"error": ...}."""
    if found is None:
        return None
    if type(found).__module__ == "numpy" and getattr(found, "shape", None) == ():
        found = found.item()
    if not isinstance(found, numbers.Real):
        return {"error": f"returned {_shown(found)}; expected a number or None"}
    value = float(found)
    if not math.isfinite(value) or abs(value) > LARGEST:
        return {"error": f"returned {value}; expected a finite number or None"}
    return value


def _shown(value: Any) -> str:
    try:
        return f"{type(value).__name__} {value!r:.60}"
    except Exception:  # a repr of the user's that fails
        return type(value).__name__


def describe(error: BaseException) -> str:
    """An error in one line, with the line of the user's file that it comes from."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    if isinstance(error, SyntaxError) or not theirs:
        return said
    return f"{said} ({os.path.basename(theirs[-1].filename)}, line {theirs[-1].lineno})"
