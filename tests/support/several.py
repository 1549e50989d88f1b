# SPDX-License-Identifier: Apache-2.0
"""Several processes for tests: one launch calls a function of a test module in each, and gives back what they say."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
SAYS = "said: "  # before what a process has to say: libraries print lines of their own
# All of XLA's own passes, but the least of its code generator for CPUs: a train step compiles in an eighth of the time.
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def environment(devices: int = 1, more: str = "") -> dict[str, str]:
    """Of a process with so many CPU devices that finds the project and the tests; `more`: flags of XLA."""
    folders = [str(folder) for folder in TESTS.iterdir() if folder.is_dir()]
    path = os.pathsep.join([str(TESTS.parent), *folders, os.environ.get("PYTHONPATH", "")])
    flags = f"--xla_force_host_platform_device_count={devices} {' '.join(QUICK)} {more}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


def child(index: int, count: int, address: str, function: str, arguments: list[Any]) -> None:
    """What one process does."""
    import jax

    if count > 1:
        jax.distributed.initialize(address, num_processes=count, process_id=index)
    from t1jax.devices import multihost

    module, _, name = function.partition(".")
    said = getattr(importlib.import_module(module), name)(*arguments)
    multihost.barrier("done")
    print(SAYS + json.dumps(said), flush=True)


def start(function: str, *arguments: Any, processes: int, devices: int, flags: str = "") -> list[subprocess.Popen[str]]:
    """`module.function(*arguments)` in so many processes, of so many devices each."""
    address = f"localhost:{free_port()}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", f"import several as s; s.child{(index, processes, address, function, arguments)!r}"],
            env=environment(devices, flags),
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]


def said(started: list[subprocess.Popen[str]]) -> list[Any]:
    """What each returned, as JSON makes it."""
    try:
        texts = [process.communicate(timeout=3000)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started)
    # Before and after it on the same line may stand what gloo says, whose threads tear each other's lines.
    return [json.JSONDecoder().raw_decode(text.partition(SAYS)[2])[0] for text in texts]
