# SPDX-License-Identifier: Apache-2.0
"""What a run needs to go on exactly where it stopped, by Orbax: written behind the loop's back, whole or absent.

Where: update -> CHECKPOINT -> evaluate. A directory holds, for one stage (the cold start or reinforcement learning):

    tokenizer.model      the tokenizer, beside the checkpoints
    120/state            TrainState: step, parameters, optimiser, anchor, rng; each device writes its own shard
    120/stream           where the data stream was, as JSON: the same for every process, however many there are
    120/config           every knob, as JSON
    120/metrics          the score; null where it was not measured

The newest `cfg.checkpoint.keep` steps stay, and the one with the highest score. A step that cannot be read is set
aside, as 120.damaged, and the next older one is taken; in a bucket, where nothing is renamed, it is marked by an object
(weights/steps.py) and stays until the step is saved again.
Deliberately not here: when to save (the loops), what the shards are (step.py gives the abstract state).
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, cast

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from t1jax.config import Config, ConfigError
from t1jax.devices import multihost, sharding
from t1jax.host import bucket, place
from t1jax.host.bucket import Bucket, Unreachable
from t1jax.host.place import Place
from t1jax.host.stopping import EXIT_STORAGE, Stopped
from t1jax.prompts.streams import Stream
from t1jax.text.tokenizer import Tokenizer
from t1jax.training import memory
from t1jax.types import TrainState
from t1jax.weights import orbax_arrays, steps

# knobs of the model that may differ from those it was saved with
NOT_SHAPE = ("checkpoint", "compute_dtype", "remat", "attention")
SMALL = ("metrics/metrics", "config/metadata")  # of a step: JSON that Orbax reads for all steps when it opens them


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
        self._cfg, self._note = cfg, note
        self._failed: str = ""  # why the newest save is not there
        self._damaged: dict[int, str] = {}
        if multihost.is_main():
            self._set_aside_unreadable()
        multihost.barrier(f"{self.directory} is looked through")
        policies = (
            checkpoint_managers.LatestN(cfg.checkpoint.keep),
            checkpoint_managers.BestN(n=1, get_metric_fn=_score),
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            step_name_format=steps.Undamaged(),
            # a folder that cannot be made is then an error here, and no background thread waits for it for minutes
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        shared = sharding.are_host(jax.devices())  # the state is in the memory that a save needs too
        limit = {"save_concurrent_gb": memory.WRITING} if shared else {}
        handlers = {
            "state": ocp.StandardCheckpointHandler(**limit),
            "config": ocp.JsonCheckpointHandler(),
            "stream": ocp.JsonCheckpointHandler(),
        }
        with bucket.told(self.directory):
            self._manager = ocp.CheckpointManager(os.fspath(self.directory), options=options, item_handlers=handlers)
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
          state: global arrays, sharded as they are; or NumPy arrays.
          stream: `get_state()` of the data stream; its next batch is the first one of the continued run.
          score: higher is better: decides which checkpoint is the best. None or not finite: not measured.
          first: writes what the checkpoint must not be without; if it fails, nothing is saved.
        """
        self._collect()
        again = bool(self._failed)
        if step in self._manager.all_steps():
            return
        items: dict[str, ocp.args.CheckpointArgs] = {
            "state": ocp.args.StandardSave(state, save_args=orbax_arrays.save_args(state)),
            "config": ocp.args.JsonSave(self._cfg.to_dict()),
        }
        if stream is not None:
            items["stream"] = ocp.args.JsonSave(stream)
        measured = float(score) if score is not None and math.isfinite(score) else None
        self._failed = ""

        def write() -> None:
            if again:
                self._recover()
            first()
            self._replace_damaged(step)
            self._manager.save(step, args=ocp.args.Composite(**items), metrics={"score": measured}, force=True)

        self._try(write)

    def restore(
        self, abstract: TrainState, stream: Stream[Any] | None = None, step: int | None = None
    ) -> TrainState | None:
        """The state saved at `step` (default: the newest), sharded as `abstract` says; None if there is none.

        The devices may be others than those that saved. `stream`, if given, is set to where it was.

        Args:
          abstract: a TrainState of jax.ShapeDtypeStruct with shardings.

        Without `step`, a newest one that cannot be read is set aside, and the next older one taken.

        Raises:
          ConfigError: saved by a model of another shape; names the knobs that differ.
          Stopped: there are checkpoints, and none can be read.
        """
        if step is not None:
            return self._restore(step, abstract, stream)
        while (newest := self.latest()) is not None:
            try:
                return self._restore(newest, abstract, stream)
            except (ConfigError, jax.errors.JaxRuntimeError, MemoryError):  # no fault of the files
                raise
            except Exception as error:  # whatever Orbax makes of damaged files; with several processes, only as one
                bucket.raise_not_served(self.directory, error)
                if jax.process_count() > 1:
                    raise
                self._set_aside(newest, error)
                self._manager.reload()
        if self._damaged:
            listed = "; ".join(f"{step}: {why}" for step, why in self._damaged.items())
            raise Stopped(
                f"{self.directory}: no checkpoint can be read ({listed}); put one back from a copy, or delete the "
                "directory to do this stage again",
                EXIT_STORAGE,
            )
        return None

    def _restore(self, step: int, abstract: TrainState, stream: Stream[Any] | None) -> TrainState:
        self._refuse_other_model(step)
        items: dict[str, ocp.args.CheckpointArgs] = {"state": ocp.args.StandardRestore(abstract)}
        if stream is not None:
            items["stream"] = ocp.args.JsonRestore()
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        if stream is not None:
            stream.set_state(found["stream"])
        return cast(TrainState, found["state"])

    def config(self, step: int) -> dict[str, Any]:
        """The knobs that the checkpoint of `step` was saved with, as nested dicts."""
        return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]

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
        self._collect()
        self._manager.close()

    def _collect(self) -> None:
        """Waits for the save under way, and says if it failed."""
        self._try(self._manager.wait_until_finished)

    def _try(self, write: Callable[[], Any]) -> None:
        """Writes; an error is told and kept for `wait`, and training goes on: what was whole is still there."""
        try:
            write()
        except Exception as error:  # Orbax's background work raises what the disk made of it, in any form
            if jax.process_count() > 1:  # the others wait for this one: they start again together
                raise
            self._failed = f"a checkpoint could not be written: {_reason(error)}"
            self._note(f"{self.directory}: {self._failed}; the newest whole one is {self.latest()}; training goes on")
            with suppress(Unreachable):  # the next save tries that again
                self._recover()

    def _recover(self) -> None:
        """After a save that failed."""
        self._clean()
        with bucket.told(self.directory):
            self._manager.reload()

    def _clean(self) -> None:
        """Gives back the room of saves that failed; a thread of one may still write: what it leaves goes next time."""
        for left in steps.unfinished(self.directory):
            place.remove(left)

    def _set_aside_unreadable(self) -> None:
        """Steps whose SMALL files are damaged: Orbax could not even list the others."""
        for step, folder in steps.folders(self.directory).items():
            try:
                for name in SMALL if steps.is_whole(folder) else ():
                    if (folder / name).exists():
                        dict(json.loads((folder / name).read_bytes()))
            except Unreachable:
                raise
            except (ValueError, TypeError, OSError) as error:
                self._set_aside(step, error)

    def _set_aside(self, step: int, error: Exception) -> None:
        """Keeps what is left of a step where Orbax does not look."""
        path, why = self.directory / str(step), _reason(error)
        self._damaged[step] = why
        if isinstance(path, Bucket):
            self._note(f"{path} cannot be read ({why}); it is marked by {steps.DAMAGED}, and an older one taken")
            steps.mark_damaged(path, why)
            return
        aside = next(x for n in range(10**6) if not (x := path.with_name(f"{step}.damaged{n or ''}")).exists())
        self._note(f"{path} cannot be read ({why}); it is kept as {aside.name}, and an older one taken")
        os.rename(path, aside)

    def _replace_damaged(self, step: int) -> None:
        """In a bucket: what is left of a step that was set aside, and is saved again now, goes."""
        path = self.directory / str(step)
        if isinstance(path, Bucket) and multihost.is_main() and (path / steps.DAMAGED).exists():
            path.rmtree()

    def _refuse_other_model(self, step: int) -> None:
        saved, model = self.config(step)["model"], self._cfg.to_dict()["model"]
        names = [n for n in {**saved, **model} if n not in NOT_SHAPE and saved.get(n) != model.get(n)]
        if (saved["compute_dtype"] == "float16") != (model["compute_dtype"] == "float16"):  # only it has a loss scale
            names.append("compute_dtype")
        if names:
            found = ", ".join(f"model.{name} = {saved.get(name)} (now {model.get(name)})" for name in sorted(names))
            raise ConfigError(f"{self.directory / str(step)} has {found}; set it back or start a new workdir")


def _reason(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _score(metrics: dict[str, float | None]) -> float:
    """What checkpoints are ranked by: not measured is worse than any score."""
    score = metrics["score"]
    return -math.inf if score is None else score
