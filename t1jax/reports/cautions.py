# SPDX-License-Identifier: Apache-2.0
"""Warnings for the reader of a report: signs in a run's numbers that something went wrong, with the knob that may help.

Deliberately not here: warnings during the run (health.py), the story (story.py).
"""

from __future__ import annotations

from t1jax.reports.runs import Run, held_out
from t1jax.reports.wording import amount, change, knob, measure, of_responses, percent

LAST = 10  # steps that count as the end of RL
LOW_ENTROPY = 0.05  # nats a token
MUCH_CUT, MUCH_UNSCORABLE, MUCH_OUTSIDE = 0.1, 0.05, 0.2  # shares of the responses
# nats between sampler and learner that rounding does not explain, unless it sends a token to another expert
GAPS = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}


def cautions(run: Run) -> list[str]:
    """Warnings as HTML."""
    found = []
    if not run.finished:
        found.append("This run is not finished; the page shows what is known so far.")
    before, after = run.results.get("sft"), run.results.get("rl")
    if before and after and (moved := change(before, after)).high < 0:
        found.append(
            f"RL lowered {measure(after)}: {moved}. Lower <code>rl.learning_rate</code> or raise "
            "<code>rl.kl_coef</code>."
        )
    found += _fall(run)
    if before and after:
        claims = [of_responses(summary, "false_claims") for summary in (before, after)]
        if claims[0] and claims[1] and (moved := change(claims[0], claims[1])).low > 0:
            found.append(f"False claims rose: {moved}. Part of the gain may be a readiness to say “yes”.")
    rows = [row for row in run.rows if row["stage"] == "rl"]
    end = rows[-LAST:]

    def mean(column: str) -> float | None:
        values = [row[column] for row in end if row.get(column) is not None]
        return sum(values) / len(values) if values else None

    entropy, overlong, unscorable = mean("entropy"), mean("overlong"), mean("unscorable")
    if entropy is not None and entropy < LOW_ENTROPY:
        found.append(
            f"Entropy at the end is {entropy:.3f} nats a token: responses hardly differ any more, so there is little "
            "left to learn from. Raise <code>rl.entropy_coef</code> or <code>rl.temperature</code>."
        )
    if overlong is not None and overlong > MUCH_CUT:
        found.append(f"At the end {percent(overlong)} of the responses are cut at <code>rl.max_new_tokens</code>.")
    if unscorable is not None and unscorable > MUCH_UNSCORABLE:
        found.append(f"At the end {percent(unscorable)} of the responses cannot be judged and teach nothing.")
    gaps = [row["logprob_gap"] for row in rows if row.get("logprob_gap") is not None]
    cfg = run.results.get("config")
    experts, dtype = knob(cfg, "model.num_experts"), knob(cfg, "model.compute_dtype")
    most = max(GAPS.values()) if experts else GAPS.get(str(dtype), max(GAPS.values()))
    if gaps and max(gaps) > most:
        why = "more than rounding explains"
        if experts:
            routes = [row["route_gap"] for row in rows if row.get("route_gap") is not None]
            share = percent(max(routes, default=0.0))
            why = f"rounding sent up to {share} of a step's tokens through other experts, or a fault did"
        found.append(
            f"Sampler and learner differ by up to {max(gaps):.2g} nats in the log-probability of a token: {why}."
        )
    outside, spread = mean("ratio_outside"), mean("log_ratio_std")
    if outside is not None and spread is not None and outside > MUCH_OUTSIDE:
        found.append(
            f"At the end the learner gives {percent(outside)} of the responses less than 0.8 or more than 1.25 times "
            f"the sampler's probability ({spread:.2g} nats a token, from rounding): RL is not quite on-policy. On a "
            "GPU <code>model.compute_dtype=float16</code> rounds less; <code>rl.ratio_cap</code> weighs tokens by the "
            "ratio."
        )
    for stage, name in (("sft", "the cold start"), ("rl", "RL")):
        skipped = sum(1 for row in run.rows if row["stage"] == stage and row.get("skipped"))
        if skipped:
            found.append(f"{skipped:,} steps of {name} had no finite gradient and changed nothing.")
    return found


def _fall(run: Run) -> list[str]:
    """A warning if held-out accuracy at the end is clearly below its best."""
    points = [(step, row) for step, row in held_out(run) if step]
    if len(points) < 2:
        return []
    step, best = max(points[:-1], key=lambda point: amount(point[1]))
    moved = change(best, points[-1][1])
    if not moved.high < 0:
        return []
    return [
        f"Held-out {measure(best)} at the end is below that of step {step:,}: {moved}. The best checkpoint is kept."
    ]
