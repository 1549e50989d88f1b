# SPDX-License-Identifier: Apache-2.0
"""Checks each step for signs of failure: prints warnings with a knob that may help, saves a failed step, or stops.

A step whose gradient is not finite changes nothing (optim.py). The first such RL step is saved in workdir/sick:

    state/         the TrainState before the step
    prompts.npz    tokens, valid, problem: its batch
    report.json    its row
    config.json, tokenizer/
    filter.json, inputs.json   of the run, if it has them: they say which problems these are
    base.json      with LoRA: the digest of the weights that the adapters are beside

`python -m t1jax.replay workdir/sick` replays that step.

Axes: P prompts, C prompt positions.
Deliberately not here: what only several rows show (alarms.py), the replay (replay.py), writing rows (loop.py).
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.host import bucket, files
from t1jax.host.place import Place
from t1jax.host.stopping import EXIT_FAILED, EXIT_SICK, Stopped
from t1jax.host.workdir import INPUTS
from t1jax.model.parameters import checksum
from t1jax.text.tokenizer import Tokenizer
from t1jax.training.alarms import Alarms
from t1jax.training.selection import FILE_NAME as FILTERED
from t1jax.types import Prompts, Report, TrainState

Row = Mapping[str, Any]
LIMITS: dict[str, tuple[Callable[[Row], bool], str]] = {  # column -> (condition, warning), for rows that have it
    "entropy": (
        lambda row: row["entropy"] < 0.01,
        "entropy is {entropy:.4f} nats per token: responses become identical; raise rl.entropy_coef or rl.temperature",
    ),
    "kl_anchor": (
        lambda row: row["kl_anchor"] > 0.1 * row["response_length"],
        "the KL to the anchor is {kl_anchor:.1f} nats per response, over 0.1 per token; raise rl.kl_coef, or lower "
        "rl.learning_rate",
    ),
    "unscorable": (
        lambda row: row["unscorable"] > 0.5,
        "{unscorable:.0%} of the responses cannot be judged; look at the answers in data.train or at what "
        "reward.function does with them, or raise verifier.deadline",
    ),
    "overlong": (
        lambda row: row["overlong"] > 0.5,
        "{overlong:.0%} of the responses are overlong; raise rl.max_new_tokens, or start from a model that stops",
    ),
}


@dataclass(frozen=True)
class Rounding:
    """The largest gap that rounding explains, nats per token: `first`, or `times` the median of the run if larger."""

    first: float
    times: float

    def most(self, seen: Collection[float]) -> float:
        """The largest gap expected, given those of previous steps, which show how much the model amplifies rounding."""
        return max(self.first, self.times * median(seen)) if len(seen) >= KNOWN else self.first


KNOWN = 5  # fewest gaps to take a median of
# Measured in float32: 1e-6 to 5e-6 with 2 to 8 layers; 7e-3 with 24 layers of random weights twice as large as usual;
# 0.77 and more if processes were fed different rows.
EXACT = Rounding(first=0.1, times=100.0)
# Measured in bfloat16: 0.04 with 8 layers of random weights. Here rounding can be as large as a fault.
HALF = Rounding(first=0.5, times=4.0)


class Gaps:
    """Checks that sampler and learner agree, as they read one copy of the weights and one batch.

    The gap is max |sampler - learner| log-probability, which only rounding keeps above 0. In float32 a gap above EXACT
    means that devices compute different things, for example because some were fed different rows, and ends the run. In
    half precision, or where rounding may send a token to another expert, it cannot be distinguished from such faults
    with certainty, so a gap above HALF is a warning.
    """

    def __init__(self, cfg: Config, note: Callable[[str], None]) -> None:
        self._exact = cfg.model.compute_dtype == "float32" and not cfg.model.num_experts
        self._hint = "model.compute_dtype=float32 shows whether it is rounding or a fault"
        if cfg.model.num_experts:
            self._hint = "route_gap is the share of tokens that went through other experts"
        self._same = cfg.rl.learner_temperature == cfg.rl.temperature  # else the two differ on purpose
        self._note = note
        self._seen: deque[float] = deque(maxlen=100)

    def look(self, step: int, gap: float) -> None:
        """Checks the gap of a step that was not skipped.

        Raises:
          Stopped: the gap is larger than rounding explains.
        """
        most = (EXACT if self._exact else HALF).most(self._seen)
        self._seen.append(gap)
        if not self._same or gap <= most:
            return
        what = f"rl step {step}: logprob_gap is {gap:.3g}, the most that a token's log-probability differs by between "
        what += f"sampler and learner; expected at most {most:.3g}"
        if not self._exact:
            self._note(f"WARNING: {what}; {self._hint}")
            return
        raise Stopped(
            f"{what}, the most that rounding explains: devices compute different things, or a kernel is wrong. Nothing "
            "of this step was saved. Look at which processes feed which shards (t1jax.plan); try model.attention=xla, "
            "or another mesh",
            EXIT_FAILED,
        )


class Health:
    """Checks the rows of one stage."""

    def __init__(self, cfg: Config, stage: str, note: Callable[[str], None]) -> None:
        self._cfg, self._stage, self._note = cfg, stage, note
        self._most = cfg.rl.max_skipped if stage == "rl" else cfg.sft.max_skipped
        self._skipped = 0  # in a row
        self._told: set[str] = set()
        self._gaps = Gaps(cfg, note)
        self._alarms = Alarms(note)

    def recall(self, rows: Iterable[Row]) -> None:
        """Takes the rows of this stage from before a resume: what needs several of them goes on where it was."""
        for row in rows:
            if row["stage"] == self._stage:
                self._alarms.look(row["step"], row, silent=True)

    def look(self, step: int, row: Row) -> None:
        """Prints a warning for each limit that this row newly exceeds.

        Raises:
          Stopped: cfg.rl.max_skipped (cfg.sft.max_skipped) consecutive steps had no finite gradient, or sampler and
            learner disagree.
        """
        for name, (sick, words) in LIMITS.items():
            if row.get(name) is None or row.get("response_length") is None or not sick(row):
                self._told.discard(name)
            elif name not in self._told:
                self._told.add(name)
                self._note(f"WARNING: {self._stage} step {step}: {words.format(**row)}")
        self._alarms.look(step, row)
        if not row.get("skipped"):
            self._skipped = 0
            if row.get("logprob_gap") is not None:
                self._gaps.look(step, row["logprob_gap"])
            return
        self._skipped += 1
        what = f"{self._stage} step {step}: the gradient is not finite"
        self._note(f"WARNING: {what}; nothing was updated ({self._skipped} in a row)")
        if self._most and self._skipped >= self._most:
            raise Stopped(
                f"{what}, for {self._skipped} steps in a row ({self._stage}.max_skipped); the newest checkpoint "
                f"is unaffected. Lower {self._stage}.learning_rate, or look at the first of them with t1jax.replay",
                EXIT_SICK,
            )

    def dump(
        self, folder: Place, step: int, state: TrainState, batch: Prompts, report: Report, tokenizer: Tokenizer
    ) -> None:
        """Saves the inputs of a failed step for replay, unless `folder` exists. All processes must call this.

        Args:
          folder: where to, WORKDIR/sick.
          step: number of the failed step.
          state: after the step, which changed nothing but the step number.
          batch: its prompts.
          report: its metrics.
          tokenizer: of the run.
        """
        try:
            with bucket.told(folder):  # gcsfs's errors, raised by Orbax, are none of the system
                if folder.exists():
                    return
                self._write(folder, step, state, multihost.to_host(batch), report, tokenizer)
        except (OSError, bucket.Unreachable, ValueError) as error:  # a full disk, by Orbax or by the system
            self._note(f"WARNING: {self._stage} step {step} could not be saved in {folder}: {error}")
            return
        self._note(f"WARNING: {self._stage} step {step} is saved in {folder}; python -m t1jax.replay {folder}")

    def _write(
        self, folder: Place, step: int, state: TrainState, batch: Prompts, report: Report, tokenizer: Tokenizer
    ) -> None:
        multihost.barrier("nobody has a dump yet")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(os.fspath(folder.absolute() / "state"), replace(state, step=state.step - 1, base=None))
        digest = None if state.base is None else checksum(state.base)
        if multihost.is_main():
            arrays = {"tokens": batch.tokens_PC, "valid": batch.valid_PC, "problem": batch.problem_P}
            packed = io.BytesIO()
            np.savez(packed, **arrays)
            files.write_bytes(folder / "prompts.npz", packed.getvalue())
            files.write_json(folder / "report.json", {"step": step, **jax.device_get(report)})
            files.write_json(folder / "config.json", self._cfg.to_dict())
            if digest:
                files.write_json(folder / "base.json", {"digest": digest})
            tokenizer.save(folder / "tokenizer")
            for name in (FILTERED, INPUTS):
                if (folder.parent / name).is_file():
                    files.write_bytes(folder / name, (folder.parent / name).read_bytes())
