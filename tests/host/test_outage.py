# SPDX-License-Identifier: Apache-2.0
"""A bucket that does not serve is no mistake of the user's, wherever a command reads: it can be tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gcsfs
import pytest
import small
from gcsfs.retry import HttpError

from t1jax import analyze, replay
from t1jax.config import ConfigError
from t1jax.evaluation import saved
from t1jax.host import lock, workdir
from t1jax.host.bucket import Bucket, Refused, Unreachable
from t1jax.reports import runs
from t1jax.synthesis.ledger import Ledger
from t1jax.tasks.files import rows
from t1jax.training import selection
from t1jax.weights import safetensors_files, strict

RUN = Bucket("gs://bkt/outage")
DATA = f"{RUN}/problems.jsonl"


def locked() -> None:
    with lock.held(RUN / "lock", "--workdir", print):
        pass


READERS: dict[str, Callable[[], Any]] = {
    "digests": lambda: workdir.digests(small.make_config(data__train=DATA)),
    "rows": lambda: next(rows.read_rows(DATA)),
    "json of a checkpoint": lambda: strict.read_object(RUN / "config.json", 100),
    "index of a checkpoint": lambda: safetensors_files._read_index(RUN / "model.safetensors.index.json"),
    "header of a checkpoint": lambda: safetensors_files.read_header(RUN / "model.safetensors"),
    "filter": lambda: selection._rates(RUN / "filter.json"),
    "lock": locked,
    "run": lambda: runs._json(RUN / "config.json"),
    "replay": lambda: replay._read(RUN / "report.json"),
    "responses": lambda: saved._begins_with_one(RUN / "responses.jsonl"),
    "config of responses": lambda: analyze.embedded_task(RUN),
    "ledger": lambda: Ledger(RUN / "ledger.jsonl"),
}


@pytest.fixture
def serving(cloud, monkeypatch) -> Callable[[int], None]:
    """Objects that READERS read; from a call on, all that is read is answered with a status."""
    monkeypatch.setattr(Bucket, "is_file", lambda path: True)  # the outage begins between this and the reading
    for name in ("responses.jsonl", "ledger.jsonl"):
        cloud.write(f"{RUN.key}/{name}", b"{}\n")

    def fail(status: int) -> None:
        def refuse(*args: Any, **rest: Any) -> Any:
            raise HttpError({"code": status, "message": "as told" if status != 403 else "Forbidden: as told"})

        for name in ("_call", "call"):  # within gcsfs, and as the lock asks it
            monkeypatch.setattr(gcsfs.GCSFileSystem, name, refuse)

    return fail


@pytest.mark.parametrize("reader", READERS)
def test_a_server_that_does_not_serve_is_told_as_such_by_all_who_read(serving, reader):
    serving(503)
    with pytest.raises(Unreachable, match="as told, 503") as error:
        READERS[reader]()
    assert not isinstance(error.value, Refused) and error.value.path.startswith(str(RUN))


def test_a_lock_that_may_not_be_written_is_the_users_mistake(serving):
    serving(403)
    with pytest.raises(ConfigError, match="--workdir=gs://bkt/outage: Forbidden.*a folder that can be written"):
        locked()


def test_a_file_of_problems_that_is_not_there_is_the_users_mistake(cloud):
    with pytest.raises(ConfigError, match="none.jsonl: not found"):
        next(rows.read_rows(f"{RUN}/none.jsonl"))
    with pytest.raises(ConfigError, match="data.train is gs://.*expected a file of rows"):
        workdir.digests(small.make_config(data__train=f"{RUN}/none.jsonl"))


def test_what_cannot_be_read_for_what_it_holds_is_the_users_mistake(cloud):
    cloud.write(f"{RUN.key}/damaged.parquet", b"PAR1 this is none PAR1")
    with pytest.raises(ConfigError, match="damaged.parquet: cannot be read: ArrowInvalid"):
        next(rows.read_rows(f"{RUN}/damaged.parquet"))
