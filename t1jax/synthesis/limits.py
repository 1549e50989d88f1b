# SPDX-License-Identifier: Apache-2.0
"""When an endpoint may be asked: its limits per minute, and how long to wait before it is asked again.

problems -> attempts -> notes -> chains: between a request and an endpoint. A limit is a sliding window: in no 60
seconds, wherever they begin, are more requests or tokens asked for. Waits before a retry grow twofold with each, are
drawn between nothing and that (full jitter), and are never shorter than the server's Retry-After.
Deliberately not here: what is retried (exchange.py), how many requests are under way at once (endpoints.py).
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

WINDOW = 60.0  # seconds of a minute's limit
FIRST_WAIT = 1.0  # seconds, at most, before the first retry
LONGEST_WAIT = 60.0  # seconds, at most, before a later one
LONGEST_RETRY_AFTER = 300.0  # seconds that a server may ask us to wait; it is asked again then
SHORTEST_SLEEP = 1e-3  # seconds; a shorter one might not move the clock at all
BYTES_PER_TOKEN = 3  # of a prompt that no tokenizer has seen; fewer than in English, so that we ask for less


@dataclass
class Ticket:
    """A request that was let through."""

    when: float  # seconds on the limiter's clock
    tokens: int  # asked for; what was used, once that is known


class Limiter:
    """Lets requests through as an endpoint's limits allow; 0 is no limit.

    `clock` gives seconds that never go back, `sleep` waits for some: tests need not.
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
        """Waits until a request for `tokens` tokens may go, and counts it.

        One for more tokens than a minute has waits until nothing else is in the window.
        """
        while (delay := self.delay(tokens)) > 0:
            await self.sleep(delay)
        ticket = Ticket(self._clock(), tokens)
        if self._requests < math.inf or self._tokens < math.inf:
            self._window.append(ticket)
        return ticket

    def delay(self, tokens: int) -> float:
        """Seconds until a request for `tokens` tokens may go, as far as is known now; 0: at once."""
        now = self._clock()
        while self._window and self._window[0].when <= now - WINDOW:
            self._window.popleft()
        if now < self._held_until:
            return self._held_until - now
        most = self._tokens - min(tokens, self._tokens)  # tokens that the others may have
        requests, taken, free = len(self._window), sum(ticket.tokens for ticket in self._window), now
        for ticket in self._window:  # the oldest leaves first
            if requests < self._requests and taken <= most:
                break
            requests, taken, free = requests - 1, taken - ticket.tokens, ticket.when + WINDOW
        return max(free - now, SHORTEST_SLEEP) if free > now else 0.0

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """The request of `ticket` turned out to use `tokens` tokens."""
        ticket.tokens = tokens

    def hold(self, seconds: float) -> None:
        """Nobody goes for this long: the server asked for it."""
        self._held_until = max(self._held_until, self._clock() + seconds)


def tokens_asked(request: Request) -> int:
    """Tokens that a request may use: its prompt's, estimated from its bytes, and the longest answer's."""
    written = sum(len(message["content"].encode("utf-8", "replace")) for message in request.messages)
    return -(-written // BYTES_PER_TOKEN) + request.max_tokens


def wait(retry: int, after: float, drawn: float) -> float:
    """Seconds before retry number `retry`, from 0: after + drawn min(LONGEST_WAIT, FIRST_WAIT 2^retry).

    Args:
      after: what the server asked for, seconds; 0 if nothing.
      drawn: a uniform number in [0, 1).
    """
    return after + drawn * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(retry, 30))


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds that a server's Retry-After asks for, a number or a date; 0 if it says nothing that can be read.

    Args:
      headers: of the response; names in any case if the mapping takes them so.
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
