# SPDX-License-Identifier: Apache-2.0
"""The configuration as frozen, typed views, and the checks that tell a user which knob to turn.

Where: before everything else. configs/base.py documents each knob; `load` gives the same sections and names, typed.
`validate` refuses what cannot work, before anything is compiled or written.
Deliberately not here: defaults (configs/), command-line flags (main.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class ConfigError(ValueError):
    """The user's mistake. The message is one line: the knob or file, what was found, what was expected."""


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    compute_dtype: str
    remat: str


@dataclass(frozen=True)
class TokenizerConfig:
    corpus_texts: int


@dataclass(frozen=True)
class TaskConfig:
    min_numbers: int
    max_numbers: int
    max_value: int
    held_out_percent: int
    impatient_share: float
    give_up: float
    row_order_share: float


@dataclass(frozen=True)
class DataConfig:
    prompt_length: int


@dataclass(frozen=True)
class MeshConfig:
    data: int
    fsdp: int
    tensor: int


@dataclass(frozen=True)
class SftConfig:
    num_steps: int
    batch_size: int
    sequence_length: int
    micro_batches: int
    vocab_chunks: int
    optimizer: str
    learning_rate: float
    warmup_steps: int
    b1: float
    b2: float
    weight_decay: float
    grad_clip: float


@dataclass(frozen=True)
class RlConfig:
    num_steps: int
    prompts_per_step: int
    responses_per_prompt: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    max_new_tokens: int
    window: int
    micro_batches: int
    vocab_chunks: int
    learning_rate: float
    warmup_fraction: float
    b1: float
    b2: float
    weight_decay: float
    grad_clip: float
    entropy_coef: float
    kl_coef: float
    kl_clip: float
    kl_site: str
    anchor_decay: float
    penalty: float
    penalty_site: str
    repeat_length: int
    repeat_count: int
    garbled_share: float
    loss_normalisation: str
    logprob_temperature: float


@dataclass(frozen=True)
class EvalConfig:
    num_problems: int
    batch_size: int
    every: int
    quick_problems: int
    samples: int


@dataclass(frozen=True)
class ScalingConfig:
    budgets: tuple[int, ...]
    answer_tokens: int


@dataclass(frozen=True)
class CheckpointConfig:
    every: int
    keep: int


@dataclass(frozen=True)
class Config:
    seed: int
    model: ModelConfig
    tokenizer: TokenizerConfig
    task: TaskConfig
    data: DataConfig
    mesh: MeshConfig
    sft: SftConfig
    rl: RlConfig
    eval: EvalConfig
    scaling: ScalingConfig
    checkpoint: CheckpointConfig

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, as results.json and checkpoints hold them; `load` takes them back."""
        return dataclasses.asdict(self)


def load(tree: Mapping[str, Any]) -> Config:
    """The typed view of a ConfigDict or of nested dicts.

    Raises:
      ConfigError: a knob is unknown, missing, of the wrong type or not finite.
    """
    return _section(Config, tree, "")


def fingerprint(cfg: Config) -> str:
    """12 hex digits that differ when any knob differs."""
    text = json.dumps(cfg.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def unknown_knob(name: str) -> ConfigError:
    """The error for a knob that does not exist, with the nearest one that does."""
    known = knobs()
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:  # the right knob in the wrong section, or without one
        near = [knob for knob in known if knob.rpartition(".")[2] == name.rpartition(".")[2]]
    hint = f"did you mean {near[0]}?" if near else "configs/base.py lists them"
    return ConfigError(f"unknown knob {name}; {hint}")


def knobs() -> list[str]:
    """The dotted name of every knob."""
    sections = typing.get_type_hints(Config)
    return [
        f"{name}.{field.name}" if field else name
        for name, kind in sections.items()
        for field in (dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else (None,))
    ]


def expected_type(knob: str) -> str:
    """What the value of a knob must be, in words."""
    section, _, name = knob.rpartition(".")
    kind = typing.get_type_hints(Config)[section] if section else Config
    return _words(typing.get_type_hints(kind)[name])


def mesh_shape(mesh: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """(data, fsdp, tensor) with -1 filled in.

    Raises:
      ConfigError: the sizes cannot multiply to `num_devices`.
    """
    sizes = [mesh.data, mesh.fsdp, mesh.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    if min(sizes) < 1 or math.prod(sizes) != num_devices:
        raise ConfigError(
            f"mesh.data, mesh.fsdp, mesh.tensor are {mesh.data}, {mesh.fsdp}, {mesh.tensor}; expected a product of "
            f"{num_devices}, the number of devices, with at most one -1 for what is left"
        )
    return sizes[0], sizes[1], sizes[2]


def validate(cfg: Config, num_devices: int) -> None:
    """Refuses what cannot work on `num_devices` devices.

    Raises:
      ConfigError: names the knob, what it is, what was expected.
    """
    _validate_model(cfg.model)
    _validate_task(cfg)
    _validate_training(cfg)
    _validate_rl(cfg.rl, cfg.model)
    _validate_measuring(cfg)
    _validate_mesh(cfg, *mesh_shape(cfg.mesh, num_devices))


def _validate_model(model: ModelConfig) -> None:
    _at_least(1, "model", model, "vocab_size num_layers hidden_size num_heads num_kv_heads head_dim mlp_size")
    _multiple("model.num_heads", model.num_heads, "model.num_kv_heads", model.num_kv_heads)
    _check(model.head_dim % 2 == 0, "model.head_dim", model.head_dim, "an even number: rotary positions turn pairs")
    _check(model.rope_theta > 1, "model.rope_theta", model.rope_theta, "more than 1")
    _check(model.norm_eps > 0, "model.norm_eps", model.norm_eps, "more than 0")
    _one_of("model.compute_dtype", model.compute_dtype, ("float32", "bfloat16"))
    _one_of("model.remat", model.remat, ("none", "dots", "full"))


def _validate_task(cfg: Config) -> None:
    task = cfg.task
    _at_least(1, "tokenizer", cfg.tokenizer, "corpus_texts")
    _at_least(3, "task", task, "min_numbers")
    _check(task.max_numbers >= task.min_numbers, "task.max_numbers", task.max_numbers,
           f"at least task.min_numbers = {task.min_numbers}")  # fmt: skip
    _check(task.max_value >= task.max_numbers, "task.max_value", task.max_value,
           f"at least task.max_numbers = {task.max_numbers}: the numbers of a problem differ")  # fmt: skip
    _check(0 < task.held_out_percent < 100, "task.held_out_percent", task.held_out_percent, "1 to 99")
    _share("task", task, "impatient_share give_up row_order_share")
    _at_least(1, "data", cfg.data, "prompt_length")


def _validate_training(cfg: Config) -> None:
    _check(0 <= cfg.seed < 2**32, "seed", cfg.seed, "0 to 4294967295")
    sft = cfg.sft
    _at_least(1, "sft", sft, "num_steps batch_size sequence_length micro_batches vocab_chunks")
    _at_least(0, "sft", sft, "warmup_steps")
    _multiple("sft.batch_size", sft.batch_size, "sft.micro_batches", sft.micro_batches)
    _one_of("sft.optimizer", sft.optimizer, ("adamw", "muon"))
    for name, section in (("sft", sft), ("rl", cfg.rl)):
        _positive(name, section, "learning_rate grad_clip")
        _at_least(0, name, section, "weight_decay")
        for beta in ("b1", "b2"):
            value = getattr(section, beta)
            _check(0 <= value < 1, f"{name}.{beta}", value, "0 or more and below 1")


def _validate_rl(rl: RlConfig, model: ModelConfig) -> None:
    _at_least(1, "rl", rl, "num_steps prompts_per_step max_new_tokens window micro_batches vocab_chunks repeat_length")
    _check(rl.responses_per_prompt >= 2, "rl.responses_per_prompt", rl.responses_per_prompt,
           "at least 2: the leave-one-out baseline is the mean of a prompt's other responses")  # fmt: skip
    rows = rl.prompts_per_step * rl.responses_per_prompt
    _multiple("rl.prompts_per_step * rl.responses_per_prompt", rows, "rl.micro_batches", rl.micro_batches)
    _positive("rl", rl, "temperature logprob_temperature kl_clip")
    _check(0 <= rl.top_k <= model.vocab_size, "rl.top_k", rl.top_k, f"0 (off) to model.vocab_size = {model.vocab_size}")
    _check(0 < rl.top_p <= 1, "rl.top_p", rl.top_p, "more than 0, at most 1 (off)")
    _check(0 <= rl.min_p < 1, "rl.min_p", rl.min_p, "0 (off) or more and below 1")
    _share("rl", rl, "warmup_fraction anchor_decay garbled_share")
    _at_least(0, "rl", rl, "entropy_coef kl_coef")
    _at_least(2, "rl", rl, "repeat_count")
    _one_of("rl.kl_site", rl.kl_site, ("reward", "loss"))
    _one_of("rl.penalty_site", rl.penalty_site, ("reward", "advantage"))
    _one_of("rl.loss_normalisation", rl.loss_normalisation, ("response", "token"))


def _validate_measuring(cfg: Config) -> None:
    _at_least(1, "eval", cfg.eval, "num_problems batch_size quick_problems")
    _at_least(0, "eval", cfg.eval, "every samples")
    budgets = cfg.scaling.budgets
    increasing = all(low < high for low, high in zip(budgets, budgets[1:], strict=False))
    _check(len(budgets) > 0 and budgets[0] >= 1 and increasing, "scaling.budgets", budgets,
           "positive numbers of tokens, each more than the one before")  # fmt: skip
    _at_least(1, "scaling", cfg.scaling, "answer_tokens")
    _at_least(1, "checkpoint", cfg.checkpoint, "every keep")


def _validate_mesh(cfg: Config, data: int, fsdp: int, tensor: int) -> None:
    for name in ("vocab_size", "num_heads", "num_kv_heads", "mlp_size"):
        _multiple(f"model.{name}", getattr(cfg.model, name), "mesh.tensor", tensor)
    _multiple("model.hidden_size", cfg.model.hidden_size, "mesh.fsdp", fsdp)
    shards, what = data * fsdp, "mesh.data * mesh.fsdp"
    _multiple("rl.prompts_per_step", cfg.rl.prompts_per_step, what, shards)
    rows = cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt // cfg.rl.micro_batches
    _multiple("rl.prompts_per_step * rl.responses_per_prompt / rl.micro_batches", rows, what, shards)
    _multiple("sft.batch_size / sft.micro_batches", cfg.sft.batch_size // cfg.sft.micro_batches, what, shards)
    _multiple("eval.batch_size", cfg.eval.batch_size, what, shards)


def _check(holds: bool, knob: str, found: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{knob} is {found}; expected {expected}")


def _multiple(knob: str, found: int, of: str, divisor: int) -> None:
    _check(found % divisor == 0, knob, found, f"a multiple of {of} = {divisor}")


def _one_of(knob: str, found: str, choices: tuple[str, ...]) -> None:
    near = difflib.get_close_matches(found, choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    _check(found in choices, knob, repr(found), f"one of {', '.join(choices)}{hint}")


def _at_least(least: int, section: str, values: object, names: str) -> None:
    for name in names.split():
        value = getattr(values, name)
        _check(value >= least, f"{section}.{name}", value, f"at least {least}")


def _positive(section: str, values: object, names: str) -> None:
    for name in names.split():
        value = getattr(values, name)
        _check(value > 0, f"{section}.{name}", value, "more than 0")


def _share(section: str, values: object, names: str) -> None:
    for name in names.split():
        value = getattr(values, name)
        _check(0 <= value <= 1, f"{section}.{name}", value, "a share, 0 to 1")


def _section(kind: Any, tree: Any, prefix: str) -> Any:
    """A dataclass of type `kind` from a mapping that has exactly its fields."""
    if not isinstance(tree, Mapping) and not hasattr(tree, "keys"):
        raise ConfigError(f"{prefix[:-1] or 'the config'} is {tree!r}; expected a section of knobs")
    hints = typing.get_type_hints(kind)
    names = list(tree.keys())
    for name in names:
        if name not in hints:
            raise unknown_knob(f"{prefix}{name}")
    _no_missing(hints, names, prefix)
    return kind(**{name: _value(hint, tree[name], f"{prefix}{name}") for name, hint in hints.items()})


def _no_missing(hints: Iterable[str], names: list[str], prefix: str) -> None:
    missing = [f"{prefix}{name}" for name in hints if name not in names]
    if missing:
        raise ConfigError(f"missing knob {', '.join(missing)}; start from configs/base.py, which has them all")


def _value(kind: Any, value: Any, knob: str) -> Any:
    """`value` as `kind`; an int may stand for a float, a list for a tuple, nothing else for anything else."""
    if dataclasses.is_dataclass(kind):
        return _section(kind, value, f"{knob}.")
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_value(typing.get_args(kind)[0], item, knob) for item in value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{knob} is {value!r}; expected {_words(kind)}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{knob} is {value}; expected a finite number")
    return value


def _words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    return words.get(kind, "whole numbers in brackets, like (1, 2, 4)")
