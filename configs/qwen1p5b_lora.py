# SPDX-License-Identifier: Apache-2.0
"""LoRA on Qwen2.5-1.5B (Hugging Face: Qwen/Qwen2.5-1.5B), for one chip or GPU with 16 GB or 24 GB.

Estimated from shapes, every response of full length; no step of it has run:
one v5e chip, 10.8 of 16 GiB (10.0 as compiled) and 226 s:
python -m t1jax.plan --config=configs/qwen1p5b_lora.py --topology=v5e:1x1 --fast
one RTX 4080, 10.8 of 16 GiB (12.4) and 342 s; one L4, 15.2 of 22 GiB (16.3) and 397 s; one RTX 4090, 15.2 of 24 GiB
(16.3) and 186 s: --topology=gpu:1xrtx4080, gpu:1xl4 and gpu:1xrtx4090. Lanes are chosen by the memory.

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
