# SPDX-License-Identifier: Apache-2.0
"""Every test runs strict and on eight virtual CPU devices. The environment is set before jax is imported."""

from __future__ import annotations

import gc
import json
import os
import signal
from pathlib import Path

from several import QUICK

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job; Ctrl-C is tested
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"  # a name that might be the hub's is not looked up, but for tests of just that
MAPS = 24_000
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # Eight devices on two busy cores may meet late; after 40 s of waiting XLA would abort the process.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    "--xla_cpu_collective_timeout_seconds=600",
    *QUICK,
)
for _flag in _FLAGS:
    if _flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

import shapes  # noqa: E402

shapes.checked()  # before anything else of t1jax is imported

from t1jax.update import optim  # noqa: E402


def _lenient(make):
    """Optimisers that may promote: in Adam, optax raises a float to the power of an int32 count."""

    def make_lenient(*args):
        made = make(*args)

        def update(*args):
            with jax.numpy_dtype_promotion("standard"):
                return made.update(*args)

        return made._replace(update=update)

    return make_lenient


optim.make_optimizer = _lenient(optim.make_optimizer)


def pytest_configure(config):
    """The same examples on each run, and fewer where slow tests are left out."""
    examples = 50 if config.getoption("markexpr") == "not slow" else 150
    settings.register_profile("t1jax", derandomize=True, deadline=None, database=None, max_examples=examples)
    settings.load_profile("t1jax")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A Hugging Face folder of the model of random_qwen.py."""
    from random_qwen import make_folder

    return make_folder(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="session")
def problems(tmp_path_factory):
    """The problems of random_qwen.py as a file."""
    from random_qwen import PROBLEMS

    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return path


@pytest.fixture(scope="session")
def cloud():
    """A server of Google Cloud Storage (cloud.py), which this process and those that it starts use from now on."""
    import cloud

    server = cloud.Server()
    cloud.use(server.url)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The workdir of the run of tiny_run.py, which nothing stopped. Tests leave it as it is.

    Its loop of RL moves nothing to the devices but prompts, or this fails (guarded.py).
    """
    import guarded
    from tiny_run import CFG

    from t1jax.training import stages

    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    with guarded.loop_of_rl():
        stages.run(CFG, workdir)
    return workdir


@pytest.fixture(autouse=True, scope="module")
def few_maps():
    """Forgets compiled programs once they fill a third of the memory maps that Linux gives a process (65,530).

    Each program takes dozens, and XLA crashes in its compiler when there are no more.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
        gc.collect()
