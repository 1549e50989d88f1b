# SPDX-License-Identifier: Apache-2.0
"""Made-up runs for tests of reports: results, rows, whole workdirs; and a reader of the pages."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from configs import tiny
from t1jax import config
from t1jax.evaluation.statistics import wilson
from t1jax.host import files, metrics

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>"
    "\x1b[2J\x1b]0;owned\x07\u202egnp.exe & \"quoted\" 'text' \ud800"
)
SHOWN = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>"
    "⟨U+001B⟩[2J⟨U+001B⟩]0;owned⟨U+0007⟩⟨U+202E⟩gnp.exe & \"quoted\" 'text' ⟨U+D800⟩"
)
GOOD = """6+22=28, need 20: too big
6+13=19, need 20: too small
6+14=20, need 20: yes
check 20-6=14: yes
</think>
\\boxed{6+14}"""


def share(percent: float, n: int = 1000, **more: Any) -> dict[str, Any]:
    low, high = wilson(round(percent * n / 100), n)
    return {"accuracy": percent / 100, "low": low, "high": high, "n": n} | more


def example_results() -> dict[str, Any]:
    prompt = "Pick two of 6, 13, 14, 16, 22 that sum to 20.\n<think>\n"
    sample = {"prompt": prompt, "gold": "6+14", "difficulty": 5}
    return {
        "sft": share(27.1, response_length=21.5, gave_up=0.711, false_claims=0.006, forbidden_to_give_up=share(60.0)),
        "rl": share(85.4, response_length=48.8, gave_up=0.053, false_claims=0.021),
        "greedy": {"sft": share(41.0), "rl": share(91.0)},
        "scaling": [
            {"stage": stage, "budget": budget, **share(top * budget / 180)}
            for stage, top in (("sft", 26.0), ("rl", 85.0))
            for budget in (6, 36, 180)
        ],
        "by_difficulty": [
            {"stage": stage, "difficulty": d, **share(p, 200)} for stage, p in (("sft", 30), ("rl", 80)) for d in (4, 5)
        ],
        "skills": {
            stage: {"arithmetic": 0.998, "copying": None, "late_verdicts": p}
            for stage, p in (("sft", 0.993), ("rl", 0.981))
        },
        "samples": [
            {"stage": "sft", "response": HOSTILE, "correct": False, **sample},
            {"stage": "rl", "response": GOOD, "correct": True, **sample},
        ],
        "seconds": {"sft": 200.4, "rl": 260.0},
        "versions": {"jax": "0.10.2", "<b>pkg</b>": HOSTILE},
        "config": {"seed": 0, "rl": {"temperature": 1.2, "note": HOSTILE}},
    }


def example_rows() -> list[dict[str, Any]]:
    rows = []
    for step in range(1, 41):
        rows.append(dict.fromkeys(metrics.REQUIRED) | {"stage": "sft", "step": step, "loss": 3 / step})
    for step in range(1, 31):
        shares = dict.fromkeys(("overlong", "repetition", "garbled", "unscorable"), 0.0)
        rows.append(
            dict.fromkeys(metrics.REQUIRED)
            | {"stage": "rl", "step": step, "reward": step / 30, "accuracy": step / 30, "response_length": 20.0 + step}
            | {"entropy": 0.3, "kl_anchor": 0.1 if step != 7 else None, "loss": 0.0, **shares}
        )
    rows.append(dict.fromkeys(metrics.REQUIRED) | {"stage": "evaluate", "step": 15, **share(30.0, 100)})
    return rows


class Reader(HTMLParser):
    """Collects tags with attributes and the text between them; checks that what is opened is closed."""

    VOID = ("meta", "img")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def write_run(
    workdir: Path, *, after: float = 85.0, steps: int = 36, cold: int = 900, finished: bool = True, **knobs: Any
) -> Path:
    """A workdir as a run leaves it, or (`finished` False) as it is during RL. `knobs`: rl__temperature=1.0."""
    tree = config.load(tiny.get_config()).to_dict()
    for name, value in knobs.items():
        *sections, knob = name.split("__")
        place = tree
        for section in sections:
            place = place[section]
        place[knob] = value
    files.write_json(workdir / "config.json", tree)
    empty = dict.fromkeys(metrics.REQUIRED) | {"skipped": 0.0, "seconds": 1.0}
    rows = [empty | {"stage": "sft", "step": s, "loss": 3 / s, "grad_norm": 0.2} for s in range(1, cold + 1)]
    for step in range(1, steps + 1):
        gone = 1 - math.exp(-step / 12)
        now = 0.271 + (after / 100 - 0.271) * gone
        shares = dict.fromkeys(("overlong", "repetition", "garbled", "unscorable"), 0.0)
        row = {"reward": now, "accuracy": now + 0.02 * math.sin(step), "response_length": 21.5 + 27.3 * gone}
        row |= {"entropy": 0.3 - 0.1 * gone, "kl_anchor": 0.4 * gone, "loss": 0.01 * math.cos(step), "grad_norm": 0.3}
        rows.append(empty | shares | row | {"stage": "rl", "step": step, "logprob_gap": 3e-6})
        if step % 9 == 0:
            held_out = share(100 * now, 256) | {"gave_up": 0.711 - 0.66 * gone, "false_claims": 0.02, "unscorable": 0.0}
            rows.append(empty | held_out | {"stage": "evaluate", "step": step})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = example_results() | {"config": tree, "versions": {"jax": "0.10.2"}}
    results["rl"] |= share(after)
    if finished:
        files.write_json(workdir / "results.json", results)
    else:
        mine = {
            name: [point for point in results[name] if point["stage"] == "sft"]
            for name in ("scaling", "by_difficulty", "samples")
        }
        measured = {"summary": results["sft"], "greedy": results["greedy"]["sft"], "seconds": 30.0} | mine
        files.write_json(workdir / "measured/sft.json", measured)
    return workdir
