# SPDX-License-Identifier: Apache-2.0
"""What can be trained on the hardware that one has, with which knobs, and how long that takes: `t1jax plan --have`.

    tries = recipes.tries(cfg, where, given)      # a Try for each workload, of all weights and of LoRA
    recipes.recommended(tries, hours=24.0)        # the largest workload that is done in a day

Each try has the mesh, lanes and micro-batches that suggest.py finds fastest of those that fit; if none does, those that
take the least memory. Everything is counted from shapes, on CPU devices in place of the hardware's.
Deliberately not here: memory and time of one choice (fit.py), the phases of a run (phases.py), flags (plan.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from t1jax import config, validation
from t1jax.checks import get
from t1jax.config import Config, ConfigError
from t1jax.host import config_files
from t1jax.planning import estimate, phases, slices, suggest
from t1jax.planning.fit import Found
from t1jax.planning.slices import GIB, Slice
from t1jax.training.memory import USABLE

WORKLOAD = ("rl.prompts_per_step", "rl.responses_per_prompt", "rl.max_new_tokens")
WORKLOADS = ((32, 64, 10240), (16, 16, 4096), (16, 8, 1024))  # the first is T1's of 14B, as the config's of 32B
CHOSEN = ("mesh.data", "mesh.fsdp", "mesh.tensor", "rl.lanes", "rl.micro_batches")  # by suggest.py
RANK = 32  # of LoRA, as configs/qwen7b_lora.py
LORA_RATE = 10  # times the learning rate of all weights
LADDERS = (  # hardware that is named where nothing fits, the smallest first
    ("gpu:1xl4", "gpu:1xh100", "gpu:2xh100", "gpu:4xh100", "gpu:8xh100", "gpu:16xh100", "gpu:32xh100"),
    ("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:8x8", "v5p:4x4x4"),
)
DEVICES = 64  # of the largest
SMALLER = ("qwen32b", "qwen14b", "qwen7b", "qwen1p5b", "qwen0p5b", "smollm2_135m")  # configs that are named there


@dataclass(frozen=True)
class Try:
    """A workload on the hardware, of all weights or of LoRA."""

    knobs: dict[str, Any]  # what it sets beside CHOSEN
    best: Found | None  # the fastest that fits, else the one that takes the least; None: no mesh works
    why: str = ""  # no mesh works

    @property
    def fits(self) -> bool:
        return self.best is not None and self.best.fits

    @property
    def workload(self) -> tuple[int, int, int]:
        """Prompts of a step, responses to each, most tokens of one."""
        prompts, responses, tokens = (self.knobs[knob] for knob in WORKLOAD)
        return prompts, responses, tokens

    @property
    def trained(self) -> str:
        rank = self.knobs["model.lora_rank"]
        return f"LoRA, rank {rank}" if rank else "all weights"

    @cached_property
    def cfg(self) -> Config:
        """The config with all that was chosen, also the responses that an evaluation samples at a time.

        Raises:
          ValueError: no mesh works.
        """
        if self.best is None:
            raise ValueError(self.why)
        return replaced(self.best.cfg, self.best.knobs() | {"eval.batch_size": evaluated(self.best)})

    @property
    def hours_of_steps(self) -> float:
        """Of all steps of RL."""
        return self.cfg.rl.num_steps * self._seconds / 3600

    @property
    def hours(self) -> float:
        """Of the run: with evaluations, and a cold start if the config has one."""
        found = self.best
        assert found is not None
        paces = phases.of_step(self.cfg, self._seconds, found.where.chip, found.mesh, found.where.slices)
        return phases.of_run(self.cfg, paces) / 3600

    @property
    def _seconds(self) -> float:
        assert self.best is not None
        return self.best.seconds.total

    def knobs_beside(self, name: str, given: Collection[str]) -> dict[str, Any]:
        """What a run needs beside the config `name`: of the knobs given and chosen those that differ there."""
        there = config.load(config_files.load(config_files.find(name)))
        names = dict.fromkeys((*sorted(given), *self.knobs, *CHOSEN, "eval.batch_size"))
        return {knob: get(self.cfg, knob) for knob in names if get(self.cfg, knob) != get(there, knob)}

    def words(self, hours: float) -> str:
        """Why it is recommended."""
        prompts, responses, tokens = self.workload
        why = (
            f"the largest that is done in {hours:g} h (--hours)" if self.hours <= hours
            else f"the shortest run, though longer than {hours:g} h (--hours)"
        )  # fmt: skip
        drawn = self.cfg.rl.drawn
        learnt = f" ({drawn} prompts are sampled)" if drawn > prompts else ""
        return (
            f"Recommended: {self.trained}, {prompts} x {responses} responses{learnt} of at most {tokens:,} tokens a "
            f"step, {self.cfg.rl.num_steps} steps: {why}."
        )

    def as_dict(self) -> dict[str, Any]:
        """For --json; hours and seconds only if it fits."""
        prompts, responses, tokens = self.workload
        found: dict[str, Any] = {"trained": self.trained, "prompts": prompts, "responses": responses, "tokens": tokens}
        found |= {"fits": self.fits, "why": self.why}
        if self.best is not None:
            chosen = {knob.rpartition(".")[2]: value for knob, value in self.best.knobs().items()}
            found |= chosen | {"gib": self.best.total / GIB, "usable_gib": USABLE * self.best.where.chip.memory / GIB}
        if self.fits:
            found |= {"seconds": self._seconds, "hours_of_steps": self.hours_of_steps, "hours": self.hours}
        return found

    def row(self) -> list[str]:
        """Its cells of a table, see HEADINGS."""
        prompts, responses, tokens = self.workload
        cells = [self.trained, f"{prompts} x {responses} x {tokens:,}"]
        if self.best is None:
            return [*cells, "none works", *[""] * 6]
        cells += [" x ".join(map(str, self.best.mesh)), str(self.best.memory.lanes)]
        cells += [str(self.best.cfg.rl.micro_batches), f"{self.best.total / GIB:.1f}"]
        if not self.fits:
            return [*cells, "does not fit", "", ""]
        return [*cells, short(self._seconds), short(self.hours_of_steps), short(self.hours)]


HEADINGS = ("trained", "prompts x responses x tokens", "mesh", "lanes", "parts", "GiB", "s a step", "h of steps", "h")


def tries(cfg: Config, where: Slice, given: Collection[str], longest: int | None = None) -> Iterator[Try]:
    """A try of each workload, the largest first, and of each of all weights before LoRA.

    The first workload is that of `cfg`; smaller ones follow, unless one of WORKLOAD is `given`.

    Args:
      given: knobs that somebody has set: they stay.
      longest: positions that the model was trained for, prompt and all: workloads with more are left out.

    Raises:
      ConfigError: no workload is short enough.
    """
    own = tuple(get(cfg, knob) for knob in WORKLOAD)
    several = [own, *(w for w in WORKLOADS if not {*WORKLOAD} & {*given} and _tokens(w) < _tokens(own))]
    beside = cfg.data.prompt_length + cfg.scaling.answer_tokens  # after a cut thought
    short = [w for w in several if longest is None or beside + w[2] <= longest]
    if not short:
        raise ConfigError(
            f"data.prompt_length + rl.max_new_tokens + scaling.answer_tokens is {beside + several[-1][2]}; expected at "
            f"most {longest}, the positions that the model was trained for: lower them"
        )
    for workload in short:
        for rank in _ranks(cfg, given):
            yield attempt(cfg, where, _knobs(cfg, where, workload, rank, given), "rl.micro_batches" in given)


def attempt(cfg: Config, where: Slice, knobs: dict[str, Any], kept: bool = False) -> Try:
    """The best of all meshes, lanes and micro-batches; `kept`: with those of `cfg`, where none are faster."""
    cfg = replaced(cfg, knobs)
    found = list(suggest.tried(cfg, where, float(cfg.rl.max_new_tokens)))
    if fitting := suggest.fastest(found):
        equal = [one for one in fitting if one.seconds.total == fitting[0].seconds.total]
        own = [one for one in equal if one.cfg.rl.micro_batches == cfg.rl.micro_batches]
        return Try(knobs, own[0] if kept and own else fitting[0])
    if found:
        return Try(knobs, min(found, key=lambda one: one.total))
    try:
        validation.validate(cfg, len(where.devices), elsewhere=True)
    except ConfigError as error:
        return Try(knobs, None, str(error))
    return Try(knobs, None, f"no mesh of {len(where.devices)} devices works")


def short(amount: float) -> str:
    """Seconds, hours: two digits, or all before the point."""
    return f"{amount:.2g}" if amount < 10 else f"{amount:,.0f}"


def recommended(found: Sequence[Try], hours: float) -> Try | None:
    """The first that takes at most so many hours, else the one that takes the fewest; None: nothing fits."""
    fitting = [one for one in found if one.fits]
    within = [one for one in fitting if one.hours <= hours]
    return within[0] if within else min(fitting, key=lambda one: one.hours, default=None)


def refusal(name: str, cfg: Config, found: Sequence[Try], devices: Sequence[Any]) -> str:
    """Why nothing fits: how much is missing, what hardware would do, and which smaller model fits.

    Args:
      devices: at least DEVICES CPU devices, which stand in for the hardware.
    """
    working = [(one.best, one) for one in found if one.best]
    if not working:
        return f"{name}: {found[-1].why}"
    best, least = min(working, key=lambda pair: pair[0].total)
    where = best.where
    usable, (prompts, responses, tokens) = USABLE * where.chip.memory, least.workload
    larger = [
        next(
            (kind for kind in ladder if _fits(replaced(cfg, least.knobs), slices.stood_in(kind, devices))),
            None,
        )
        for ladder in LADDERS
    ]
    there = " or ".join(kind for kind in larger if kind) or f"no hardware of up to {DEVICES} chips that is known here"
    smaller = next((one for one in _smaller(best.parameters) if _fits(one, where)), None)
    here = f"; here {smaller.model.checkpoint.rpartition('/')[2]} fits, and smaller ones" if smaller else ""
    return (
        f"{name} fits nowhere on {where.topology}: the least, {least.trained} with {prompts} x {responses} responses "
        f"of {tokens:,} tokens, takes {best.total / GIB:.1f} GiB of each device, {best.total / usable:.1f} times the "
        f"{usable / GIB:.1f} GiB that are usable, most of it {best.memory.largest.name}; it fits {there}{here}"
    )


def assumed(several: int) -> str:
    """What the figures of a recipe take for granted."""
    return (
        f"Estimated from shapes, by {estimate.assumptions(several)}. Every response has full length; most have less. "
        "Hours are of RL's steps, and of the run with evaluations, without compiling, judging and saving."
    )


def evaluated(found: Found) -> int:
    """Responses of an evaluation that are sampled at a time: eval.batch_size, or fewer if they do not fit.

    A prompt of an evaluation has one response, in a step as many as there are lanes. Powers of two a shard.
    """
    cfg, shards, memory = found.cfg, found.mesh[0] * found.mesh[1], found.memory
    prompts = cfg.rl.drawn // shards
    of = {part.name: part.bytes for part in memory.parts if part.phase == "sampling"}
    copy, asked = of.pop("decode copy of the weights"), of.pop("prompts' keys and values")
    longest = cfg.data.prompt_length + max(cfg.scaling.budgets, default=0)  # a cut thought is a prompt too
    asked += of.pop("prompts in experts", 0) * longest // cfg.data.prompt_length
    each = asked / prompts + sum(of.values()) / (prompts * memory.lanes)
    room = USABLE * memory.device_bytes - memory.of("always") - memory.of("host") - copy
    fits = max(1, int(room / each))
    return min(cfg.eval.batch_size, shards << (fits.bit_length() - 1))


def replaced(cfg: Config, knobs: dict[str, Any]) -> Config:
    """`cfg` with other values of dotted knobs."""
    for knob, value in knobs.items():
        section, _, name = knob.rpartition(".")
        cfg = dataclasses.replace(cfg, **{section: dataclasses.replace(getattr(cfg, section), **{name: value})})
    return cfg


def _tokens(workload: Sequence[int]) -> int:
    prompts, responses, tokens = workload
    return prompts * responses * tokens


def _ranks(cfg: Config, given: Collection[str]) -> tuple[int, ...]:
    """Ranks of LoRA to try; 0: all weights."""
    rank = cfg.model.lora_rank
    return (rank,) if rank or "model.lora_rank" in given or not cfg.model.checkpoint else (0, RANK)


def _knobs(cfg: Config, where: Slice, workload: Sequence[int], rank: int, given: Collection[str]) -> dict[str, Any]:
    knobs: dict[str, Any] = dict(zip(WORKLOAD, workload, strict=True)) | {"model.lora_rank": rank}
    if rank and not cfg.model.lora_rank and "rl.learning_rate" not in given:
        knobs["rl.learning_rate"] = LORA_RATE * cfg.rl.learning_rate
    if "scaling.budgets" not in given:
        budgets = tuple(budget for budget in cfg.scaling.budgets if budget <= workload[2])
        knobs["scaling.budgets"] = budgets or (workload[2],)
    if rank and cfg.model.num_experts and "model.lora_targets" not in given:
        knobs["model.lora_targets"] = "attention"  # experts take no adapters
    if where.on_host and "model.compute_dtype" not in given:
        knobs["model.compute_dtype"] = "float32"  # what a CPU computes fastest
    return knobs


def _fits(cfg: Config, where: Slice) -> bool:
    return any(one.fits for one in suggest.tried(cfg, where, float(cfg.rl.max_new_tokens)))


def _smaller(parameters: int) -> Iterator[Config]:
    """Configs that come with t1jax, of smaller models than that, with the least workload and LoRA."""
    for name in SMALLER:
        cfg = config.load(config_files.load(config_files.shipped()[name]))
        model = cfg.model
        size = model.num_layers * estimate.layer_weights(model) + model.hidden_size * model.vocab_size
        if size < 0.9 * parameters:
            knobs = dict(zip(WORKLOAD, WORKLOADS[-1], strict=True)) | {"model.lora_rank": RANK, "sft.num_steps": 0}
            yield replaced(cfg, knobs)
