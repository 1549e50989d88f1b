# SPDX-License-Identifier: Apache-2.0
"""A run of Trackio, by its client (huggingface.co/docs/trackio); in the process of worker.py alone.

A run is found by its name, which has our id in it. Where it is kept comes from the client's own variables:
TRACKIO_DIR, TRACKIO_SPACE_ID, HF_TOKEN.
"""

from __future__ import annotations

from typing import Any

from t1jax.host.loggers.counter import Counter
from t1jax.host.loggers.worker import Opening


class Trackio(Counter):
    """A run of Trackio; see worker.Logger."""

    def __init__(self, run: Any, sft_steps: int) -> None:
        super().__init__(run._next_step, sft_steps)  # of what its server or database has
        self._run = run
        self.address = f"run {run.name} of project {run.project}"

    def log(self, values: dict[str, Any], place: int) -> None:
        self._run.log(values, step=place)

    def table(self, kind: str, step: int, columns: list[str], rows: list[list[Any]]) -> None:
        import trackio

        self.log({"responses": trackio.Table(columns=columns, data=rows)}, self.place(kind, step))

    def report(self, step: int, html: str) -> None:
        import trackio

        self.log({"report": trackio.Html(html, inject=False)}, self.place("report", step))

    def end(self, ok: bool) -> None:
        self._run.finish()


def open_run(opening: Opening) -> Trackio:
    """The run of this id, made if need be."""
    import trackio

    run = trackio.init(
        project=opening["target"],
        name=f"{opening['name']}-{opening['id'][:8]}",
        resume="allow",
        config=opening["config"],
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    return Trackio(run, opening["sft_steps"])
