# SPDX-License-Identifier: Apache-2.0
"""Errors that end a command though no user made a mistake: one line each, and the exit code.

A disk that is full or not writable is told as such. Any other error is one line too, which names the file of its
traceback: beside the workdir or --out, else in the current folder. Output that nobody reads any more, such as after
`| head`, is none of these.
Deliberately not here: users' mistakes (command_line.py), buckets (bucket.py), failed saves (checkpoint.py).
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from t1jax.host.stopping import EXIT_FAILED, EXIT_STORAGE

EXIT_MISTAKE = 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
OF_ANOTHER_KIND = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)
OUTPUTS = (1, 2)  # the file descriptors of what is printed, and of errors
LONGEST = 300  # characters of what an error says


def foreseen(error: BaseException) -> tuple[str, int] | None:
    """(what to tell, the exit code) of an error of the file system that a user can mend; None: of no such kind."""
    if not isinstance(error, OSError):
        return None
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in FULL:
        return f"{where}{error.strerror}; make room, and the same command goes on", EXIT_STORAGE
    if error.errno in NOT_WRITABLE and where:
        return f"{where}{error.strerror}; let it be read and written, and the same command goes on", EXIT_STORAGE
    if error.errno in OF_ANOTHER_KIND and where:
        return f"{where}{error.strerror}; expected what t1jax wrote: move it away, or name another", EXIT_MISTAKE
    return None


def tell(program: str, argv: Sequence[str], error: Exception) -> int:
    """Prints a line about the error that ended `program argv`, and keeps its traceback; returns the exit code."""
    if isinstance(error, BrokenPipeError) and (unread := [file for file in OUTPUTS if _unread(file)]):
        for file in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file)  # for what is still buffered, and the line below
        print(f"{program}: stopped, as nothing reads its output any more", file=sys.stderr)
        return 128 + signal.SIGPIPE
    if (known := foreseen(error)) is not None:
        print(f"{program}: {known[0]}", file=sys.stderr)
        return known[1]
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST]}"
    path = _beside(program, argv)
    try:
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
        kept = f"its traceback is in {path}"
    except OSError:
        traceback.print_exception(error)
        kept = "its traceback is above"
    print(f"{program}: {said.encode(errors='backslashreplace').decode()}; {kept}", file=sys.stderr)
    return EXIT_FAILED


def _unread(output: int) -> bool:
    """Whether what read this output has ended: another pipe may be the broken one."""
    poll = select.poll()
    poll.register(output, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _beside(program: str, argv: Sequence[str]) -> Path:
    """Where the traceback of a command goes."""
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        match = re.fullmatch(r"--?(?:workdir|out)(?:=(.+))?", flag, re.DOTALL)
        folder = Path((match[1] or value) if match else "")
        if match and folder.name and "://" not in str(match[1] or value) and folder.parent.is_dir():
            return folder.with_name(f"{folder.name}.traceback.txt")
    return Path(f"{program}.traceback.txt")
