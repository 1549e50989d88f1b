# SPDX-License-Identifier: Apache-2.0
"""API keys: read from the environment, sent in one header, and never shown.

problems -> attempts -> notes -> chains: before a request is sent. A server may send the key back, in a body or header,
and libraries log what they receive. So messages about a server pass through `Key.redact`, and so do log records of
those libraries while requests are sent.
Deliberately not here: requests (exchange.py), validation of knobs (validation.py).
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
FRAGMENT = 8  # pieces of a key of this many characters are hidden too
SECRET = 16  # keys shorter than this may be words, such as EMPTY, and are not hidden in answers
LOGGERS = ("openai", "httpx2", "httpx", "httpcore2", "httpcore", "anyio", "asyncio")  # and their children


class Key:
    """A secret whose repr and str are "[key]"."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return HIDDEN if self._value else "no key"

    def __bool__(self) -> bool:
        return bool(self._value)

    def reveal(self) -> str:
        """The secret itself, for the Authorization header."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with the key, and every piece of it of at least FRAGMENT characters, replaced by "[key]"."""
        if not self._value:
            return text
        text = text.replace(self._value, HIDDEN)
        starts = [i for i in range(len(text) - FRAGMENT + 1) if text[i : i + FRAGMENT] in self._value]
        parts, end = [], 0
        for start in starts:
            if start >= end:  # a new piece; the text before it is kept
                parts += [text[end:start], HIDDEN]
            end = start + FRAGMENT
        return "".join([*parts, text[end:]])

    def redact_answer(self, text: str) -> str:
        """`redact` for a model's text, unless the key is so short that it may be an ordinary word."""
        return self.redact(text) if len(self._value) >= SECRET else text


def read_key(endpoint: str, variable: str) -> Key:
    """The key in an environment variable; an empty key if `variable` is "".

    Raises:
      ConfigError: the variable is unset or empty, or has characters that no header can hold. Never shows its value.
    """
    if not variable:
        return Key("")
    knob = f"synthesis.endpoints.{endpoint}.key_variable"
    value = os.environ.get(variable, "")
    if not value:
        raise ConfigError(
            f"{knob} is {variable}, which is not set in the environment; expected the endpoint's key in it: "
            f'export {variable}=..., or "" if the endpoint needs no key'
        )
    if not re.fullmatch(r"[!-~]+", value):
        raise ConfigError(
            f"{knob} is {variable}, which has a space, a line break or another invalid character; expected "
            f"printable ASCII: export {variable} again"
        )
    return Key(value)


@contextmanager
def redacted_logs(key: Key) -> Iterator[None]:
    """A context in which the loggers of the client's libraries redact the key, at every level."""
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
