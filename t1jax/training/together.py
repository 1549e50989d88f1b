# SPDX-License-Identifier: Apache-2.0
"""How several processes save a checkpoint: what one of them cannot write, all of them know, and nobody waits for it.

In Orbax a process whose write fails raises, and the others wait at a barrier until a deadline of minutes. Here it comes
to the barrier too and says why, so that all raise at once, and the checkpoint is never committed. Where process 0 alone
commits, the others wait for its word: that it has, or why it could not.
Deliberately not here: what is done about it (checkpoint.py).
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from t1jax.training.damage import reason

BEFORE_COMMIT, AFTER_COMMIT = "async_write_complete", "async_commit_complete"  # in the names of Orbax's barriers
WRITTEN = "written"
SAVES = itertools.count()  # of this process; all processes make the same ones, and a step may come again
PATIENCE = 60_000  # ms for the words of a process that has come to the barrier


class NotWritten(OSError):
    """What no process could write, and why: the same words on all of them."""


class Together:
    """What this process could not write of the save under way."""

    def __init__(self) -> None:
        self._wrong: list[str] = []
        self._number = 0
        self._commit = ""  # where process 0 says how the commit went, from before it until then

    def begin(self) -> None:
        """A new save."""
        self._wrong.clear()
        self._number, self._commit = next(SAVES), ""

    def told(self, handler: Any) -> Any:
        """`handler`, whose saves note their errors here instead of raising them."""
        save = handler.async_save

        async def async_save(*args: Any, **kwargs: Any) -> list[Any]:
            try:
                return [_Noting(future, self._wrong) for future in await save(*args, **kwargs) or ()]
            except Exception as error:
                self._wrong.append(reason(error))
                return []

        handler.async_save = async_save
        return handler

    def barrier(self, *, key: str, timeout_ms: int) -> None:
        """Orbax's barrier between processes, in a thread that saves.

        Raises:
          NotWritten: at the one before the commit: a process could not write its part; all processes raise it. At the
            one after it: process 0 could not commit; the others raise it.
        """
        client = ocp.multihost.get_jax_distributed_client()
        if AFTER_COMMIT in key:
            self._hear_of_commit(client, timeout_ms)
        elif BEFORE_COMMIT in key:
            self._hear_of_parts(client, key, timeout_ms)
            self._commit = f"t1jax/save/{self._number}/committed"
        else:
            if self._commit and jax.process_index() == 0:  # an error led it here, past the barrier after the commit
                error = sys.exception()
                client.key_value_set(self._commit, reason(error) if isinstance(error, Exception) else "no commit")
                self._commit = ""
            client.wait_at_barrier(key, timeout_ms)

    def _hear_of_commit(self, client: Any, timeout_ms: int) -> None:
        """No meeting: process 0 would miss it after an error. It says how it went, the others wait for that."""
        where, self._commit = self._commit, ""
        if jax.process_index() == 0:
            client.key_value_set(where, WRITTEN)
        elif (said := client.blocking_key_value_get(where, timeout_ms)) != WRITTEN:
            raise NotWritten(f"process 0: {said}")

    def _hear_of_parts(self, client: Any, key: str, timeout_ms: int) -> None:
        """Raises NotWritten where a process could not write its part."""
        mine = self._wrong[0] if self._wrong else WRITTEN
        client.key_value_set(f"t1jax/{key}/{jax.process_index()}", mine, allow_overwrite=True)
        client.wait_at_barrier(key, timeout_ms)
        said = {p: client.blocking_key_value_get(f"t1jax/{key}/{p}", PATIENCE) for p in range(jax.process_count())}
        if wrong := [f"process {p}: {why}" for p, why in said.items() if why != WRITTEN]:
            raise NotWritten("; ".join(wrong))


class _Noting:
    """A future of Orbax whose error is noted and not raised."""

    def __init__(self, future: Any, wrong: list[str]) -> None:
        self._future, self._wrong = future, wrong

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._future.result(timeout=timeout)
        except Exception as error:
            self._wrong.append(reason(error))
            return None
