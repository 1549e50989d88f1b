# SPDX-License-Identifier: Apache-2.0
"""LoRA on Qwen2.5-32B (Hugging Face: Qwen/Qwen2.5-32B), for eight GPUs with 80 GB or 64 v5e chips.

Slice: gpu:8xh100, 8 chips.

Estimated from shapes, every response of full length; no step of it has run:
eight H100, 58.5 of 80 GiB (60.1 as compiled) and 288 s:
python -m t1jax.plan --config=configs/qwen32b_lora.py --topology=gpu:8xh100 --fast
v5e:8x8 with --config.rl.micro_batches=64, 12.8 of 16 GiB (13.3 as compiled) and 366 s: the same with --topology=v5e:8x8

Only what differs from configs/qwen32b.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen32b


def get_config() -> ConfigDict:
    cfg = qwen32b.get_config()
    cfg.unlock()
    cfg.model.lora_rank = 32
    cfg.model.lora_alpha = 32.0

    cfg.mesh.fsdp = -1  # 1 on eight GPUs, 8 on v5e:8x8 [hw]
    cfg.mesh.tensor = 8  # one kv head a chip [hw]

    cfg.rl.responses_per_prompt = 16  # [hw]
    cfg.rl.max_new_tokens = 4096  # [hw]
    cfg.rl.learning_rate = 1.5e-5  # LoRA wants about ten times that of all weights [ours]
    cfg.rl.micro_batches = 512  # [hw]
    cfg.rl.vocab_chunks = 64  # [hw]

    cfg.scaling.budgets = (256, 512, 1024, 2048, 4096)
    return cfg.lock()
