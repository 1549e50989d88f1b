# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5 in NumPy, float64: what the model should say."""

from __future__ import annotations

import numpy as np


def reference_logits(params, tokens_S, cfg):
    """float64[S, V]: Qwen2.5 on one row without padding, written from the paper's equations, one head at a time."""
    S, H = len(tokens_S), cfg.head_dim
    angle = np.arange(S)[:, None] * cfg.rope_theta ** (-np.arange(H // 2) / (H // 2))[None]

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + cfg.norm_eps) * scale

    def rotate(x):
        a, b = x[:, : H // 2], x[:, H // 2 :]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    x = params["embedding"][tokens_S]
    for layer in range(cfg.num_layers):
        w = {name: value[layer] for name, value in params["layers"].items()}
        y = norm(x, w["attention_norm"])
        for n in range(cfg.num_heads):
            k = n // (cfg.num_heads // cfg.num_kv_heads)
            query = rotate(y @ w["q"][:, n] + w["q_bias"][n])
            key = rotate(y @ w["k"][:, k] + w["k_bias"][k])
            score = np.where(np.tri(S, dtype=bool), query @ key.T / np.sqrt(H), -np.inf)
            weight = np.exp(score - score.max(-1, keepdims=True))
            x = x + (weight / weight.sum(-1, keepdims=True)) @ (y @ w["v"][:, k] + w["v_bias"][k]) @ w["o"][n]
        y = norm(x, w["mlp_norm"])
        gate = y @ w["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["up"])) @ w["down"]
    return norm(x, params["final_norm"]) @ params["embedding"].T
