# SPDX-License-Identifier: Apache-2.0
"""The interface of writers, which generate text for synthesis: API endpoints and the local sampler.

problems -> attempts -> notes -> chains. A writer takes requests and yields their outcomes as they arrive. A request's
key says what it is for; the same key with the same messages is the same request, also after a restart.
Deliberately not here: endpoints (endpoints.py), the local sampler (local.py), what is asked (subjects.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """A text to generate."""

    key: str  # what it is for, such as "attempt/17/2"; unique in a run
    messages: tuple[Mapping[str, str], ...]  # {"role": system | user | assistant, "content": text}
    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Completion:
    """A generated text and its cost."""

    text: str
    model: str  # the model's name as the server gave it
    prompt_tokens: int
    completion_tokens: int
    cost: float  # in the currency of the endpoint's prices; 0 for the local sampler
    finish_reason: str  # stop | length


@dataclass(frozen=True)
class Failure:
    """A request without a usable answer."""

    reason: str  # one line, without secrets
    passing: bool = False  # temporary, such as a busy endpoint: the next run may get an answer


class Writer(Protocol):
    """A source of generated text."""

    @property
    def name(self) -> str:
        """Its name in the config."""
        ...

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion | Failure]]:
        """Yields each request once with its outcome, in any order."""
        ...

    def stop(self) -> None:
        """Ends a `write` that another thread is consuming, permanently; outcomes so far are kept."""
        ...
