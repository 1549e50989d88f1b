# SPDX-License-Identifier: Apache-2.0
"""A trace of some steps of RL by jax.profiler: WORKDIR/profile, for TensorBoard and xprof. Process 0 only.

    with contextlib.closing(Profiler(steps, workdir, note)) as profiler:
        for number in ...:
            profiler.begin(number)
            ...                     # the step, and whatever waits for it
            profiler.end(number)

The trace begins with the first of `steps` that is done and ends with the last; between steps it sees evaluations and
saves too. Other steps cost two comparisons. The names in it are those of devices/scopes.py. Calls of Python functions
are left out: there are so many that they would slow scoring.
Deliberately not here: which steps (checks.profiled).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from t1jax.devices import multihost, scopes
from t1jax.host import bucket, files
from t1jax.host.bucket import Bucket, Unreachable
from t1jax.host.place import Place

FOLDER = "profile"  # of a workdir


class Profiler:
    """Traces `steps`. What goes wrong is told, and training goes on."""

    def __init__(self, steps: range, workdir: Place, note: Callable[[str], None]) -> None:
        self._steps = steps if multihost.is_main() else range(0)
        self._place, self._note = workdir / FOLDER, note
        self._folder: Path | None = None  # where the trace that goes on will be written
        self._step: Any = None  # the annotation of the step that goes on

    def begin(self, step: int) -> None:
        """`step` begins."""
        if step not in self._steps:
            return
        if self._folder is None:
            self._start()
        self._step = jax.profiler.StepTraceAnnotation(scopes.STEP, step_num=step)
        self._step.__enter__()

    def end(self, step: int) -> None:
        """`step` is done, and was waited for."""
        self._leave()
        if step + 1 == self._steps.stop:
            self.close()

    def close(self) -> None:
        """Writes the trace, if one goes on."""
        self._leave()
        if self._folder is None:
            return
        folder, self._folder = self._folder, None
        try:
            jax.profiler.stop_trace()
            self._put(folder)
        except (RuntimeError, OSError) as error:
            self._note(f"rl.profile: the trace could not be written to {folder}: {bucket.reason(error)}")

    def _leave(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        folder = Path(tempfile.mkdtemp(prefix="t1jax")) if isinstance(self._place, Bucket) else self._place
        try:
            folder.mkdir(parents=True, exist_ok=True)  # a trace that JAX cannot write is never over for it
            jax.profiler.start_trace(folder, profiler_options=options)
            self._folder = folder
        except (RuntimeError, OSError) as error:  # another trace goes on, of whoever called t1jax.train
            self._steps = range(0)
            self._note(f"rl.profile: no trace: {bucket.reason(error)}")

    def _put(self, folder: Path) -> None:
        """To a bucket, if the workdir is in one; else it is there."""
        if isinstance(self._place, Bucket):
            try:
                for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                    files.write_bytes(self._place / path.relative_to(folder).as_posix(), path.read_bytes())
                shutil.rmtree(folder, ignore_errors=True)
            except Unreachable as error:
                self._note(f"rl.profile: the trace is in {folder}, and not in {self._place}: {bucket.reason(error)}")
                return
        self._note(f"rl.profile: the trace is in {self._place}; to look at it: tensorboard --logdir={self._place}")
