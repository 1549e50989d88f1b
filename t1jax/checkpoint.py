# SPDX-License-Identifier: Apache-2.0
"""What a run needs to go on exactly where it stopped, by Orbax: written behind the loop's back, whole or absent.

Where: update -> CHECKPOINT -> evaluate. A directory holds, for one stage (the cold start or reinforcement learning):

    tokenizer.model      the tokenizer, beside the checkpoints
    120/state            TrainState: step, parameters, optimiser, anchor, rng; each device writes its own shard
    120/stream           where the data stream was, one file a process
    120/config           every knob, as JSON
    120/metrics          the score; null where it was not measured

The newest `cfg.checkpoint.keep` steps stay, and the one with the highest score.
Deliberately not here: when to save (the loops), what the shards are (step.py gives the abstract state).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointRestore, CheckpointSave
from orbax.checkpoint import checkpoint_managers

from t1jax import multihost, stored
from t1jax.config import Config, ConfigError
from t1jax.data import Stream
from t1jax.tokenizer import Tokenizer
from t1jax.types import TrainState

# knobs of the model that may differ from those it was saved with
NOT_SHAPE = ("checkpoint", "compute_dtype", "remat", "attention")


class Checkpoints:
    """The checkpoints of one stage. A context manager: leaving it waits until everything is on disk.

    All processes make the same calls.
    """

    def __init__(self, directory: str | Path, cfg: Config, tokenizer: Tokenizer) -> None:
        """Opens `directory`, or makes it and puts the tokenizer there; removes what a killed run left half-written."""
        self.directory = Path(directory).absolute()
        self._cfg = cfg
        policies = (
            checkpoint_managers.LatestN(cfg.checkpoint.keep),
            checkpoint_managers.BestN(n=1, get_metric_fn=_score),
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
        with _whole(self.directory):
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        if self.latest() is None and multihost.is_main():
            tokenizer.save(self.directory)

    def save(self, step: int, state: TrainState, stream: Stream[Any] | None = None, score: float | None = None) -> None:
        """Starts to write the state after `step` updates, and where `stream` is; returns before it is on disk.

        The arrays are copied first: the caller may donate them at once. A step that is there already stays as it is.

        Args:
          step: optimiser updates done in this stage.
          state: global arrays, sharded as they are.
          stream: the data stream; its next batch is the first one of the continued run.
          score: higher is better: decides which checkpoint is the best. None or not finite: not measured.
        """
        if step in self._manager.all_steps():
            return
        items: dict[str, ocp.args.CheckpointArgs] = {
            "state": ocp.args.StandardSave(state, save_args=stored.save_args(state)),
            "config": ocp.args.JsonSave(self._cfg.to_dict()),
        }
        if stream is not None:
            items["stream"] = CheckpointSave(stream)
        measured = float(score) if score is not None and math.isfinite(score) else None
        self._manager.save(step, args=ocp.args.Composite(**items), metrics={"score": measured}, force=True)

    def restore(
        self, abstract: TrainState, stream: Stream[Any] | None = None, step: int | None = None
    ) -> TrainState | None:
        """The state saved at `step` (default: the newest), sharded as `abstract` says; None if there is none.

        The devices may be others than those that saved. `stream`, if given, is set to where it was.

        Args:
          abstract: a TrainState of jax.ShapeDtypeStruct with shardings.

        Raises:
          ConfigError: saved by a model of another shape, names the knobs that differ; or its files are damaged.
        """
        step = self.latest() if step is None else step
        if step is None:
            return None
        self._refuse_other_model(step)
        items: dict[str, ocp.args.CheckpointArgs] = {"state": ocp.args.StandardRestore(abstract)}
        if stream is not None:
            items["stream"] = CheckpointRestore(stream)
        with _whole(self.directory / str(step)):
            return cast(TrainState, self._manager.restore(step, args=ocp.args.Composite(**items))["state"])

    def config(self, step: int) -> dict[str, Any]:
        """The knobs that the checkpoint of `step` was saved with, as nested dicts."""
        with _whole(self.directory / str(step)):
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
        """Returns when what was saved is on disk; raises what went wrong on the way."""
        self._manager.wait_until_finished()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._manager.close()

    def _refuse_other_model(self, step: int) -> None:
        with _whole(self.directory / str(step)):
            saved, model = dict(self.config(step)["model"]), self._cfg.to_dict()["model"]
        names = [n for n in {**saved, **model} if n not in NOT_SHAPE and saved.get(n) != model.get(n)]
        if names:
            found = ", ".join(f"model.{name} = {saved.get(name)} (now {model.get(name)})" for name in sorted(names))
            raise ConfigError(f"{self.directory / str(step)} has {found}; set it back or start a new workdir")


@contextmanager
def _whole(where: Path) -> Iterator[None]:
    """What damaged files make Orbax raise, which is anything, as one line. What devices raise goes through."""
    try:
        yield
    except (ConfigError, RuntimeError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{where}: cannot be read: {type(error).__name__}: {reason}; expected a whole checkpoint; move the damaged "
            "step away to go on from the one before"
        ) from error


def _score(metrics: dict[str, float | None]) -> float:
    """What checkpoints are ranked by: not measured is worse than any score."""
    score = metrics["score"]
    return -math.inf if score is None else score
