# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's files of a run: workdir/tensorboard/STAGE/events.NANOSECONDS. Process 0 only.

Events are written to a local file. Where the workdir is in a bucket, each `flush` puts what there is as an object of
its own, and the next events begin another: TensorBoard reads a folder's files in the order of their names. Together
they take at most so many bytes: the oldest go.
Deliberately not here: what the columns mean (metrics.py).
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from t1jax.host import files
from t1jax.host.bucket import Bucket, Unreachable
from t1jax.host.place import Place

MOST = 256 << 20  # bytes of all files
SHARE = 8  # a file that takes more than this part of them is ended, and another begun, so that old ones can go
FLUSH = 10.0  # seconds after which TensorBoard sees a local row, at the latest with the next one


class Boards:
    """Writes one event for all scalars of a row. Not SummaryWriter: its queue would not survive a kill."""

    def __init__(self, workdir: Place, most: int = MOST) -> None:
        """`most`: bytes that all files may take; 0: none are written, and those that are there go."""
        self._workdir, self._most = workdir, most
        self._open: dict[str, Any] = {}  # stage -> writer
        self._paths: dict[str, Path] = {}  # stage -> its file, where that is in the workdir
        self._begun: set[str] = set()
        self._remote = Path(tempfile.mkdtemp(prefix="t1jax")) if isinstance(workdir, Bucket) else None
        self._flushed = -math.inf  # when TensorBoard could last see all rows

    def show(self, row: Mapping[str, Any], again: int) -> None:
        """Writes a row; the first of a stage tells TensorBoard to forget the steps from `again` on."""
        if not self._most:
            return
        from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]  # slow import
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        scalars = {k: v for k, v in row.items() if k not in ("stage", "step") and isinstance(v, int | float)}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
        self._board(row["stage"], again).write_event(event)
        if self._remote is None and time.monotonic() - self._flushed > FLUSH:
            self.flush()

    def flush(self) -> None:
        """Returns when TensorBoard can see all rows.

        Raises:
          Unreachable: not all could be put into the bucket; they are kept for the next call.
        """
        for stage, board in list(self._open.items()):
            board.flush()
            if self._remote is not None:
                board.close()
                del self._open[stage]
        self._put()
        with suppress(Unreachable):  # what could not be deleted goes next time
            self._bound()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is still in memory."""
        for board in self._open.values():
            board.close()
        self._open = {}
        self._put()
        if self._remote is not None:
            shutil.rmtree(self._remote, ignore_errors=True)

    def _put(self) -> None:
        if self._remote is not None:
            for path in sorted(self._remote.glob("*/events.*")):
                files.write_bytes(self._workdir / "tensorboard" / path.parent.name / path.name, path.read_bytes())
                path.unlink()

    def _bound(self) -> None:
        """Ends files that are large, and deletes the oldest of those that are ended until all take at most `most`."""
        sizes = files.sizes(self._workdir / "tensorboard", "events.*")
        for stage, path in list(self._paths.items()):
            if sizes.get(path, 0) > self._most // SHARE:
                self._open.pop(stage).close()
                del self._paths[stage]
        more = sum(sizes.values()) - self._most
        for oldest in sorted(sizes, key=_when):
            if more > 0 and oldest not in self._paths.values():
                oldest.unlink(missing_ok=True)
                more -= sizes[oldest]

    def _board(self, stage: str, again: int) -> Any:
        if stage not in self._open:
            from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            folder = (self._remote or Path(self._workdir) / "tensorboard") / stage
            folder.mkdir(parents=True, exist_ok=True)
            # its own name has whole seconds and would overwrite a file
            now = time.time_ns()
            board = self._open[stage] = EventsWriter(str(folder / "events"), f".{now}")
            if self._remote is None:
                self._paths[stage] = next(folder.glob(f"events.*.{now}"))
            if stage not in self._begun:
                log = SessionLog(status=SessionLog.START)
                board.write_event(Event(wall_time=time.time(), step=again, session_log=log))
                self._begun.add(stage)
        return self._open[stage]


def _when(path: Place) -> int:
    """When a file was begun, nanoseconds; 0: it has another's name."""
    last = path.name.rpartition(".")[2]
    return int(last) if last.isdecimal() else 0
