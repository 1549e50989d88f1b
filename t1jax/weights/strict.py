# SPDX-License-Identifier: Apache-2.0
"""Reads JSON files from others strictly: their size is limited, and every key is checked before use.

Each error is one line with the file, the key, its value and what was expected.
Where: before the prompts, for the JSON files of a Hugging Face folder.
Deliberately not here: what the keys mean (families.py).
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from t1jax.config import ConfigError
from t1jax.host import bucket
from t1jax.host.place import Place


def read_object(path: Place, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ConfigError: the file is missing, has more than `max_bytes` bytes, or is not a JSON object.
      Unreachable: its bucket does not serve it now.
    """
    try:
        with bucket.told(path), path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file with a JSON object") from None
    if len(content) > max_bytes:
        raise ConfigError(f"{path} has more than {max_bytes} bytes; expected a JSON object of at most that")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # not JSON or UTF-8, a number of 5,000 digits, nested too deeply
        raise ConfigError(f"{path} is not JSON: {error}; expected a JSON object") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is {reprlib.repr(found)}; expected a JSON object")
    return found


@dataclass(frozen=True)
class Section:
    """A JSON object, and where in a file it is."""

    values: Mapping[str, Any]
    file: str
    prefix: str = ""  # of the keys in errors: "rope_scaling."

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raises ConfigError for the key's value."""
        found = f"is {reprlib.repr(self.values[key])}" if key in self.values else "is missing"
        raise ConfigError(f"{self.file}: {self.prefix}{key} {found}; expected {expected}")

    def fixed(self, key: str, expected: Any) -> None:
        """ConfigError unless the key is absent, null or `expected`."""
        value = self.values.get(key)
        if value is not None and value != expected:
            self.refuse(key, "no such key" if expected is None else json.dumps(expected))

    def whole(self, key: str, most: int) -> int:
        """The key's value, an int from 1 to `most`; True, 1.0 and "1" are rejected."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= most:
            self.refuse(key, f"a whole number from 1 to {most}")
        return value

    def number(self, key: str, least: float, most: float) -> float:
        """The key's value, a number from `least` to `most`, not NaN."""
        value: Any = self.values.get(key)
        if type(value) not in (int, float) or not least <= value <= most:
            self.refuse(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def truth(self, key: str) -> bool:
        """The key's value, true or false; False if the key is absent."""
        value = self.values.get(key, False)
        if type(value) is not bool:
            self.refuse(key, "true or false")
        return value
