# SPDX-License-Identifier: Apache-2.0
"""Code that must pass unit tests: the share of a problem's tests that the code of a response passes.

    {"problem": "Write a Python function double(x).", "tests": ["assert double(2) == 4", "assert double(-1) == -2"]}

    t1jax train --config.reward.function=examples/code_reward.py:passes --config.data.train=code.jsonl ...

Each test runs in a process of its own: Python in isolated mode (-I: no user packages, no PYTHON* variables), in an
empty folder that is deleted afterwards, with an empty environment, and with limits of CPU time, memory, file size and
the number of open files. It ends on the clock as well.
This is NOT a sandbox. The code runs as your user: it can read your files, write where you can write, use the network
and start processes. It guards against accidents of a model that learns to program, not against one that means harm.
Where that matters, run t1jax in a container or a virtual machine without network and without secrets.
"""

import re
import resource
import subprocess
import sys
import tempfile

SECONDS, MEMORY, FILE_SIZE = 5, 512 * 2**20, 2**20
BLOCK = re.compile(r"```(?:python)?\n(.*?)```", re.DOTALL)


def passes(prompt: str, response: str, row: dict) -> float | None:
    """The share of row["tests"] that the last code block of the response passes; 0 without one, None without tests."""
    blocks = BLOCK.findall(response.rpartition("</think>")[2])
    if not row.get("tests"):
        return None
    if not blocks:
        return 0.0
    return sum(passed(blocks[-1], test) for test in row["tests"]) / len(row["tests"])


def passed(code: str, test: str) -> bool:
    """Whether `code` followed by `test` runs to its end: the mark tells it from code that leaves early with code 0.

    Code that looks for the mark can find it, in its own command line: another thing that a sandbox must keep away.
    """
    with tempfile.TemporaryDirectory() as folder:
        mark = tempfile.mktemp(prefix="passed-", dir="")
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", f"{code}\n{test}\nprint({mark!r})"],
                cwd=folder, env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=SECONDS, preexec_fn=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and done.stdout.endswith(f"{mark}\n")


def limit() -> None:
    """What the process may use; it inherits these from here."""
    for what, most in (
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
