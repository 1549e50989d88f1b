# SPDX-License-Identifier: Apache-2.0
"""T1 on Qwen2.5-32B, the paper's largest model (Hugging Face: Qwen/Qwen2.5-32B). Slice: v5p:4x4x8, 128 chips.

Compiled for it, a step takes 78.1 of a chip's 95 GiB, and 814 s by the estimate, every response of full length:
python -m t1jax.plan --config=configs/qwen32b.py --topology=v5p:4x4x8

Give your own cold start with data.sft and sft.num_steps (the paper: 3 epochs over 12k problems), or start from weights
that have had one.

Only what differs from configs/base.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    cfg = base.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/Qwen2.5-32B"

    cfg.data.train = "data/train.jsonl"
    cfg.data.eval = "data/math500.jsonl"
    cfg.data.system_prompt = base.BOXED  # for Qwen, as the system's turn [kin]
    cfg.data.template = "{problem}"  # [kin]

    cfg.mesh.fsdp = 16
    cfg.mesh.tensor = 8  # one kv head a chip [hw]

    cfg.sft.num_steps = 0

    cfg.rl.micro_batches = 64  # [hw]

    cfg.eval.num_problems = 500  # all of MATH500 [paper]
    cfg.eval.quick_problems = 128

    cfg.scaling.answerer = "base"  # a summary model, by one digest the base model [paper]
    cfg.scaling.answer_prefix = "\n</think>\n\n"  # the answer may explain itself before its box [ours: not public]
    cfg.scaling.answer_tokens = 1024  # [ours]
    return cfg.lock()
