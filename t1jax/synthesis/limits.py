# SPDX-License-Identifier: Apache-2.0
"""Rate limits of an endpoint, and the wait before a retry.

problems -> attempts -> notes -> chains: before a request is sent. Limits use a sliding window: no period of 60 seconds
has more requests or tokens than allowed. The wait before a retry is exponential backoff with full jitter, in addition
to the server's Retry-After.
Source: full jitter, M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; Retry-After, RFC 9110.
Deliberately not here: what is retried (exchange.py), how many requests are in flight (endpoints.py).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from t1jax.synthesis.writers import Request

WINDOW = 60.0  # seconds that a limit applies to
FIRST_WAIT = 1.0  # seconds; longest backoff before the first retry
LONGEST_WAIT = 60.0  # seconds; longest backoff before any retry
LONGEST_RETRY_AFTER = 300.0  # seconds; a longer Retry-After is cut to this
SHORTEST_SLEEP = 1e-3  # seconds; a shorter sleep might not advance the clock
BYTES_PER_TOKEN = 3  # estimate for prompts; English has more, so tokens are overestimated


@dataclass
class Ticket:
    """A request that was admitted."""

    when: float  # seconds on the limiter's clock
    tokens: int  # reserved; then used, once that is known


class Limiter:
    """Admits requests within an endpoint's limits per minute; 0 means no limit.

    `clock` (monotonic seconds) and `sleep` are replaced by tests.
    """

    def __init__(
        self,
        requests_per_minute: int,
        tokens_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests = requests_per_minute or math.inf
        self._tokens = tokens_per_minute or math.inf
        self._clock, self.sleep = clock, sleep
        self._window: deque[Ticket] = deque()
        self._held_until = -math.inf

    async def admit(self, tokens: int) -> Ticket:
        """Waits until a request for `tokens` tokens is allowed, and counts it.

        A request for more tokens than the limit waits until the window is empty.
        """
        while (delay := self.delay(tokens)) > 0:
            await self.sleep(delay)
        ticket = Ticket(self._clock(), tokens)
        if self._requests < math.inf or self._tokens < math.inf:
            self._window.append(ticket)
        return ticket

    def delay(self, tokens: int) -> float:
        """Seconds until a request for `tokens` tokens is allowed, as far as known now; 0 if it is."""
        now = self._clock()
        while self._window and self._window[0].when <= now - WINDOW:
            self._window.popleft()
        if now < self._held_until:
            return self._held_until - now
        most = self._tokens - min(tokens, self._tokens)  # tokens that other requests may use
        requests, taken, free = len(self._window), sum(ticket.tokens for ticket in self._window), now
        for ticket in self._window:  # the oldest expires first
            if requests < self._requests and taken <= most:
                break
            requests, taken, free = requests - 1, taken - ticket.tokens, ticket.when + WINDOW
        return max(free - now, SHORTEST_SLEEP) if free > now else 0.0

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """Corrects the number of tokens of an admitted request to what it used."""
        ticket.tokens = tokens

    def hold(self, seconds: float) -> None:
        """Admits no request for this many seconds, as the server asked."""
        self._held_until = max(self._held_until, self._clock() + seconds)


def tokens_asked(request: Request) -> int:
    """The most tokens that a request may use: the prompt's, estimated from its bytes, plus max_tokens."""
    written = sum(len(message["content"].encode("utf-8", "replace")) for message in request.messages)
    return -(-written // BYTES_PER_TOKEN) + request.max_tokens


def wait(retry: int, after: float, drawn: float) -> float:
    """Seconds to wait before a retry: after + drawn * min(LONGEST_WAIT, FIRST_WAIT * 2^retry).

    Args:
      retry: number of the retry, from 0.
      after: the server's Retry-After, seconds; 0 if none.
      drawn: a uniform random number in [0, 1).
    """
    return after + drawn * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(retry, 30))


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """A server's Retry-After in seconds, from a number or a date; 0 if it is missing or invalid.

    Args:
      headers: of the response; its names should be case-insensitive.
      now: Unix time, seconds.
    """
    said = headers.get("retry-after", "").strip()
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0
