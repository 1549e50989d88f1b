# SPDX-License-Identifier: Apache-2.0
"""Stores the settings of a file of chains beside it, so that chains of different settings are never mixed.

Where: before the first request, on every start.
Deliberately not here: the command line (synthesize.py), paid answers (ledger.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.config import Config, ConfigError
from t1jax.host import files
from t1jax.host.place import Place
from t1jax.synthesis import prompts
from t1jax.synthesis.record import Item
from t1jax.synthesis.writers import Writer

FORMAT = 1


def of(cfg: Config, items: Sequence[Item], writers: Mapping[str, Writer]) -> dict[str, Any]:
    """The settings that the chains depend on."""
    synthesis, rl = cfg.synthesis, cfg.rl
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.index, item.row, item.prompt, item.gold)).encode())
    asked = {name: [end.url, end.model] for name, end in synthesis.endpoints.items() if name in writers}
    local = {name: writer.weights for name, writer in writers.items() if hasattr(writer, "weights")}
    return {
        "format": FORMAT, "problems": f"{len(items)}, {digest.hexdigest()[:12]}", "attempts": synthesis.attempts,
        "attempters": list(synthesis.attempters), "critic": synthesis.critic, "merger": synthesis.merger,
        "rewriter": synthesis.rewriter, "temperature": synthesis.temperature,
        "attempt_tokens": synthesis.attempt_tokens, "chain_tokens": synthesis.chain_tokens, "endpoints": asked,
        "weights": local, "templates": f"{prompts.VERSION} {prompts.digest()}", "seed": cfg.seed,
        "cuts": [rl.top_k, rl.top_p, rl.min_p], "form": [rl.repeat_length, rl.repeat_count, rl.garbled_share],
    }  # fmt: skip


def hold(out: Place, settings: Mapping[str, Any]) -> None:
    """Saves the settings of OUT, or checks that they have not changed.

    Raises:
      ConfigError: OUT was made with other settings; lists those that differ.
    """
    path = out.with_suffix(".settings.json")
    mine = files.json_ready(settings)
    if not path.exists():
        if out.exists():
            raise ConfigError(f"{out} is there, but not {path.name} beside it; expected a new file: give another --out")
        files.write_json(path, mine)
        return
    try:
        theirs = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}; expected what t1jax wrote: give another --out") from error
    names = [name for name in mine if theirs.get(name) != mine[name]]
    if names:
        listed = "; ".join(f"{name} is {mine[name]}, not {theirs.get(name)}" for name in names)
        raise ConfigError(f"{out} was made with other settings: {listed}; give those, or another --out")
