# SPDX-License-Identifier: Apache-2.0
"""Numbers as text for the pages: shares, changes with their intervals, times, values of knobs.

Deliberately not here: sentences (story.py), values on charts (charts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t1jax.evaluation import statistics

Share = Mapping[str, Any]  # accuracy, low, high, n


@dataclass(frozen=True)
class Change:
    """A difference of two shares and its 95 % interval, as shares."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{points(self.value)} points [{points(self.low)},\u00a0{points(self.high)}]"  # never broken inside


def change(before: Share, after: Share) -> Change:
    """The difference of two measured shares."""
    return Change(after["accuracy"] - before["accuracy"], *statistics.difference(triple(before), triple(after)))


def of_responses(summary: Mapping[str, Any], name: str) -> dict[str, float] | None:
    """The share `name` of a stage's responses with Wilson's interval; None if not measured."""
    share, n = summary.get(name), summary.get("n")
    if share is None or not n:
        return None
    responses = round(n / (1 - min(0.999, summary.get("unscorable") or 0.0)))  # n leaves out the unscorable ones
    low, high = statistics.wilson(min(responses, round(share * responses)), responses)
    return {"accuracy": share, "low": low, "high": high, "n": responses}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def interval(share: Share) -> str:
    """The interval of a share as HTML."""
    return f'<span class="interval">[{100 * share["low"]:.1f}, {100 * share["high"]:.1f}]</span>'


def triple(share: Share) -> tuple[float, float, float]:
    return share["accuracy"], share["low"], share["high"]


def tokens(count: float) -> str:
    return f"{count:,.1f}" if count < 100 else f"{count:,.0f}"


def signed(moved: Change) -> str:
    """A change in points with its interval, as a cell of a table."""
    return f'<b>{points(moved.value)}</b><span class="interval">[{points(moved.low)}, {points(moved.high)}]</span>'


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def total_seconds(seconds: Mapping[str, float | None]) -> float:
    """Of all stages."""
    total = seconds.get("total")
    return total if total is not None else sum(value or 0.0 for value in seconds.values())


def knob(config: Mapping[str, Any] | None, name: str) -> Any:
    """The value of a knob such as rl.temperature; None where the config does not say."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
