# SPDX-License-Identifier: Apache-2.0
"""T1's method on Qwen2.5-7B (Hugging Face: Qwen/Qwen2.5-7B). Slice: v6e:8x8, 64 chips.

Compiled for it, a step takes 24.1 of a chip's 32 GiB, and 175 s by the estimate, every response of full length:
python -m t1jax.plan --config=configs/qwen7b.py --topology=v6e:8x8
On v5e:16x16, 256 chips, with --config.mesh.fsdp=64 --config.rl.prompts_per_step=64: 13.2 of 16 GiB, and 289 s.

Only what differs from configs/qwen14b.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen14b


def get_config() -> ConfigDict:
    cfg = qwen14b.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/Qwen2.5-7B"
    cfg.model.num_layers = 28
    cfg.model.hidden_size = 3584
    cfg.model.num_heads = 28
    cfg.model.num_kv_heads = 4
    cfg.model.mlp_size = 18944
    cfg.model.norm_eps = 1e-6

    cfg.mesh.fsdp = 16
    cfg.mesh.tensor = 4  # one kv head a chip [hw]
    return cfg.lock()
