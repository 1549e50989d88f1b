# SPDX-License-Identifier: Apache-2.0
"""A run of Weights & Biases, by its client (docs.wandb.ai); in the process of worker.py alone.

Panels are drawn over `sft/step`, `rl/step` and `evaluate/step`. The server tells how far the history is; without one
(offline) each start has files of its own, with the whole run. Account and mode come from the client's own variables:
WANDB_API_KEY, WANDB_MODE, WANDB_BASE_URL, WANDB_DIR.
"""

from __future__ import annotations

import os
from typing import Any

from t1jax.host.loggers.counter import Counter
from t1jax.host.loggers.worker import Opening


class Wandb(Counter):
    """A run of Weights & Biases; see worker.Logger."""

    def __init__(self, run: Any, sft_steps: int) -> None:
        super().__init__(run.step, sft_steps)
        self._run = run
        self.address = run.url or f"offline, in {run.dir}"

    def log(self, values: dict[str, Any], place: int) -> None:
        self._run.log(values, step=place)

    def table(self, kind: str, step: int, columns: list[str], rows: list[list[Any]]) -> None:
        import wandb

        table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        self.log({"responses": table}, self.place(kind, step))

    def report(self, step: int, html: str) -> None:
        import wandb

        self.log({"report": wandb.Html(html, inject=False)}, self.place("report", step))

    def end(self, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)


def open_run(opening: Opening) -> Wandb:
    """The run of this id, made if need be."""
    import wandb

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
