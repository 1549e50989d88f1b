# SPDX-License-Identifier: Apache-2.0
"""A run of Weights & Biases, by its client (docs.wandb.ai); in the process of worker.py alone.

Its history has one counter, which only rises, so each thing gets a place on it: sft.num_steps, and then as many places
a step of RL as there are kinds of things. Panels are drawn over `sft/step`, `rl/step` and `evaluate/step`. The server
tells how far the counter is. Account and mode come from the client's own variables: WANDB_API_KEY, WANDB_MODE,
WANDB_BASE_URL, WANDB_DIR.
"""

from __future__ import annotations

import os
from typing import Any

import wandb

from t1jax.host.loggers.worker import KINDS, Opening

PLACES = KINDS[1:]  # of a step of RL


class Wandb:
    """A run of Weights & Biases; see worker.Logger."""

    def __init__(self, run: Any, sft_steps: int) -> None:
        self._run, self._sft = run, sft_steps
        ahead = run.step - 1 - sft_steps  # the last place that is taken, counted from the end of the cold start
        self.last = {kind: (ahead - place) // len(PLACES) for place, kind in enumerate(PLACES)}
        self.last["sft"] = run.step - 1
        self.address = run.url or f"offline, in {run.dir}"

    def row(self, kind: str, step: int, values: dict[str, float]) -> None:
        self._log(kind, step, {f"{kind}/{name}": value for name, value in values.items()})

    def table(self, kind: str, step: int, columns: list[str], rows: list[list[Any]]) -> None:
        self._log(kind, step, {"responses": wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})

    def report(self, step: int, html: str) -> None:
        self._log("report", step, {"report": wandb.Html(html, inject=False)})

    def end(self, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)

    def _log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        place = step if kind == "sft" else self._sft + len(PLACES) * step + PLACES.index(kind)
        self._run.log(values, step=place)


def open_run(opening: Opening) -> Wandb:
    """The run of this id, made if need be."""
    entity, _, project = opening["target"].rpartition("/")
    run = wandb.init(
        project=project,
        entity=entity or None,
        id=opening["id"],
        name=opening["name"],
        resume="allow",
        config=opening["config"],
        dir=None if "WANDB_DIR" in os.environ else opening["folder"],
        settings=wandb.Settings(console="off", silent=True, disable_code=True),
    )
    for kind in ("sft", "rl", "evaluate"):
        run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
    return Wandb(run, opening["sft_steps"])
