# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that cannot be read: finding them before Orbax does, and setting them aside.

Deliberately not here: which steps count (weights/steps.py), what happens then (checkpoint.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from t1jax.host import place
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place
from t1jax.weights import steps

SMALL = ("metrics/metrics", "config/metadata")  # of a step: JSON that Orbax reads for all steps when it opens them


def unreadable(directory: Place) -> Iterator[tuple[int, str]]:
    """(step, why) of those whose SMALL files are damaged: Orbax could not even list the others."""
    for step, folder in steps.folders(directory).items():
        try:
            for name in SMALL if steps.is_whole(folder) else ():
                if (folder / name).exists():
                    dict(json.loads((folder / name).read_bytes()))
        except (ValueError, TypeError, OSError) as error:
            yield step, reason(error)


def set_aside(path: Place, why: str, keep: int) -> str:
    """Keeps what is left of a step where Orbax does not look; says how, in words.

    `keep`: how many stay, at least 1, the latest set aside. In a bucket a step stays until it is saved again.
    """
    if isinstance(path, Bucket):
        steps.mark_damaged(path, why)
        return f"it is marked by {steps.DAMAGED}"
    aside = next(x for n in range(10**6) if not (x := path.with_name(f"{path.name}.damaged{n or ''}")).exists())
    os.rename(path, aside)
    there = sorted(path.parent.glob("*.damaged*"), key=lambda each: (each != aside, -each.stat().st_ctime_ns))
    for old in there[keep:]:
        place.remove(old)
    return f"it is kept as {aside.name}"


def make_room(path: Place) -> None:
    """What one process does before a save to `path` that all make: if it cannot, none begins one.

    In a bucket, what is left of a step that was set aside goes; else this tries whether a folder can be made.
    """
    if not isinstance(path, Bucket):
        probe = path.with_name(f"{path.name}.probe")  # not Orbax's name for what is unfinished: it removes such, later
        probe.mkdir(exist_ok=True)
        probe.rmdir()
    elif (path / steps.DAMAGED).exists():
        path.rmtree()


def reason(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
