# SPDX-License-Identifier: Apache-2.0
"""Endpoints of a server of tests, requests to them, and the threads that wait for them."""

from __future__ import annotations

import dataclasses
import threading

from t1jax.config import EndpointConfig
from t1jax.synthesis.writers import Request

LONG = 120.0  # seconds of silence that a test does not mean to meet


def config_of(server, **changes):
    cfg = EndpointConfig(
        url=server.url, model="m", key_variable="", concurrency=1, requests_per_minute=0, tokens_per_minute=0,
        price_in=2.0, price_out=10.0, timeout=LONG, retries=2,
    )  # fmt: skip
    return dataclasses.replace(cfg, **changes)


def requests_of(count, **changes):
    base = Request("", (), 64, 0.7, 3)
    return [
        dataclasses.replace(base, key=f"attempt/{i}", messages=({"role": "user", "content": f"q{i}"},), **changes)
        for i in range(count)
    ]


def endpoint_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("endpoint-")]
