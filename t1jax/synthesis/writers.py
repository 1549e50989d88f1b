# SPDX-License-Identifier: Apache-2.0
"""Who writes text for the synthesis of chains: the face that endpoints and our own sampler share.

problems -> attempts -> notes -> chains. A writer is given requests and gives back what was written, as it comes. What
a request is for stands in its key; the same key with the same messages is the same piece of work, also after a kill.
Deliberately not here: endpoints (endpoints.py), our sampler (local.py), what is asked (training/stages.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """A piece of text to be written."""

    key: str  # what it is for, such as "attempt/17/2"; different for each request of a run
    messages: tuple[Mapping[str, str], ...]  # {"role": system | user | assistant, "content": text}
    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Completion:
    """What was written, and what it cost."""

    text: str
    model: str  # who wrote it, as it calls itself
    prompt_tokens: int
    completion_tokens: int
    cost: float  # in the currency of the endpoint's prices; 0 for our own sampler
    finish_reason: str  # stop | length


@dataclass(frozen=True)
class Failure:
    """A request that was given up."""

    reason: str  # a line without any secret
    passing: bool = False  # the next run may have an answer: a busy endpoint, not a refusal


class Writer(Protocol):
    """A model that writes."""

    @property
    def name(self) -> str:
        """Its name in the config."""
        ...

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion | Failure]]:
        """Each request once, with what became of it, in any order."""
        ...

    def stop(self) -> None:
        """Ends, soon and for good, a `write` that another thread is reading: what is there by then is kept."""
        ...
