# SPDX-License-Identifier: Apache-2.0
"""config.json of each family both ways; what this model cannot honour is refused (parity: test_parity.py)."""

import dataclasses
import math

import hub
import numpy as np
import pytest

from configs import tiny
from t1jax import config
from t1jax.config import ConfigError
from t1jax.weights import families, rope, tensor_table

LIKE = config.load(tiny.get_config()).model


def test_a_tensor_goes_to_ours_without_a_copy_and_back_exactly():
    cfg = families.model_config(hub.QWEN3 | {"num_hidden_layers": 1, "vocab_size": 8}, LIKE, "config.json")
    for t in tensor_table.tensors(dataclasses.replace(cfg, tie_embeddings=False)):
        x = np.arange(math.prod(t.shape), dtype=np.uint32).reshape(t.shape)
        ours = t.to_ours(x)
        assert np.shares_memory(ours, x)
        assert np.array_equal(t.to_file(ours), x)
        assert np.array_equal(t.to_file(np.ascontiguousarray(ours)), x)


@pytest.mark.parametrize("style", ["rope_parameters", "rope_scaling"])
def test_a_changed_model_is_written_in_the_files_own_words(style):
    """Knobs that differ from the file that came are written; keys that speak of other things stay."""
    base = dict(hub.QWEN2) | {"some_note": "kept"}
    if style == "rope_parameters":
        base |= {"rope_parameters": {"rope_type": "default", "rope_theta": base.pop("rope_theta")}}
    cfg = families.model_config(base, LIKE, "config.json")
    changed = dataclasses.replace(
        cfg, vocab_size=151_680, rope_scaling="yarn", rope_factor=4.0, rope_low=1.0, rope_high=32.0
    )
    written = families.hf_config(changed, base)
    assert families.model_config(written, LIKE, "config.json") == changed
    assert style in written and ({"rope_parameters", "rope_scaling"} - {style}).isdisjoint(written)
    assert ("rope_theta" in written) == (style == "rope_scaling")
    untouched = set(base) - {"vocab_size", "rope_theta", "rope_parameters"}
    assert {key: written[key] for key in untouched} == {key: base[key] for key in untouched}


def test_what_the_file_said_of_another_model_is_not_kept():
    base = hub.QWEN2_72B | {"layer_types": ["full_attention"] * 80}
    cfg = families.model_config(base, LIKE, "config.json")
    changed = dataclasses.replace(cfg, num_layers=40, rope_scaling="none")
    written = families.hf_config(changed, base)
    assert families.model_config(written, changed, "config.json") == changed
    assert "rope_scaling" not in written and "layer_types" not in written


def test_experts_are_read_by_either_name_and_written_by_the_hubs():
    """transformers 5 writes num_local_experts."""
    cfg = families.model_config(hub.QWEN3_MOE, LIKE, "config.json")
    assert (cfg.num_experts, cfg.experts_per_token, cfg.mlp_size, cfg.norm_topk_prob) == (128, 8, 768, True)
    other = {key: value for key, value in hub.QWEN3_MOE.items() if key != "num_experts"} | {"num_local_experts": 128}
    assert families.model_config(other, LIKE, "config.json") == cfg
    fewer = dataclasses.replace(cfg, num_experts=64)
    names = ("num_experts", "num_local_experts")
    assert [families.hf_config(fewer, hub.QWEN3_MOE).get(name) for name in names] == [64, None]
    assert [families.hf_config(fewer, other).get(name) for name in names] == [64, 64]
    dense = families.model_config(hub.QWEN3, cfg, "config.json")
    assert (dense.num_experts, dense.experts_per_token, dense.norm_topk_prob) == (0, 0, False)


def test_without_a_file_the_special_tokens_are_null():
    """transformers would take those of Llama 2."""
    written = families.hf_config(LIKE, {})
    assert [written[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [None] * 3


@pytest.mark.parametrize("name", hub.HUB)
def test_files_of_the_hub_are_read(name):
    file, count = hub.HUB[name]
    cfg = families.model_config(file, LIKE, "config.json")
    assert sum(math.prod(shape) for shape in tensor_table.shapes(cfg).values()) == count
    assert sum(t.size for t in tensor_table.tensors(cfg)) == count
    runs = ("compute_dtype", "remat", "attention", "checkpoint")
    assert [getattr(cfg, knob) for knob in runs] == [getattr(LIKE, knob) for knob in runs]
    assert families.hf_config(cfg, file) == file
    assert families.model_config(families.hf_config(cfg, {}), LIKE, "config.json") == cfg


def test_rope_of_the_hubs_files():
    def rope(file):
        cfg = families.model_config(file, LIKE, "config.json")
        shared = ("rope_share", "rope_interleaved")  # which only GLM sets
        knobs = dataclasses.asdict(cfg).items()
        return {key: value for key, value in knobs if key.startswith("rope_") and key not in shared}

    kept = {"rope_low": LIKE.rope_low, "rope_high": LIKE.rope_high, "rope_attention_factor": LIKE.rope_attention_factor}
    plain = kept | {"rope_scaling": "none", "rope_factor": LIKE.rope_factor}
    assert rope(hub.QWEN3) == plain | {"rope_theta": 1e6, "rope_original_length": 40960}
    assert rope(hub.SMOLLM2) == plain | {"rope_theta": 1e5, "rope_original_length": 8192}
    long = {"rope_theta": 1e6, "rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 32768}
    assert rope(hub.QWEN2_72B) == long | {"rope_low": 1.0, "rope_high": 32.0, "rope_attention_factor": 0.0}
    long = {"rope_theta": 5e5, "rope_scaling": "llama3", "rope_factor": 32.0, "rope_original_length": 8192}
    assert rope(hub.LLAMA) == kept | long | {"rope_low": 1.0, "rope_high": 4.0}
    old = {key: value for key, value in hub.SMOLLM2.items() if key not in ("rope_theta", "rope_scaling")}
    assert rope(old)["rope_theta"] == 10_000.0  # Llama 2's first files say nothing
    assert rope(old | {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5e4}}) == {
        **kept,
        "rope_scaling": "linear",
        "rope_factor": 2.0,
        "rope_theta": 5e4,
        "rope_original_length": 8192,
    }


LENGTHS = {  # what the model cards say
    "Qwen2.5-0.5B": 32768,
    "Qwen2.5-72B": 131072,  # by YaRN
    "Qwen3-0.6B": 40960,
    "Qwen3-30B-A3B": 40960,
    "Llama-3.2-1B": 131072,  # not 32 times 8,192
    "SmolLM2-135M": 8192,
    "glm-4-9b-chat-hf": 131072,
    "GLM-4-9B-0414": 32768,
}


@pytest.mark.parametrize("name", hub.HUB)
def test_the_positions_that_a_model_was_trained_for(name):
    assert rope.trained_length(hub.HUB[name][0], "config.json") == LENGTHS[name]


def test_the_positions_after_scaling_and_of_no_file():
    def length(**scaling):
        return rope.trained_length(hub.SMOLLM2 | {"max_position_embeddings": 2048, "rope_scaling": scaling}, "f")

    assert length(type="linear", factor=4.0) == 8192
    assert length(rope_type="yarn", factor=4.0, original_max_position_embeddings=1024) == 4096
    assert length(rope_type="default") == 2048
    assert rope.trained_length({"vocab_size": 7}, "f") is None
    with pytest.raises(ConfigError, match="f: max_position_embeddings is 'many'; expected a whole number"):
        rope.trained_length({"max_position_embeddings": "many"}, "f")


@pytest.mark.parametrize("name", hub.HUB)
def test_null_means_what_an_absent_key_means(name):
    """For every key that a file may have, whether that is an error or not."""
    keys = {key for hf, _ in hub.HUB.values() for key in hf} | {key for key, _ in families.FIXED}

    def outcome(hf):
        try:
            return families.model_config(hf, LIKE, "config.json")
        except ConfigError as error:
            return str(error)

    for key in sorted(keys):
        without = {other: value for other, value in hub.HUB[name][0].items() if other != key}
        assert outcome(without | {key: None}) == outcome(without), key


NO, DROP = None, object()
BAD = {  # key: (file, changes, what the message says)
    "vocabulary of 2^40": (
        hub.QWEN2,
        {"vocab_size": 2**40},
        "vocab_size is 1099511627776; expected a whole number from 1",
    ),
    "negative layers": (
        hub.QWEN2,
        {"num_hidden_layers": -3},
        "num_hidden_layers is -3; expected a whole number from 1",
    ),
    "no layers": (hub.QWEN2, {"num_hidden_layers": 0}, "num_hidden_layers is 0; expected"),
    "a million layers": (hub.LLAMA, {"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000; expected .* to 1024"),
    "a huge number": (hub.QWEN2, {"hidden_size": 10**4000}, "hidden_size is 1000.*000; expected"),
    "a float": (hub.QWEN2, {"hidden_size": 896.0}, "hidden_size is 896.0; expected a whole number"),
    "a string": (hub.QWEN2, {"intermediate_size": "4864"}, "intermediate_size is '4864'; expected a whole number"),
    "a bool": (hub.QWEN2, {"num_key_value_heads": True}, "num_key_value_heads is True; expected a whole number"),
    "a list": (hub.QWEN2, {"vocab_size": [1] * 1000}, "vocab_size is .1, 1, 1, .*; expected a whole number"),
    "null": (hub.QWEN2, {"num_attention_heads": NO}, "num_attention_heads is missing; expected a whole number"),
    "missing width": (hub.QWEN2, {"hidden_size": DROP}, "hidden_size is missing; expected a whole number"),
    "missing kv heads": (hub.QWEN2, {"num_key_value_heads": DROP}, "num_key_value_heads is missing; expected"),
    "missing head size": (hub.QWEN3, {"head_dim": DROP}, "head_dim is missing; expected a whole number"),
    "missing length": (hub.LLAMA, {"max_position_embeddings": DROP}, "max_position_embeddings is missing; expected"),
    "negative length": (hub.QWEN2, {"max_position_embeddings": -1}, "max_position_embeddings is -1; expected"),
    "indivisible width": (hub.QWEN2, {"hidden_size": 897}, "hidden_size is 897; expected a multiple of num_att.*, 14"),
    "llama's width": (hub.LLAMA, {"hidden_size": 2050}, "hidden_size is 2050; expected a multiple of num_att.*, 32"),
    "indivisible heads": (
        hub.QWEN3,
        {"num_key_value_heads": 5},
        "num_attention_heads is 16; expected a mult.*heads, 5",
    ),
    "odd heads": (hub.QWEN3, {"head_dim": 127}, "head_dim is 127; expected an even number"),
    "huge heads": (hub.QWEN3, {"head_dim": 2**20}, "head_dim is 1048576; expected"),
    "epsilon zero": (hub.QWEN2, {"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0; expected a number"),
    "epsilon NaN": (hub.QWEN2, {"rms_norm_eps": math.nan}, "rms_norm_eps is nan; expected a number"),
    "epsilon text": (hub.QWEN2, {"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'; expected a number"),
    "epsilon missing": (hub.QWEN2, {"rms_norm_eps": DROP}, "rms_norm_eps is missing; expected a number"),
    "tied perhaps": (hub.QWEN2, {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; expected true or false"),
    "tied one": (hub.QWEN2, {"tie_word_embeddings": 1}, "tie_word_embeddings is 1; expected true or false"),
    "unknown family": (
        hub.QWEN2,
        {"architectures": ["MambaForCausalLM"]},
        r"architectures is .*Mamba.*; expected one of",
    ),
    "another head": (hub.QWEN2, {"architectures": ["Qwen2ForSequenceClassification"]}, "architectures is .*; expected"),
    "no family": (hub.QWEN2, {"architectures": DROP}, r"architectures is missing; expected one of .*Qwen2ForCausalLM"),
    "family not in brackets": (hub.QWEN2, {"architectures": "Qwen2ForCausalLM"}, "architectures is 'Qwen2.*; expected"),
    "two families": (hub.QWEN2, {"architectures": ["Qwen2ForCausalLM", "LlamaForCausalLM"]}, "architectures is"),
    "two minds": (hub.QWEN2, {"model_type": "qwen3"}, "model_type is 'qwen3'; expected \"qwen2\""),
    "qwen2 window": (hub.QWEN2, {"use_sliding_window": True}, "use_sliding_window is True; expected false"),
    "qwen3 window": (hub.QWEN3, {"use_sliding_window": True}, "use_sliding_window is True; expected false"),
    "llama window": (hub.LLAMA, {"sliding_window": 4096}, "sliding_window is 4096; expected no such key"),
    "window in layers": (
        hub.QWEN2 | {"num_hidden_layers": 2},
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types is .*sliding_attention.*; expected full_attention for each of 2 layers",
    ),
    "too few layer types": (hub.QWEN2, {"layer_types": ["full_attention"]}, "layer_types is .*; expected .* 24 layers"),
    "qwen3moe's bias": (hub.QWEN3_MOE, {"attention_bias": True}, "attention_bias is True; expected false"),
    "no experts": (hub.QWEN3_MOE, {"num_experts": 0}, "num_experts is 0; expected a whole number from 1"),
    "missing experts": (hub.QWEN3_MOE, {"num_experts": DROP}, "num_experts is missing; expected a whole number"),
    "two numbers of experts": (hub.QWEN3_MOE, {"num_local_experts": 64}, "num_local_experts is 64; expected 128"),
    "more chosen than there are": (
        hub.QWEN3_MOE,
        {"num_experts_per_tok": 129},
        "num_experts_per_tok is 129; expected at most num_experts, 128",
    ),
    "no expert size": (hub.QWEN3_MOE, {"moe_intermediate_size": DROP}, "moe_intermediate_size is missing; expected"),
    "shares of nothing": (hub.QWEN3_MOE, {"norm_topk_prob": 1}, "norm_topk_prob is 1; expected true or false"),
    "experts in every second layer": (
        hub.QWEN3_MOE,
        {"decoder_sparse_step": 2},
        "decoder_sparse_step is 2; expected 1",
    ),
    "a layer without experts": (hub.QWEN3_MOE, {"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\]; expected \[\]"),
    "llama's bias": (hub.LLAMA, {"attention_bias": True}, "attention_bias is True; expected false"),
    "llama's mlp bias": (hub.LLAMA, {"mlp_bias": True}, "mlp_bias is True; expected false"),
    "qwen3's bias": (hub.QWEN3, {"attention_bias": True}, "attention_bias is True; expected false"),
    "qwen2 without bias": (hub.QWEN2, {"attention_bias": False}, "attention_bias is False; expected true"),
    "glm's bias": (hub.GLM, {"attention_bias": "yes"}, "attention_bias is 'yes'; expected true or false"),
    "glm's share": (hub.GLM, {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5; expected a number from"),
    "glm's odd share": (hub.GLM, {"partial_rotary_factor": 0.01}, "partial_rotary_factor is 0.01, so 1 values of a"),
    "glm's two shares": (
        hub.GLM,
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}},
        "rope_parameters.partial_rotary_factor is 1.0; expected 0.5",
    ),
    "activation": (hub.QWEN2, {"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected \"silu\""),
    "dropout": (hub.QWEN2, {"attention_dropout": 0.1}, "attention_dropout is 0.1; expected 0"),
    "tensor-parallel training": (hub.LLAMA, {"pretraining_tp": 2}, "pretraining_tp is 2; expected 1"),
    "quantised": (
        hub.QWEN2,
        {"quantization_config": {"quant_method": "awq"}},
        "quantization_config is .*awq.*; expected",
    ),
    "quantised by nothing": (hub.QWEN2, {"quantization_config": {}}, "quantization_config is {}; expected no such key"),
    "partial rotation": (hub.LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; expected 1"),
    "interleaved": (hub.SMOLLM2, {"rope_interleaved": True}, "rope_interleaved is True; expected false"),
    "granite's logits": (hub.LLAMA, {"logits_scaling": 8.0}, "logits_scaling is 8.0; expected 1"),
    "granite's residual": (hub.LLAMA, {"residual_multiplier": 0.22}, "residual_multiplier is 0.22; expected 1"),
    "granite's embedding": (hub.LLAMA, {"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0; expected 1"),
    "granite's attention": (
        hub.LLAMA,
        {"attention_multiplier": 0.015625},
        "attention_multiplier is 0.015625; expected",
    ),
    "cohere's logits": (hub.LLAMA, {"logit_scale": 0.0625}, "logit_scale is 0.0625; expected 1"),
    "gemma's cap": (
        hub.LLAMA,
        {"final_logit_softcapping": 30.0},
        "final_logit_softcapping is 30.0; expected no such key",
    ),
    "chunks": (
        hub.QWEN2,
        {"dual_chunk_attention_config": {"chunk_size": 9}},
        "dual_chunk_attention_config is .*expected",
    ),
    "mrope": (hub.QWEN2, {"use_mrope": True}, "use_mrope is True; expected false"),
    "length outside rope": (
        hub.LLAMA,
        {"original_max_position_embeddings": 4096},
        "original_max_pos.* is 4096; expected",
    ),
    "theta zero": (hub.QWEN2, {"rope_theta": 0}, "rope_theta is 0; expected a number"),
    "theta infinite": (hub.QWEN2, {"rope_theta": math.inf}, "rope_theta is inf; expected a number"),
    "theta text": (hub.QWEN2, {"rope_theta": "1e6"}, "rope_theta is '1e6'; expected a number"),
}
YARN4 = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA8 = hub.LLAMA["rope_scaling"]
BAD_ROPE = {  # rope_scaling, what the message says
    "dynamic": ({"type": "dynamic", "factor": 2.0}, "type is 'dynamic'; expected one of default, linear, yarn, llama3"),
    "longrope": ({"rope_type": "longrope", "short_factor": [1.0]}, "rope_type is 'longrope'; expected one of"),
    "mrope": ({"type": "mrope", "mrope_section": [16, 24, 24]}, "type is 'mrope'; expected one of"),
    "mrope by the new name": (
        {"rope_type": "default", "type": "mrope", "mrope_section": [1]},
        "type is 'mrope'; expected \"default\"",
    ),
    "mrope's key": ({"rope_type": "default", "mrope_section": [16, 24, 24]}, "mrope_section is .*; expected only"),
    "no type": ({"factor": 4.0}, "factor is 4.0; expected only rope_theta with rope_type default"),
    "a list as type": ({"type": ["yarn"]}, "type is .'yarn'.; expected one of"),
    "a number": (4.0, "rope_scaling is 4.0; expected an object"),
    "an empty list": ([], r"rope_scaling is \[\]; expected an object"),
    "by layer": ({"full_attention": YARN4}, "full_attention is .*; expected only"),
    "no factor": ({"type": "linear"}, "factor is missing; expected a number from 1"),
    "null factor": (YARN4 | {"factor": NO}, "factor is missing; expected a number from 1"),
    "small factor": (YARN4 | {"factor": 0.5}, "factor is 0.5; expected a number from 1"),
    "text factor": (YARN4 | {"factor": "4"}, "factor is '4'; expected a number"),
    "true factor": (YARN4 | {"factor": True}, "factor is True; expected a number"),
    "mscale": (YARN4 | {"mscale": 0.707}, "mscale is 0.707; expected only factor, .*attention_factor, rope_theta"),
    "mscale_all_dim": (YARN4 | {"mscale_all_dim": 1.0}, "mscale_all_dim is 1.0; expected only"),
    "truncate": (YARN4 | {"truncate": False}, "truncate is False; expected only"),
    "finetuned": (YARN4 | {"finetuned": True}, "finetuned is True; expected only"),
    "partial": (YARN4 | {"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25; expected 1"),
    "another theta": (YARN4 | {"rope_theta": 5e5}, "rope_theta is 500000.0; expected 1000000.0"),
    "yarn's length": (YARN4 | {"original_max_position_embeddings": 0}, "original_max_position_embeddings is 0; exp"),
    "yarn's half length": (YARN4 | {"original_max_position_embeddings": 0.5}, "original_max_pos.* is 0.5; expected"),
    "yarn upside down": (
        YARN4 | {"beta_fast": 1, "beta_slow": 32},
        "has beta_slow 32 and beta_fast 1; expected beta_s",
    ),
    "yarn's zero beta": (YARN4 | {"beta_slow": 0}, "beta_slow is 0; expected a number"),
    "yarn silent": (YARN4 | {"attention_factor": 0.0}, "attention_factor is 0.0; expected a number"),
    "llama3 without low": (
        {key: value for key, value in LLAMA8.items() if key != "low_freq_factor"},
        "low_freq_factor is missing; expected a number",
    ),
    "llama3 with one bound": (LLAMA8 | {"low_freq_factor": 4.0}, "has low_freq_factor 4 and high_freq_factor 4; exp"),
    "llama3 with yarn's": (LLAMA8 | {"beta_fast": 32}, "beta_fast is 32; expected only factor"),
}


def refused(file, expected):
    with pytest.raises(ConfigError, match=expected) as error:
        families.model_config(file, LIKE, "some/config.json")
    message = str(error.value)
    assert message.startswith("some/config.json: ") and "\n" not in message and len(message) < 300


@pytest.mark.parametrize("case", BAD)
def test_a_bad_config_is_refused(case):
    good, changes, expected = BAD[case]
    families.model_config(good, LIKE, "some/config.json")
    refused({key: value for key, value in (good | changes).items() if value is not DROP}, f": {expected}")


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("case", BAD_ROPE)
def test_bad_rope_is_refused(case, key):
    rope, expected = BAD_ROPE[case]
    expected = expected if expected.startswith("rope_scaling") else f": {key}(\\.| ){expected}"
    refused(hub.QWEN2 | {key: rope}, expected.replace("rope_scaling", key))


def test_rope_said_twice_is_refused():
    refused(
        hub.QWEN2 | {"rope_parameters": {"rope_type": "default"}, "rope_scaling": YARN4}, "rope_scaling is .*no such"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        (b"", "is not JSON"),
        (b'{"vocab_size": 1', "is not JSON"),
        (b"\xff\xfe\x00{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[1, 2]", r"is \[1, 2\]; expected a JSON object"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "has more than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_config_is_refused(content, expected, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as error:
        families.read_config(tmp_path)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "config.json")) and "\n" not in message and len(message) < 500


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        families.read_config(tmp_path)


def test_a_model_that_no_family_has_is_not_written():
    with pytest.raises(ConfigError, match="has qkv_bias True, qk_norm True, .*; expected what one of Qwen2For"):
        families.hf_config(dataclasses.replace(LIKE, qkv_bias=True, qk_norm=True), {})
    odd = dataclasses.replace(LIKE, rope_scaling="yarn", rope_factor=2.0, rope_low=8.0, rope_high=4.0)
    with pytest.raises(ConfigError, match="config.json to write: rope_scaling has beta_slow 8 and beta_fast 4"):
        families.hf_config(odd, {})


def test_dtype_is_named_as_the_file_names_it():
    assert families.with_dtype({"torch_dtype": "float32"}, "bfloat16") == {"torch_dtype": "bfloat16"}
    assert families.with_dtype({"dtype": "float32", "torch_dtype": "float16"}, "bfloat16") == {"dtype": "bfloat16"}
    assert families.with_dtype({"a": 1}, "bfloat16") == {"a": 1, "torch_dtype": "bfloat16"}


def test_what_does_not_change_the_model_is_no_difference_and_leaves_the_file_as_it_came():
    """Without rope scaling its knobs say nothing, and a file's 1e-5 may have been a float32."""
    base = hub.SMOLLM2 | {"rms_norm_eps": 9.999999747378752e-06}
    cfg = families.model_config(base, LIKE, "config.json")
    alike = dataclasses.replace(cfg, rope_original_length=32768, rope_high=7.0, norm_eps=1e-5)
    assert families.differences(cfg, alike) == [] and families.hf_config(alike, base) == base
    assert families.differences(cfg, dataclasses.replace(alike, norm_eps=1.1e-5)) == ["norm_eps"]
    scaled = dataclasses.replace(alike, rope_scaling="linear", rope_factor=2.0)
    assert families.differences(scaled, dataclasses.replace(scaled, rope_factor=4.0)) == ["rope_factor"]
    deeper = families.hf_config(dataclasses.replace(alike, num_layers=2), base)
    assert deeper["max_position_embeddings"] == base["max_position_embeddings"] and deeper["num_hidden_layers"] == 2
