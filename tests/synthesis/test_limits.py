# SPDX-License-Identifier: Apache-2.0
"""Limits per minute hold in every minute, wherever it begins, on a clock that the tests turn."""

from __future__ import annotations

import asyncio
import random

import pytest

from t1jax.synthesis import limits
from t1jax.synthesis.limits import Limiter
from t1jax.synthesis.writers import Request


class Clock:
    """Seconds that pass only while somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 1000.0, 0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept += 1
        assert self.slept < 100_000, "sleeps for ever"
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)


def admit_all(limiter, clock, sizes, settle=None):
    """(when, tokens) of each request, one after another."""

    async def go():
        admitted = []
        for size in sizes:
            ticket = await limiter.admit(size)
            admitted.append((clock.now, size))
            if settle is not None:
                limiter.settle(ticket, settle)
        return admitted

    return asyncio.run(go())


@pytest.mark.parametrize("seed", range(5))
def test_in_no_minute_are_there_more_requests_or_tokens_than_allowed(seed):
    draw, clock = random.Random(seed), Clock()
    limiter = Limiter(7, 1000, clock, clock.sleep)
    admitted = admit_all(limiter, clock, [draw.randint(1, 400) for _ in range(200)])
    for when, _ in admitted:
        within = [size for other, size in admitted if when <= other < when + limits.WINDOW]
        assert len(within) <= 7 and sum(within) <= 1000
    minutes = (admitted[-1][0] - admitted[0][0]) / 60
    assert 200 / 7 - 1 <= minutes <= 200 / 7 + sum(size for _, size in admitted) / 600  # and it does not dawdle


def test_without_limits_nobody_waits_and_nothing_is_remembered():
    clock = Clock()
    limiter = Limiter(0, 0, clock, clock.sleep)
    admit_all(limiter, clock, [10**9] * 1000)
    assert clock.slept == 0 and not limiter._window


def test_tokens_that_were_not_used_are_given_back():
    clock = Clock()
    admit_all(Limiter(0, 1000, clock, clock.sleep), clock, [600] * 10)
    slow, clock = clock.now, Clock()
    admit_all(Limiter(0, 1000, clock, clock.sleep), clock, [600] * 10, settle=100)
    assert slow == 1000 + 9 * 60 and clock.now == 1000 + 60  # 4 of 100 leave room for 600, then the fifth does not


def test_a_request_larger_than_a_minute_goes_alone():
    clock = Clock()
    admitted = admit_all(Limiter(0, 100, clock, clock.sleep), clock, [50, 5000, 50])
    assert [when for when, _ in admitted] == [1000, 1060, 1120]
    clock = Clock()
    admit_all(Limiter(0, 100, clock, clock.sleep), clock, [5000, 5000], settle=0)
    assert clock.now == 1000  # the first was refused before it used any


def test_a_held_endpoint_is_left_alone_by_all():
    clock = Clock()
    limiter = Limiter(0, 0, clock, clock.sleep)
    limiter.hold(30)
    limiter.hold(10)  # the longer one counts

    async def go():
        await asyncio.gather(*(limiter.admit(1) for _ in range(5)))

    asyncio.run(go())
    assert clock.now == 1030


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0), ("0.5", 0.5), (" 3 ", 3.0), ("0", 0.0), ("-5", 0.0), ("nan", 0.0), ("inf", 0.0), ("", 0.0),
        ("soon", 0.0), ("1e9", limits.LONGEST_RETRY_AFTER), ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:16:30 GMT", 0.0), ("Fri, 31 Dec 9999 23:59:59 GMT", limits.LONGEST_RETRY_AFTER),
        ("Thu, 99 Jan 1970 00:16:30 GMT", 0.0),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date_and_has_a_limit(said, seconds):
    assert limits.retry_after({"retry-after": said}, now=1000.0) == seconds
    assert limits.retry_after({}, now=1000.0) == 0.0


def test_waits_double_up_to_a_limit_are_jittered_and_never_shorter_than_asked():
    longest = [limits.wait(retry, 0.0, 1.0) for retry in range(8)]
    assert longest == [1, 2, 4, 8, 16, 32, 60, 60]
    assert limits.wait(10**6, 0.0, 0.5) == 30.0 and limits.wait(3, 0.0, 0.0) == 0.0
    assert limits.wait(0, 9.0, 0.0) == 9.0 and limits.wait(2, 9.0, 0.5) == 11.0


def test_tokens_asked_are_the_answer_s_and_an_estimate_of_the_prompt_s():
    said = ({"role": "system", "content": "é" * 30}, {"role": "user", "content": "\ud800"})
    assert limits.tokens_asked(Request("k", said, 100, 1.0, 0)) == 100 + 21
