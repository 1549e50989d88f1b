# SPDX-License-Identifier: Apache-2.0
"""Judged responses -> figures with 95 % intervals: pass@1, pass@k, maj@k, by label, length, overlong, unscorable.

... -> **evaluate** -> report. Every figure is a mean over problems of a problem's value, so that each problem counts
once, and its interval is a bootstrap over problems: another benchmark of the same kind could have held other ones.

An unscorable response is neither right nor wrong. It is left out of pass@1, pass@k and maj@k, as if it had not been
sampled, and counted in `unscorable`; `strict pass@1` counts it as wrong. A problem with fewer than k scorable responses
has no unbiased estimate and is left out of that k; `problems` says over how many a figure goes. A response without an
answer is wrong, and casts no vote; for `lenient pass@1`, strict otherwise, its last number is its answer: the
difference is form, not ability. The vote does not know the gold answer: two answers are one where their text or their
number is the same (rewards/answers.py), and not where only algebra tells.
With reward.function a response may have a reward and be neither right nor wrong: then figures are of the mean reward.
Axes: P problems, Y measures.
Source: statistics.py. Deliberately not here: tables and files (tables.py), sampling (evaluator.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from t1jax.evaluation.responses import Response
from t1jax.evaluation.statistics import Share, bootstrap, majority_at_k, pass_at_k, wilson
from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, UNSCORABLE
from t1jax.tasks import honesty
from t1jax.tasks.files.problems import Problem

Figure = dict[str, float | int | None]  # value, low, high, problems

STRICT = "strict pass@1"  # with unscorable responses as wrong ones
LENIENT = "lenient pass@1"  # the same, but the last number of a response without a box counts as its answer
UNGRADED = {"response_length", "overlong", "unscorable"}  # of a benchmark without right and wrong
LATE = 6  # attempts before a step of the thinking that counts as late
MAIN = {"accuracy", "mean_reward"}  # of which a summary has the one that its stage is judged by
MOST_GROUPS = 30  # values of a label; one with more, such as a number of many digits, tells no groups apart


def pass_rate(outcomes: Iterable[int]) -> Share:
    """The share of right responses among those that can be scored, with its interval.

    For filtering problems too: a problem without scorable responses has no pass rate, `value` is None.
    """
    counts = Counter(map(int, outcomes))
    return Share(counts[RIGHT], counts.total() - counts[UNSCORABLE])


def pass_rates(responses: Iterable[Response], key: Callable[[Response], int]) -> dict[int, float | None]:
    """problem -> the share of right ones of its scorable responses, or their mean reward; None without any.

    `key`: the problem of a response.
    """
    of_problem: dict[int, list[float]] = {}
    for response in responses:
        mine = of_problem.setdefault(key(response), [])
        worth = float(response.right) if response.graded else response.worth
        if worth is not None and response.outcome != UNSCORABLE:
            mine.append(worth)
    return {problem: sum(mine) / len(mine) if mine else None for problem, mine in of_problem.items()}


def powers(samples: int) -> list[int]:
    """1, 2, 4, ... below `samples`, and `samples`."""
    return [1 << i for i in range(samples.bit_length()) if 1 << i < samples] + [samples]


def votes(responses: Sequence[Response]) -> tuple[list[tuple[int, float]], int]:
    """(how many responses gave each different answer and the share of them that is right, how many gave none)."""
    groups: dict[str, list[int]] = {}  # the first text of an answer -> [responses, right ones]
    same: dict[str, str] = {}  # any text of an answer -> its first text
    for response in responses:
        if (answer := response.answer) is None:
            continue
        if answer not in same:
            same[answer] = next((first for first in groups if answers.quick(answer, first)), answer)
        group = groups.setdefault(same[answer], [0, 0])
        group[0] += 1
        group[1] += response.outcome == RIGHT
    voted = [(count, right / count) for count, right in groups.values()]
    return voted, len(responses) - sum(count for count, _ in voted)


def measure(problems: Sequence[Problem], responses: Sequence[Response], samples: int) -> dict[str, Any]:
    """What results.json says of a benchmark.

    Args:
      problems: every one of them has `samples` responses.
      responses: in any order.

    Returns:
      {problems, samples, pass@1, strict pass@1, lenient pass@1, pass_at_k, majority_at_k, by, response_length,
      overlong, unscorable, no_answer}; with reward.function mean_reward too, which takes the place of pass@1 and all
      that counts right answers where there is no right and wrong.
      A figure is {value, low, high, problems}; pass_at_k and majority_at_k list them with their `k`; `by` has, for
      each label (subject, level ...) of which 2 to 30 values were seen, value -> figure of pass@1. response_length
      is in tokens, all others are shares.
    """
    of_problem: dict[int, list[Response]] = {problem.index: [] for problem in problems}
    for response in responses:
        of_problem[response.problem].append(response)
    graded = all(response.graded for response in responses)
    ks = powers(samples) if graded else []
    columns: dict[Any, list[float]] = {(kind, k): [] for kind in ("pass", "majority") for k in ks}
    for mine in of_problem.values() if graded else ():
        scorable = [response for response in mine if response.outcome != UNSCORABLE]
        n, right = len(scorable), sum(response.outcome == RIGHT for response in scorable)
        possible = [k for k in ks if k <= n]
        majority = dict(zip(possible, majority_at_k(*votes(scorable), possible), strict=True))
        for k in ks:
            columns["pass", k].append(pass_at_k(right, n, k) if k in possible else np.nan)
            columns["majority", k].append(majority.get(k, np.nan))
    counted: dict[str, Callable[[Response], float]] = {
        "response_length": lambda r: r.tokens,
        STRICT: lambda r: r.outcome == RIGHT,
        LENIENT: lambda r: r.leniently == RIGHT,
        "overlong": lambda r: r.overlong,
        "unscorable": lambda r: r.outcome == UNSCORABLE,
        "no_answer": lambda r: r.answer is None,
    }
    if not graded:
        counted = {name: value_of for name, value_of in counted.items() if name in UNGRADED}
    main: Any = ("pass", 1) if graded else "mean_reward"
    if any(response.reward is not None for response in responses):
        counted.pop(LENIENT, None)  # functions judge a response as it is
        worths = [[worth for r in mine if (worth := r.worth) is not None] for mine in of_problem.values()]
        columns["mean_reward"] = [sum(mine) / len(mine) if mine else np.nan for mine in worths]
    for name, value_of in counted.items():
        columns[name] = [sum(map(value_of, mine)) / len(mine) for mine in of_problem.values()]
    for name in sorted({name for problem in problems for name in problem.labels}):
        values = {problem.labels.get(name, "") for problem in problems}
        for value in sorted(values, key=_order) if 1 < len(values) <= MOST_GROUPS else ():
            columns["by", name, value] = [
                share if problem.labels.get(name, "") == value else np.nan
                for problem, share in zip(problems, columns[main], strict=True)
            ]
    figures = _figures(columns)
    by: dict[str, dict[str, Figure]] = {}
    for key in columns:
        if key[0] == "by":
            by.setdefault(key[1], {})[key[2]] = figures[key]
    return {
        "problems": len(problems),
        "samples": samples,
        **({"mean_reward": figures["mean_reward"]} if "mean_reward" in columns else {}),
        **({"pass@1": figures["pass", 1]} if graded else {}),
        "pass_at_k": [{"k": k, **figures["pass", k]} for k in ks],
        "majority_at_k": [{"k": k, **figures["majority", k]} for k in ks],
        **{name: figures[name] for name in counted},
        "by": by,
    }


def accuracy(responses: Sequence[Response]) -> dict[str, float | int]:
    """{accuracy, low, high, n}: the `pass_rate` as a run writes it; NaN without scorable responses.

    Where responses are neither right nor wrong {mean_reward, low, high, n} instead.
    """
    if any(not response.graded for response in responses):
        return mean_reward(responses)
    rate = pass_rate(r.outcome for r in responses)
    return {"accuracy": math.nan if rate.value is None else rate.value, "low": rate.low, "high": rate.high, "n": rate.n}


def mean_reward(responses: Sequence[Response]) -> dict[str, float | int]:
    """{mean_reward, low, high, n} of the scorable responses, by the bootstrap; NaN without any."""
    worths = [worth for response in responses if (worth := response.worth) is not None]
    if not worths:
        return {"mean_reward": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    (low,), (high,) = bootstrap(np.array(worths, float)[:, None])
    return {"mean_reward": math.fsum(worths) / len(worths), "low": float(low), "high": float(high), "n": len(worths)}


def summary(responses: Sequence[Response]) -> dict[str, Any]:
    """What results.json says of a stage: accuracy with its interval, length; if the task can tell, honesty, skills."""
    n = max(1, len(responses))
    row: dict[str, Any] = accuracy(responses) | {
        "response_length": sum(r.tokens for r in responses) / n,
        "unscorable": sum(r.outcome == UNSCORABLE for r in responses) / n,
    }
    if "accuracy" in row:
        row |= {
            "strict_accuracy": sum(r.right for r in responses) / n,  # with unscorable responses as wrong ones
            "boxed": sum(r.answer is not None for r in responses) / n,
        }
        if all(r.reward is None for r in responses):  # functions judge a response as it is
            row["lenient_accuracy"] = sum(r.leniently == RIGHT for r in responses) / n  # an answer needs no box
        else:
            found = mean_reward(responses)
            row |= {"mean_reward": found["mean_reward"]}
            row |= {f"mean_reward_{end}": found[end] for end in ("low", "high")}
    analyses = [r.analysis for r in responses if r.analysis is not None]
    if not analyses:
        return row
    skills = honesty.tally(analyses, LATE)
    ordered = [a.order for a in analyses if a.order is not None]
    if ordered:
        row["orders"] = {order: ordered.count(order) / n for order in honesty.ORDERS}
    return row | {
        "false_claims": sum(a.false_claim for a in analyses) / n,
        "gave_up": sum(a.gave_up for a in analyses) / n,
        "attempts": sum(len(a.attempts) for a in analyses) / n,
        "skills": {name: right / shown if shown else None for name, (right, shown) in skills.items()},
    }


def by_difficulty(responses: Sequence[Response], stage: str) -> list[dict[str, Any]]:
    """[{stage, difficulty, accuracy, low, high, n}], easiest first; problems without one ("") are left out."""
    levels = sorted({r.difficulty for r in responses} - {""})
    return [{"stage": stage, "difficulty": d, **accuracy([r for r in responses if r.difficulty == d])} for d in levels]


def metrics_row(responses: Sequence[Response]) -> dict[str, Any]:
    """The `summary` as a flat row of metrics.jsonl."""
    row = summary(responses)
    orders, skills = row.pop("orders", {}), row.pop("skills", {})
    return row | {f"order_{name}": value for name, value in orders.items()} | skills


def _figures(columns: Mapping[Any, Sequence[float]]) -> dict[Any, Figure]:
    """The mean of each column over problems, with its interval.

    Resampling cannot see that all problems could have failed to agree: where they all are 0, or all 1, the interval is
    Wilson's.
    """
    values_PY = np.array(list(columns.values()), float).T
    low_Y, high_Y = bootstrap(values_PY)
    figures: dict[Any, Figure] = {}
    for key, column, low, high in zip(columns, values_PY.T, low_Y, high_Y, strict=True):
        known = column[~np.isnan(column)]
        if not known.size:
            figures[key] = {"value": None, "low": None, "high": None, "problems": 0}
            continue
        shares = key not in ("response_length", "mean_reward") and (key[0] != "by" or ("pass", 1) in columns)
        if shares and (known == known[0]).all() and known[0] in (0, 1):
            low, high = wilson(int(known.sum()), len(known))
        figures[key] = {"value": float(known.mean()), "low": float(low), "high": float(high), "problems": len(known)}
    return figures


def _order(label: str) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    return (False, float(label), "") if label.replace(".", "", 1).isdecimal() else (True, 0.0, label)
