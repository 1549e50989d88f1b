# SPDX-License-Identifier: Apache-2.0
"""Numbers that are sick: told loudly with the knob that may help, kept to be looked at, in the end a reason to stop.

A step whose gradient is not finite changes nothing (optim.py). The first such RL step of a run is kept in workdir/sick:

    state/         the TrainState before the step
    prompts.npz    tokens, valid, problem: its batch
    report.json    its row
    config.json, tokenizer/
    filter.json, inputs.json   of the run, where it has them: which problems these are

`python -m t1jax.replay workdir/sick` does that step again.
Deliberately not here: doing it again (replay.py), rows (loop.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from t1jax import files, multihost
from t1jax.config import Config
from t1jax.selection import FILE_NAME as FILTERED
from t1jax.stopping import EXIT_SICK, Stopped
from t1jax.tokenizer import Tokenizer
from t1jax.types import Prompts, Report, TrainState
from t1jax.workdir import INPUTS

Row = Mapping[str, Any]
LIMITS: dict[str, tuple[Callable[[Row], bool], str]] = {  # what is said while it holds, of rows that have the columns
    "entropy": (
        lambda row: row["entropy"] < 0.01,
        "entropy is {entropy:.4f} nats a token: all responses become one; raise rl.entropy_coef or rl.temperature",
    ),
    "kl_anchor": (
        lambda row: row["kl_anchor"] > 0.1 * row["response_length"],
        "the KL to the anchor is {kl_anchor:.1f} nats a response, over 0.1 a token; raise rl.kl_coef, or lower "
        "rl.learning_rate",
    ),
    "unscorable": (
        lambda row: row["unscorable"] > 0.5,
        "{unscorable:.0%} of the responses cannot be judged; look at the answers in data.train, or raise "
        "verifier.deadline",
    ),
    "overlong": (
        lambda row: row["overlong"] > 0.5,
        "{overlong:.0%} of the responses do not end; raise rl.max_new_tokens, or start from a model that ends",
    ),
}


class Health:
    """Looks at the rows of one stage."""

    def __init__(self, cfg: Config, stage: str, note: Callable[[str], None]) -> None:
        self._cfg, self._stage, self._note = cfg, stage, note
        self._most = cfg.rl.max_skipped if stage == "rl" else cfg.sft.max_skipped
        self._skipped = 0  # in a row
        self._told: set[str] = set()

    def look(self, step: int, row: Row) -> None:
        """Says what has become sick in this row.

        Raises:
          Stopped: the gradient has not been finite for cfg.rl.max_skipped (cfg.sft.max_skipped) steps in a row.
        """
        for name, (sick, words) in LIMITS.items():
            if row.get(name) is None or row.get("response_length") is None or not sick(row):
                self._told.discard(name)
            elif name not in self._told:
                self._told.add(name)
                self._note(f"WARNING: {self._stage} step {step}: {words.format(**row)}")
        if not row.get("skipped"):
            self._skipped = 0
            return
        self._skipped += 1
        what = f"{self._stage} step {step}: the gradient is not finite"
        self._note(f"WARNING: {what}; nothing was updated ({self._skipped} in a row)")
        if self._most and self._skipped >= self._most:
            raise Stopped(
                f"{what}, for {self._skipped} steps in a row ({self._stage}.max_skipped); the newest checkpoint "
                f"stands. Lower {self._stage}.learning_rate, or look at the first of them with t1jax.replay",
                EXIT_SICK,
            )

    def dump(
        self, folder: Path, step: int, state: TrainState, batch: Prompts, report: Report, tokenizer: Tokenizer
    ) -> None:
        """Keeps what did `step` go wrong with, unless the folder holds another: `state` is as before, but for its step.

        All processes make the call.
        """
        if folder.exists():
            return
        try:
            self._write(folder, step, state, multihost.to_host(batch), report, tokenizer)
        except (OSError, ValueError) as error:  # a full disk, in Orbax's words or the system's
            self._note(f"WARNING: {self._stage} step {step} could not be kept in {folder}: {error}")
            return
        self._note(f"WARNING: {self._stage} step {step} is kept in {folder}; python -m t1jax.replay {folder}")

    def _write(
        self, folder: Path, step: int, state: TrainState, batch: Prompts, report: Report, tokenizer: Tokenizer
    ) -> None:
        multihost.barrier("nobody has a dump yet")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute() / "state", replace(state, step=state.step - 1))
        if multihost.is_main():
            arrays = {"tokens": batch.tokens_PC, "valid": batch.valid_PC, "problem": batch.problem_P}
            np.savez(folder / "prompts.npz", **arrays)
            files.write_json(folder / "report.json", {"step": step, **jax.device_get(report)})
            files.write_json(folder / "config.json", self._cfg.to_dict())
            tokenizer.save(folder / "tokenizer")
            for name in (FILTERED, INPUTS):
                if (folder.parent / name).is_file():
                    files.write_bytes(folder / name, (folder.parent / name).read_bytes())
