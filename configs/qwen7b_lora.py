# SPDX-License-Identifier: Apache-2.0
"""LoRA on Qwen2.5-7B (Hugging Face: Qwen/Qwen2.5-7B), for one GPU with 80 GB or a small slice.

Estimated from shapes, every response of full length; no step of it has run:
one H100, 64.6 of 80 GiB (71.5 as compiled) and 255 s:
python -m t1jax.plan --config=configs/qwen7b_lora.py --topology=gpu:1xh100 --fast
v6e:2x2 with --config.mesh.fsdp=2 --config.mesh.tensor=2, 23.5 of 32 GiB (22.4 as compiled) and 117 s: the same with
--topology=v6e:2x2; as it stands 26.6 GiB and 247 s

Only what differs from configs/qwen7b.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen7b


def get_config() -> ConfigDict:
    cfg = qwen7b.get_config()
    cfg.unlock()
    cfg.model.lora_rank = 32
    cfg.model.lora_alpha = 32.0

    cfg.mesh.fsdp = -1  # any machine: 1 on one GPU [hw]
    cfg.mesh.tensor = 1

    cfg.rl.prompts_per_step = 16  # [hw]
    cfg.rl.responses_per_prompt = 16  # [hw]
    cfg.rl.max_new_tokens = 4096  # [hw]
    cfg.rl.learning_rate = 1.5e-5  # LoRA wants about ten times that of all weights [ours]
    cfg.rl.micro_batches = 64  # [hw]
    cfg.rl.vocab_chunks = 64  # [hw]

    cfg.scaling.budgets = (256, 512, 1024, 2048, 4096)
    return cfg.lock()
