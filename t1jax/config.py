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
import itertools
import json
import math
import typing
from collections.abc import Mapping
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

    @property
    def learner_temperature(self) -> float:
        """Temperature of the learner's log-probabilities: the sampler's, unless an ablation sets another."""
        return self.logprob_temperature or self.temperature


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
    sft_every: int
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
    for check in (_validate_model, _validate_task, _validate_training, _validate_rl, _validate_measuring):
        check(cfg)
    _validate_mesh(cfg, *mesh_shape(cfg.mesh, num_devices))


def _validate_model(cfg: Config) -> None:
    _at_least(cfg, 1, "model", "vocab_size num_layers hidden_size num_heads num_kv_heads head_dim mlp_size")
    _multiple("model.num_heads", cfg.model.num_heads, "model.num_kv_heads", cfg.model.num_kv_heads)
    _check(cfg, "model.head_dim", cfg.model.head_dim % 2 == 0, "an even number: rotary positions turn pairs")
    _check(cfg, "model.rope_theta", cfg.model.rope_theta > 1, "more than 1")
    _check(cfg, "model.norm_eps", cfg.model.norm_eps > 0, "more than 0")
    _one_of(cfg, "model.compute_dtype", "float32", "bfloat16")
    _one_of(cfg, "model.remat", "none", "dots", "full")


def _validate_task(cfg: Config) -> None:
    task, low, high = cfg.task, cfg.task.min_numbers, cfg.task.max_numbers
    _at_least(cfg, 3, "task", "min_numbers")
    _check(cfg, "task.max_numbers", high >= low, f"at least task.min_numbers = {low}")
    _check(cfg, "task.max_value", task.max_value >= high, f"at least task.max_numbers = {high}: no number comes twice")
    _check(cfg, "task.held_out_percent", 0 < task.held_out_percent < 100, "1 to 99")
    _share(cfg, "task", "impatient_share give_up row_order_share")
    _at_least(cfg, 1, "tokenizer", "corpus_texts")
    _at_least(cfg, 1, "data", "prompt_length")


def _validate_training(cfg: Config) -> None:
    _check(cfg, "seed", 0 <= cfg.seed < 2**32, "0 to 4294967295")
    _at_least(cfg, 1, "sft", "num_steps batch_size sequence_length micro_batches vocab_chunks")
    _at_least(cfg, 0, "sft", "warmup_steps")
    _multiple("sft.batch_size", cfg.sft.batch_size, "sft.micro_batches", cfg.sft.micro_batches)
    _one_of(cfg, "sft.optimizer", "adamw", "muon")
    for section in ("sft", "rl"):
        _positive(cfg, section, "learning_rate grad_clip")
        _at_least(cfg, 0, section, "weight_decay")
        for knob in (f"{section}.b1", f"{section}.b2"):
            _check(cfg, knob, 0 <= _get(cfg, knob) < 1, "0 or more and below 1")


def _validate_rl(cfg: Config) -> None:
    rl, vocab_size = cfg.rl, cfg.model.vocab_size
    _at_least(cfg, 1, "rl", "num_steps prompts_per_step max_new_tokens window micro_batches vocab_chunks repeat_length")
    baseline = "at least 2: the leave-one-out baseline is the mean of a prompt's other responses"
    _check(cfg, "rl.responses_per_prompt", rl.responses_per_prompt >= 2, baseline)
    rows = rl.prompts_per_step * rl.responses_per_prompt
    _multiple("rl.prompts_per_step * rl.responses_per_prompt", rows, "rl.micro_batches", rl.micro_batches)
    _positive(cfg, "rl", "temperature kl_clip")
    _at_least(cfg, 0, "rl", "logprob_temperature")
    _check(cfg, "rl.top_k", 0 <= rl.top_k <= vocab_size, f"0 (off) to model.vocab_size = {vocab_size}")
    _check(cfg, "rl.top_p", 0 < rl.top_p <= 1, "more than 0, at most 1 (off)")
    _check(cfg, "rl.min_p", 0 <= rl.min_p < 1, "0 (off) or more and below 1")
    _share(cfg, "rl", "warmup_fraction anchor_decay garbled_share")
    _at_least(cfg, 0, "rl", "entropy_coef kl_coef")
    _at_least(cfg, 2, "rl", "repeat_count")
    _one_of(cfg, "rl.kl_site", "reward", "loss")
    _one_of(cfg, "rl.penalty_site", "reward", "advantage")
    _one_of(cfg, "rl.loss_normalisation", "response", "token")


def _validate_measuring(cfg: Config) -> None:
    _at_least(cfg, 1, "eval", "num_problems batch_size quick_problems")
    _at_least(cfg, 0, "eval", "every samples")
    increasing = all(low < high for low, high in itertools.pairwise((0, *cfg.scaling.budgets)))
    _check(cfg, "scaling.budgets", len(cfg.scaling.budgets) > 0 and increasing, "positive numbers, each above the last")
    _at_least(cfg, 1, "scaling", "answer_tokens")
    _at_least(cfg, 1, "checkpoint", "sft_every every keep")


def _validate_mesh(cfg: Config, data: int, fsdp: int, tensor: int) -> None:
    for knob in ("model.vocab_size", "model.num_heads", "model.num_kv_heads", "model.mlp_size"):
        _multiple(knob, _get(cfg, knob), "mesh.tensor", tensor)
    _multiple("model.hidden_size", cfg.model.hidden_size, "mesh.fsdp", fsdp)
    rl, sft, shards = cfg.rl, cfg.sft, "mesh.data * mesh.fsdp"
    rows = rl.prompts_per_step * rl.responses_per_prompt // rl.micro_batches
    _multiple("rl.prompts_per_step", rl.prompts_per_step, shards, data * fsdp)
    _multiple("rl.prompts_per_step * rl.responses_per_prompt / rl.micro_batches", rows, shards, data * fsdp)
    _multiple("sft.batch_size / sft.micro_batches", sft.batch_size // sft.micro_batches, shards, data * fsdp)
    _multiple("eval.batch_size", cfg.eval.batch_size, shards, data * fsdp)


def _get(cfg: Config, knob: str) -> Any:
    section, _, name = knob.rpartition(".")
    return getattr(getattr(cfg, section) if section else cfg, name)


def _check(cfg: Config, knob: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{knob} is {_get(cfg, knob)}; expected {expected}")


def _multiple(what: str, found: int, of: str, divisor: int) -> None:
    if found % divisor:
        raise ConfigError(f"{what} is {found}; expected a multiple of {of} = {divisor}")


def _one_of(cfg: Config, knob: str, *choices: str) -> None:
    near = difflib.get_close_matches(_get(cfg, knob), choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    _check(cfg, knob, _get(cfg, knob) in choices, f"one of {', '.join(choices)}{hint}")


def _at_least(cfg: Config, least: int, section: str, names: str) -> None:
    for knob in (f"{section}.{name}" for name in names.split()):
        _check(cfg, knob, _get(cfg, knob) >= least, f"at least {least}")


def _positive(cfg: Config, section: str, names: str) -> None:
    for knob in (f"{section}.{name}" for name in names.split()):
        _check(cfg, knob, _get(cfg, knob) > 0, "more than 0")


def _share(cfg: Config, section: str, names: str) -> None:
    for knob in (f"{section}.{name}" for name in names.split()):
        _check(cfg, knob, 0 <= _get(cfg, knob) <= 1, "a share, 0 to 1")


def _section(kind: Any, tree: Any, prefix: str) -> Any:
    """A dataclass of type `kind` from a mapping that has exactly its fields."""
    if not hasattr(tree, "keys"):  # a ConfigDict is no Mapping
        raise ConfigError(f"{prefix[:-1] or 'the config'} is {tree!r}; expected a section of knobs")
    hints = typing.get_type_hints(kind)
    for name in tree:
        if name not in hints:
            raise unknown_knob(f"{prefix}{name}")
    if missing := [f"{prefix}{name}" for name in hints if name not in tree]:
        raise ConfigError(f"missing knob {', '.join(missing)}; start from configs/base.py, which has them all")
    return kind(**{name: _value(hint, tree[name], f"{prefix}{name}") for name, hint in hints.items()})


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
