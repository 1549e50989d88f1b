# SPDX-License-Identifier: Apache-2.0
"""A worker process that compares answers with math-verify, and that may be killed at any time.

process.py starts it as a program (`python -P worker.py DEADLINE_S WALL_S MEMORY_MIB PARENT_PID`) and talks to it over
its standard input and output: a message is four bytes of length and that many bytes of JSON. First it says
{"ready": true} or {"error": "..."}; then it answers each [times, answer, gold] with 1, 0 or -2 (right, wrong, a gold
that math-verify cannot read); it may take `times` deadlines. With the path of a Python file and words for its `start`,
its `answer` takes each question instead (tasks/gym/worker.py, function_worker.py).

rollouts -> REWARDS, beside the training process. Only the standard library and math-verify are imported, so that it
starts in half a second and touches no accelerator.
It never outlives its parent. When idle, it sees the end of its input. When busy, the kernel ends it with the parent (on
Linux), and on all systems its own alarms do: two seconds of its CPU time after the deadline, or two seconds after the
wall-clock limit. The memory limit works on Linux only.
Deliberately not here: which answers are asked (verifier.py); deadlines, because a parent can keep them and a process
that is stuck in one long multiplication cannot.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import os
import re
import resource
import runpy
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

HEADER = struct.Struct(">I")
UNREAD = -2
_MAX_DIGITS = 10_000  # of integers that become text or come from it, which takes quadratic time
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")  # NUL bytes and halves of UTF-16 pairs
_PR_SET_PDEATHSIG = 1
_DIGITS = 40  # to which numbers are evaluated that math-verify finds equal
_WARM_UP = (("\\frac{1}{2}", "0.5"), ("2x+1", "1+2x"), ("\\sqrt{8}", "2\\sqrt{2}"), ("(1,2]", "(1,3]"), ("3,4", "4,3"))


@functools.lru_cache(maxsize=256)  # many answers to one problem: its right answer is read once
def read(text: str) -> list[Any]:
    """What math-verify makes of the whole `text`, at most one expression; [] if it cannot read it."""
    from math_verify import LatexExtractionConfig, parse  # type: ignore[import-untyped]

    config = [LatexExtractionConfig(boxed_match_priority=0)]  # the whole text or nothing, never a number out of it
    boxed = f"\\boxed{{{_NO_TEXT.sub(' ', text)}}}"
    # Without its fallback, the text of what it cannot read: it cuts that where it takes letters for units.
    return parse(boxed, config, "no_fallback", "first_match", parsing_timeout=None)


def compare(answer: str, gold: str) -> int:
    """1 if math-verify finds `answer` equal to `gold`, 0 if not, UNREAD if `gold` is nothing that it can read.

    An inequality and the interval that it describes are equal, whichever of the two is the answer.

    Raises:
      MemoryError, RecursionError: too big to compare.
    """
    verify = _verify()
    if not (golds := read(gold)):
        return UNREAD
    for ours, right in itertools.product(read(answer), golds):
        try:
            if verify(right, ours, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True):
                return 1
        except (MemoryError, RecursionError):
            raise
        except Exception:  # what sympy cannot compare is not equal
            continue
    return 0


@functools.cache
def _verify() -> Callable[..., bool]:
    """math-verify's `verify`, for which numbers are equal only if they are so relative to their size.

    math-verify rounds differences: 15 digits behind the point, 6 for decimals. So 1/2004! and 1/2006! are equal to it
    (its issue 14), and 0 is any small number.
    """
    from math_verify import grader

    close = grader.sympy_numeric_eq

    def equal(a: Any, b: Any, float_rounding: int, numeric_precision: int) -> bool:
        if not close(a, b, float_rounding, numeric_precision):
            return False
        return not (_apart(a, b) and _apart(grader.get_pct_val(a, a), grader.get_pct_val(b, b)))  # 9% is 9 to it

    grader.sympy_numeric_eq = equal
    return grader.verify


def _apart(a: Any, b: Any) -> bool:
    """Whether two expressions are numbers of which one is not the other to four digits, or, exact ones, to 25."""
    from sympy import Expr, Float  # type: ignore[import-untyped]

    if not (isinstance(a, Expr) and isinstance(b, Expr)) or a.free_symbols or b.free_symbols:
        return False
    a, b = a.doit(), b.doit()
    x, y = a.evalf(_DIGITS), b.evalf(_DIGITS)
    exponent = 4 if a.has(Float) or b.has(Float) else 25
    return bool(abs(x - y) * 10**exponent > max(abs(x), abs(y)))


def _limit(memory: int, parent: int) -> None:
    """Memory in MiB, no core files, and the end of this process when its parent ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.set_int_max_str_digits(_MAX_DIGITS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, signal.SIG_DFL)
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        size = memory * 2**20 if hard == resource.RLIM_INFINITY else min(memory * 2**20, hard)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            sys.exit(0)


def _start() -> dict[str, Any]:
    """Import math-verify and use each part of it once, so that the first answer is as quick as the others."""
    try:
        for answer, gold in _WARM_UP:
            compare(answer, gold)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"ready": True}


def main(argv: list[str]) -> None:
    """Answer until the input ends.

    Args:
      argv: seconds of processor time and of anybody's time for an answer, memory in MiB, the parent's process id, and
        if another program is to answer its file and words for it.
    """
    deadline, wall, memory, parent = float(argv[0]), float(argv[1]), int(argv[2]), int(argv[3])
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)  # nobody else reads the questions,
    os.dup2(nowhere, 1)  # and whatever a library prints must not look like an answer
    _limit(memory, parent)

    def say(message: Any) -> None:
        data = json.dumps(message).encode()
        sink.write(HEADER.pack(len(data)) + data)
        sink.flush()

    start, ask = _start, compare
    if argv[4:]:
        program = runpy.run_path(argv[4])
        start, ask = functools.partial(program["start"], *argv[5:]), program["answer"]
    say(start())
    os.dup2(nowhere, 2)
    while len(header := source.read(HEADER.size)) == HEADER.size:
        times, *question = json.loads(source.read(*HEADER.unpack(header)))
        signal.setitimer(signal.ITIMER_PROF, times * deadline + 2)
        signal.setitimer(signal.ITIMER_REAL, times * wall + 2)
        try:
            outcome = ask(*question)
        except (MemoryError, RecursionError):
            os._exit(1)  # nothing here can be trusted any more
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(outcome)


if __name__ == "__main__":
    main(sys.argv[1:])
