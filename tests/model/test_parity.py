# SPDX-License-Identifier: Apache-2.0
"""Each family against transformers: logits, gradients, frequencies, the table of tensors, and config.json both ways."""

import dataclasses
import json

import hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from t1jax import config
from t1jax.devices import sharding
from t1jax.model import attention, qwen
from t1jax.weights import families, tensor_table

LIKE = config.load(tiny.get_config()).model
LENGTH, ORIGINAL = 48, 16  # tokens in these tests; positions before scaling

# Tiny models: transformers' class and what its config is given beyond SIZES.
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
THETA = {"rope_theta": 10_000.0}
YARN = THETA | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LLAMA3 = THETA | {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": ORIGINAL}
LLAMA3 |= {"low_freq_factor": 0.1, "high_freq_factor": 2.0}
MOE = {"moe_intermediate_size": 24}
GLM = {"pad_token_id": None, "eos_token_id": [1, 2]}  # its own are beyond 40
MODELS = {
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2 yarn": ("Qwen2", {"rope_parameters": YARN | {"beta_slow": 0.1, "beta_fast": 4.0}}),
    "qwen2 yarn with attention_factor": ("Qwen2", {"rope_parameters": YARN | {"attention_factor": 1.7}}),
    "qwen3": ("Qwen3", {"rms_norm_eps": 1e-5}),
    "qwen3 tied": ("Qwen3", {"tie_word_embeddings": True}),
    "llama": ("Llama", {"head_dim": 8, "num_key_value_heads": 4}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama linear": ("Llama", {"rope_parameters": THETA | {"rope_type": "linear", "factor": 4.0}}),
    "llama llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "qwen3moe top-1": ("Qwen3Moe", MOE | {"num_experts": 4, "num_experts_per_tok": 1}),
    "qwen3moe top-2": ("Qwen3Moe", MOE | {"num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True}),
    "qwen3moe top-8": ("Qwen3Moe", MOE | {"num_experts": 16, "num_experts_per_tok": 8, "tie_word_embeddings": True}),
    "glm": ("Glm", GLM),
    "glm yarn": ("Glm", GLM | {"rope_parameters": YARN | {"partial_rotary_factor": 0.25}}),
    "glm4": ("Glm4", GLM | {"num_key_value_heads": 1, "attention_bias": False}),
}
EXPERTS = [name for name in MODELS if name.startswith("qwen3moe")]


def transformers_config(name):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is missing: pip install -r requirements-dev.txt"
    )
    family, changes = MODELS[name]
    cfg = getattr(transformers, f"{family}Config")(**(SIZES | changes), attn_implementation="eager")
    cfg.architectures = [f"{family}ForCausalLM"]  # as save_pretrained of a model does
    return cfg


def transformers_model(cfg):
    """transformers' model with every parameter random, norms and biases too, so that a swapped one shows."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(cfg, dtype=torch.float32)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * 0.2 + (1.0 if "norm" in name else 0.0))
    return model


def as_in_files(tensors):
    """transformers keeps experts in two arrays a layer; in the files each has its own three: conversion_mapping.py."""
    found = {}
    for name, x in tensors.items():
        stem, fused, part = name.partition(".mlp.experts.")
        if not fused:
            found[name] = x
            continue
        for expert, matrix in enumerate(x):
            parts = {"gate_proj": matrix[: len(matrix) // 2], "up_proj": matrix[len(matrix) // 2 :]}
            for module, value in (parts if part == "gate_up_proj" else {"down_proj": matrix}).items():
                found[f"{stem}.mlp.experts.{expert}.{module}.weight"] = value
    return found


def state_of(theirs):
    return as_in_files({key: value.numpy() for key, value in theirs.state_dict().items()})


def saved(cfg, folder):
    """The config.json that transformers writes, as `read_config` reads it."""
    cfg.save_pretrained(folder)
    return families.read_config(folder)


def to_params(cfg, state):
    """Our parameters from a dict of the file's numpy arrays, through the table."""
    flat = {path: np.full(shape, np.nan, np.float32) for path, shape in tensor_table.shapes(cfg).items()}
    for t in tensor_table.tensors(cfg):
        assert state[t.name].shape == t.shape, t.name
        flat[t.path][t.at] = t.to_ours(state[t.name])
    params = {path[0]: value for path, value in flat.items() if len(path) == 1}
    return params | {"layers": {path[1]: value for path, value in flat.items() if len(path) == 2}}


def at(params, tensor):
    """The part of our parameters that is one tensor of the file."""
    for key in tensor.path:
        params = params[key]
    return np.asarray(params[tensor.at])


def make_model(cfg):
    mesh = sharding.make_mesh(config.MeshConfig(1, 1, 1), jax.devices()[:1])
    return qwen.Transformer(cfg, sharding.train_layout(mesh))


def our_logits(model, params, tokens):
    position = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    hidden, _ = qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(position))
    return qwen.logits(model, params, hidden)


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is missing: pip install -r requirements-dev.txt")
    theirs_config = transformers_config(name)
    theirs = transformers_model(theirs_config)
    cfg = families.model_config(saved(theirs_config, tmp_path), LIKE, "config.json")
    params = to_params(cfg, state_of(theirs))
    tokens = np.random.default_rng(0).integers(0, 40, (2, LENGTH))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
        rounded = theirs.to(torch.bfloat16)(torch.tensor(tokens)).logits.float().numpy()
    assert np.abs(expected).max() > 1

    def run(dtype):
        model = make_model(dataclasses.replace(cfg, compute_dtype=dtype))
        return np.asarray(jax.jit(lambda params: our_logits(model, params, tokens))(params))

    np.testing.assert_allclose(run("float32"), expected, atol=1e-4)
    error, their_error = (np.abs(x - expected) for x in (run("bfloat16"), rounded))
    assert 0 < error.mean() <= 1.1 * their_error.mean()  # as near to the truth as transformers in bfloat16
    assert name in EXPERTS or error.max() <= 1.5 * their_error.max()  # one may send a token elsewhere, the other not


@pytest.mark.parametrize("name", ["qwen2 tied", "qwen2 yarn", "qwen3", *EXPERTS, "llama llama3", "glm", "glm4"])
def test_gradients_equal_transformers(name, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is missing: pip install -r requirements-dev.txt")
    theirs_config = transformers_config(name)
    theirs = transformers_model(theirs_config)
    cfg = families.model_config(saved(theirs_config, tmp_path), LIKE, "config.json")
    model = make_model(dataclasses.replace(cfg, compute_dtype="float32"))
    tokens = np.random.default_rng(0).integers(0, 40, (2, LENGTH))

    def loss(params):
        logprob_BTV = jax.nn.log_softmax(our_logits(model, params, tokens)[:, :-1])
        return -jnp.take_along_axis(logprob_BTV, tokens[:, 1:, None], axis=-1).mean()

    gradient = jax.jit(jax.grad(loss))(to_params(cfg, state_of(theirs)))
    logits = theirs(torch.tensor(tokens)).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.reshape(-1, 40), torch.tensor(tokens)[:, 1:].reshape(-1)).backward()
    expected = as_in_files({key: p.grad.numpy() for key, p in theirs.named_parameters()})
    seen = set()
    for t in tensor_table.tensors(cfg):
        ours, their = at(gradient, t), t.to_ours(expected[t.name])
        seen.add(t.name)
        if not t.name.endswith("k_proj.bias"):  # softmax does not see a shift of all keys: rounding only
            assert np.abs(ours - their).max() <= 1e-4 * np.abs(their).max(), t.name
    assert seen == expected.keys()


@pytest.mark.parametrize("name", MODELS)
def test_the_table_has_each_tensor_and_each_parameter_once(name):
    theirs_config = transformers_config(name)
    cfg = families.model_config(theirs_config.to_dict(), LIKE, "config.json")
    state = {key: value.shape for key, value in state_of(transformers_model(theirs_config)).items()}
    if cfg.tie_embeddings:
        assert state.pop("lm_head.weight") == state["model.embed_tokens.weight"]
    table = tensor_table.tensors(cfg)
    assert {t.name: t.shape for t in table} == state
    for name, parts in tensor_table.together(table).items():  # one after another, the whole of it
        ends = [part.start + part.split[0] for part in parts]
        if len(parts) > 1:
            assert [part.start for part in parts] == [0, *ends[:-1]] and ends[-1] == state[name][0], name
        assert sum(part.size for part in parts) == np.prod(state[name]), name

    ours = {
        tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey)): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(qwen.boxed_shapes(make_model(cfg)))
    }
    assert tensor_table.shapes(cfg) == ours
    filled = [(t.path, t.at) for t in table]
    assert len(set(filled)) == len(filled)
    for path, shape in ours.items():
        leading = (path[0] == "layers") + path[-1].startswith("expert_")
        assert {at for p, at in filled if p == path} == set(np.ndindex(shape[:leading])), path


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("carried", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_is_written_means_the_same_to_transformers(name, carried, tmp_path):
    """With the file that came, nothing changes; without, transformers computes the same from a new one."""
    torch = pytest.importorskip("torch", reason="torch is missing: pip install -r requirements-dev.txt")
    from transformers import AutoConfig

    theirs_config = transformers_config(name)
    base = saved(theirs_config, tmp_path) if carried else {}
    cfg = families.model_config(saved(theirs_config, tmp_path), LIKE, "config.json")
    written = families.hf_config(cfg, base)
    if carried:
        assert written == base
    assert families.model_config(written, LIKE, "config.json") == cfg
    (tmp_path / "config.json").write_text(json.dumps(written))
    loaded = AutoConfig.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(loaded) is type(theirs_config)
    one, two = transformers_model(theirs_config), transformers_model(loaded)
    tokens = torch.arange(LENGTH)[None] % 40
    with torch.no_grad():
        assert torch.equal(one(tokens).logits, two(tokens).logits)


@pytest.mark.parametrize("name", ["Qwen2.5-72B", "Llama-3.2-1B", "SmolLM2-135M"])
def test_frequencies_at_real_sizes_equal_transformers(name, tmp_path):
    pytest.importorskip("torch", reason="torch is missing: pip install -r requirements-dev.txt")
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    (tmp_path / "config.json").write_text(json.dumps(hub.HUB[name][0]))
    theirs = AutoConfig.from_pretrained(tmp_path)
    cfg = families.model_config(hub.HUB[name][0], LIKE, "config.json")
    cos, sin = attention.rotations(np.zeros((1, 1), np.int32), cfg)
    assert not np.asarray(sin).any()
    if cfg.rope_scaling == "none":
        expected, stretch = cfg.rope_theta ** (-np.arange(0, cfg.head_dim, 2) / cfg.head_dim), 1.0
    else:
        expected, stretch = ROPE_INIT_FUNCTIONS[cfg.rope_scaling](theirs, "cpu")
    np.testing.assert_allclose(attention.frequencies(cfg), np.asarray(expected), rtol=1e-6)
    np.testing.assert_allclose(cos, stretch, rtol=1e-6)
