# SPDX-License-Identifier: Apache-2.0
"""Which steps a folder of checkpoints holds, for those who read them and for the run that writes them.

A local step is renamed into place when it is complete. In a bucket nothing is renamed: a step counts once Orbax has put
its commit marker, and no longer once it is marked as damaged.
Deliberately not here: what a step holds (training/checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from orbax.checkpoint import path as ocp_path
from orbax.checkpoint.utils import TMP_DIR_SUFFIX

from t1jax.host import files
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place

COMMITTED = "commit_success.txt"  # Orbax's last object of whatever it writes to a bucket
DAMAGED = "damaged.txt"  # says why
UNFINISHED = "t1jax-convert-unfinished.txt"  # in a bucket: the first object of a conversion, deleted last


def folders(folder: Place) -> dict[int, Place]:
    """step -> its folder, of all that have the name of one, ascending."""
    found = {int(path.name): path for path in folder.glob("*") if path.name.isdecimal()}
    return dict(sorted(found.items()))


def is_whole(path: Place) -> bool:
    """Whether what Orbax wrote at `path` counts."""
    if not isinstance(path, Bucket):
        return path.is_dir()
    return (path / COMMITTED).is_file() and not (path / DAMAGED).is_file()


def unfinished(folder: Place) -> list[Place]:
    """What saves left that were killed or failed."""
    if isinstance(folder, Bucket):
        return [path for path in folders(folder).values() if not (path / COMMITTED).is_file()]
    return list(folder.glob(f"*{TMP_DIR_SUFFIX}*"))


def mark_damaged(path: Bucket, why: str) -> None:
    """From now on the step does not count."""
    files.write_text(path / DAMAGED, why + "\n")


class Undamaged(type(ocp_path.step.standard_name_format())):  # type: ignore[misc]  # has no public name
    """How Orbax finds the steps of a folder: as always, without those marked as damaged."""

    def find_all(self, base_path: str) -> Iterator[ocp_path.step.Metadata]:
        return (step for step in super().find_all(base_path) if not (step.path / DAMAGED).exists())
