# SPDX-License-Identifier: Apache-2.0
"""The whole of T1's RL on a CPU with a small real model: SmolLM2-135M-Instruct (Hugging Face:
HuggingFaceTB/SmolLM2-135M-Instruct) on GSM8K. Any machine with 12 GB (the plan says 7.4 GiB, the measured peak was 7.9
GiB); a step takes a minute or two on 2 CPU cores.

For bringing up a machine or a change, not for results: few prompts, few and short responses.

Only what differs from configs/base.py; every knob is explained in configs/base.py.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    cfg = base.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/SmolLM2-135M-Instruct"
    cfg.model.vocab_size = 49152
    cfg.model.num_layers = 30
    cfg.model.hidden_size = 576
    cfg.model.num_heads = 9
    cfg.model.num_kv_heads = 3
    cfg.model.head_dim = 64
    cfg.model.mlp_size = 1536
    cfg.model.qkv_bias = False
    cfg.model.rope_theta = 100_000.0
    cfg.model.norm_eps = 1e-5
    cfg.model.tie_embeddings = True
    cfg.model.compute_dtype = "float32"

    cfg.data.train = "data/gsm8k_train.jsonl"
    cfg.data.eval = "data/gsm8k_test.jsonl"
    cfg.data.prompt_length = 256

    cfg.sft.num_steps = 0

    cfg.rl.num_steps = 3
    cfg.rl.prompts_per_step = 4
    cfg.rl.responses_per_prompt = 4
    cfg.rl.temperature = 0.8  # a model of this size loses the thread at 1.2
    cfg.rl.max_new_tokens = 192
    cfg.rl.window = 96
    cfg.rl.micro_batches = 4
    cfg.rl.vocab_chunks = 4

    cfg.eval.num_problems = 16
    cfg.eval.batch_size = 16
    cfg.eval.every = 0
    cfg.eval.quick_problems = 16

    cfg.scaling.budgets = (48, 192)
    cfg.scaling.answer_tokens = 16

    cfg.checkpoint.every = 1
    return cfg.lock()
