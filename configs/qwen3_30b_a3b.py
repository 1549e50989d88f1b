# SPDX-License-Identifier: Apache-2.0
"""T1's method on Qwen3-30B-A3B, 128 experts a layer (Hugging Face: Qwen/Qwen3-30B-A3B). Slice: v5p:4x4x4, 64 chips.

As compiled, a step takes 54.1 of a chip's 95 GiB (55.0 by shapes alone), and by the estimate 237 s, every response of
full length: python -m t1jax.plan --config=configs/qwen3_30b_a3b.py --topology=v5p:4x4x4
On v6e:8x8 with 8 lanes a prompt, by shapes alone: 27.2 of 32 GiB, and 1162 s.

Only what differs from configs/qwen14b.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen14b


def get_config() -> ConfigDict:
    cfg = qwen14b.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/Qwen3-30B-A3B"
    cfg.model.vocab_size = 151936
    cfg.model.num_layers = 48
    cfg.model.hidden_size = 2048
    cfg.model.num_heads = 32
    cfg.model.num_kv_heads = 4
    cfg.model.mlp_size = 768
    cfg.model.num_experts = 128
    cfg.model.experts_per_token = 8
    cfg.model.norm_topk_prob = True
    cfg.model.qkv_bias = False
    cfg.model.qk_norm = True
    cfg.model.rope_original_length = 40960
    cfg.model.norm_eps = 1e-6

    # Of a cut thought each token goes through 8 experts: 3 GB of a chip for 11,264 tokens [hw].
    cfg.eval.batch_size = 16

    cfg.mesh.fsdp = 16
    cfg.mesh.tensor = 4  # 32 experts and one kv head a chip [hw]
    return cfg.lock()
