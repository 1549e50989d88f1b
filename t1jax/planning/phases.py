# SPDX-License-Identifier: Apache-2.0
"""How long the parts of a run take by the roofline of estimate.py, on chips whose figures slices.py has.

Every response is taken to be as long as it may be. Not counted: compiling, judging, saving, and what devices exchange
in the cold start.
Deliberately not here: how many of each part a run has, and what it says of them (training/opening.py).
"""

from __future__ import annotations

import dataclasses

from t1jax.config import Config
from t1jax.devices import topology
from t1jax.evaluation.cut import BUCKET
from t1jax.planning import estimate
from t1jax.planning.slices import Chip, chip_of
from t1jax.training.opening import Paces
from t1jax.training.setup import RlSetup


def paces(setup: RlSetup) -> Paces | None:
    """Seconds of each part on the devices of `setup`; None: their figures are not known."""
    cfg, devices = setup.cfg, list(setup.mesh.devices.flat)
    chip = chip_of(devices[0].device_kind)
    if chip is None:
        return None
    data, fsdp, tensor = (int(size) for size in setup.mesh.devices.shape)
    return of_chip(setup, chip, (data, fsdp, tensor), len(topology.split(devices, cfg.mesh.slices)))


def of_chip(setup: RlSetup, chip: Chip, mesh: tuple[int, int, int], slices: int = 1) -> Paces:
    """The same on `slices` of a chip. `mesh`: (data, fsdp, tensor)."""
    cfg, length = setup.cfg, float(setup.cfg.rl.max_new_tokens)
    parts = estimate.parts(cfg, mesh, setup.grid, length)
    step = estimate.seconds(cfg, mesh, chip, length, setup.lanes, parts, slices).total
    return of_step(cfg, step, chip, mesh, slices)


def of_step(cfg: Config, step: float, chip: Chip, mesh: tuple[int, int, int], slices: int = 1) -> Paces:
    """The same where a step is known to take `step` seconds."""
    prompt, length = cfg.data.prompt_length, float(cfg.rl.max_new_tokens)
    cut = [-(-(prompt + min(budget, cfg.rl.max_new_tokens)) // BUCKET) * BUCKET for budget in cfg.scaling.budgets]
    answers = [_sampled(cfg, chip, mesh, slices, positions, float(cfg.scaling.answer_tokens)) for positions in cut]
    return Paces(
        update=_update(cfg, chip, mesh),
        step=step,
        response=_sampled(cfg, chip, mesh, slices, prompt, length),
        answer=sum(answers) / max(1, len(answers)),
        source=(
            f"by t1jax.plan's figures of {chip.name}, if every response has {cfg.rl.max_new_tokens:,} tokens, without "
            "compiling and judging"
        ),
    )


def of_run(cfg: Config, paces: Paces) -> float:
    """Seconds of all of a run's phases, with as many held-out problems as `cfg` asks for, two responses to each.

    Each once sampled and once greedily, and cut at each budget of thinking, before RL and after it.
    """
    rl, every = cfg.rl, cfg.eval.every
    measured = cfg.eval.num_problems * (2 * paces.response + len(cfg.scaling.budgets) * paces.answer)
    during = rl.num_steps // every * cfg.eval.quick_problems * paces.response if every else 0.0
    cold = cfg.sft.num_steps * paces.update
    return cold + rl.num_steps * paces.step + during + (1 + cfg.eval.before) * measured


def _sampled(cfg: Config, chip: Chip, mesh: tuple[int, int, int], slices: int, prompt: int, length: float) -> float:
    """Seconds of a response of an evaluation, one of eval.batch_size that are sampled at a time."""
    rows = cfg.eval.batch_size
    call = dataclasses.replace(
        cfg,
        data=dataclasses.replace(cfg.data, prompt_length=prompt),
        rl=dataclasses.replace(cfg.rl, prompts_per_step=rows, overdraw=1.0, responses_per_prompt=1),
    )
    found = estimate.seconds(call, mesh, chip, length, lanes=1, parts=0, slices=slices)
    return (found.prefill + found.decode) / rows


def _update(cfg: Config, chip: Chip, mesh: tuple[int, int, int]) -> float:
    """Seconds of an update of the cold start."""
    sft, data, fsdp, tensor = cfg.sft, *mesh
    tokens = float(sft.batch_size * sft.sequence_length)
    flops = sum(estimate.update_flops(cfg.model, tokens, sft.sequence_length / 2, tokens))
    return flops / (data * fsdp * tensor) / (estimate.MATMUL * chip.flops)
