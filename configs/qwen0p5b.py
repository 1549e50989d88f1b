# SPDX-License-Identifier: Apache-2.0
"""T1's method on Qwen2.5-0.5B (Hugging Face: Qwen/Qwen2.5-0.5B). Slice: v5e:2x2, 4 chips.

Compiled for it, a step takes 10.9 of a chip's 16 GiB, and 1,063 s by the estimate, every response of full length:
python -m t1jax.plan --config=configs/qwen0p5b.py --topology=v5e:2x2
On one v6e chip, --topology=v6e:1x1: 27.0 of 32 GiB and 1,543 s.

Only what differs from configs/qwen1p5b.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import qwen1p5b


def get_config() -> ConfigDict:
    cfg = qwen1p5b.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/Qwen2.5-0.5B"
    cfg.model.num_layers = 24
    cfg.model.hidden_size = 896
    cfg.model.num_heads = 14
    cfg.model.head_dim = 64
    cfg.model.mlp_size = 4864

    cfg.mesh.fsdp = -1  # any machine: 4 on the slice, 1 on a laptop [hw]
    cfg.mesh.tensor = 1

    cfg.rl.micro_batches = 256  # [hw]
    cfg.rl.vocab_chunks = 128  # [hw]
    return cfg.lock()
