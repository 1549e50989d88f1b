# SPDX-License-Identifier: Apache-2.0
"""T1 on Qwen2.5-14B, one of the paper's models (Hugging Face: Qwen/Qwen2.5-14B). Slice: v5p:4x4x4, 64 chips.

Compiled for it, a step takes 71.3 of a chip's 95 GiB, and 463 s by the estimate, every response of full length:
python -m t1jax.plan --config=configs/qwen14b.py --topology=v5p:4x4x4
On v6e:16x16, 256 chips, with --config.mesh.fsdp=32: 21 of 32 GiB, and 154 s.

Only what differs from configs/qwen32b.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen32b


def get_config() -> ConfigDict:
    cfg = qwen32b.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/Qwen2.5-14B"
    cfg.model.num_layers = 48
    cfg.model.mlp_size = 13824

    cfg.mesh.fsdp = 8

    cfg.rl.max_new_tokens = 10240  # [paper]
    cfg.rl.micro_batches = 64  # [hw]
    cfg.scaling.budgets = (256, 512, 1024, 2048, 4096, 8192, 10240)
    return cfg.lock()
