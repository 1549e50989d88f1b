# SPDX-License-Identifier: Apache-2.0
"""The tensors of a Hugging Face folder: name and shape in the file <-> path and shape in t1jax's parameters.

Where: before the prompts, and on export. A tensor is a line of TENSORS, used in both directions; a family may name it
otherwise, and join several in one (families.py).

Axes: D width, N query heads, K kv heads, H head dim, F mlp width, E experts, V vocabulary, L layers.
Source: transformers 5.23, models of Qwen2, Qwen3, Qwen3Moe (as its conversion_mapping.py has the files), Llama, Glm and
Glm4.
Deliberately not here: config.json (families.py), the tensors' bytes (safetensors_files.py), loading onto devices
(load.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from t1jax.config import ModelConfig
from t1jax.model.parameters import EXPERTS, stacked
from t1jax.weights import families

LAYER = "model.layers.{layer}."
EXPERT = LAYER + "mlp.experts.{expert}."

# Name in the file, path in t1jax's parameters, axes in the file (adjacent letters are one axis), t1jax's axes.
TENSORS = (
    ("model.embed_tokens.weight", ("embedding",), "V D", "VD"),
    ("lm_head.weight", ("head",), "V D", "DV"),
    ("model.norm.weight", ("final_norm",), "D", "D"),
    (LAYER + "input_layernorm.weight", ("layers", "attention_norm"), "D", "D"),
    (LAYER + "self_attn.q_proj.weight", ("layers", "q"), "NH D", "DNH"),
    (LAYER + "self_attn.q_proj.bias", ("layers", "q_bias"), "NH", "NH"),
    (LAYER + "self_attn.q_norm.weight", ("layers", "q_norm"), "H", "H"),
    (LAYER + "self_attn.k_proj.weight", ("layers", "k"), "KH D", "DKH"),
    (LAYER + "self_attn.k_proj.bias", ("layers", "k_bias"), "KH", "KH"),
    (LAYER + "self_attn.k_norm.weight", ("layers", "k_norm"), "H", "H"),
    (LAYER + "self_attn.v_proj.weight", ("layers", "v"), "KH D", "DKH"),
    (LAYER + "self_attn.v_proj.bias", ("layers", "v_bias"), "KH", "KH"),
    (LAYER + "self_attn.o_proj.weight", ("layers", "o"), "D NH", "NHD"),
    (LAYER + "post_attention_layernorm.weight", ("layers", "mlp_norm"), "D", "D"),
    (LAYER + "post_self_attn_layernorm.weight", ("layers", "attention_out_norm"), "D", "D"),
    (LAYER + "post_mlp_layernorm.weight", ("layers", "mlp_out_norm"), "D", "D"),
    (LAYER + "mlp.gate_proj.weight", ("layers", "gate"), "F D", "DF"),
    (LAYER + "mlp.up_proj.weight", ("layers", "up"), "F D", "DF"),
    (LAYER + "mlp.down_proj.weight", ("layers", "down"), "D F", "FD"),
    (LAYER + "mlp.gate.weight", ("layers", "router"), "E D", "DE"),
    (EXPERT + "gate_proj.weight", ("layers", "expert_gate"), "F D", "DF"),
    (EXPERT + "up_proj.weight", ("layers", "expert_up"), "F D", "DF"),
    (EXPERT + "down_proj.weight", ("layers", "expert_down"), "D F", "FD"),
)

# Tensors of older folders that are not weights: RoPE frequencies, which follow from config.json.
UNUSED = re.compile(r"model\.(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclass(frozen=True)
class Tensor:
    """A tensor of a Hugging Face folder, or a part of it, and its place in t1jax's parameters."""

    name: str  # "model.layers.3.self_attn.q_proj.weight"
    shape: tuple[int, ...]  # in the file
    path: tuple[str, ...]  # keys in the parameters of qwen.init_params: ("layers", "q")
    at: tuple[int, ...]  # index on the leading axes of t1jax's stacked array: (), (layer,) or (layer, expert)
    split: tuple[int, ...]  # the part of the file's tensor is reshaped to this, e.g. (N, H, D)
    order: tuple[int, ...]  # ... and transposed by this
    start: int = 0  # where on axis 0 of the file's tensor the part begins

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.split)

    def to_ours(self, x: Any) -> Any:
        """Converts an array of `shape` from the file to one layer of t1jax's array; returns a view."""
        if self.size < math.prod(self.shape):
            x = x[self.start : self.start + self.size // math.prod(self.shape[1:])]
        return x.reshape(self.split).transpose(self.order)

    def to_file(self, x: Any) -> Any:
        """The exact inverse of `to_ours`, of the part; returns a view or a copy."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return x.transpose(inverse).reshape(-1, *self.shape[1:])


def tensors(cfg: ModelConfig) -> list[Tensor]:
    """What this model has in a Hugging Face folder, each once; parts of a tensor in order. Tied models have no lm_head.

    Raises:
      ConfigError: no family has such a model.
    """
    size, names, found = _sizes(cfg), families.of(cfg).names, []
    for name, path, in_file, ours in _rows(cfg):
        name = LAYER + names[path[-1]] if path[-1] in names else name
        for at in product(*(range(n) for n in _leading(cfg, path))):
            found.append(
                Tensor(
                    name=name.format(**dict(zip(("layer", "expert"), at, strict=False))),
                    shape=tuple(math.prod(size[axis] for axis in group) for group in in_file.split()),
                    path=path,
                    at=at,
                    split=tuple(size[axis] for axis in in_file if axis != " "),
                    order=tuple(in_file.replace(" ", "").index(axis) for axis in ours),
                )
            )
    return [part for parts in together(found).values() for part in _one_after_another(parts)]


def together(rows: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """The tensors by their names in the file."""
    found: dict[str, list[Tensor]] = {}
    for row in rows:
        found.setdefault(row.name, []).append(row)
    return found


def _one_after_another(parts: list[Tensor]) -> list[Tensor]:
    """The parts of one tensor, each of which was given as a whole."""
    lengths = [part.shape[0] for part in parts]
    return [
        replace(part, shape=(sum(lengths), *part.shape[1:]), start=sum(lengths[:i])) for i, part in enumerate(parts)
    ]


def shapes(cfg: ModelConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path -> shape of each of t1jax's parameters; [L, ...] under "layers", of experts [L, E, ...]."""
    size = _sizes(cfg)
    return {path: _leading(cfg, path) + tuple(size[axis] for axis in ours) for _, path, _, ours in _rows(cfg)}


def _leading(cfg: ModelConfig, path: tuple[str, ...]) -> tuple[int, ...]:
    """The sizes of the axes on which separate tensors are stacked."""
    return (cfg.num_layers, cfg.num_experts)[: stacked(path)]


def _sizes(cfg: ModelConfig) -> dict[str, int]:
    return {
        "V": cfg.vocab_size,
        "D": cfg.hidden_size,
        "N": cfg.num_heads,
        "K": cfg.num_kv_heads,
        "H": cfg.head_dim,
        "F": cfg.mlp_size,
        "E": cfg.num_experts,
    }


def _rows(cfg: ModelConfig) -> list[tuple[str, tuple[str, ...], str, str]]:
    """The lines of TENSORS that apply to this model."""
    absent = set()
    if cfg.tie_embeddings:
        absent.add("head")
    if not cfg.qkv_bias:
        absent |= {"q_bias", "k_bias", "v_bias"}
    if not cfg.qk_norm:
        absent |= {"q_norm", "k_norm"}
    if not cfg.post_norms:
        absent |= {"attention_out_norm", "mlp_out_norm"}
    absent |= {"gate", "up", "down"} if cfg.num_experts else {"router", *EXPERTS}
    return [row for row in TENSORS if row[1][-1] not in absent]
