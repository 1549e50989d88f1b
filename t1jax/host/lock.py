# SPDX-License-Identifier: Apache-2.0
"""A lock in a bucket: an object that is created only where there is none, and kept fresh while it is held.

The object says who holds it. Its holder writes it again every HEARTBEAT seconds, each time on the condition that nobody
else has. A lock that was not written for STALE seconds, by the server's clock, or whose process died on this machine,
is taken over. A holder that finds its lock taken over ends its process at once: another one writes there now.
Deliberately not here: locks of local folders (workdir.py).
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from t1jax.config import ConfigError
from t1jax.host import bucket
from t1jax.host.bucket import Bucket, Refused, Unreachable

HEARTBEAT = 20.0  # seconds
STALE = 90.0  # seconds without a heartbeat after which the holder counts as dead
EXIT_LOST = 2  # as of a workdir in use


@dataclass(frozen=True)
class Seen:
    """A lock as the server has it."""

    generation: str
    age: float  # seconds since it was last written
    who: dict[str, Any]


@contextmanager
def held(path: Bucket, flag: str, note: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock `path`; waits for a stale one.

    Args:
      flag: what the user names its folder with, for errors.
      note: is told when there is something to wait for.

    Raises:
      ConfigError: another process holds it, or this account cannot write it.
      Unreachable: the server does not serve it now.
    """
    mine = {"process": os.getpid(), "host": socket.gethostname(), "machine": _machine()}
    content = json.dumps(mine | {"started": _started(os.getpid()), "token": uuid4().hex}).encode()
    try:
        generation = _take(path, content, flag, note)
    except (FileNotFoundError, Refused) as error:
        why = bucket.reason(error)
        raise ConfigError(f"{flag}={path.parent}: {why}; expected a folder that can be written") from error
    end = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, content, generation, end), daemon=True, name="lock")
    beat.start()
    try:
        yield
    finally:
        end.set()
        beat.join()


def holder(path: Bucket) -> str | None:
    """Who holds the lock `path`, in words; None: nobody who is alive."""
    seen = _look(path)
    if seen is None or seen.age > STALE or _dead(seen.who):
        return None
    return _named(seen)


def _named(seen: Seen) -> str:
    return f"process {seen.who.get('process')} on {seen.who.get('host')}"


def _take(path: Bucket, content: bytes, flag: str, note: Callable[[str], None]) -> str:
    """The generation of the lock, which is ours now."""
    told, first = False, None
    while True:
        seen = _look(path)
        if seen is None or seen.age > STALE or _dead(seen.who):
            if (generation := _swap(path, content, seen.generation if seen else "0")) is not None:
                return generation
            continue  # somebody was faster
        who = _named(seen)
        first = first or seen.generation
        if seen.generation != first or seen.who.get("machine") == _machine():  # alive
            raise ConfigError(f"{path.parent} is in use by {who}; wait for it, stop it, or give another {flag}")
        if not told:
            note(f"{path.parent} was in use by {who}; waiting up to {STALE:.0f} s for a sign of life")
            told = True
        time.sleep(1.0)


def _beat(path: Bucket, content: bytes, generation: str, end: threading.Event) -> None:
    """Keeps the lock fresh until `end`, then deletes it."""
    while not end.wait(HEARTBEAT):
        with suppress(Unreachable, FileNotFoundError):  # a server that does not serve serves nobody else either
            newer = _swap(path, content, generation) or _swap(path, content, "0")  # the latter if somebody deleted it
            if newer is None:
                _lost(path)
            generation = str(newer)
    with suppress(Unreachable, FileNotFoundError), bucket.told(path):
        bucket.storage().call("DELETE", "b/{}/o/{}", path.bucket, path.key, ifGenerationMatch=generation)


def _lost(path: Bucket) -> None:
    print(f"t1jax: another process has taken over {path.parent}; this one ends at once", file=sys.stderr, flush=True)
    os._exit(EXIT_LOST)


def _look(path: Bucket) -> Seen | None:
    """The lock; None where there is none."""
    try:
        with bucket.told(path):
            headers, found = bucket.storage().call("GET", "b/{}/o/{}", path.bucket, path.key)
            info = json.loads(found)
            now = parsedate_to_datetime(headers["Date"])
        who = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:  # not ours; nothing that is alive wrote it
        who = {}
    age = (now - datetime.fromisoformat(info["updated"])).total_seconds()
    return Seen(info["generation"], age, who if isinstance(who, dict) else {})


def _swap(path: Bucket, content: bytes, generation: str) -> str | None:
    """Replaces the object if it is of this generation ("0": if there is none); the new one, or None if it is not.

    By multipart/related, the one kind of upload that takes a name and a condition in a single request.
    """
    part = "--t1jax\r\nContent-Type: {}\r\n\r\n"
    head = part.format("application/json; charset=UTF-8") + json.dumps({"name": path.key}) + "\r\n"
    body = head.encode() + part.format("application/json").encode() + content + b"\r\n--t1jax--"
    with bucket.told(path):
        storage = bucket.storage()
        try:
            written = storage.call(
                "POST",
                f"{storage._location}/upload/storage/v1/b/{path.bucket}/o",
                uploadType="multipart",
                ifGenerationMatch=generation,
                headers={"Content-Type": "multipart/related; boundary=t1jax"},
                data=body,
                json_out=True,
            )
            return written["generation"]
        except FileExistsError:  # of another generation; or ours, and the answer to a first attempt was lost
            seen = _look(path)
            return seen.generation if seen is not None and json.dumps(seen.who).encode() == content else None


def _dead(who: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if who.get("machine") != _machine():
        return False
    number = int(who["process"])
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # Another process may have its number by now: a container that is started again has the same ones.
    started = _started(number)
    return started not in (None, who.get("started", started))


def _started(process: int) -> str | None:
    """When a process of this machine began, in ticks since the machine did; None: that cannot be read."""
    try:
        said = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return said.rpartition(")")[2].split()[19]  # field 22 of proc(5); the second may have spaces and brackets


def _machine() -> str:
    """This machine since it was started, and among its containers this one."""
    found = [Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")]
    return f"{found[0].read_text().strip()} {os.readlink(found[1])}"
