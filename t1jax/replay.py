# SPDX-License-Identifier: Apache-2.0
"""Replays a failed step: the same sampling, scores and gradient, and where numbers stopped being finite.

    python -m t1jax.replay workdirs/tiny/sick

Deliberately not here: when a step is saved (health.py).
"""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from typing import Any

from t1jax import config, validation
from t1jax.config import Config, ConfigError
from t1jax.host import command_line, place
from t1jax.host.place import Place

USAGE = """\
usage: python -m t1jax.replay DUMP

Replays a step that a run saved in WORKDIR/sick because its gradient was not finite, and prints which arrays and
responses have non-finite numbers. The files of problems must still be where the config says.

Exit codes: 0 the failure was reproduced, 1 it was not, 2 an error or no such dump.
"""


def cli() -> None:
    """What `python -m t1jax.replay` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    same: list[bool] = []
    code = command_line.call("t1jax.replay", USAGE, lambda argv: same.append(_replay(argv)), argv)
    return code or (0 if all(same) else 1)


def _replay(argv: list[str]) -> bool:
    _, extra = command_line.read_flags(argv, lambda values: None)
    if len(extra) != 1:
        raise ConfigError(f"got {' '.join(extra) or 'nothing'}; expected one folder, see --help")
    return replay(place.of(extra[0], "DUMP"))


def replay(folder: Place) -> bool:
    """Replays the step saved in `folder` and prints what it finds; returns whether the row equals that of the run."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import orbax.checkpoint as ocp

    from t1jax.devices import multihost, sharding
    from t1jax.host import workdir
    from t1jax.host.files import json_ready
    from t1jax.model.parameters import checksum
    from t1jax.rewards.score import make_scorer
    from t1jax.training import origin, selection, stages, step
    from t1jax.training.setup import rl_setup
    from t1jax.types import Prompts
    from t1jax.weights import adapters

    cfg = _config(folder, jax.device_count())
    expected = _read(folder / "report.json")
    mesh = sharding.make_mesh(cfg.mesh)
    setup = rl_setup(cfg, mesh)
    workdir.refuse_other_files(cfg, folder)
    if (base := origin.base_of(cfg, mesh)) is not None:
        saved = _read(folder / "base.json").get("digest")
        adapters.refuse_other_digest(folder, saved, checksum(base), cfg.model.checkpoint)
    with (
        stages.open_task(cfg, folder, print) as (whole, tokens),
        np.load(io.BytesIO((folder / "prompts.npz").read_bytes())) as kept,
    ):
        task = selection.choose(cfg, whole, folder)
        prompts = multihost.global_batch(Prompts(kept["tokens"], kept["valid"], kept["problem"]), setup.layout)
        with ocp.StandardCheckpointer() as checkpointer:
            shapes = replace(setup.state_shapes(), base=None)
            state = checkpointer.restore(os.fspath((folder / "state").absolute()), shapes)
        state = replace(state, base=base)
        for name, tree in (
            ("parameters", state.params),
            ("anchor", state.anchor_offset),
            ("optimiser", state.opt_state),
        ):
            bad = [
                f"{jax.tree_util.keystr(path)}: {int(count)} of {x.size}"
                for path, x in jax.tree_util.tree_leaves_with_path(tree)
                if (count := (~jnp.isfinite(x)).sum())
            ]
            print(f"{name}: {'; '.join(bad) + ' not finite' if bad else 'finite'}")
        sample = jax.jit(step.make_sample(setup, tokens.stop_ids))
        rollouts = multihost.to_host(sample(jax.jit(setup.read)(state.policy), prompts, state.rng, state.step))
        bad_BT = rollouts.sampled_BT & ~np.isfinite(rollouts.logprob_BT)
        if bad_BT.any():
            b, t = np.argwhere(bad_BT)[0]
            print(f"{bad_BT.any(-1).sum()} of {len(bad_BT)} responses; the first: response {b}, token {t}")
        else:
            print("log-probabilities of the samples: finite")
        scorer = make_scorer(task, "train", tokens, cfg.rl)
        train_step = step.make_train_step(setup, scorer, stop_tokens=tokens.stop_ids)
        _, report = train_step(state, prompts)
    found = {name: json_ready(value) for name, value in multihost.to_host(report).items()}
    other = {name: value for name, value in expected.items() if name != "step" and found.get(name) != value}
    for name, value in other.items():
        print(f"{name} is {found.get(name)}, was {value}")
    print(f"step {expected['step']}: {'something else happened' if other else 'the same happened'}")
    return not other


def _config(folder: Place, num_devices: int) -> Config:
    """The run's config; on other devices than the run's, with a mesh that fits them, which is said."""
    from t1jax.devices import sharding

    if not (folder / "prompts.npz").is_file():
        raise ConfigError(f"{folder}: no prompts.npz; expected the folder `sick` of a workdir")
    cfg = config.load(_read(folder / "config.json"))
    mesh, told = sharding.fitting(cfg.mesh, num_devices)
    if told:
        print(told)
        if cfg.rl.drawn > cfg.rl.prompts_per_step:
            print(
                "with rl.overdraw the groups that are kept depend on mesh.data * mesh.fsdp: the update may be another"
            )
        cfg = replace(cfg, mesh=mesh)
        validation.validate(cfg, num_devices)
    return cfg


def _read(path: Place) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}; expected what t1jax wrote") from error


if __name__ == "__main__":
    cli()
