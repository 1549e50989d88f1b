# SPDX-License-Identifier: Apache-2.0
"""A run of an MLflow experiment, by its client (mlflow.org); in the process of worker.py alone.

The run is found by a tag with our id. MLflow would keep a metric twice for a step, so the server is asked for the last
step of each kind. The server, user and password come from the client's own variables, such as MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from t1jax.host.loggers.worker import Opening

ID = "t1jax.id"  # the tag
ARTIFACTS = "mlflow.loggedArtifacts"  # the tag that names tables for MLflow's pages
LONGEST = 500  # characters of a parameter, which all servers take
BATCH = 100  # parameters of a request
# The client's own default is minutes of retries and of silence; these are of this process alone.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class Mlflow:
    """A run of MLflow; see worker.Logger."""

    def __init__(self, client: Any, run: Any) -> None:
        self._client, self._id = client, run.info.run_id
        self._tables = json.loads(run.data.tags.get(ARTIFACTS, "[]"))
        self.last = {}
        for kind in ("sft", "rl", "evaluate"):
            if steps := [point.step for point in client.get_metric_history(self._id, f"{kind}/step")]:
                self.last[kind] = max(steps)
        where = re.sub(r"//[^/@]*@", "//", client.tracking_uri)
        self.address = f"run {self._id} of experiment {run.info.experiment_id} in {where}"

    def row(self, kind: str, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(f"{kind}/{name}", float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def table(self, kind: str, step: int, columns: list[str], rows: list[list[Any]]) -> None:
        path = f"responses/{kind}-{step:06d}.json"
        self._client.log_text(self._id, json.dumps({"columns": columns, "data": rows}), path)
        entry = {"path": path, "type": "table"}
        if entry not in self._tables:
            self._tables.append(entry)
            self._client.set_tag(self._id, ARTIFACTS, json.dumps(self._tables))

    def report(self, step: int, html: str) -> None:
        self._client.log_text(self._id, html, "report.html")

    def end(self, ok: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if ok else "KILLED")


def open_run(opening: Opening) -> Mlflow:
    """The run with this id, made if need be. Parameters cannot change; config.json has the knobs of this start."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient()
    experiment = client.get_experiment_by_name(opening["target"])
    where = experiment.experiment_id if experiment else client.create_experiment(opening["target"])
    found = client.search_runs([where], f"tags.`{ID}` = '{opening['id']}'", max_results=1)
    run = found[0] if found else client.create_run(where, tags={ID: opening["id"]}, run_name=opening["name"])
    if found:
        client.update_run(run.info.run_id, status="RUNNING")
    knobs = {name: value for name, value in flat(opening["config"]) if name not in run.data.params}
    params = [Param(name, value[:LONGEST]) for name, value in knobs.items()]
    for start in range(0, len(params), BATCH):
        client.log_batch(run.info.run_id, params=params[start : start + BATCH])
    client.log_text(run.info.run_id, json.dumps(opening["config"], indent=2), "config.json")
    return Mlflow(client, run)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as text) of every knob."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value)
