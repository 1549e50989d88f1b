# SPDX-License-Identifier: Apache-2.0
"""The supported model families: converts config.json to ModelConfig and back.

Where: before the prompts, and on export. A family is a line of FAMILIES, used in both directions. A config.json means
here what it means to transformers: settings that t1jax cannot honour are rejected, and the error names the file, the
key, its value and what was expected.
How to add one: docs/models.md.
Source: transformers 5.23, configurations of Qwen2, Qwen3, Qwen3Moe, Llama, Glm and Glm4.
Deliberately not here: the tensors' names and shapes (tensor_table.py), RoPE scaling (rope.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from t1jax.config import ConfigError, ModelConfig
from t1jax.host import place
from t1jax.host.place import Place
from t1jax.weights.rope import ROPES, read_rope
from t1jax.weights.strict import Section, read_object

# Files that are copied unchanged along with the weights.
CARRIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
SCALING_KNOBS = ("rope_factor", "rope_original_length", "rope_low", "rope_high", "rope_attention_factor")
MAX_BYTES = 1 << 20  # largest config.json; real ones have 1 to 5 kB


@dataclass(frozen=True)
class Family:
    """What an architecture's name implies about the model, apart from its sizes. Knobs are those of configs/base.py."""

    architecture: str
    model_type: str
    may_lack: tuple[str, ...]  # sizes that transformers derives from others if the file omits them
    may_say: tuple[str, ...] = ()  # of KNOBS, those that a file may set otherwise (SAID)
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    rope_share: float = 1
    rope_interleaved: bool = False
    experts: bool = False  # whether a layer has several MLPs, between which a router chooses: EXPERT_SIZES
    # parameter -> its tensor's name within a layer, if not as in tensor_table.TENSORS; with the same name, they are
    # one after another in one tensor
    names: Mapping[str, str] = field(default_factory=dict)

    def knobs(self) -> dict[str, Any]:
        """The value of each of KNOBS."""
        return {knob: getattr(self, knob) for knob in KNOBS}

    def has(self, cfg: ModelConfig) -> bool:
        """Whether a model can be of this family."""
        alike = all(getattr(cfg, knob) == value or knob in self.may_say for knob, value in self.knobs().items())
        return alike and self.experts == (cfg.num_experts > 0)

    def sizes(self) -> tuple[tuple[str, str, int], ...]:
        """The lines of SIZES, or what it has instead, and more."""
        if not self.experts:
            return SIZES
        return (*(line for line in SIZES if line[0] != "mlp_size"), *EXPERT_SIZES)


KNOBS = ("qkv_bias", "qk_norm", "post_norms", "rope_share", "rope_interleaved")
SAID = {"qkv_bias": "attention_bias", "rope_share": "partial_rotary_factor"}  # knob -> key of config.json
FUSED = {"gate": "mlp.gate_up_proj.weight", "up": "mlp.gate_up_proj.weight"}
GLM: dict[str, Any] = {"may_say": tuple(SAID), "rope_share": 0.5, "rope_interleaved": True, "names": FUSED}

FAMILIES = (
    Family("Qwen2ForCausalLM", "qwen2", ("head_dim",), qkv_bias=True),  # Qwen2.5 too
    Family("Qwen3ForCausalLM", "qwen3", (), qk_norm=True),
    Family("Qwen3MoeForCausalLM", "qwen3_moe", ("head_dim",), qk_norm=True, experts=True),
    Family("LlamaForCausalLM", "llama", ("head_dim", "num_key_value_heads")),
    Family("GlmForCausalLM", "glm", (), qkv_bias=True, **GLM),  # GLM-4-9B
    Family("Glm4ForCausalLM", "glm4", (), qkv_bias=True, post_norms=True, **GLM),  # GLM-4-0414
)

# Knob, its name in config.json, and the largest value accepted: a typo must not allocate a petabyte.
SIZES = (
    ("vocab_size", "vocab_size", 2**24),
    ("num_layers", "num_hidden_layers", 2**10),
    ("hidden_size", "hidden_size", 2**17),
    ("num_heads", "num_attention_heads", 2**10),
    ("num_kv_heads", "num_key_value_heads", 2**10),
    ("head_dim", "head_dim", 2**12),
    ("mlp_size", "intermediate_size", 2**20),
)
EXPERT_SIZES = (  # a mixture's; intermediate_size is of layers without one, and there are none
    ("mlp_size", "moe_intermediate_size", 2**20),
    ("num_experts", "num_experts", 2**12),
    ("experts_per_token", "num_experts_per_tok", 2**12),
)
EXPERTS_TOO = "num_local_experts"  # what transformers 5 calls num_experts where it writes a file

# Keys that change what a model computes, and the only value supported; absent and null mean the same.
FIXED: tuple[tuple[str, Any], ...] = (
    ("hidden_act", "silu"),
    ("mlp_bias", False),
    ("decoder_sparse_step", 1),  # every layer has experts, or none
    ("mlp_only_layers", []),
    ("attention_dropout", 0),
    ("use_sliding_window", False),
    ("use_mrope", False),
    ("rope_interleaved", False),
    ("pretraining_tp", 1),
    ("original_max_position_embeddings", None),  # transformers would prefer it to the one in the rope section
    ("dual_chunk_attention_config", None),
    ("quantization_config", None),
    ("logit_scale", 1),
    ("logits_scaling", 1),
    ("embedding_multiplier", 1),
    ("residual_multiplier", 1),
    ("attention_multiplier", None),
    ("final_logit_softcapping", None),
    ("attn_logit_softcapping", None),
)


def read_config(folder: Place) -> dict[str, Any]:
    """The JSON object in folder/config.json.

    Raises:
      ConfigError: the file is missing, too large, or not a JSON object.
    """
    return read_object(place.of(folder, "checkpoint") / "config.json", MAX_BYTES)


def model_config(hf: Mapping[str, Any], like: ModelConfig, file: str) -> ModelConfig:
    """The model that a config.json describes.

    Args:
      hf: the JSON object of a config.json; it is not trusted.
      like: supplies the knobs that the file does not set: compute_dtype, remat, attention, checkpoint, and the RoPE
        knobs of other scalings.
      file: the file's name, for errors.

    Raises:
      ConfigError: an unknown architecture, an absurd size, or a setting that t1jax does not support.
    """
    hf = {key: value for key, value in hf.items() if value is not None}  # as transformers does
    if EXPERTS_TOO in hf:
        hf = {"num_experts": hf[EXPERTS_TOO]} | hf
    section = Section(hf, file)
    family = _family(section)
    for key, expected in FIXED:
        section.fixed(key, expected)
    knobs = family.knobs()
    for knob, key in SAID.items():
        if knob not in family.may_say:
            section.fixed(key, knobs[knob])
    if "qkv_bias" in family.may_say and "attention_bias" in hf:
        knobs["qkv_bias"] = section.truth("attention_bias")
    rope = read_rope(section, None if "rope_share" in family.may_say else family.rope_share)
    knobs = {**knobs, **rope, "num_experts": 0, "experts_per_token": 0, "norm_topk_prob": False}
    if family.model_type == "llama":  # Qwen's files set a length that use_sliding_window disables
        section.fixed("sliding_window", None)

    sizes: dict[str, Any] = {
        knob: section.whole(key, most)
        for knob, key, most in family.sizes()
        if hf.get(key) is not None or key not in family.may_lack
    }
    if family.experts:
        section.fixed(EXPERTS_TOO, sizes["num_experts"])
        if sizes["experts_per_token"] > sizes["num_experts"]:
            section.refuse("num_experts_per_tok", f"at most num_experts, {sizes['num_experts']}")
        knobs["norm_topk_prob"] = section.truth("norm_topk_prob")
    width, heads = sizes["hidden_size"], sizes["num_heads"]
    kv_heads = sizes.setdefault("num_kv_heads", heads)
    if width % heads and ("head_dim" not in sizes or family.model_type == "llama"):  # LlamaConfig always requires it
        section.refuse("hidden_size", f"a multiple of num_attention_heads, {heads}")
    if heads % kv_heads:
        section.refuse("num_attention_heads", f"a multiple of num_key_value_heads, {kv_heads}")
    if sizes.setdefault("head_dim", width // heads) % 2:
        raise ConfigError(f"{file}: head_dim is {sizes['head_dim']}; expected an even number, for rotary positions")
    knobs["rope_share"] = float(knobs["rope_share"])
    if (turning := int(sizes["head_dim"] * knobs["rope_share"])) < 2 or turning % 2:
        raise ConfigError(
            f"{file}: partial_rotary_factor is {knobs['rope_share']}, so {turning} values of a head rotate; "
            "expected an even number of them"
        )
    layers = ["full_attention"] * sizes["num_layers"]
    if hf.get("layer_types") not in (None, layers):
        section.refuse("layer_types", f"full_attention for each of {len(layers)} layers")
    return dataclasses.replace(
        like,
        **(knobs | sizes),
        norm_eps=section.number("rms_norm_eps", 1e-12, 1e-1),
        tie_embeddings=section.truth("tie_word_embeddings"),
    )


def hf_config(cfg: ModelConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model, for transformers and vLLM: the inverse of `model_config`.

    Args:
      cfg: the model.
      base: the config.json that came with the weights; returned unchanged if it describes `cfg`, otherwise its
        unrelated keys are kept. {} if there was none; special tokens are then null.

    Raises:
      ConfigError: no family matches the model, or `model_config` would reject the result.
    """
    if base and not differences(model_config(base, cfg, "config.json"), cfg):
        return dict(base)
    family = of(cfg)
    out = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **base}
    out |= {"architectures": [family.architecture], "model_type": family.model_type, "hidden_act": "silu"}
    out |= {key: getattr(cfg, knob) for knob, key, _ in family.sizes()}
    if family.experts:
        out |= {"norm_topk_prob": cfg.norm_topk_prob} | ({EXPERTS_TOO: cfg.num_experts} if EXPERTS_TOO in out else {})
    out |= {"rms_norm_eps": cfg.norm_eps, "tie_word_embeddings": cfg.tie_embeddings}
    out.pop("layer_types", None)

    kind = ROPES[cfg.rope_scaling]
    rope = {"rope_type": kind.type} | {key: getattr(cfg, knob) for key, knob in kind.knobs.items()}
    if not cfg.rope_attention_factor:
        rope.pop("attention_factor", None)
    said = {SAID[knob]: getattr(cfg, knob) for knob in family.may_say}
    for key in ("rope_theta", "rope_scaling", *said):
        out.pop(key, None)
    if "partial_rotary_factor" in said and "rope_parameters" in base:
        rope["partial_rotary_factor"] = said.pop("partial_rotary_factor")
    out |= said
    if "rope_parameters" in base:
        out["rope_parameters"] = rope | {"rope_theta": cfg.rope_theta}
    else:
        out |= {"rope_theta": cfg.rope_theta} | ({"rope_scaling": rope} if kind.knobs else {})
    scaled = cfg.rope_factor if "original_max_position_embeddings" in rope else 1.0
    out.setdefault("max_position_embeddings", round(cfg.rope_original_length * scaled))
    model_config(out, cfg, "the config.json to write")
    return out


def of(cfg: ModelConfig) -> Family:
    """The family that a model is of.

    Raises:
      ConfigError: none is.
    """
    for family in FAMILIES:
        if family.has(cfg):
            return family
    found = ", ".join(f"{knob} {getattr(cfg, knob)}" for knob in KNOBS)
    names = ", ".join(family.architecture for family in FAMILIES)
    raise ConfigError(f"the model has {found}; expected what one of {names} has (t1jax/weights/families.py)")


def differences(one: ModelConfig, other: ModelConfig) -> list[str]:
    """The knobs in which two models differ. Floats are compared as float32; unused RoPE knobs are ignored."""
    unused = SCALING_KNOBS if one.rope_scaling == other.rope_scaling == "none" else ()

    def same(a: Any, b: Any) -> bool:
        return math.isclose(a, b, rel_tol=1e-6) if isinstance(a, float) else a == b

    names = (field.name for field in dataclasses.fields(ModelConfig) if field.name not in unused)
    return [name for name in names if not same(getattr(one, name), getattr(other, name))]


def with_dtype(hf: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """`hf` with the weights' dtype, under the key it already uses: `dtype`, or `torch_dtype` before transformers 5."""
    out = {key: value for key, value in hf.items() if key not in ("dtype", "torch_dtype")}
    return out | {"dtype" if "dtype" in hf else "torch_dtype": dtype}


def _family(section: Section) -> Family:
    """The family of the file's architecture and model_type."""
    for family in FAMILIES:
        if section.values.get("architectures") == [family.architecture]:
            section.fixed("model_type", family.model_type)
            return family
    section.refuse("architectures", "one of " + ", ".join(f'["{family.architecture}"]' for family in FAMILIES))
