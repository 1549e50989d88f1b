# SPDX-License-Identifier: Apache-2.0
"""The model card of weights that are uploaded to the Hugging Face hub: what was trained, on what, with which figures.

Only what the checkpoint and its run say is in it. Of files on this machine it gives the name, not the folder.
Source: huggingface.co/docs/hub/model-cards.
Deliberately not here: uploading (host/upload.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from t1jax import __version__
from t1jax.checks import plain_reward, reward_terms, right_and_wrong, train_files, weighed
from t1jax.config import Config
from t1jax.host import hub
from t1jax.weights import load as weights
from t1jax.weights.arrays import Source

RL, SFT = "rl", "sft"
NAMES = {SFT: "before RL", RL: "after RL"}


def write(source: Source, name: str, which: str, adapter: bool = False) -> str:
    """The text of README.md.

    Args:
      source: the weights.
      name: OWNER/NAME, under which they are uploaded.
      which: "policy", or "anchor", the moving reference policy.
      adapter: PEFT's folder of adapters is uploaded, not whole weights.
    """
    cfg = None if source.adapter is not None else weights.run_config(source)  # of its sum with an adapter no run tells
    meta: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    meta |= {"pipeline_tag": "text-generation", "tags": ["t1jax"]}
    lines = [f"# {name.partition('/')[2]}", "", f"Converted by t1jax {__version__}."]
    if cfg is not None and source.step is not None:
        stage, step = SFT if source.folder.name == SFT else RL, int(source.step.name)
        results = _results(source)
        meta["tags"] += ["reinforcement-learning", "reasoning"] if stage == RL else []
        meta |= _origins(cfg)
        lines[2] = (
            f"Trained with t1jax {__version__}, an implementation of T1 ([arXiv 2501.11651]"
            "(https://arxiv.org/abs/2501.11651)): " + _stages(cfg, stage, step) + "."
        )
        lines += ["", "## Training", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in _training(cfg, stage))]
        lines += [
            f"| weights | {'the policy' if which == 'policy' else 'the anchor, a moving average of the policy'} |"
        ]
        lines += ["", "## Figures", "", *_figures(cfg, results if stage == RL and step == cfg.rl.num_steps else {})]
    head = "".join(f"{key}: {json.dumps(value)}\n" for key, value in meta.items())  # JSON is YAML
    return f"---\n{head}---\n\n" + "\n".join(lines) + "\n"


def _origins(cfg: Config) -> dict[str, Any]:
    """The models and data sets of the hub that the run names."""
    data = [name for name in (*train_files(cfg.data.train), cfg.data.sft) if hub.is_dataset(name)]
    ids = [
        match[0] for name in data if (match := re.search(hub.ID + r"(?=[@:/]|$)", name.removeprefix("hf://datasets/")))
    ]
    base = re.match(hub.ID + r"(?=@|$)", cfg.model.checkpoint.removeprefix(hub.SCHEME))
    found: dict[str, Any] = {"base_model": base[0]} if base and hub.is_model(cfg.model.checkpoint) else {}
    return found | ({"datasets": sorted(set(ids))} if ids else {})


def _stages(cfg: Config, stage: str, step: int) -> str:
    cold = f"a cold start of {cfg.sft.num_steps if stage == RL else step} updates" if cfg.sft.num_steps else ""
    rl = f"{step} of {cfg.rl.num_steps} steps of reinforcement learning" if stage == RL else ""
    return ", then ".join(filter(None, (cold, rl)))


def _training(cfg: Config, stage: str) -> list[tuple[str, str]]:
    """Rows of the table: what a reader needs to know of the run's knobs."""
    rows = [("start", _shown(cfg.model.checkpoint, hub.is_model) or "random weights")]
    shown = [(_shown(name, hub.is_dataset), weight) for name, weight in weighed(cfg.data)]
    names = [word if weight is None else f"{word} ({weight:.0%})" for word, weight in shown]
    task = ", ".join(names) or f"the embedded task {cfg.task.name}"
    if cfg.sft.num_steps:
        chains = _shown(cfg.data.sft, hub.is_dataset) or f"chains of {task}"
        rows.append(("cold start", f"{chains}, learning rate {cfg.sft.learning_rate:g}"))
    if stage == RL:
        rl = cfg.rl
        chosen = f" of {rl.drawn} that are sampled" if rl.drawn > rl.prompts_per_step else ""
        rows += [
            ("problems", task),
            ("a step", f"{rl.prompts_per_step} prompts{chosen} x {rl.responses_per_prompt} responses"),
            ("longest response", f"{rl.max_new_tokens} tokens"),
            ("temperature", f"{rl.temperature:g}"),
            ("learning rate", f"{rl.learning_rate:g}"),
        ]
        if not plain_reward(cfg.reward):
            terms = (f"{weight:g} x {PurePath(name).name}" for name, weight in reward_terms(cfg.reward))
            rows.append(("reward", ", ".join(terms)))
    if cfg.model.lora_rank:
        rows.append(("LoRA", f"rank {cfg.model.lora_rank}, alpha {cfg.model.lora_alpha:g}, {cfg.model.lora_targets}"))
    return [*rows, ("seed", str(cfg.seed))]


def _figures(cfg: Config, results: Mapping[str, Any]) -> list[str]:
    """The run's own measurement as a table; or that there is none."""
    held = _shown(cfg.data.eval, hub.is_dataset) or f"held-out problems of the task {cfg.task.name}"
    rows = []
    for stage, name in NAMES.items():
        row, greedy = results.get(stage), results.get("greedy", {}).get(stage)
        if isinstance(row, dict) and isinstance(greedy, dict) and _value(row) is not None:
            rows.append(f"| {name} | {_share(row)} | {_share(greedy)} | {row['response_length']:.1f} | {row['n']} |")
    if not rows:
        return ["Not measured: the run has no results of these weights."]
    of = "accuracy" if right_and_wrong(cfg.reward) else "mean reward"
    head = [f"| | {of} at temperature 1 | {of}, greedy | mean length, tokens | n |", "|---|---|---|---|---|"]
    return [f"Measured by the run on {held}, with 95 % intervals:", "", *head, *rows]


def _share(row: Mapping[str, Any]) -> str:
    if (value := _value(row)) is None:
        return "-"
    form = ".1%" if row.get("accuracy") is not None else ".3f"
    return f"{value:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def _value(row: Mapping[str, Any]) -> float | None:
    """The accuracy, or the mean reward where there is no right and wrong."""
    found: float | None = row.get("accuracy", row.get("mean_reward"))
    return found


def _shown(name: str, of_hub: Callable[[str], bool]) -> str:
    """A model or a file, without the folders that it is in here; one of the hub or behind a URL as it is."""
    return name if of_hub(name) or "://" in name else PurePath(name).name


def _results(source: Source) -> dict[str, Any]:
    """results.json of the run; {} if it has not finished."""
    path = source.folder.parent.parent / "results.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
