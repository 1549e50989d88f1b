# SPDX-License-Identifier: Apache-2.0
"""LoRA on Qwen2.5-1.5B (Hugging Face: Qwen/Qwen2.5-1.5B), for one chip or GPU with 16 GB or 24 GB.

PLAN

Only what differs from configs/qwen7b_lora.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen7b_lora


def get_config() -> ConfigDict:
    cfg = qwen7b_lora.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/Qwen2.5-1.5B"
    cfg.model.vocab_size = 151936
    cfg.model.hidden_size = 1536
    cfg.model.num_heads = 12
    cfg.model.num_kv_heads = 2
    cfg.model.mlp_size = 8960
    cfg.model.tie_embeddings = True

    cfg.rl.prompts_per_step = 8  # [hw]
    cfg.rl.micro_batches = 128  # [hw]
    return cfg.lock()
