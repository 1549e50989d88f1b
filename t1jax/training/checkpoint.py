# SPDX-License-Identifier: Apache-2.0
"""What a run needs to go on exactly where it stopped, by Orbax: written behind the loop's back, whole or absent.

Where: update -> CHECKPOINT -> evaluate. A directory holds, for one stage (the cold start or reinforcement learning):

    tokenizer.model      the tokenizer, beside the checkpoints
    120/state            TrainState: step, parameters, optimiser, anchor, rng; each device writes its own shard
    120/base             with LoRA: the digest of the weights that the adapters are beside; these are not written
    120/stream           where the data stream was, as JSON: the same for every process, however many there are
    120/config           every knob, as JSON
    120/metrics          the score; null where it was not measured

The newest `cfg.checkpoint.keep` steps stay, and the one with the highest score. A step that cannot be read is set
aside, as 120.damaged, and the next older one is taken; in a bucket, where nothing is renamed, it is marked by an object
(weights/steps.py) and stays until the step is saved again.
Deliberately not here: when to save (the loops), what the shards are (step.py gives the abstract state).
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from t1jax.config import Config, ConfigError
from t1jax.devices import multihost, sharding
from t1jax.host import bucket, place
from t1jax.host.bucket import Unreachable
from t1jax.host.place import Place
from t1jax.host.stopping import EXIT_STORAGE, Stopped
from t1jax.model.parameters import checksum
from t1jax.prompts.streams import Stream
from t1jax.text.tokenizer import Tokenizer
from t1jax.training import damage, memory, origin
from t1jax.training.together import NotWritten, Together
from t1jax.types import Params, TrainState
from t1jax.weights import adapters, orbax_arrays, steps


def _to_stderr(note: str) -> None:
    print(f"t1jax: {note}", file=sys.stderr)


class Checkpoints:
    """The checkpoints of one stage. A context manager: leaving it waits until everything is on disk.

    All processes make the same calls.
    """

    def __init__(
        self, directory: str | Place, cfg: Config, tokenizer: Tokenizer, note: Callable[[str], None] = _to_stderr
    ) -> None:
        """Opens `directory`, or makes it and puts the tokenizer there; removes what a killed run left half-written.

        `note` tells the user what could not be read or written.
        """
        self.directory = place.of(directory, "checkpoints").absolute()
        self._cfg, self._note, self._together = cfg, note, Together()
        self._base: str = ""  # the digest of what adapters are beside
        self._failed: str = ""  # why the newest save is not there
        self._damaged: list[str] = []  # the same for every process
        at_once = list(damage.unreadable(self.directory)) if multihost.is_main() else []
        for step, why in at_once:
            self._set_aside(step, why)
        if found := multihost.agreed("; ".join(f"{step}: {why}" for step, why in at_once)):  # once they are set aside
            self._damaged.append(found)
        policies = (
            checkpoint_managers.LatestN(cfg.checkpoint.keep),
            # every save writes metrics: what has none is what a kill left of a step that was being deleted
            checkpoint_managers.BestN(n=1, get_metric_fn=_score, keep_checkpoints_without_metrics=False),
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            step_name_format=steps.Undamaged(),
            # a folder that cannot be made is then an error here, and no background thread waits for it for minutes
            async_options=ocp.AsyncOptions(
                create_directories_asynchronously=False,
                barrier_sync_fn=self._together.barrier if jax.process_count() > 1 else None,
            ),
        )
        shared = sharding.are_host(jax.devices())  # the state is in the memory that a save needs too
        limit = {"save_concurrent_gb": memory.WRITING} if shared else {}
        self._handlers: dict[str, Any] = {
            "state": ocp.StandardCheckpointHandler(**limit),
            **{name: ocp.JsonCheckpointHandler() for name in ("config", "stream", "base")},
        }
        if jax.process_count() > 1:
            self._handlers = {name: self._together.told(handler) for name, handler in self._handlers.items()}
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax raises what it logs as errors, too
        with bucket.told(self.directory):
            where = os.fspath(self.directory)
            self._manager = ocp.CheckpointManager(where, options=options, item_handlers=self._handlers)
        if self.latest() is None and multihost.is_main():
            tokenizer.save(self.directory)

    def save(
        self,
        step: int,
        state: TrainState,
        stream: Any = None,
        score: float | None = None,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts to write the state after `step` updates; returns before it is on disk.

        The arrays are copied first: the caller may donate them at once. A step that is there already stays as it is.

        Args:
          step: optimiser updates done in this stage.
          state: global arrays, sharded as they are; or NumPy arrays. With LoRA its base is not saved.
          stream: `get_state()` of the data stream; its next batch is the first one of the continued run.
          score: higher is better: decides which checkpoint is the best. None or not finite: not measured.
          first: writes what the checkpoint must not be without; if it fails, nothing is saved.
        """
        self._collect()
        again = bool(self._failed)
        if step in self._manager.all_steps():
            return
        kept = state.kept()
        items: dict[str, ocp.args.CheckpointArgs] = {
            "state": ocp.args.StandardSave(kept, save_args=orbax_arrays.save_args(kept)),
            "config": ocp.args.JsonSave(self._cfg.to_dict()),
        }
        items |= {"base": ocp.args.JsonSave({"digest": self._base})} if self._base else {}
        if stream is not None:
            items["stream"] = ocp.args.JsonSave(stream)
        measured = float(score) if score is not None and math.isfinite(score) else None
        self._failed = ""

        def prepare() -> None:
            if again:
                self._recover()
            first()
            if multihost.is_main():
                damage.make_room(self.directory / str(step))

        def write() -> None:
            self._together.begin()
            self._manager.save(step, args=ocp.args.Composite(**items), metrics={"score": measured}, force=True)

        self._try(prepare)
        if not self._failed:
            self._try(write)

    def restore(
        self, abstract: TrainState, stream: Stream[Any] | None = None, step: int | None = None, base: Params = None
    ) -> TrainState | None:
        """The state saved at `step` (default: the newest), sharded as `abstract` says; None if there is none.

        The devices may be others than those that saved. `stream`, if given, is set to where it was.

        Args:
          abstract: a TrainState of jax.ShapeDtypeStruct with shardings.
          base: with LoRA, what the adapters are beside, which becomes part of the state; saves note its digest.

        Without `step`, a newest one that cannot be read is set aside, and the next older one taken.

        Raises:
          ConfigError: saved by a model of another shape, or beside another base; names what differs.
          Stopped: there are checkpoints, and none can be read.
        """
        self._base = checksum(base) if base is not None else ""
        if step is not None:
            return replace(self._restore(step, abstract, stream), base=base)
        while (newest := self.latest()) is not None:
            state, why = None, ""
            try:
                state = self._restore(newest, abstract, stream)
            except (ConfigError, jax.errors.JaxRuntimeError, MemoryError):  # no fault of the files
                raise
            except Exception as error:  # whatever Orbax makes of damaged files
                bucket.raise_not_served(self.directory, error)
                why = damage.reason(error)
            if not (found := multihost.agreed(why)):
                return state and replace(state, base=base)
            self._set_aside(newest, found)
            self._damaged.append(f"{newest}: {found}")
            multihost.barrier(f"{newest} of {self.directory} is set aside")
            self._manager.reload()
        if self._damaged:
            raise Stopped(
                f"{self.directory}: no checkpoint can be read ({'; '.join(self._damaged)}); put one back from a copy, "
                "or delete the directory to do this stage again",
                EXIT_STORAGE,
            )
        return None

    def _restore(self, step: int, abstract: TrainState, stream: Stream[Any] | None) -> TrainState:
        where = self.directory / str(step)
        origin.refuse_other_model(where, self.config(step), self._cfg)
        if self._base:
            saved = self._read(step, "base", ocp.args.JsonRestore())["digest"]
            adapters.refuse_other_digest(where, saved, self._base, self._cfg.model.checkpoint)
        found = self._read(step, "state", ocp.args.StandardRestore(abstract.kept()))
        if stream is not None:
            stream.set_state(self._read(step, "stream", ocp.args.JsonRestore()))
        return TrainState(**found)

    def config(self, step: int) -> dict[str, Any]:
        """The knobs that the checkpoint of `step` was saved with, as nested dicts."""
        return self._read(step, "config", ocp.args.JsonRestore())

    def _read(self, step: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
        """By its handler: the manager would wait at a barrier for processes that could not read theirs."""
        return self._handlers[item].restore(epath.Path(os.fspath(self.directory)) / str(step) / item, args=args)

    def latest(self) -> int | None:
        """The newest step; None if there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the highest score; None if none was scored."""
        step = self._manager.best_step()
        return None if step is None or _score(self._manager.metrics(step)) == -math.inf else step

    def steps(self) -> list[int]:
        """All steps that are kept, ascending."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when what was saved is on disk.

        Raises:
          Stopped: the newest save could not be written.
        """
        self._collect()
        if self._failed:
            raise Stopped(
                f"{self.directory}: {self._failed}; make room, or let it be written, and the same command continues "
                f"from step {self.latest() or 0}",
                EXIT_STORAGE,
            )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._collect()
        else:  # perhaps of this process alone: the others may wait for nothing
            with suppress(Exception):
                self._manager.wait_until_finished()
        self._manager.close()

    def _collect(self) -> None:
        """Waits for the save under way, and says if it failed."""
        self._try(self._manager.wait_until_finished)

    def _try(self, write: Callable[[], Any]) -> None:
        """Writes; an error of any process is told and kept for `wait`, and training goes on: what was whole stays."""
        why = known = ""
        try:
            write()
        except NotWritten as error:
            known = str(error)
        except Exception as error:  # Orbax's background work raises what the disk made of it, in any form
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):  # another process is gone
                raise
            why = damage.reason(error)
        if found := multihost.agreed(why) or known:
            self._failed = f"a checkpoint could not be written: {found}"
            if multihost.is_main():
                newest = self.latest()
                self._note(f"{self.directory}: {self._failed}; the newest whole one is {newest}; training goes on")
            with suppress(Unreachable):  # the next save tries that again
                self._recover()

    def _recover(self) -> None:
        """Gives back the room of saves that failed; what a thread of one still writes goes next time."""
        if multihost.is_main():
            for left in steps.unfinished(self.directory):
                place.remove(left)
        with bucket.told(self.directory):
            self._manager.reload()

    def _set_aside(self, step: int, why: str) -> None:
        """Keeps what is left of a step where Orbax does not look; process 0 does it for all."""
        if multihost.is_main():
            path = self.directory / str(step)
            kept = damage.set_aside(path, why, self._cfg.checkpoint.keep_damaged)
            self._note(f"{path} cannot be read ({why}); {kept}, and an older one taken")


def _score(metrics: dict[str, float | None]) -> float:
    """What checkpoints are ranked by: not measured is worse than any score."""
    score = metrics["score"]
    return -math.inf if score is None else score
