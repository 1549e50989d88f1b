# SPDX-License-Identifier: Apache-2.0
"""Numbers as text for the pages: shares, changes with their intervals, times, values of knobs.

Deliberately not here: sentences (story.py), values on charts (charts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t1jax.evaluation import statistics

Share = Mapping[str, Any]  # accuracy or mean_reward; low, high, n


@dataclass(frozen=True)
class Change:
    """A difference of two figures and its 95 % interval: of shares, or of mean rewards."""

    value: float
    low: float
    high: float
    of_shares: bool = True

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        value, low, high = self.texts()  # never broken inside
        return f"{value} points [{low},\u00a0{high}]" if self.of_shares else f"{value} [{low},\u00a0{high}]"

    def texts(self) -> tuple[str, str, str]:
        """The difference, and the ends of its interval: in points, or as numbers."""
        shown = points if self.of_shares else number
        return shown(self.value), shown(self.low), shown(self.high)


def change(before: Share, after: Share) -> Change:
    """The difference of two measured figures."""
    ends = statistics.difference(triple(before), triple(after))
    return Change(amount(after) - amount(before), *ends, of_shares=graded(after))


def graded(share: Share) -> bool:
    """Whether it is a share of right answers; else it is a mean reward."""
    return share.get("accuracy") is not None or share.get("mean_reward") is None


def amount(share: Share) -> float:
    """The figure itself."""
    return float(share["accuracy" if graded(share) else "mean_reward"])


def measure(share: Share | None) -> str:
    """What the figure is called."""
    return "accuracy" if share is None or graded(share) else "mean reward"


def shown(share: Share) -> str:
    """The figure as text: `91.5 %`, or `0.734` of a mean reward."""
    return percent(amount(share)) if graded(share) else f"{amount(share):.3f}".replace("-", "−")


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


def number(difference: float) -> str:
    """A difference of mean rewards, with its sign."""
    return f"{difference:+.3f}".replace("-", "−")


def interval(share: Share) -> str:
    """The interval of a figure as HTML."""
    if not graded(share):
        return f'<span class="interval">[{share["low"]:.3f}, {share["high"]:.3f}]</span>'.replace("-", "−")
    return f'<span class="interval">[{100 * share["low"]:.1f}, {100 * share["high"]:.1f}]</span>'


def triple(share: Share) -> tuple[float, float, float]:
    return amount(share), share["low"], share["high"]


def tokens(count: float) -> str:
    return f"{count:,.1f}" if count < 100 else f"{count:,.0f}"


def signed(moved: Change) -> str:
    """A change with its interval, as a cell of a table."""
    value, low, high = moved.texts()
    return f'<b>{value}</b><span class="interval">[{low}, {high}]</span>'


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
