# SPDX-License-Identifier: Apache-2.0
"""A transformer of the Qwen family: one set of weights, one forward for training, prefill and decode.

RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied or untied head; a bias on q, k and v as in Qwen2.5, or
a norm of each head's q and k as in Qwen3, or neither as in Llama; a mixture of experts as in Qwen3-MoE; a part of each
head rotated as in GLM-4, and norms of what attention and MLP add as in GLM-4-0414. Layers are stacked on axis 0 and
scanned. Used as pure functions: `init_params`, `forward`, `logits`.

Axes: B rows or lanes, P prompts, T query positions, C prompt positions, D width, N query heads, K kv heads (of what is
computed, copies too: heads.py), H head dim, F mlp width, E experts, V vocabulary, L layers; of the cache: X shards of
the batch, M lanes of a shard, J blocks of S positions.
Source: Qwen2.5, arXiv 2412.15115; Qwen3, arXiv 2505.09388; GLM-4, arXiv 2406.12793; parity: test_parity.py.
Deliberately not here: the cache (ring.py), sampling (decode.py), scores of the vocabulary in chunks (logprobs.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t1jax.config import ModelConfig
from t1jax.devices import scopes
from t1jax.devices.sharding import Layout, param_shardings
from t1jax.model import attention, cudnn, experts, heads, ring
from t1jax.model.attention import rope, rotations
from t1jax.model.experts import ROUTES
from t1jax.model.precision import einsum, lookup, rms_norm, rounded
from t1jax.model.products import Frozen, Weight, gated, products, stream
from t1jax.types import KVCache, Params

REMAT = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.checkpoint_dots, cudnn.keep_for_backward
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def scaled(fan_in: int) -> Any:
    """Initialiser: normal with variance 1 / fan_in."""
    return nn.initializers.normal(fan_in**-0.5)


INTO_HEADS = (  # the logical axes of q, k and v, and how they are multiplied
    (("embed", "q_heads", "head_dim"), "BTD,DNH->BTNH"),
    (("embed", "kv_heads", "head_dim"), "BTD,DKH->BTKH"),
    (("embed", "kv_heads", "head_dim"), "BTD,DKH->BTKH"),
)
FROM_HEADS = ((("q_heads", "head_dim", "embed"), "BTNH,NHD->BTD"),)
ONES, ZEROS = nn.initializers.ones, nn.initializers.zeros
ADAPTERS = "adapters"  # Flax's name of the collection with the factors of LoRA (lora.py)


class Block(nn.Module):
    """One layer. Carries the residual stream and, where there is one, the cache's own keys and values."""

    cfg: ModelConfig
    layout: Layout
    keep: bool = False  # return the keys and values
    frozen: bool = False  # matrices get no gradient, but their adapters do

    def weight(self, name: str, init: Any, **shape: int) -> jax.Array:
        """A parameter; `shape` maps each logical axis, in order, to its size."""
        value: Any = self.param(
            name, nn.with_logical_partitioning(init, tuple(shape)), tuple(shape.values()), jnp.float32
        )
        return value

    def matrix(self, name: str, init: Any, **shape: int) -> Weight:
        """A weight, with its adapter if it has one."""
        w = self.weight(name, init, **shape)
        if not self.frozen:
            return w
        factors: Any = self.get_variable(ADAPTERS, name, {})
        return Frozen(w, factors.get("lora_a"), factors.get("lora_b"), self.cfg.lora_alpha / self.cfg.lora_rank)

    def mixture(self, y_BTD: jax.Array) -> jax.Array:
        """What the experts add; each token's route is in the collection ROUTES, if that is asked for."""
        cfg, E, D, F = self.cfg, self.cfg.num_experts, self.cfg.hidden_size, self.cfg.mlp_size
        router = self.matrix("router", scaled(D), embed=D, experts_whole=E)
        gate, up = (self.matrix(n, scaled(D), experts=E, embed=D, expert_mlp=F) for n in ("expert_gate", "expert_up"))
        down = self.matrix("expert_down", scaled(F), experts=E, expert_mlp=F, embed=D)
        k, normed = cfg.experts_per_token, cfg.norm_topk_prob
        out, mark_BT = experts.mixture(self.layout, k, normed, y_BTD, router, gate, up, down)
        self.sow(ROUTES, experts.MARK, mark_BT)
        return out

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, ...], prompt_kv: tuple[jax.Array, jax.Array] | None, shared: dict[str, Any]
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, jax.Array] | None]:
        cfg, constrain = self.cfg, self.layout.constrain
        D, N, K, H, F = cfg.hidden_size, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.mlp_size
        x_BTD, *own = carry
        along = stream(self.layout, x_BTD.shape[1])

        def ready(x: jax.Array) -> jax.Array:  # for a matrix product
            return rounded(x, cfg.compute_dtype)

        def added(x_BTD: jax.Array, norm: str) -> jax.Array:  # to the residual stream
            return rms_norm(x_BTD, self.weight(norm, ONES, embed=D), cfg.norm_eps) if cfg.post_norms else x_BTD

        y = ready(rms_norm(x_BTD, self.weight("attention_norm", ONES, embed=D), cfg.norm_eps))
        kv = {heads.axis(cfg, self.layout): K, "head_dim": H}

        def copied(parameter: Callable[..., Any], name: str, init: Any, **shape: int) -> Any:
            return heads.copied(self.layout, parameter(name, init, **shape), *shape)  # as many kv heads as devices need

        wq = self.matrix("q", scaled(D), embed=D, q_heads=N, head_dim=H)
        wk, wv = (copied(self.matrix, name, scaled(D), embed=D, **kv) for name in "kv")
        q, k, v = products(self.layout, INTO_HEADS, y, wq, wk, wv)
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        if cfg.qkv_bias:
            q = q + self.weight("q_bias", ZEROS, q_heads=N, head_dim=H)[None, :, None, :]
            k = k + copied(self.weight, "k_bias", ZEROS, **kv)[None, :, None, :]
            v = v + copied(self.weight, "v_bias", ZEROS, **kv)[None, :, None, :]
        if cfg.qk_norm:
            q = rms_norm(q, self.weight("q_norm", ONES, head_dim=H), cfg.norm_eps)
            k = rms_norm(k, self.weight("k_norm", ONES, head_dim=H), cfg.norm_eps)
        q, k = (rope(x, shared["cos_BTh"], shared["sin_BTh"], cfg.rope_interleaved) for x in (q, k))
        q = constrain(ready(q), "batch", "q_heads", "length", None)
        k = constrain(ready(k), "batch", "kv_heads", "length", None)
        v = constrain(ready(v), "batch", "kv_heads", "length", None)

        if prompt_kv is not None:  # cached: write the new column, attend the prompt and the lane's own columns
            keys, values, layer = own
            attended, keys, values = ring.attend(self.layout, q, k, v, keys, values, layer, *prompt_kv, shared["reach"])
            own = [keys, values, layer + 1]
        else:
            with jax.named_scope(scopes.ATTENTION):
                attended = attention.attend(self.layout, q, k, v, shared["texts"])
        o = self.matrix("o", scaled(N * H), q_heads=N, head_dim=H, embed=D)
        (attended,) = products(self.layout, FROM_HEADS, attended.swapaxes(1, 2), o)
        x_BTD = constrain(x_BTD + added(attended, "attention_out_norm"), "batch", along, None)

        y = ready(rms_norm(x_BTD, self.weight("mlp_norm", ONES, embed=D), cfg.norm_eps))
        if cfg.num_experts:
            out = self.mixture(y)
        else:
            gate, up = (self.matrix(name, scaled(D), embed=D, mlp=F) for name in ("gate", "up"))
            out = gated(self.layout, y, gate, up, self.matrix("down", scaled(F), mlp=F, embed=D))
        x_BTD = constrain(x_BTD + added(out, "mlp_out_norm"), "batch", along, None)
        return (x_BTD, *own), (k, v) if self.keep else None


class Transformer(nn.Module):
    """Embedding, scanned layers, final norm. Call it through `forward` and `prefill`."""

    cfg: ModelConfig
    layout: Layout

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        position_BT: jax.Array,
        segment_BT: jax.Array | None,
        lanes: KVCache | None,
        keep: bool = False,
        parent_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        cfg = self.cfg
        V, D = cfg.vocab_size, cfg.hidden_size
        axes = nn.with_logical_partitioning
        embedding_VD: Any = self.param("embedding", axes(scaled(D), ("vocab", "embed")), (V, D), jnp.float32)
        if not cfg.tie_embeddings:  # made here with the other weights; used by `head_weight`
            self.param("head", axes(scaled(D), ("embed", "vocab")), (D, V), jnp.float32)
        norm_D: Any = self.param("final_norm", axes(ONES, ("embed",)), (D,), jnp.float32)

        x_BTD = lookup(self.layout, cfg.compute_dtype, embedding_VD, tokens_BT).astype(jnp.float32)
        x_BTD = self.layout.constrain(x_BTD, "batch", stream(self.layout, tokens_BT.shape[1]), None)
        cos_BTh, sin_BTh = rotations(position_BT, cfg)
        shared: dict[str, Any] = {"cos_BTh": cos_BTh, "sin_BTh": sin_BTh}
        carry: tuple[jax.Array, ...] = (x_BTD,)
        prompt_kv = None
        if lanes is not None:
            shared["reach"] = ring.reach(cfg, self.layout, lanes)
            carry = (x_BTD, lanes.k_LJXMKHS, lanes.v_LJXMKsh, jnp.int32(0))
            prompt_kv = (lanes.prompt_k_LPKCH, lanes.prompt_v_LPKCH)
        elif segment_BT is None:
            raise ValueError("forward without a cache needs segment_BT: which tokens belong together, 0 for none")
        else:
            shared["texts"] = attention.texts(cfg, self.layout, segment_BT, parent_BT)

        block = Block if cfg.remat == "none" else nn.remat(Block, policy=REMAT[cfg.remat], prevent_cse=False)
        layers = nn.scan(
            block,
            variable_axes={"params": 0, ADAPTERS: 0, ROUTES: 0},
            split_rngs={"params": True},
            in_axes=(0 if prompt_kv is not None else nn.broadcast, nn.broadcast),
            length=cfg.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        out: Any  # keys and values, if kept
        frozen = self.has_variable(ADAPTERS, "layers")
        (x_BTD, *own), out = layers(cfg, self.layout, keep, frozen, name="layers")(carry, prompt_kv, shared)
        if lanes is not None:
            out = ring.written(lanes, own[0], own[1])
        hidden_BTD = rounded(rms_norm(x_BTD, norm_D, cfg.norm_eps), cfg.compute_dtype)
        return self.layout.constrain(hidden_BTD, "batch", "length", None), out


def forward(
    model: Transformer, params: Params, tokens_BT: jax.Array, position_BT: jax.Array, **named: Any
) -> tuple[jax.Array, KVCache | None]:
    """The first two of what `forward_and_routes` returns, which has the arguments."""
    return forward_and_routes(model, params, tokens_BT, position_BT, **named)[:2]


def forward_and_routes(
    model: Transformer,
    params: Params,
    tokens_BT: jax.Array,
    position_BT: jax.Array,
    *,
    segment_BT: jax.Array | None = None,
    parent_BT: jax.Array | None = None,
    cache: KVCache | None = None,
    adapters: Params | None = None,
) -> tuple[jax.Array, KVCache | None, jax.Array | None]:
    """The hidden state after each token, [B, T, D] in compute dtype, and the cache with these tokens in it.

    Then each token's route, as experts.py has it, or None. Activations between layers are float32, see precision.py.

    Without a cache, a token attends itself, and earlier tokens of the row that are of its own nonzero segment or of its
    parent: so responses can share one copy of their prompt and not see each other. With a cache,
    T is 1: each lane's token is written to the next column, and attends its prompt and the lane's own columns.

    Args:
      model: whose layout says how activations are split.
      params: as `init_params` returns them, in float32 or already cast to compute dtype.
      tokens_BT: int32 token ids.
      position_BT: int32 positions for the rotary embedding.
      segment_BT: int32, 0 for padding; required without a cache, unused with one.
      parent_BT: int32, the segment that a token attends besides its own; None: each its own only.
      cache: of B lanes in use.
      adapters: those that are in `params` already (lora.py), of which the gradient is wanted; then that of the matrices
        of layers is not made.
    """
    weights = {"params": params} if adapters is None else {"params": params, ADAPTERS: adapters}
    out, made = model.apply(weights, tokens_BT, position_BT, segment_BT, cache, parent_BT=parent_BT, mutable=[ROUTES])
    return *out, experts.routes(made)


def prefill(
    model: Transformer, params: Params, tokens_PC: jax.Array, valid_PC: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array], jax.Array | None]:
    """Right-padded prompts: hidden states, [P, C, D], all keys and values, [L, P, K, C, H], and routes, as above."""
    position_PC = jnp.broadcast_to(jnp.arange(tokens_PC.shape[1], dtype=jnp.int32)[None], tokens_PC.shape)
    given = tokens_PC, position_PC, valid_PC.astype(jnp.int32), None
    out, made = model.apply({"params": params}, *given, keep=True, mutable=[ROUTES])
    return *out, experts.routes(made)


def head(params: Params) -> jax.Array:
    """The matrix [D, V] that turns hidden states into logits: the embedding's transpose if tied."""
    return params["head"] if "head" in params else params["embedding"].T


def head_weight(model: Transformer, params: Params) -> jax.Array:
    """`head` in compute dtype, whole along D, so that it is collected once, not again for each use."""
    return model.layout.constrain(head(params).astype(model.cfg.compute_dtype), None, "vocab")


def logits(model: Transformer, params: Params, hidden_BTD: jax.Array) -> jax.Array:
    """float32[B, T, V] scores of the next token. Whole in memory: for decode and tests; logprobs.py goes in chunks."""
    with jax.named_scope(scopes.HEAD):
        return einsum("BTD,DV->BTV", hidden_BTD, head_weight(model, params))


def boxed_shapes(model: Transformer) -> Any:
    """Shapes of all parameters in boxes that carry their logical axes; computes nothing. Not to be changed."""
    return _boxed_shapes(Transformer(dataclasses.replace(model.cfg, lora_rank=0), model.layout))  # the same with LoRA


@functools.lru_cache
def _boxed_shapes(model: Transformer) -> Any:
    one = jnp.zeros((model.layout.batch_shards, 1), jnp.int32)
    return jax.eval_shape(lambda key: model.init(key, one, one, one, None)["params"], jax.random.key(0))


def shardings(model: Transformer) -> Any:
    """The NamedSharding of each parameter under the model's layout."""
    return param_shardings(boxed_shapes(model), model.layout)


def init_params(model: Transformer, key: jax.Array) -> Params:
    """Random float32 parameters, born sharded: no device ever holds more than its share."""
    one = jnp.zeros((model.layout.batch_shards, 1), jnp.int32)

    def init(key: jax.Array) -> Params:
        return nn.unbox(model.init(key, one, one, one, None)["params"])

    return jax.jit(init, out_shardings=shardings(model))(key)
