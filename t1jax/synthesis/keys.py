# SPDX-License-Identifier: Apache-2.0
"""Keys of endpoints: out of the environment, into one header, and nowhere else.

problems -> attempts -> notes -> chains: before an endpoint is asked. A server may send the key back, in a body or in a
header, and libraries log what they get; so what is said about a server passes through `Key.redact`, and so do the
records of those libraries' loggers while an endpoint is asked.
Deliberately not here: asking (exchange.py), knobs that cannot work (validation.py).
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from t1jax.config import ConfigError

HIDDEN = "[key]"
FRAGMENT = 8  # characters of a key that are not shown either, wherever they stand
SECRET = 16  # characters from which a key is a secret and no word such as EMPTY, which an answer may well say
LOGGERS = ("openai", "httpx2", "httpx", "httpcore2", "httpcore", "anyio", "asyncio")  # and all below them


class Key:
    """A secret that does not show itself: its repr and its str say [key]."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return HIDDEN if self._value else "no key"

    def __bool__(self) -> bool:
        return bool(self._value)

    def reveal(self) -> str:
        """The secret itself, for the header that carries it."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with [key] for the key and for each piece of it of 8 characters or more."""
        if not self._value:
            return text
        text = text.replace(self._value, HIDDEN)
        starts = [i for i in range(len(text) - FRAGMENT + 1) if text[i : i + FRAGMENT] in self._value]
        parts, end = [], 0
        for start in starts:
            if start >= end:  # a new piece; what lies before it is shown
                parts += [text[end:start], HIDDEN]
            end = start + FRAGMENT
        return "".join([*parts, text[end:]])

    def redact_answer(self, text: str) -> str:
        """The same for what a model wrote, which may say a short word that happens to be the key."""
        return self.redact(text) if len(self._value) >= SECRET else text


def read_key(endpoint: str, variable: str) -> Key:
    """The key in an environment variable; no key if `variable` is "".

    Raises:
      ConfigError: the variable is not set, is empty, or holds what no header can. Its value is never shown.
    """
    if not variable:
        return Key("")
    knob = f"synthesis.endpoints.{endpoint}.key_variable"
    value = os.environ.get(variable, "")
    if not value:
        raise ConfigError(
            f"{knob} is {variable}, which is not set in the environment; expected the endpoint's key in it: "
            f'export {variable}=..., or "" for an endpoint that needs none'
        )
    if not re.fullmatch(r"[!-~]+", value):
        raise ConfigError(
            f"{knob} is {variable}, which holds a blank, a line's end or another character that no key has; expected "
            f"printable ASCII: export {variable} again"
        )
    return Key(value)


@contextmanager
def redacted_logs(key: Key) -> Iterator[None]:
    """While entered, no logger of the client's libraries says the key, at whatever level it logs."""
    known = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in LOGGERS]
    loggers = [logging.getLogger(name) for name in {*known, *LOGGERS}]
    redacting = _Redacting(key)
    for logger in loggers:
        logger.addFilter(redacting)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(redacting)


class _Redacting(logging.Filter):
    def __init__(self, key: Key) -> None:
        super().__init__()
        self._key = key

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if record.exc_info:
            said += "\n" + "".join(traceback.format_exception(*record.exc_info))
            record.exc_info = record.exc_text = None
        record.msg, record.args = self._key.redact(said), ()
        return True
