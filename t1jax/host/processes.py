# SPDX-License-Identifier: Apache-2.0
"""Multi-process runs: how processes find each other, and how none waits forever for one that died.

Plain multi-controller JAX: every process runs the same command. On TPU pods, Slurm, GKE and under Open MPI, JAX finds
the others (--multiprocess); elsewhere the command line gives the coordinator, the count and the index.

A process that fails exits immediately, without waiting at JAX's exit barrier. The others stop because a collective with
it breaks, or because its heartbeat has been missing for HEARTBEAT seconds.
Deliberately not here: what processes exchange (multihost.py), starting them (launch/).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from absl import flags

from t1jax.config import ConfigError
from t1jax.host import failures
from t1jax.host.bucket import Unreachable
from t1jax.host.stopping import EXIT_FAILED, Stopped

HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead
START = 300  # seconds that processes wait for the last one to come
HELP = """\
  --multiprocess      run as one of several processes, found by JAX on TPU pods, in Slurm, on GKE and under mpirun;
                      start this command in each
  --coordinator=HOST:PORT --num_processes=N --process_id=I
                      the same where JAX cannot find them: a free port on process 0's machine, the number of
                      processes, and the index of this one; localhost accepts nobody from other machines
"""


@dataclass(frozen=True)
class Group:
    """The processes of a run; None: JAX finds out."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


def define(values: flags.FlagValues) -> None:
    """The flags of HELP."""
    flags.DEFINE_boolean("multiprocess", False, "", values)
    flags.DEFINE_string("coordinator", None, "", values)
    flags.DEFINE_integer("num_processes", None, "", flag_values=values)
    flags.DEFINE_integer("process_id", None, "", flag_values=values)


def asked(values: flags.FlagValues) -> Group | None:
    """The processes that the command line names; None: this one alone.

    Raises:
      ConfigError: the three flags do not go together.
    """
    given = {name: getattr(values, name) for name in ("coordinator", "num_processes", "process_id")}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return Group() if values.multiprocess else None
    if missing:
        raise ConfigError(
            f"--{missing[0]} is missing; expected --coordinator, --num_processes and --process_id together"
        )
    coordinator, count, index = given.values()
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--coordinator is {coordinator!r}; expected HOST:PORT of process 0, such as 10.0.0.2:8476")
    if count < 1:
        raise ConfigError(f"--num_processes is {count}; expected at least 1")
    if not 0 <= index < count:
        raise ConfigError(f"--process_id is {index}; expected 0 to {count - 1}, as --num_processes is {count}")
    return Group(coordinator, count, index)


@contextmanager
def joined(group: Group | None) -> Iterator[None]:
    """The body as one process of the group. Call before JAX has any device.

    An error of the body, or of a process that it exchanges with, ends this process at once with exit code 1.

    Raises:
      ConfigError: the group could not come together.
    """
    if group is None:
        yield
        return
    _join(group)
    import jax

    from t1jax.devices import multihost

    try:
        yield
        multihost.barrier("the end of the run")
    except (ConfigError, Stopped, KeyboardInterrupt):  # every process sees the same mistake, or the same signal
        raise
    except BaseException as error:
        code = EXIT_FAILED
        if isinstance(error, Unreachable):
            print(f"t1jax: {error}", file=sys.stderr)
        elif (known := failures.foreseen(error)) is not None:
            said, code = known
            print(f"t1jax: {said}", file=sys.stderr)
        else:
            traceback.print_exc()
        _leave(f"process {jax.process_index()} of {jax.process_count()} stopped, by the error above", code)
    jax.distributed.shutdown()


def _join(group: Group) -> None:
    import jax

    try:
        jax.distributed.initialize(
            group.coordinator,
            group.count,
            group.index,
            # else JAX would give each Slurm or MPI task one GPU, though the command line says who is who
            cluster_detection_method=None if group.coordinator is None else "deactivate",
            coordinator_bind_address=_loopback(group.coordinator),
            initialization_timeout=START,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        raise ConfigError(
            f"--multiprocess: JAX finds no other processes here ({error}); expected a TPU pod, Slurm, GKE or mpirun, "
            "or --coordinator, --num_processes and --process_id"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"the {group.count or ''} processes did not come together in {START} s ({said}); is every one running, and "
            f"can each reach {group.coordinator or 'process 0'}?"
        ) from error


def _loopback(coordinator: str | None) -> str | None:
    """Where a coordinator on this machine alone listens; None: as JAX does, on all addresses."""
    host, _, port = (coordinator or "").rpartition(":")
    if host == "localhost" or host.startswith("127."):
        return f"{host.replace('localhost', '127.0.0.1')}:{port}"
    return f"[::1]:{port}" if host.strip("[]") == "::1" else None


def _leave(why: str, code: int) -> None:
    """Ends this process now: JAX's exit handlers would wait for the others, who may wait for this one."""
    print(
        f"t1jax: {why}; the others stop within a minute. The same command resumes from the latest checkpoint",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
