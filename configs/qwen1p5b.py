# SPDX-License-Identifier: Apache-2.0
"""T1's method on Qwen2.5-1.5B (Hugging Face: Qwen/Qwen2.5-1.5B). Slice: v5e:4x4, 16 chips.

Compiled for it, a step takes 12.3 of a chip's 16 GiB, and 708 s by the estimate, every response of full length:
python -m t1jax.plan --config=configs/qwen1p5b.py --topology=v5e:4x4

Only what differs from configs/qwen7b.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen7b


def get_config() -> ConfigDict:
    cfg = qwen7b.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/Qwen2.5-1.5B"
    cfg.model.vocab_size = 151936
    cfg.model.hidden_size = 1536
    cfg.model.num_heads = 12
    cfg.model.num_kv_heads = 2
    cfg.model.mlp_size = 8960
    cfg.model.tie_embeddings = True

    cfg.mesh.fsdp = 8
    cfg.mesh.tensor = 2  # one kv head a chip [hw]

    cfg.rl.micro_batches = 64  # [hw]
    cfg.rl.vocab_chunks = 64  # [hw]
    return cfg.lock()
