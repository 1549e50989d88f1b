# SPDX-License-Identifier: Apache-2.0
"""The transformer against transformers' Qwen2ForCausalLM, and its cache against its own full forward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from t1jax import config, sharding
from t1jax.model import qwen

SMALL = {
    "vocab_size": 40,
    "num_layers": 3,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_size": 48,
}


def make_model(mesh_shape=(1, 1, 1), decode=False, **changes):
    cfg = dataclasses.replace(config.load(tiny.get_config()).model, **{**SMALL, **changes})
    sizes = dict(zip(sharding.MESH_AXES, mesh_shape, strict=True))
    mesh = sharding.make_mesh(config.MeshConfig(**sizes), jax.devices()[: int(np.prod(mesh_shape))])
    layout = sharding.decode_layout(mesh) if decode else sharding.train_layout(mesh)
    return qwen.Transformer(cfg, layout)


def randomised(params, seed=1):
    """All parameters random, biases and norms too, so that a swapped or forgotten one shows."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


def huggingface(cfg, params):
    """The same weights in transformers' model."""
    torch = pytest.importorskip("torch")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.hidden_size,
            intermediate_size=cfg.mlp_size,
            num_hidden_layers=cfg.num_layers,
            num_attention_heads=cfg.num_heads,
            num_key_value_heads=cfg.num_kv_heads,
            rms_norm_eps=cfg.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta},
            tie_word_embeddings=cfg.tie_embeddings,
            attn_implementation="eager",
        )
    ).float()
    D, NH, KH = cfg.hidden_size, cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
    stacked = params["layers"]
    weights = {"model.embed_tokens.weight": params["embedding"], "model.norm.weight": params["final_norm"]}
    weights["lm_head.weight"] = params["embedding"] if cfg.tie_embeddings else params["head"].T
    for i in range(cfg.num_layers):
        layer = {name: np.asarray(value[i]) for name, value in stacked.items()}
        names = {
            "input_layernorm.weight": layer["attention_norm"],
            "post_attention_layernorm.weight": layer["mlp_norm"],
            "self_attn.q_proj.weight": layer["q"].reshape(D, NH).T,
            "self_attn.k_proj.weight": layer["k"].reshape(D, KH).T,
            "self_attn.v_proj.weight": layer["v"].reshape(D, KH).T,
            "self_attn.q_proj.bias": layer["q_bias"].reshape(NH),
            "self_attn.k_proj.bias": layer["k_bias"].reshape(KH),
            "self_attn.v_proj.bias": layer["v_bias"].reshape(KH),
            "self_attn.o_proj.weight": layer["o"].reshape(NH, D).T,
            "mlp.gate_proj.weight": layer["gate"].T,
            "mlp.up_proj.weight": layer["up"].T,
            "mlp.down_proj.weight": layer["down"].T,
        }
        weights |= {f"model.layers.{i}.{name}": value for name, value in names.items()}
    state = {name: torch.tensor(np.asarray(value)) for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return model


def token_loss(logits_BTV, tokens_BT):
    logprob = jax.nn.log_softmax(logits_BTV[:, :-1])
    return -jnp.take_along_axis(logprob, tokens_BT[:, 1:, None], axis=-1).mean()


@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_gradients_equal_transformers(tied):
    torch = pytest.importorskip("torch")
    model = make_model(tie_embeddings=tied, rope_theta=1e6)
    params = randomised(qwen.init_params(model, jax.random.key(0)))
    tokens = np.random.default_rng(0).integers(0, 40, (2, 17))
    position = np.broadcast_to(np.arange(17, dtype=np.int32), tokens.shape)

    def run(params):
        hidden, _ = qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(position))
        return qwen.logits(model, params, hidden)

    theirs = huggingface(model.cfg, params)
    their_logits = theirs(torch.tensor(tokens)).logits
    np.testing.assert_allclose(run(params), their_logits.detach().numpy(), atol=1e-4)

    gradient = jax.grad(lambda params: token_loss(run(params), tokens))(params)
    torch.nn.functional.cross_entropy(
        their_logits[:, :-1].reshape(-1, 40), torch.tensor(tokens)[:, 1:].reshape(-1)
    ).backward()
    theirs_gradient = {name: p.grad.numpy() for name, p in theirs.named_parameters()}

    def close(ours, their):
        assert np.abs(np.asarray(ours) - their).max() <= 1e-4 * np.abs(their).max()

    close(gradient["embedding"], theirs_gradient["model.embed_tokens.weight"])
    close(gradient["final_norm"], theirs_gradient["model.norm.weight"])
    if not tied:
        close(gradient["head"].T, theirs_gradient["lm_head.weight"])
    D = model.cfg.hidden_size
    for i in range(model.cfg.num_layers):
        ours = {name: np.asarray(value[i]) for name, value in gradient["layers"].items()}
        at = f"model.layers.{i}."
        for name in "qkv":
            close(ours[name].reshape(D, -1).T, theirs_gradient[f"{at}self_attn.{name}_proj.weight"])
            # softmax does not see a shift of all keys: the key bias has no gradient but rounding
            if name != "k":
                close(ours[f"{name}_bias"].reshape(-1), theirs_gradient[f"{at}self_attn.{name}_proj.bias"])
        close(ours["o"].reshape(-1, D).T, theirs_gradient[f"{at}self_attn.o_proj.weight"])
        close(ours["attention_norm"], theirs_gradient[f"{at}input_layernorm.weight"])
        close(ours["mlp_norm"], theirs_gradient[f"{at}post_attention_layernorm.weight"])
        for name in ("gate", "up", "down"):
            close(ours[name].T, theirs_gradient[f"{at}mlp.{name}_proj.weight"])


def test_packed_texts_do_not_see_each_other():
    model = make_model()
    params = randomised(qwen.init_params(model, jax.random.key(0)))
    tokens = np.random.default_rng(0).integers(0, 40, (1, 12)).astype(np.int32)
    segment = np.array([[1] * 5 + [2] * 6 + [0]], np.int32)
    position = np.array([[*range(5), *range(6), 0]], np.int32)
    packed, _ = qwen.forward(model, params, tokens, position, segment_BT=segment)
    for start, stop in ((0, 5), (5, 11)):
        alone, _ = qwen.forward(
            model, params, tokens[:, start:stop], position[:, start:stop], segment_BT=segment[:, start:stop]
        )
        np.testing.assert_allclose(packed[:, start:stop], alone, atol=1e-5)


def test_cache_in_two_parts_equals_the_full_forward():
    """Two prompts of different length, two responses each: prefill, then three tokens, then one."""
    model = make_model(decode=True)
    params = randomised(qwen.init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 40, (2, 5)).astype(np.int32)
    valid = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    response = rng.integers(0, 40, (4, 4)).astype(np.int32)
    length = valid.sum(1)
    prompt_position = np.broadcast_to(np.arange(5, dtype=np.int32), (2, 5))
    cache = qwen.empty_cache(model, 2, 5, valid_BS=valid)
    prompt_hidden, prefilled = qwen.forward(model, params, prompt, prompt_position, cache=cache)
    cache = qwen.empty_cache(model, 4, 6, prompt=prefilled)
    start = np.repeat(length, 2)[:, None].astype(np.int32)
    first, cache = qwen.forward(model, params, response[:, :3], start + np.arange(3)[None], cache=cache)
    last, cache = qwen.forward(model, params, response[:, 3:], start + 3, cache=cache)
    assert int(cache.cursor) == 4
    for b in range(4):
        p = b // 2
        tokens = np.concatenate([prompt[p, : length[p]], response[b]])[None].astype(np.int32)
        position = np.arange(tokens.shape[1], dtype=np.int32)[None]
        full, _ = qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(tokens))
        np.testing.assert_allclose(prompt_hidden[p, : length[p]], full[0, : length[p]], atol=1e-5)
        np.testing.assert_allclose(first[b], full[0, length[p] : length[p] + 3], atol=1e-5)
        np.testing.assert_allclose(last[b], full[0, length[p] + 3 :], atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_no_number(remat):
    tokens = np.random.default_rng(0).integers(0, 40, (2, 9)).astype(np.int32)
    position = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)

    def gradient(remat):
        model = make_model(remat=remat)
        params = randomised(qwen.init_params(model, jax.random.key(0)))

        def loss(params):
            hidden, _ = qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(position))
            return token_loss(qwen.logits(model, params, hidden), tokens)

        return jax.grad(loss)(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient("none"), gradient(remat))


@pytest.mark.parametrize("mesh_shape", [(2, 2, 2), (1, 4, 2), (8, 1, 1)])
def test_parameters_are_born_sharded_and_the_mesh_changes_no_logit(mesh_shape):
    tokens = np.random.default_rng(0).integers(0, 40, (8, 9)).astype(np.int32)
    position = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)

    def run(mesh_shape):
        model = make_model(mesh_shape)
        params = qwen.init_params(model, jax.random.key(0))
        hidden, _ = jax.jit(
            lambda params: qwen.forward(model, params, tokens, position, segment_BT=np.ones_like(position))
        )(params)
        return params, hidden

    params, hidden = run(mesh_shape)
    q = params["layers"]["q"]
    _, fsdp, tensor = mesh_shape
    assert q.addressable_shards[0].data.shape == (3, 32 // fsdp, 4 // tensor, 8)
    _, single = run((1, 1, 1))
    np.testing.assert_allclose(hidden, single, atol=1e-4)


def test_an_indivisible_parameter_is_named():
    with pytest.raises(ValueError, match=r"layers.*'k'.*kv_heads"):
        qwen.init_params(make_model((1, 1, 4)), jax.random.key(0))
