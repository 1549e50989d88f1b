# SPDX-License-Identifier: Apache-2.0
"""T1 on GLM-4-9B, one of the paper's models (Hugging Face: THUDM/glm-4-9b-hf). Slice: v6e:8x8, 64 chips.

By the estimate from shapes alone, a step takes 24.8 of a chip's 32 GiB, and 212 s, every response of full length:
python -m t1jax.plan --config=configs/glm4_9b.py --topology=v6e:8x8 --fast
With --config.mesh.fsdp=16 --config.mesh.tensor=4, where each kv head is on two chips: 21.4 of 32 GiB, and 277 s.

The base model's config.json states 8,192 positions; T1 samples 10,240 tokens. Raise max_position_embeddings there, or
start from THUDM/glm-4-9b-chat-hf: --config.model.rope_theta=5e6 --config.model.rope_original_length=131072

Only what differs from configs/qwen14b.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen14b


def get_config() -> ConfigDict:
    cfg = qwen14b.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/glm-4-9b-hf"
    cfg.model.vocab_size = 151552
    cfg.model.num_layers = 40
    cfg.model.hidden_size = 4096
    cfg.model.num_heads = 32
    cfg.model.num_kv_heads = 2
    cfg.model.mlp_size = 13696
    cfg.model.rope_theta = 10_000.0
    cfg.model.rope_original_length = 8192
    cfg.model.rope_share = 0.5
    cfg.model.rope_interleaved = True
    cfg.model.norm_eps = 1.5625e-7

    cfg.mesh.fsdp = 32
    cfg.mesh.tensor = 2  # one kv head a chip [hw]
    return cfg.lock()
