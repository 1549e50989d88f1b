# SPDX-License-Identifier: Apache-2.0
"""The story of a run in a few sentences, each only where the run has the numbers for it.

What the run did not measure is not mentioned: a run on files has no false claims, one without a cold start no cold
start.
Deliberately not here: what RL changed (gains.py), figures and tables (sections.py), what to be careful with
(cautions.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t1jax.reports import gains
from t1jax.reports.page import escape
from t1jax.reports.runs import Run
from t1jax.reports.wording import clock, knob, measure, total_seconds

STAGE_WORDS = {
    "sft": "the cold start", "rl": "RL", "evaluate": "looking at held-out problems during RL",
    "measure_sft": "measuring before RL", "measure_rl": "measuring after RL",
}  # fmt: skip


def story(run: Run) -> list[tuple[str, str]]:
    """[(heading, HTML)] of the parts of the story for which there are numbers."""
    parts = [
        ("The run", _trained(run)),
        (measure(run.results.get("rl") or run.results.get("sft")).capitalize(), gains.accuracy(run)),
        ("Behaviour", gains.behaviour(run)),
        ("Thinking", gains.thinking(run)),
        ("Time", _time(run)),
    ]
    return [(heading, " ".join(sentences)) for heading, sentences in parts if sentences]


def parameters(model: Mapping[str, Any]) -> int | None:
    """How many parameters a model with these knobs has; None if one of them is missing."""
    names = ("vocab_size", "num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "mlp_size")
    sizes = [model.get(name) for name in names]
    if not all(isinstance(size, int) for size in sizes):
        return None
    V, L, D, N, K, H, F = (int(size or 0) for size in sizes)
    E = int(model.get("num_experts") or 0)  # then a router too
    layer = 2 * D * N * H + 2 * D * K * H + 3 * D * F * (E or 1) + D * E + (4 if model.get("post_norms") else 2) * D
    layer += (N + 2 * K) * H if model.get("qkv_bias") else 0
    layer += 2 * H if model.get("qk_norm") else 0
    return L * layer + D + V * D * (1 if model.get("tie_embeddings") else 2)


def _count(number: int) -> str:
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,}"


def _trained(run: Run) -> list[str]:
    config = run.results.get("config")
    done = {stage: max((r["step"] for r in run.rows if r["stage"] == stage), default=0) for stage in ("sft", "rl")}
    said = []
    model = knob(config, "model")
    size = parameters(model) if isinstance(model, Mapping) else None
    if size and isinstance(model, Mapping):
        start = model.get("checkpoint")
        origin = f"that starts from <code>{escape(start)}</code>" if start else "that starts from random weights"
        files = knob(config, "data.train")
        problems = f"problems of <code>{escape(files)}</code>" if files else "the embedded task"
        said.append(
            f"A model of <b>{_count(size)} parameters</b> ({model['num_layers']} layers, width "
            f"{model['hidden_size']:,}) {origin} learns {problems}."
        )
    if done["sft"]:
        said.append(
            f"First the cold start: {_of(done['sft'], knob(config, 'sft.num_steps'))} updates on written chains."
        )
    elif knob(config, "sft.num_steps") == 0:
        said.append("There is no cold start.")
    if done["rl"]:
        text = f"{'Then ' if done['sft'] else ''}{_of(done['rl'], knob(config, 'rl.num_steps'))} steps of RL"
        P, R = (knob(config, f"rl.{name}") for name in ("prompts_per_step", "responses_per_prompt"))
        if isinstance(P, int) and isinstance(R, int):
            drawn = round((knob(config, "rl.overdraw") or 1) * P)
            text += f" on {drawn:,} problems each, with {R:,} responses to each problem: {done['rl'] * drawn * R:,} "
            text += "responses" + (f", learning from {P:,} of the {drawn:,} groups of a step" if drawn > P else "")
        if isinstance(temperature := knob(config, "rl.temperature"), int | float):
            text += f", sampled at temperature {temperature:g}"
        said.append(f"{text}.")
    return said


def _of(done: int, planned: Any) -> str:
    return f"<b>{done:,}</b>" if not isinstance(planned, int) or planned == done else f"<b>{done:,}</b> of {planned:,}"


def _time(run: Run) -> list[str]:
    seconds = run.results.get("seconds") or {}
    total = total_seconds(seconds) if seconds else 0.0
    if total <= 0:
        return []
    parts = sorted(((value or 0.0, name) for name, value in seconds.items() if name != "total"), reverse=True)
    words = [f"{100 * value / total:.0f}\u00a0% {escape(STAGE_WORDS.get(name, name))}" for value, name in parts]
    said = [f"<b>{clock(total)}</b> in all: {', '.join(words)}."]
    speeds = [r["tokens_per_second"] for r in run.rows if r["stage"] == "rl" and r.get("tokens_per_second")]
    if speeds:
        said.append(f"RL handles {sorted(speeds)[len(speeds) // 2]:,.0f} tokens a second (median step).")
    return said
