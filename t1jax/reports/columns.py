# SPDX-License-Identifier: Apache-2.0
"""Which columns of metrics.jsonl the reports show as curves over steps, and their values.

... -> evaluate -> **columns** -> report. The charts of the page (curves.py) and the PNGs (training_plots.py) show the
same columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t1jax.reports.runs import Rows

STAGE_NAMES = {"sft": "before RL", "rl": "after RL"}
PHASE_NAMES = {"sft": "cold start", "rl": "RL"}
MAIN = {"accuracy": "Accuracy", "mean_reward": "Mean reward"}  # what responses are judged by, held-out ones too
SMOOTH_FROM = 24  # points a curve must have before a running mean is drawn over it


@dataclass(frozen=True)
class Curve:
    """A figure over steps: which columns of metrics.jsonl it shows and how."""

    name: str  # of the PNG file
    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]  # (column, label); a single curve needs no label
    percent: bool = False


CURVES = (
    Curve(
        "reward",
        "Reward",
        "Mean of r′: 1 for a right answer, 0 for a wrong one, or what reward.function says; rl.penalty for a penalised "
        "one.",
        (("reward", ""),),
    ),
    Curve(
        "accuracy",
        "Accuracy",
        "Line: right answers among the step's samples, at the training temperature. "
        "Points: held-out problems at temperature 1, with 95 % intervals.",
        (("accuracy", ""),),
        percent=True,
    ),
    Curve(
        "mean_reward",
        "Mean reward",
        "Line: what reward.function says of the step's samples, before penalties, at the training temperature. "
        "Points: held-out problems at temperature 1, with 95 % intervals.",
        (("mean_reward", ""),),
    ),
    Curve(
        "response_length",
        "Response length (tokens)",
        "Mean tokens of a response, the end token included.",
        (("response_length", ""),),
    ),
    Curve(
        "entropy",
        "Entropy (nats per token)",
        "How undecided the model is about its next token.",
        (("entropy", ""),),
    ),
    Curve(
        "kl_anchor",
        "KL to the anchor (nats per response)",
        "How far the model is from the moving average of its own past, which holds it back.",
        (("kl_anchor", ""),),
    ),
    Curve(
        "penalties",
        "Penalised responses",
        "Share of responses that ran over the length limit, repeated themselves, were garbled, or were too unlikely "
        "(rl.max_perplexity); unscorable ones count as neither right nor wrong.",
        (
            ("overlong", "overlong"),
            ("repetition", "repetitive"),
            ("garbled", "garbled"),
            ("perplexed", "high perplexity"),
            ("unscorable", "unscorable"),
        ),
        percent=True,
    ),
)
HEALTH = (
    Curve("loss", "Loss", "Token loss of the cold start; the policy loss of RL, whose sign says nothing.",
          (("loss", ""),)),
    Curve("grad_norm", "Gradient norm", "Before clipping.", (("grad_norm", ""),)),
    Curve(
        "logprob_gap", "Sampler against learner (nats)",
        "Difference between the sampler's and the learner's log-probability of a sampled token: about 0 in float32, "
        "a few hundredths in bfloat16.",
        (("logprob_gap", "largest"), ("log_ratio_std", "standard deviation")),
    ),
    Curve("route_gap", "Tokens on other routes",
          "Share of tokens that went through other experts in the learner than in the sampler.",
          (("route_gap", ""),), percent=True),
)  # fmt: skip


def series(rows: Rows, stage: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a column in one stage, without missing values."""
    pairs = [(row["step"], row[column]) for row in rows if row["stage"] == stage and row.get(column) is not None]
    return np.array([step for step, _ in pairs], float), np.array([value for _, value in pairs], float)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over `window` (odd) values, fewer near the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, end = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(values))
    return (total[end] - total[first]) / (end - first)
