# SPDX-License-Identifier: Apache-2.0
"""Signs, over several rows of RL, that a run learns something else than to be right, or slowly: warnings with knobs.

    hacked       the reward rises while accuracy, or the mean reward before penalties, falls: a cheaper way is found
    penalties    most of what a step learns from is who is penalised, not who is right
    unmixed      almost no group has both right and wrong responses, or different rewards: there is nothing to compare
    sparse       most positions that the update computes hold nothing: its parts are far larger than the responses

Each looks at the last WINDOW rows, so that one unlucky step tells nothing.
Deliberately not here: what one row can tell (health.py), intervals of evaluations (reports/cautions.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

WINDOW = 8  # rows looked at; a collapse on a real model took 9 steps
TREND = 2.5  # slopes of this many standard errors are no accident: about 1 in 45 for one slope of 8 rows of noise
MOST = 0.5  # share of the reward's variance that is too much for penalties
FEWEST = 0.1  # share of mixed groups that is too small to learn from
EMPTIEST = 0.5  # share of the update's positions that should at least hold a text

Row = Mapping[str, Any]
COLUMNS = ("reward", "mixed_groups", "penalty_variance", "packed_positions", "overlong", "repetition", "garbled")


def trend(values: Sequence[float]) -> float:
    """The least-squares slope of `values` over their index, in its standard errors; 0 if they are all equal.

    Args:
      values: at least three.
    """
    y = np.asarray(values, np.float64)
    x = np.arange(y.size) - (y.size - 1) / 2
    slope = x @ y / (x @ x)
    left = y - y.mean() - slope * x
    error = np.sqrt(left @ left / (y.size - 2) / (x @ x))
    return float(slope / error) if error > 1e-12 else float(np.sign(slope)) * np.inf if abs(slope) > 1e-12 else 0.0


def hacked(rows: Sequence[Row]) -> str | None:
    """The reward rises while accuracy falls; without right and wrong, while the mean reward before penalties falls."""
    graded = all(row.get("accuracy") is not None for row in rows)
    name, words, shown = ("accuracy", "accuracy", ".1%") if graded else ("mean_reward", "that before penalties", ".3f")
    reward, raw = ([row[column] for row in rows] for column in ("reward", name))
    if not (trend(reward) > TREND and trend(raw) < -TREND):
        return None
    others = [row.get("mean_reward") for row in rows]  # beside accuracy: with the other terms of reward.function
    why = f"responses escape penalties instead of being {_good(rows)}; {_way_out(rows)}"
    if graded and None not in others and trend([value for value in others if value is not None]) > TREND:
        why = "another term of reward.function rises instead; lower its share in reward.weights"
    return (
        f"over the last {len(rows)} steps the reward rose, {reward[0]:.3f} to {reward[-1]:.3f}, while {words} fell, "
        f"{raw[0]:{shown}} to {raw[-1]:{shown}}: {why}, and start from a checkpoint before"
    )


def penalties(rows: Sequence[Row]) -> str | None:
    """Penalties are most of the variance of the reward within groups."""
    share = fmean(row["penalty_variance"] for row in rows)
    if share <= MOST:
        return None
    return (
        f"over the last {len(rows)} steps penalties are {share:.0%} of the reward's variance within groups: what is "
        f"learnt is to escape them, not to be {_good(rows)}; {_way_out(rows)}"
    )


def unmixed(rows: Sequence[Row]) -> str | None:
    """Almost no group has both right and wrong responses, or different rewards."""
    share, kept = _mixed(rows), " that rl.overdraw kept" if "mixed_groups_kept" in rows[-1] else ""
    if share >= FEWEST:
        return None
    if _good(rows) != "right":
        return (
            f"over the last {len(rows)} steps {share:.0%} of the groups{kept} had different rewards: choose other "
            "problems, a reward.function that tells more responses apart, or raise rl.responses_per_prompt"
        )
    accuracy = fmean(row["accuracy"] for row in rows)
    what = f"over the last {len(rows)} steps {share:.0%} of the groups{kept} had both right and wrong responses"
    if accuracy > 0.5:
        return f"{what}, as {accuracy:.0%} are right: choose harder problems, or lower rl.filter_pass_rate"
    return (
        f"{what}, as {accuracy:.0%} are right: choose easier problems or a longer cold start, or raise "
        "rl.responses_per_prompt"
    )


def sparse(rows: Sequence[Row]) -> str | None:
    """Most of what the update computes is padding."""
    share = fmean(row["packed_positions"] for row in rows)
    if share >= EMPTIEST or _mixed(rows) < FEWEST:  # there is little to compute
        return None
    return (
        f"over the last {len(rows)} steps {share:.0%} of the positions that the update computed held a text: responses "
        "are far shorter than rl.max_new_tokens, so parts of the update are too large for them; raise rl.micro_batches "
        "(with --allow_change=rl.micro_batches)"
    )


def _mixed(rows: Sequence[Row]) -> float:
    """The share of mixed groups among those that the update learns from."""
    return fmean(row.get("mixed_groups_kept", row["mixed_groups"]) for row in rows)


def _good(rows: Sequence[Row]) -> str:
    """What a response should be, in a word."""
    return "right" if all(row.get("accuracy") is not None for row in rows) else "good"


def _way_out(rows: Sequence[Row]) -> str:
    """The knob of the penalty that hits most."""
    knobs = {
        "overlong": "raise rl.max_new_tokens to several times the mean length",
        "repetition": "raise rl.temperature, or rl.repeat_count if such texts are fine",
        "garbled": "lower rl.temperature, or raise rl.garbled_share if such texts are fine",
        "perplexed": "raise rl.max_perplexity, or lower rl.temperature",
    }
    shares = {name: fmean(row.get(name) or 0.0 for row in rows) for name in knobs}  # older rows have no perplexity
    name = max(knobs, key=lambda name: shares[name])
    return f"{knobs[name]} ({shares[name]:.0%} of the responses are {ADJECTIVES[name]})"


ADJECTIVES = {
    "overlong": "overlong", "repetition": "repetitive", "garbled": "garbled", "perplexed": "of too high a perplexity",
}  # fmt: skip
ALARMS: tuple[Callable[[Sequence[Row]], str | None], ...] = (hacked, penalties, unmixed, sparse)


class Alarms:
    """Looks at rows as they come. Each alarm speaks once until it has been silent for a row."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._rows: deque[Row] = deque(maxlen=WINDOW)
        self._told: set[Callable[..., Any]] = set()

    def look(self, step: int, row: Row, silent: bool = False) -> None:
        """Takes the row of RL step `step`, unless it was skipped; notes what the last WINDOW of them newly show.

        `silent`: of before a resume; what it shows was told then.
        """
        judged = row.get("accuracy") is not None or row.get("mean_reward") is not None
        if row.get("skipped") or not judged or any(row.get(name) is None for name in COLUMNS):
            return
        self._rows.append(row)
        if len(self._rows) < WINDOW:
            return
        for alarm in ALARMS:
            words = alarm(tuple(self._rows))
            if words is None:
                self._told.discard(alarm)
            elif alarm not in self._told:
                self._told.add(alarm)
                if not silent:
                    self._note(f"WARNING: rl step {step}: {words}")
