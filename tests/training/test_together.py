# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of two processes: what one of them cannot write or read, both know, and both go on."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest
import several
from jax.sharding import Mesh
from saved_states import CFG, abstract, make_mesh, make_state, make_tokens, shardings

from t1jax.devices import multihost, sharding
from t1jax.training.checkpoint import Checkpoints


def state_of(step: int) -> Any:
    """A state over both processes."""
    here = Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    state = jax.device_get(make_state(here, scale=float(step)).replace(step=np.int32(step)))
    return jax.tree.map(
        lambda x, s: jax.make_array_from_callback(np.shape(x), s, lambda index: np.asarray(x)[index]),
        state,
        shardings(make_mesh(1, 2, 1), state),
    )


def limit(size: int) -> None:
    """As on a disk that is full: writing more to a file fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def save_while_one_cannot(folder: str, which: int) -> tuple[list[str], list[int], float]:
    """Saves of steps 1 to 4, of which process `which` can write 1 and 4 only: notes, steps kept, seconds of 2 and 3."""
    notes: list[str] = []
    with Checkpoints(folder, CFG, make_tokens(), notes.append) as checkpoints:
        checkpoints.save(1, state_of(1), {"next_index": 1})
        checkpoints.wait()
        began = time.monotonic()
        if jax.process_index() == which:
            limit(300)
        checkpoints.save(2, state_of(2), {"next_index": 2})
        checkpoints.save(3, state_of(3), {"next_index": 3})
        checkpoints._collect()
        limit(resource.RLIM_INFINITY)
        took = time.monotonic() - began
        checkpoints.save(4, state_of(4), {"next_index": 4})
        checkpoints.wait()
        assert_whole(checkpoints, 4)
        return notes, checkpoints.steps(), took


def assert_whole(checkpoints: Checkpoints, step: int) -> None:
    """What is restored is the state of this step, on this process's devices."""
    restored = checkpoints.restore(abstract(state_of(1), make_mesh(1, 2, 1)))
    for mine, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state_of(step)), strict=True):
        for a, b in zip(mine.addressable_shards, theirs.addressable_shards, strict=True):
            np.testing.assert_array_equal(a.data, b.data)


def both(function: str, *arguments: Any) -> list[Any]:
    return several.said(several.start(f"test_together.{function}", *arguments, processes=2, devices=1))


@pytest.mark.slow
@pytest.mark.parametrize("which", [1, 0])
def test_a_save_that_one_process_cannot_write_is_told_and_the_next_is_whole(tmp_path, which):
    (notes, steps, took), (others, steps_1, _) = both("save_while_one_cannot", str(tmp_path / "checkpoints"), which)
    assert steps == steps_1 == [1, 4] and others == []
    assert len(notes) == 2 and took < 60
    for note in notes:
        assert f"could not be written: process {which}: " in note and "training goes on" in note, note


def save_while_main_cannot_commit(folder: str) -> tuple[list[str], list[int], float]:
    """Saves of steps 1 to 3; process 0 cannot rename 2 to its place: notes, steps kept, seconds of 2."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and os.path.basename(os.fsdecode(arguments[1])) == "2":
            raise OSError(errno.EROFS, "Read-only file system")

    if jax.process_index() == 0:
        sys.addaudithook(refuse)
    notes: list[str] = []
    with Checkpoints(folder, CFG, make_tokens(), notes.append) as checkpoints:
        checkpoints.save(1, state_of(1), {"next_index": 1})
        checkpoints.wait()
        began = time.monotonic()
        checkpoints.save(2, state_of(2), {"next_index": 2})
        checkpoints._collect()
        took = time.monotonic() - began
        checkpoints.save(3, state_of(3), {"next_index": 3})
        checkpoints.wait()
        assert_whole(checkpoints, 3)
        return notes, checkpoints.steps(), took


@pytest.mark.slow
def test_a_commit_that_process_0_cannot_make_is_told_and_the_next_save_is_whole(tmp_path):
    (notes, steps, took), (others, steps_1, took_1) = both("save_while_main_cannot_commit", str(tmp_path / "c"))
    assert steps == steps_1 == [1, 3] and others == [] and max(took, took_1) < 60
    assert len(notes) == 1 and "could not be written: process 0: " in notes[0] and "Read-only" in notes[0], notes


def save_two(folder: str) -> list[str]:
    """Saves of steps 1 and 2 after those of a stage before, which had the same numbers: notes."""
    notes: list[str] = []
    for place in (f"{folder}-before", folder):
        with Checkpoints(place, CFG, make_tokens(), notes.append) as checkpoints:
            for step in (1, 2):
                checkpoints.save(step, state_of(step), {"next_index": step})
                checkpoints.wait()
    return notes


def restore(folder: str, unlucky: int) -> tuple[list[str], list[int]]:
    """Process `unlucky` alone cannot read step 2; -1: none is."""
    notes: list[str] = []
    read = Checkpoints._read

    def fail(self: Checkpoints, step: int, *rest: Any) -> Any:
        if step == 2:
            raise ValueError("DATA_LOSS: its shard")
        return read(self, step, *rest)

    if jax.process_index() == unlucky:
        Checkpoints._read = fail  # type: ignore[method-assign]
    with Checkpoints(folder, CFG, make_tokens(), notes.append) as checkpoints:
        assert_whole(checkpoints, 1)
        return notes, checkpoints.steps()


def restore_none(folder: str) -> str:
    with Checkpoints(folder, CFG, make_tokens(), lambda note: None) as checkpoints:
        try:
            checkpoints.restore(abstract(state_of(1), make_mesh(1, 2, 1)))
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize(
    "damaged",
    [
        "state/d",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("config/metadata", "state/_METADATA")),
    ],
)
def test_a_damaged_newest_checkpoint_is_set_aside_by_all(tmp_path, damaged):
    folder = tmp_path / "checkpoints"
    assert both("save_two", str(folder)) == [[], []]
    path = folder / "2" / damaged
    for file in [path] if path.is_file() else list(path.iterdir()):
        file.write_bytes(file.read_bytes()[:7])
    (notes, steps), (others, steps_1) = both("restore", str(folder), -1)
    assert steps == steps_1 == [1] and others == [] and len(notes) == 1
    assert "/2 cannot be read (" in notes[0] and "it is kept as 2.damaged, and an older one taken" in notes[0]
    assert (folder / "2.damaged").is_dir()


@pytest.mark.slow
def test_what_one_process_cannot_read_all_set_aside(tmp_path):
    """A shard of its own, which no other process reads."""
    both("save_two", str(tmp_path / "checkpoints"))
    (notes, steps), (others, steps_1) = both("restore", str(tmp_path / "checkpoints"), 1)
    assert steps == steps_1 == [1] and others == [] and len(notes) == 1
    assert "/2 cannot be read (process 1: ValueError: DATA_LOSS: its shard); it is kept as 2.damaged" in notes[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ("state/manifest.ocdbt", "(2: process 0: .*; process 1: .*; 1: process 0: "),
        ("config/metadata", "(process 0: 1: JSONDecodeError: .*; 2: JSONDecodeError: "),  # process 0 alone reads it
    ],
)
def test_where_no_process_can_read_any_all_end_with_the_same_line(tmp_path, damaged, said):
    folder = tmp_path / "checkpoints"
    both("save_two", str(folder))
    for path in folder.glob(f"*/{damaged}"):
        path.write_bytes(b"")
    mine, theirs = both("restore_none", str(folder))
    assert mine == theirs and re.search(re.escape("no checkpoint can be read ") + rf"\{said}", mine), (mine, theirs)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"1.damaged", "2.damaged"}


def told(why: str) -> str:
    return multihost.agreed(why if jax.process_index() else "")


def test_one_process_agrees_with_itself():
    assert multihost.agreed("") == "" and multihost.agreed("no") == "no"


@pytest.mark.slow
def test_what_one_process_says_all_hear():
    assert both("told", "é" * 500) == [f"process 1: {'é' * (multihost.LONGEST // 2)}"] * 2
