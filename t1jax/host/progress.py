# SPDX-License-Identifier: Apache-2.0
"""Progress of a run on the terminal: one line per stage, with a bar, the last step's metrics and the time left.

    with Progress() as progress:
        with progress.stage("rl", total=cfg.rl.num_steps, done=start) as stage:
            stage.update(step, row)                       # row: what MetricsWriter.write returned
            progress.sampling(tokens_done, total, live)   # from any thread, while a step samples
        progress.doing("compiling")                   # what goes on from now on, in the stage or between stages

On a terminal the lines are updated in place and those of finished stages stay. Elsewhere (a file, a pipe, CI) plain
lines are printed: at most one every `every` seconds, one when a stage ends, and one after BEAT seconds without any,
with what goes on and for how long. Process 0 only.
Deliberately not here: files (metrics.py).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from t1jax.devices import multihost
from t1jax.typed import inert

QUIET_SAMPLING = 2.0  # seconds a step must have lasted before its sampling is shown, or what goes on
BEAT = 8.0  # seconds without a line after which one is printed


def figures(row: Mapping[str, Any], short: bool = False) -> str:
    """The figures of a metrics row that a person watches: `reward 0.42 · accuracy 52.1 % · ...`."""
    parts = []
    if row.get("reward") is not None:
        parts.append(f"rew {row['reward']:.2f}" if short else f"reward {row['reward']:.2f}")
    elif row.get("loss") is not None:
        parts.append(f"loss {row['loss']:.3f}")
    if row.get("mean_reward") is not None:
        parts.append(f"mean {row['mean_reward']:.2f}" if short else f"before penalties {row['mean_reward']:.3f}")
    if row.get("accuracy") is not None:
        parts.append(f"acc {row['accuracy']:.0%}" if short else f"accuracy {row['accuracy'] * 100:.1f} %")
    if row.get("unscorable"):
        parts.append(f"uns {row['unscorable']:.0%}" if short else f"unscorable {row['unscorable'] * 100:.1f} %")
    if row.get("response_length") is not None:
        parts.append(f"len {row['response_length']:.0f}" if short else f"length {row['response_length']:.1f}")
    if row.get("entropy") is not None:
        parts.append(f"ent {row['entropy']:.2f}" if short else f"entropy {row['entropy']:.3f}")
    if row.get("tokens_per_second") is not None:
        speed = row["tokens_per_second"]
        number = f"{speed / 1000:.1f}k" if speed >= 1000 else f"{speed:.0f}"
        parts.append(f"{number} t/s" if short else f"{number} tokens/s")
    return " ".join(parts) if short else " · ".join(parts)


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Stage:
    """One line: a stage of the run, `done` of `total` steps. Made by `Progress.stage`."""

    def __init__(self, progress: Progress, name: str, total: int, done: int) -> None:
        self.name, self.total, self.done = name, total, done
        self.row: Mapping[str, Any] = {}
        self.sampled: tuple[str, int, int, int] | None = None  # what is counted, done, total, live rows
        self.ended = False
        self.began = self.touched = progress.clock()
        self.seconds = 0.0  # the whole stage took, once it ended
        self._progress = progress
        self._marks: deque[tuple[float, int]] = deque(maxlen=30)  # (when, done) of the last updates

    def update(self, done: int, row: Mapping[str, Any] | None = None) -> None:
        """`done` steps are done; `row` has the figures of the last one."""
        with self._progress.lock:
            self.done, self.row, self.sampled = done, self.row if row is None else row, None
            self.touched = self._progress.clock()
            self._progress.stepped()
            self._marks.append((self.touched, done))
        self._progress.changed(self)

    def seconds_left(self) -> float | None:
        """Of this stage, from the pace of the last updates; None before the second one.

        The first step, which compiles, is not part of the pace.
        """
        if len(self._marks) < 2 or self._marks[-1][1] <= self._marks[0][1]:
            return None
        (first, start), (last, end) = self._marks[0], self._marks[-1]
        expected = (last - first) / (end - start) * (self.total - end)
        return max(0.0, expected - (self._progress.clock() - last))

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.end(self, finished=kind is None)


class Progress:
    """The lines of all stages. `every`: seconds between plain lines."""

    def __init__(
        self, console: Console | None = None, every: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = Console(highlight=False) if console is None else console
        self.clock, self.every = clock, every
        self.lock = threading.RLock()
        self._shown = multihost.is_main()
        self._stages: list[Stage] = []
        self._last_line = -float("inf")
        self._last_said = self._since = self.clock()
        self._doing = ""  # since `_since`
        self._part: tuple[str, int, int, float, int] | None = None  # name, done, total; when and at what it began
        self._took: dict[tuple[str, str], float] = {}  # (stage, what it did) -> seconds, the last time
        self._ended = threading.Event()
        self._live: Live | None = None
        if self._shown and self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4)

    def stage(self, name: str, total: int, done: int = 0) -> Stage:
        """A new line for stage `name`. Use as a context manager: leaving it without an error ends the stage."""
        stage = Stage(self, name, total, done)
        with self.lock:
            self._stages.append(stage)
        return stage

    def doing(self, what: str) -> None:
        """From now on the program does `what`, such as compiling, until the next call, sampling or step."""
        with self.lock:
            now, stage = self.clock(), self._current()
            if self._doing:
                self._took[stage.name if stage else "", self._doing] = now - self._since
            self._doing, self._since = what, now

    def stepped(self) -> None:
        """A step of the stage that goes on is done: what it did is over."""
        with self.lock:
            self.doing("")
            self._part = None

    def part(self, name: str, done: int, total: int) -> None:
        """Of the part `name` of a stage, `done` of `total` are done; it ends with the last, or with the step."""
        with self.lock:
            self.doing("")
            old = self._part
            goes_on = old is not None and old[0] == name and old[1] < done
            self._part = (name, done, total, *(old[3:] if old and goes_on else (self.clock(), done)))
            stage = self._current()
        if stage is not None:
            self.changed(stage)
        self._part = self._part if done < total else None

    def sampling(self, done: int, total: int, live: int, what: str = "token", then: str = "") -> None:
        """Of at most `total` tokens (or of `total`: `what`) `done` are sampled, `live` responses go on.

        Call it from any thread. `then`: what is done once no response goes on.
        """
        with self.lock:
            stage = self._current()
            if stage is None:
                return
            if not live and then:
                stage.sampled = None
                self.doing(then)
                return
            if self._doing:
                self.doing("")
            if self.clock() - stage.touched < QUIET_SAMPLING:
                return
            stage.sampled = (what, int(done), int(total), int(live))
        self.changed(stage)

    def note(self, text: str) -> None:
        """Prints a line of its own, above the live ones, inert on a terminal."""
        if self._shown:
            self._last_said = self.clock()
            self.console.print(Text(inert(text)), soft_wrap=True)

    def changed(self, stage: Stage) -> None:
        """A plain line about `stage`, if it is time for one. (On a terminal the live lines redraw themselves.)"""
        with self.lock:
            if self._live is None and self.clock() - self._last_line >= self.every:
                self._print_line(stage)

    def end(self, stage: Stage, finished: bool) -> None:
        """`stage` is over; `finished`: because all is done."""
        with self.lock:
            stage.ended, stage.sampled, self._part = True, None, None
            self._doing, self._since = "", self.clock()
            stage.seconds = self.clock() - stage.began
            if finished:
                stage.done = stage.total
            if self._live is None:
                self._print_line(stage)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        elif self._shown:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.stop()

    def _beat(self) -> None:
        while not self._ended.wait(1.0):
            self.beat()

    def beat(self) -> None:
        """Prints a line with what goes on if there was none for BEAT seconds."""
        with self.lock:
            if self.clock() - self._last_said < BEAT or self._ended.is_set():
                return
            if (stage := self._current()) is not None:
                self._print_line(stage)
            else:
                self.note(self._going_on(None) or f"working for {duration(self.clock() - self._since)}")

    def _current(self) -> Stage | None:
        """The stage that goes on."""
        return next((s for s in reversed(self._stages) if not s.ended), None)

    def _going_on(self, stage: Stage | None) -> str:
        """What is done, for how long, and how long it will take, as it took the last time; "" if nobody said."""
        seconds = self.clock() - self._since
        if not self._doing or seconds < QUIET_SAMPLING:
            return ""
        last = self._took.get((stage.name if stage else "", self._doing))
        of = "" if last is None or last < seconds else f" of about {duration(last)}"
        return f"{self._doing} for {duration(seconds)}{of}"

    def _print_line(self, stage: Stage) -> None:
        self._last_line = self._last_said = self.clock()
        if self._shown:
            count = f"{stage.name} {stage.done}/{stage.total}"
            parts = [count, self._part_done(stage), self._figures(stage), self._time(stage)]
            self.console.print(Text("  ".join(part for part in parts if part)), soft_wrap=True)

    def _part_done(self, stage: Stage) -> str:
        """How far the part of a stage is, and its time left; the first update, which compiles, is not in the pace."""
        if self._part is None or stage.ended or stage is not self._current():
            return ""
        name, done, total, at, first = self._part
        pace = (self.clock() - at) / (done - first) if done > first else None
        left = "" if pace is None or done == total else f", {duration(pace * (total - done))} left"
        return f"{name} {done}/{total}{left}"

    def _figures(self, stage: Stage, width: int | None = None) -> str:
        """What fits into `width` cells of: the sampling that goes on, else the figures of the last step."""
        if not stage.ended and stage is self._current() and (going := self._going_on(stage)):
            return going
        if stage.sampled is not None:
            what, done, total, live = stage.sampled
            words = (f"sampling {what} {done} of {total}, {live} responses live", f"{what} {done}/{total}, {live} live")
        else:
            words = (figures(stage.row), figures(stage.row, short=True))
        return words[0] if width is None or cell_len(words[0]) <= width else words[1]

    def _time(self, stage: Stage) -> str:
        if stage.ended:
            return f"{duration(stage.seconds)} {'in all' if stage.done == stage.total else 'stopped'}"
        left = stage.seconds_left()
        return "" if left is None else f"{duration(left)} left"

    def _table(self) -> Table:
        """The live lines, at most one screen wide: name, bar, count, figures, time."""
        with self.lock:
            names = max((cell_len(s.name) for s in self._stages), default=0)
            counts = max((len(f"{s.done}/{s.total}") for s in self._stages), default=0)
            bar = 10 if self.console.width < 140 else 24
            room = self.console.width - names - bar - counts - 14 - 8  # 14: longest time, 8: gaps
            table = Table.grid(padding=(0, 2, 0, 0))
            for justify in ("left", "left", "right", "left", "right"):
                table.add_column(justify=justify, no_wrap=True)
            for s in self._stages:
                stopped = s.ended and s.done < s.total
                table.add_row(
                    Text(s.name, "bold" if not s.ended else "dim"),
                    ProgressBar(max(s.total, 1), s.done if s.total else 1, width=bar),
                    Text(f"{s.done}/{s.total}"),
                    Text("  ".join(filter(None, (self._part_done(s), self._figures(s, room)))), "dim" * s.ended),
                    Text(self._time(s), "yellow" if stopped else "green" if s.ended else "cyan"),
                )
            if self._current() is None and (going := self._going_on(None)):
                table.add_row(Text(going, "cyan"))
            return table
